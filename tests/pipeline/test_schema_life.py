"""The life of a schema on Apache Kafka: created, changed while payments flow, drifted, and taken down to nothing."""

import threading
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from batch import complete_reports
from checkouts import Checkout, following
from confluent_kafka import Producer
from payments import message

from paystream.audit.reconcile import audit
from paystream.clickhouse import connect
from paystream.errors import UsageError
from paystream.kafka import client_config
from paystream.migrations import runner
from paystream.migrations.check import check_database, check_files
from paystream.migrations.scratch import scratch_engine
from paystream.settings import Settings

RATE = 500
CHANNELS = ("card", "wallet")


class Payments:
    """Sends payments, each with a channel, 500 a second until told to stop."""

    def __init__(self, settings: Settings) -> None:
        self.sent: dict[str, str] = {}
        self._refused: list[str] = []
        self._producer = Producer(client_config(settings) | {"log_level": 0, "linger.ms": 5})
        self._topic = settings.kafka_topic
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> "Payments":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert self._producer.flush(60) == 0
        assert not self._refused

    def _send(self) -> None:
        started = time.monotonic()
        while not self._stop.is_set():
            for number in range(len(self.sent), int((time.monotonic() - started) * RATE)):
                identifier, channel = str(uuid.uuid4()), CHANNELS[number % 2]
                self.sent[identifier] = channel
                value = message(transaction_id=identifier, channel=channel)
                self._producer.produce(self._topic, value, identifier, on_delivery=self._confirmed)
            self._producer.poll(0)
            self._stop.wait(0.01)

    def _confirmed(self, error: object, _: object) -> None:
        if error:
            self._refused.append(str(error))


def rows(settings: Settings, sql: str) -> list[tuple]:
    with connect(settings) as client:
        return list(client.query(sql).result_rows)


def stored(settings: Settings) -> int:
    return rows(settings, "SELECT count() FROM transactions_current")[0][0]


def wait_for(settings: Settings, sql: str, expected: int, limit_s: float = 60) -> float:
    """Wait until a count reaches a number; return the seconds that took."""
    started = time.monotonic()
    while (found := rows(settings, sql)[0][0]) < expected:
        assert time.monotonic() < started + limit_s, f"{found} of {expected} after {limit_s} s: {sql}"
        time.sleep(0.05)
    return time.monotonic() - started


def grow(settings: Settings) -> float:
    """Wait until a second's payments more are stored; return the seconds that took."""
    return wait_for(settings, "SELECT count() FROM transactions_current", stored(settings) + RATE)


@pytest.fixture(scope="module")
def engine() -> Iterator[Settings]:
    """An engine to try versions out in, apart from the stack: its Kafka table would join the stack's group."""
    with scratch_engine() as settings:
        yield settings


@pytest.mark.timeout(600)  # it waits for a refresh by its schedule, and tries six versions out in an engine
def test_the_life_of_a_schema(stack: Settings, engine: Settings, tmp_path: Path) -> None:
    checkout = Checkout.copied(tmp_path / "checkout")
    folder = checkout.versions

    # From nothing to the newest version.
    assert runner.plan(stack, folder)[0].means == "creates the database"
    runner.up(stack, folder)
    assert runner.plan(stack, folder) == []
    assert check_database(stack, folder) == []

    with Payments(stack) as payments:
        grow(stack)

        # A column through message, view, table and report.
        checkout.add_channel()
        assert len(check_files(checkout.root, engine)) == 9
        assert checkout.new("add_channel", engine).unwritten == 0
        plan = runner.plan(stack, folder)
        assert not any(step.destructive or "pauses" in step.means or "rows in" in step.means for step in plan)
        runner.up(stack, folder)
        seen = "SELECT countIf(channel != '') FROM transactions_current"
        wait_for(stack, seen, RATE)

        # A Kafka table and the view on it, together: ingest pauses, and goes on where it was.
        checkout.shorten_flush()
        checkout.edit("transactions_parsed_mv", ("    field.channel AS", "    lower(field.channel) AS"))
        checkout.new("faster", engine)
        assert [step.means.split(",")[0].split(" until")[0] for step in runner.plan(stack, folder)][:2] == [
            "pauses ingest",
            "pauses ingest",
        ]
        runner.up(stack, folder)
        grow(stack)

        # A view alone.
        checkout.edit("report_merchant_by_day", ("p.amount AS amount,", "p.amount AS amount, 1 AS edition,"))
        checkout.new("edition", engine)
        runner.up(stack, folder)
        assert check_files(checkout.root) == []
        assert check_database(stack, folder) == []
        grow(stack)

        # Back over the versions, while payments flow too.
        runner.down(stack, folder, to=following("add_channel"))
        grow(stack)

    # Nothing lost, and nothing twice: by the payments sent and by the broker's own offsets.
    wait_for(stack, "SELECT count() FROM transactions_current", len(payments.sent))
    found = {
        str(name): channel for name, channel in rows(stack, "SELECT transaction_id, channel FROM transactions_current")
    }
    assert found.keys() == payments.sent.keys()
    assert rows(stack, "SELECT count() FROM quarantine") == [(0,)]
    wrong = [name for name, channel in found.items() if channel not in ("", payments.sent[name])]
    assert not wrong
    # Once every view knew of the column, no payment went without.
    late = list(payments.sent)[-RATE:]
    assert all(found[name] for name in late)
    with connect(stack) as client:
        complete_reports(client)
    assert rows(stack, "SELECT sum(transactions) FROM report_merchant_by_day") == [(len(payments.sent),)]
    channels = rows(stack, "SELECT DISTINCT channel FROM report_channels_by_day WHERE channel != ''")
    assert sorted(channel for (channel,) in channels) == sorted(CHANNELS)
    assert audit(stack, timedelta(hours=1)).verdict == "complete"

    # A hand in the database is found.
    runner.up(stack, folder)
    with connect(stack) as client:
        client.command("ALTER TABLE quarantine ADD COLUMN by_hand UInt8")
    [drift] = check_database(stack, folder)
    assert (drift.name, drift.diff) == ("quarantine", ("+     `by_hand` UInt8,",))
    with connect(stack) as client:
        client.command("ALTER TABLE quarantine DROP COLUMN by_hand")
    assert check_database(stack, folder) == []

    # Down to nothing, if one means it.
    with pytest.raises(UsageError, match=r"that would drop .*transactions"):
        runner.down(stack, folder, everything=True)
    runner.down(stack, folder, everything=True, allow_destructive=True)
    assert (
        rows(stack, "SELECT name FROM system.tables WHERE database = currentDatabase() AND name NOT LIKE '\\\\_yoyo%'")
        == []
    )
