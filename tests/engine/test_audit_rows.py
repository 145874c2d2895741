"""The audit and the stored rows: which messages have none, and which transactions have several keys."""

import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from ingest import ingest_schema
from payments import message, payment, rfc3339

from paystream.audit.deep import compare_rows
from paystream.audit.reconcile import _contract

NOW = datetime.now(UTC).replace(microsecond=0)
# Noon, so that minutes before and after are the same day.
NOON = (NOW - timedelta(days=1)).replace(hour=12, minute=0, second=0)


@pytest.fixture(scope="module")
def ingest(clickhouse_server):
    with ingest_schema(clickhouse_server) as ingest:
        ingest.load_merchants()
        ingest.load_rates()
        yield ingest


@pytest.fixture(autouse=True)
def start_again(ingest) -> None:
    for table in ("transactions", "quarantine"):
        ingest.client.command(f"TRUNCATE TABLE {table}")


@dataclass(frozen=True)
class Message:
    at: int
    content: bytes

    def offset(self) -> int:
        return self.at

    def value(self) -> bytes:
        return self.content

    def timestamp(self) -> tuple[int, int]:
        return 1, 1_000


class Log:
    """A partition in memory that begins at offset 0."""

    def __init__(self, *contents: bytes) -> None:
        self._messages = [Message(at, content) for at, content in enumerate(contents)]

    def watermarks(self, partition: int) -> tuple[int, int]:
        return 0, len(self._messages)

    def read(self, partition, first, last, batch_size=5_000):
        yield self._messages[first : last + 1]


def states(created: list[datetime], merchants: list[int]) -> list[bytes]:
    """Return the states of one transaction, each a second later."""
    transaction_id = str(uuid.uuid4())
    return [
        message(
            transaction_id=transaction_id,
            created_at=rfc3339(made),
            merchant_id=merchant,
            updated_at=rfc3339(NOON + timedelta(seconds=step)),
        )
        for step, (made, merchant) in enumerate(zip(created, merchants, strict=True))
    ]


def compare(ingest, settings, *contents: bytes, since: datetime | None = None) -> tuple[int, int]:
    rows = compare_rows(settings, Log(*contents), ingest.client, 0, 0, len(contents), since)
    return rows.absent, rows.superseded


def test_a_state_that_was_merged_away_may_have_another_time_of_the_same_day(ingest, clickhouse_server) -> None:
    contents = states([NOON, NOON + timedelta(minutes=5)], [7, 7])
    ingest.deliver(*contents, first_offset=0)
    ingest.client.command("OPTIMIZE TABLE transactions FINAL")
    assert ingest.value("SELECT count() FROM transactions") == 1
    assert compare(ingest, clickhouse_server, *contents) == (0, 1)
    # With another day or merchant it is a row of its own, which must be there.
    for other in (states([NOON - timedelta(days=1), NOON], [7, 7]), states([NOON, NOON], [7, 8])):
        ingest.deliver(other[1], first_offset=1)
        assert compare(ingest, clickhouse_server, other[0]) == (1, 0)


def test_rows_older_than_the_first_block_are_of_another_topic_whatever_the_messages_say(
    ingest, clickhouse_server
) -> None:
    content = json.dumps(payment(currency="no such")).encode()

    def refused(offset: int, kafka_timestamp: datetime, quarantined_at: datetime) -> None:
        row = ["currency_unknown", content, "", "transactions", 0, offset, kafka_timestamp, quarantined_at]
        ingest.client.insert("quarantine", [row])

    # A producer that gives its messages the time of what they tell of; and one of a deleted topic of the same name.
    refused(0, NOW - timedelta(days=400), NOW)
    refused(1, NOW, NOW - timedelta(days=2))
    assert compare(ingest, clickhouse_server, content, content, since=NOW) == (1, 0)
    assert compare(ingest, clickhouse_server, content, content) == (0, 0)


def test_changed_keys_are_those_that_readers_count_twice(ingest) -> None:
    last_month = NOON.replace(day=1) - timedelta(days=10)
    offset = 0
    # Of one day and merchant the older state is merged away, and then nothing tells of its half hour.
    ingest.client.command("SYSTEM STOP MERGES transactions")
    for created, merchants in [
        ([NOON, NOON], [7, 7]),
        ([NOON, NOON + timedelta(minutes=5)], [7, 7]),
        ([NOON, NOON - timedelta(minutes=35)], [7, 7]),  # by reports alone
        ([NOON, NOON], [7, 8]),
        ([NOON, NOON - timedelta(days=1)], [7, 7]),
        ([NOON, last_month], [7, 7]),
    ]:
        ingest.deliver(*states(created, merchants), first_offset=offset)
        offset += 2
    twice = "SELECT count() FROM (SELECT transaction_id FROM transactions_current GROUP BY ALL HAVING count() > 1)"
    assert ingest.value(twice) == 3
    for since in (datetime.now(UTC) - timedelta(minutes=5), None):
        several, changed, _ = _contract(ingest.client, since)
        assert (several, changed) == (1 if NOON.day > 1 else 2, 4)
    assert _contract(ingest.client, datetime.now(UTC) + timedelta(minutes=1))[:2] == (0, 0)
    ingest.client.command("SYSTEM START MERGES transactions")
