"""Each role of ``access/roles.sql``, logged in: it may do its part of the work, and the engine refuses it the rest."""

import json
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError
from confluent_kafka import Producer

from paystream import lock
from paystream.clickhouse import ACCESS_DENIED, connect
from paystream.devstack.local_users import users_xml
from paystream.kafka import client_config
from paystream.loader import repair
from paystream.reports.report import REPORTS
from paystream.settings import Settings

Run = Callable[..., str]


@pytest.fixture(scope="module")
def run(stack: Settings, paystream_here: Callable[..., tuple[int, str, list[str]]]) -> Run:
    """A function that runs a command as a user, sees that it ends with one of some codes, and returns its output."""

    def run(user: str, *arguments: str, codes: tuple[int, ...] = (0,)) -> str:
        code, out, err = paystream_here(stack.model_copy(update={"clickhouse_user": user}), *arguments)
        assert code in codes, (arguments, code, out, err)
        return out

    return run


def refused(settings: Settings, user: str, statement: str) -> None:
    with (
        connect(settings.model_copy(update={"clickhouse_user": user})) as client,
        pytest.raises(DatabaseError) as caught,
    ):
        client.command(statement)
    assert caught.value.code == ACCESS_DENIED, statement


@pytest.fixture(scope="module")
def filled(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The schema, made by the writer, with the loader's dimensions and payments; returns the folder of the files."""
    folder = tmp_path_factory.mktemp("files")
    run("writer", "migrate", "up")
    for kind in ("merchants", "fx"):
        run("loader", "dims", "sample", kind, "--to", str(folder / kind))
        run("loader", "dims", "refresh", kind, "--from", str(folder / kind))
    run("writer", "loadtest", "run", "smoke", codes=(0, 1))
    return folder


def test_the_writer_owns_the_schema_and_sends_refused_messages_again(stack: Settings, run: Run, filled: Path) -> None:
    assert json.loads(run("writer", "migrate", "plan", "--json"))["steps"] == []
    run("writer", "migrate", "status")
    run("writer", "migrate", "check")
    run("writer", "migrate", "down", "--allow-destructive")
    run("writer", "migrate", "up")
    producer = Producer(client_config(stack) | {"log_level": 0})
    producer.produce(stack.kafka_topic, b"not a payment", b"key")
    assert producer.flush(20) == 0
    deadline = time.monotonic() + 60
    while run("writer", "quarantine", "list").startswith("quarantine messages=0"):
        assert time.monotonic() < deadline, "the message was not refused in time"
        time.sleep(0.1)
    assert "sent=1" in run("writer", "quarantine", "replay", "--reason", "not_json")


def test_the_loader_does_what_cron_and_the_operator_ask(run: Run, filled: Path) -> None:
    lines = (filled / "merchants").read_text().splitlines()
    (filled / "renamed").write_text("\n".join([lines[0], lines[1].replace("1,", "1,New ", 1), *lines[2:]]) + "\n")
    run("loader", "dims", "refresh", "merchants", "--from", str(filled / "renamed"))
    run("loader", "dims", "history", "merchants")
    run("loader", "dims", "compare", "merchants", "1", "2")
    run("loader", "dims", "rollback", "merchants", "--to", "1")
    run("loader", "dims", "repair")
    for arguments in ([], ["--deep"], ["--reports"]):
        run("loader", "audit", *arguments)
    # What metrics and dashboard show is the same.
    status = json.loads(run("loader", "status", "--json", codes=(0, 1)))
    assert {problem["name"] for problem in status["problems"]} <= {"quote", "audit"}
    assert status["unmeasured"] == []
    run("loader", "quarantine", "list")
    run("loader", "rollup", "rebuild")


def test_a_long_repair_of_the_loader_says_that_it_lives(
    stack: Settings, filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "RENEW_S", -1)
    with (
        connect(stack.model_copy(update={"clickhouse_user": "loader"})) as client,
        lock.locked(client, repair.LOCK, "Test", like="repaired_days") as held,
    ):
        held.keep()


@pytest.mark.parametrize("report", list(REPORTS))
def test_the_reader_reads_every_report(run: Run, filled: Path, report: str) -> None:
    rows = json.loads(run("reader", "report", report, "--format", "json", "--limit", "5"))
    assert all(row["complete_until"] for row in rows)


@pytest.mark.parametrize(
    ("user", "statement"),
    [
        ("loader", "SELECT * FROM transactions_queue"),
        ("loader", "DROP TABLE transactions"),
        ("loader", "ALTER TABLE transactions DELETE WHERE 1"),
        ("loader", "DROP VIEW transactions_mv"),
        ("loader", "CREATE NAMED COLLECTION paystream_more AS a = '1'"),
        ("loader", "SELECT * FROM file('/etc/passwd', 'LineAsString')"),
        ("reader", "SELECT * FROM transactions_queue"),
        ("reader", "SELECT raw_message FROM quarantine"),
        ("reader", "SELECT * FROM ingest_ledger"),
        ("reader", "INSERT INTO audits SELECT * FROM audits"),
        ("reader", "DROP VIEW report_merchant_ranking"),
        ("reader", "TRUNCATE TABLE transactions"),
        ("reader", "SELECT collection FROM system.named_collections"),
        ("reader", "SELECT * FROM file('/etc/passwd', 'LineAsString')"),
        ("writer", "CREATE DATABASE another"),
        ("writer", "DROP NAMED COLLECTION somebody_elses"),
        ("writer", "SELECT * FROM file('/etc/passwd', 'LineAsString')"),
        ("writer", "CREATE USER another"),
    ],
)
def test_what_a_role_may_not_the_engine_refuses(stack: Settings, filled: Path, user: str, statement: str) -> None:
    refused(stack, user, statement)


def test_the_rights_are_those_of_the_database_that_is_configured() -> None:
    queries = [query.text for query in ElementTree.fromstring(users_xml("staging")).iter("query")]
    assert "GRANT SELECT ON staging.transactions_current" in queries
    assert not [query for query in queries if "paystream." in query]
