"""The settings as a user writes them into `.env`."""

from pathlib import Path

import pytest

from paystream.errors import UsageError
from paystream.settings import load_settings


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_name_that_does_not_exist_is_refused_with_what_was_meant(folder: Path) -> None:
    (folder / ".env").write_text("PAYSTREAM_KAFKA_BROKER=kafka:9092\nPAYSTREAM_CLICKHOUSE_DB=prod\nAWS_REGION=x\n")
    with pytest.raises(UsageError) as refused:
        load_settings()
    told = str(refused.value)
    assert "PAYSTREAM_KAFKA_BROKER in .env (did you mean PAYSTREAM_KAFKA_BROKERS?)" in told
    assert "PAYSTREAM_CLICKHOUSE_DB in .env (did you mean PAYSTREAM_CLICKHOUSE_DATABASE?)" in told
    assert "prod" not in told and "AWS_REGION" not in told


def test_a_name_in_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYSTREAM_KAFKA_TOPICS", "x")
    with pytest.raises(UsageError, match=r"PAYSTREAM_KAFKA_TOPICS \(did you mean PAYSTREAM_KAFKA_TOPIC\?\)"):
        load_settings()


@pytest.mark.parametrize(
    ("written", "password"),
    [
        ("'a${HOME}b$HOME'", "a${HOME}b$HOME"),
        ('"a${HOME}b"', "a${HOME}b"),
        ("a${HOME}b", "a${HOME}b"),
        ("'p#ss w=rd'", "p#ss w=rd"),
        ("größer", "größer"),
    ],
)
def test_a_secret_is_what_is_written(folder: Path, written: str, password: str) -> None:
    (folder / ".env").write_text(f"PAYSTREAM_CLICKHOUSE_PASSWORD={written}\n")
    assert load_settings().clickhouse_password.get_secret_value() == password


def test_a_byte_order_mark_and_export_do_not_matter(folder: Path) -> None:
    (folder / ".env").write_bytes(b"\xef\xbb\xbfexport PAYSTREAM_KAFKA_GROUP=one\r\nPAYSTREAM_KAFKA_TOPIC=two\r\n")
    settings = load_settings()
    assert (settings.kafka_group, settings.kafka_topic) == ("one", "two")


def test_the_environment_wins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".env").write_text("PAYSTREAM_KAFKA_GROUP=file\nPAYSTREAM_CLICKHOUSE_PORT=1234\n")
    monkeypatch.setenv("PAYSTREAM_KAFKA_GROUP", "environment")
    settings = load_settings()
    assert (settings.kafka_group, settings.clickhouse_port) == ("environment", 1234)


def test_a_file_that_is_not_utf_8_is_said_to_be_so(folder: Path) -> None:
    (folder / ".env").write_bytes(b"PAYSTREAM_CLICKHOUSE_PASSWORD=caf\xe9\n")
    with pytest.raises(UsageError, match=r"'\.env' cannot be read: byte 33 is not UTF-8"):
        load_settings()
