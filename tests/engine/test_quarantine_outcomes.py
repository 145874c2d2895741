"""What becomes of a replayed message, by the ledger and quarantine alone, and records that no datetime can hold."""

from datetime import UTC, datetime, timedelta

import pytest
from ingest import BLOCK_COLUMNS, ingest_schema

from paystream.quarantine import replay
from paystream.quarantine.messages import Place, Selection, groups

NOW = datetime.now(UTC).replace(microsecond=0)
BEFORE = NOW - timedelta(minutes=10)


@pytest.fixture(scope="module")
def ingest(clickhouse_server):
    with ingest_schema(clickhouse_server) as ingest:
        yield ingest


@pytest.fixture
def settings(ingest, clickhouse_server):
    for table in ("quarantine", "quarantine_replays", "ingest_ledger"):
        ingest.client.command(f"TRUNCATE TABLE {table}")
    return clickhouse_server.model_copy(update={"clickhouse_database": ingest.client.database})


def refused(ingest, place: Place, reason: str = "not_json", value: bytes = b"{") -> None:
    row = [reason, value, "key", "transactions", place.partition, place.offset, place.timestamp_ms, BEFORE]
    ingest.client.insert("quarantine", [row])


def replayed(ingest, settings, old: Place, new: Place, state: str = "sent") -> None:
    attempt = replay._Attempt(old, "6dbd6e1c-4a2c-4b5e-9d3c-0d8f0d3e7c11", BEFORE, "me@here", new)
    replay.record(ingest.client, settings, state, [attempt])


def read(ingest, *blocks: tuple[int, int], partition: int = 1, at: datetime = NOW - timedelta(minutes=5)) -> None:
    rows = [["transactions", partition, first, last, last - first + 1, 0, at, at] for first, last in blocks]
    ingest.client.insert("ingest_ledger", rows, column_names=BLOCK_COLUMNS)


def counts(settings, **choice: int) -> tuple[int, int, int, int]:
    refused = groups(settings, Selection(**choice))
    totals = [(group.messages, group.stored, group.refused_again, group.in_flight) for group in refused]
    return tuple(map(sum, zip(*totals, strict=True))) or (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("blocks", "stored"),
    [
        ([], 0),
        ([(0, 99)], 0),
        ([(0, 100)], 1),
        ([(0, 99), (101, 200)], 0),
        ([(0, 99), (100, 100), (101, 200)], 1),
        ([(90, 200), (95, 97)], 1),
        ([(90, 99), (95, 97), (150, 200)], 0),
    ],
    ids=["not read", "read up to it", "the last", "skipped", "alone", "read again in part", "read again, skipped"],
)
def test_a_replay_is_stored_once_a_block_holds_it_and_not_when_it_was_skipped(ingest, settings, blocks, stored) -> None:
    # Two of a batch; the other one is in a block whatever happens to this one.
    for offset, new in [(5, 100), (6, 300)]:
        refused(ingest, Place(1, offset, 1_000))
        replayed(ingest, settings, Place(1, offset, 1_000), Place(1, new, 2_000))
    read(ingest, *blocks, (290, 310))
    # Neither another partition nor another message's block says anything about it.
    read(ingest, (0, 400), partition=2)
    assert counts(settings) == (2, 1 + stored, 0, 1 - stored)


def test_a_block_read_before_the_replay_or_just_now_says_nothing_yet(ingest, settings) -> None:
    refused(ingest, Place(1, 5, 1_000))
    replayed(ingest, settings, Place(1, 5, 1_000), Place(1, 100, 2_000))
    read(ingest, (90, 110), at=BEFORE - timedelta(seconds=1))
    read(ingest, (90, 110), at=datetime.now(UTC) + timedelta(minutes=1))
    assert counts(settings) == (1, 0, 0, 1)


def test_a_replay_that_was_refused_is_no_message_of_its_own(ingest, settings) -> None:
    refused(ingest, Place(1, 5, 1_000))
    refused(ingest, Place(1, 100, 2_000), "currency_unknown")
    replayed(ingest, settings, Place(1, 5, 1_000), Place(1, 100, 2_000))
    read(ingest, (90, 110))
    assert counts(settings) == (1, 0, 1, 0)
    [group] = groups(settings, Selection(partition=1, offset=100))
    assert (group.reason, group.example.refused_again_at) == ("currency_unknown", (1, 100))
    assert counts(settings, partition=2) == (0, 0, 0, 0)


def test_a_timestamp_beyond_any_calendar_is_kept_to_the_millisecond(ingest, settings) -> None:
    old = Place(1, 5, 1_790_000_000_000_000)
    refused(ingest, old)
    replayed(ingest, settings, old, Place(1, 100, 1_790_000_000_000_001))
    stored = "SELECT toUnixTimestamp64Milli(kafka_timestamp), toUnixTimestamp64Milli(new_timestamp)"
    assert ingest.rows(f"{stored} FROM quarantine_replays") == [(1_790_000_000_000_000, 1_790_000_000_000_001)]
    assert counts(settings) == (1, 0, 0, 1)
    [group] = groups(settings, Selection())
    assert group.example.kafka_timestamp.year == 9999


def test_a_plan_counts_all_and_fetches_as_many_as_it_may_send(ingest, settings) -> None:
    for offset in range(10):
        refused(ingest, Place(offset % 2, offset, 1_000))
    plan, chosen = replay._plan(ingest.client, settings, Selection(), False, 3)
    assert (plan.matched, plan.to_send, chosen) == (
        10,
        10,
        [Place(0, 0, 1_000), Place(0, 2, 1_000), Place(0, 4, 1_000)],
    )
    assert (plan.example.partition, plan.example.offset) == (0, 0)


def test_batches_are_bounded_in_number_and_in_bytes(ingest, settings, monkeypatch) -> None:
    places = [Place(partition, offset, 1_000) for partition in (0, 1) for offset in range(5)]
    for place in places:
        refused(ingest, place, value=b"x" * (60 if place.offset == 1 else 10))
    monkeypatch.setattr(replay, "BATCH_MESSAGES", 3)
    monkeypatch.setattr(replay, "BATCH_BYTES", 70)
    batches = list(replay._batches(ingest.client, settings, places))
    assert [[(place.partition, place.offset) for place in batch] for batch in batches] == [
        [(partition, offset) for offset in part] for partition in (0, 1) for part in ((0, 1), (2,), (3, 4))
    ]
