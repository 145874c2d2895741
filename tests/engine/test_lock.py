"""The lock that is a table: one holder, whose death is seen at once where it can be."""

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator

import pytest
from clickhouse_connect.driver.client import Client
from databases import drop_database

from paystream import lock
from paystream.clickhouse import connect
from paystream.errors import CheckFailed
from paystream.lock import Held, locked
from paystream.process import identity
from paystream.settings import Settings

HOLD = """
import sys
from paystream.clickhouse import connect
from paystream.lock import locked
from paystream.settings import load_settings
with connect(load_settings()) as client, locked(client, "a_lock", "Test"):
    print("held", flush=True)
    client.command(sys.argv[1])
    sys.stdin.read()
"""


@pytest.fixture
def database(clickhouse_server: Settings) -> Iterator[Settings]:
    """A database of the test's own, empty and dropped after it."""
    settings = clickhouse_server.model_copy(update={"clickhouse_database": f"lock_{uuid.uuid4().hex}"})
    with connect(settings, database="") as server:
        server.command(f"CREATE DATABASE {settings.clickhouse_database}")
    yield settings
    drop_database(settings)


@pytest.fixture
def client(database: Settings) -> Iterator[Client]:
    with connect(database) as client:
        yield client


@pytest.fixture
def killed(database: Settings):
    """A function that lets a process hold the lock and run a statement, and kills it."""

    def run(statement: str) -> None:
        with subprocess.Popen(
            [sys.executable, "-c", HOLD, statement],
            env={**database.environment()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout.readline() == b"held\n"
            if "sleep" in statement:
                with connect(database) as other:
                    while not other.query("SELECT 1 FROM system.processes WHERE query ILIKE 'SELECT sleep%'").row_count:
                        time.sleep(0.02)
            process.kill()

    return run


def tables(client: Client) -> list[str]:
    return [
        name
        for (name,) in client.query("SELECT name FROM system.tables WHERE database = currentDatabase()").result_rows
    ]


def test_a_second_holder_is_refused_with_the_first_ones_name(client: Client) -> None:
    refused = pytest.raises(Held, match="Second: another one is running, process")
    with locked(client, "a_lock", "First"), refused, locked(client, "a_lock", "Second"):
        pass
    assert tables(client) == []


def test_a_killed_holder_on_this_machine_is_taken_over_at_once(client: Client, killed) -> None:
    killed("SELECT 1")
    assert tables(client) == ["a_lock"]
    with locked(client, "a_lock", "Test"):
        assert tables(client) == ["a_lock"]  # what the dead one left is gone already
    assert tables(client) == []


def test_the_last_statement_of_a_killed_holder_is_waited_for(client: Client, killed) -> None:
    killed("SELECT sleepEachRow(1) FROM numbers(3) SETTINGS max_block_size = 1")
    told: list[str] = []
    at_work = "SELECT count() FROM system.processes WHERE query ILIKE 'SELECT sleepEachRow%'"
    with locked(client, "a_lock", "Test", tell=told.append):
        assert client.query(at_work).first_row == (0,)
    assert [text[:70] for text in told] == ["waiting for a statement of whoever holds the lock: SELECT sleepEachRow"]


@pytest.mark.parametrize("changed", [{"boot": "another"}, {"namespace": "pid:[1]"}])
def test_a_holder_elsewhere_is_left_alone_until_it_has_been_silent_for_long(
    client: Client, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str]
) -> None:
    other = {"token": "0" * 12, "user": "cron", "host": "elsewhere", **identity(1), **changed}
    client.command(f"CREATE TABLE a_lock (held UInt8) ENGINE = Memory COMMENT '{json.dumps(other)}'")
    with (
        pytest.raises(Held, match=r"process 1 of cron on elsewhere, since 20\S+ \S+ UTC"),
        locked(client, "a_lock", "Test"),
    ):
        pass
    monkeypatch.setattr(lock, "EXPIRES_S", -1)
    with pytest.raises(Held), locked(client, "a_lock", "Test", expires=False):
        pass
    with locked(client, "a_lock", "Test"):
        pass
    assert tables(client) == []


def test_a_holder_that_says_that_it_lives_does_not_expire(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "RENEW_S", 0)
    with locked(client, "a_lock", "Test") as held:
        client.command("SELECT sleep(2)")
        silent_s = lock.holder(client, "a_lock").silent_s
        held.keep()
        assert lock.holder(client, "a_lock").silent_s < silent_s


def test_a_holder_that_was_taken_for_dead_notices_and_leaves_the_others_lock(client: Client) -> None:
    with pytest.raises(CheckFailed, match="it was taken for dead"), locked(client, "a_lock", "Test") as held:
        client.command("DROP TABLE a_lock SYNC")
        client.command("""CREATE TABLE a_lock (held UInt8) ENGINE = Memory COMMENT '{"token": "another"}'""")
        held.keep()
    assert tables(client) == ["a_lock"]
