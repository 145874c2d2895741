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
    with pytest.raises(UsageError, match=r"\.env' cannot be read: byte 33 is not UTF-8"):
        load_settings()


def test_brokers_are_written_as_people_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYSTREAM_KAFKA_BROKERS", " kafka-1.example.com:9092 , 10.0.0.2:9093,[2001:db8::3]:9094")
    settings = load_settings()
    assert settings.kafka_brokers == "kafka-1.example.com:9092,10.0.0.2:9093,[2001:db8::3]:9094"
    assert settings.kafka_addresses == [("kafka-1.example.com", 9092), ("10.0.0.2", 9093), ("2001:db8::3", 9094)]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("KAFKA_BROKERS", "kafka", "not host:port[,host:port...], such as kafka1:9092,kafka2:9092"),
        ("KAFKA_BROKERS", "https://kafka:9092", "not host:port[,host:port...], such as"),
        ("KAFKA_BROKERS", "kafka:9092,", "not host:port[,host:port...], such as"),
        ("CLICKHOUSE_KAFKA_BROKERS", "2001:db8::3:9092", "not host:port[,host:port...], such as"),
        (
            "CLICKHOUSE_HOST",
            "https://ch.example.com:8443",
            "not a host's name or address alone (the port is PAYSTREAM_",
        ),
        ("CLICKHOUSE_HOST", "ch.example.com:9000", "not a host's name or address alone"),
        ("CLICKHOUSE_DATABASE", "pay-stream", "not a name of letters, digits and _"),
        ("KAFKA_TOPIC", "all payments", "not a topic's name: letters, digits, '.', '_' and '-', at most 249"),
        ("DIMS_FURTHER_COUNTRIES", "XX, YY", "not codes of two capital letters with commas between, such as AN,CS"),
    ],
)
def test_a_value_that_is_none_says_what_one_is(
    name: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"PAYSTREAM_{name}", value)
    with pytest.raises(UsageError) as refused:
        load_settings()
    assert f"PAYSTREAM_{name}: {says}" in str(refused.value)


@pytest.mark.parametrize("host", ["::1", "[::1]", "2001:db8::7"])
def test_an_ipv6_address_of_clickhouse(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYSTREAM_CLICKHOUSE_HOST", host)
    assert load_settings().clickhouse_host == host.strip("[]")


def test_what_is_empty_is_not_set(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".env").write_text("PAYSTREAM_KAFKA_GROUP=file\nPAYSTREAM_KAFKA_SASL_USERNAME=\n")
    for name in ("KAFKA_SASL_MECHANISM", "KAFKA_GROUP", "CLICKHOUSE_PORT", "CLICKHOUSE_USER"):
        monkeypatch.setenv(f"PAYSTREAM_{name}", "")
    settings = load_settings()
    assert (settings.kafka_sasl_mechanism, settings.kafka_group, settings.clickhouse_port) == (None, "file", 18123)
    assert (settings.clickhouse_user, settings.kafka_security) == ("default", {"security.protocol": "PLAINTEXT"})
