"""What a reader of transactions_current gets: one row per transaction, its newest state, however messages arrive."""

import itertools
import random
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from ingest import ingest_schema
from payments import message, rfc3339

CREATED = datetime(2026, 3, 31, 23, 59, 59, 999_000, tzinfo=UTC)


@pytest.fixture(scope="module")
def ingest(clickhouse_server):
    with ingest_schema(clickhouse_server) as ingest:
        yield ingest


def states(transaction_id: str) -> list[bytes]:
    """Return three states of one transaction, oldest first."""
    return [
        message(
            transaction_id=transaction_id,
            status=status,
            created_at=rfc3339(CREATED),
            updated_at=rfc3339(CREATED + timedelta(microseconds=step)),
        )
        for step, status in enumerate(["authorized", "captured", "refunded"])
    ]


def status_of(ingest, transaction_id: str) -> list[str]:
    query = "SELECT status FROM transactions_current WHERE transaction_id = {id:UUID}"
    return [status for (status,) in ingest.rows(query, id=transaction_id)]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("blocks", ["one block", "a block each"])
def test_the_latest_state_wins_in_every_order_before_and_after_merges(ingest, order, blocks):
    transaction_id = str(uuid.uuid4())
    messages = [states(transaction_id)[step] for step in order]
    for group in [messages] if blocks == "one block" else [[m] for m in messages]:
        ingest.deliver(*group, partition=random.randrange(4))
    assert status_of(ingest, transaction_id) == ["refunded"]
    ingest.client.command("OPTIMIZE TABLE transactions FINAL")
    assert status_of(ingest, transaction_id) == ["refunded"]


def test_redelivery_changes_nothing(ingest):
    transaction_id = str(uuid.uuid4())
    [old, _, new] = states(transaction_id)
    ingest.deliver(old, new, first_offset=500_000)
    [before] = ingest.rows(
        "SELECT * EXCEPT (ingested_at, enriched_at, kafka_timestamp) FROM transactions_current "
        "WHERE transaction_id = {id:UUID}",
        id=transaction_id,
    )
    for _ in range(3):
        ingest.deliver(old, new, first_offset=500_000)
    assert [before] == ingest.rows(
        "SELECT * EXCEPT (ingested_at, enriched_at, kafka_timestamp) FROM transactions_current "
        "WHERE transaction_id = {id:UUID}",
        id=transaction_id,
    )
    stored = ingest.value("SELECT count() FROM transactions WHERE transaction_id = {id:UUID}", id=transaction_id)
    assert stored > 1, "nothing was redelivered, so nothing was tested"


def test_a_repair_is_not_undone_by_the_old_message_but_by_a_later_state(ingest):
    transaction_id = str(uuid.uuid4())
    [first, second, _] = states(transaction_id)
    ingest.deliver(first)
    ingest.client.command(
        "INSERT INTO transactions SELECT * REPLACE (enrichment_revision + 1 AS enrichment_revision, 'Repaired' AS"
        f" merchant_name) FROM transactions_current WHERE transaction_id = '{transaction_id}'"
    )
    ingest.deliver(first)
    query = "SELECT merchant_name, status FROM transactions_current WHERE transaction_id = {id:UUID}"
    assert ingest.rows(query, id=transaction_id) == [("Repaired", "authorized")]
    ingest.deliver(second)
    assert ingest.rows(query, id=transaction_id) == [("", "captured")]


def test_a_block_with_every_month_of_eight_years_is_taken(ingest):
    months = [datetime(year, month, 2, tzinfo=UTC) for year in range(2019, 2027) for month in range(1, 11)]
    transaction_ids = [str(uuid.uuid4()) for _ in months]
    ingest.deliver(
        *(
            message(transaction_id=i, created_at=rfc3339(m), updated_at=rfc3339(m))
            for i, m in zip(transaction_ids, months, strict=True)
        )
    )
    stored = ingest.value(
        "SELECT count() FROM transactions_current WHERE transaction_id IN {ids:Array(UUID)}", ids=transaction_ids
    )
    assert stored == len(months)
