"""Lineage by experiment: a message is changed in one field, and what changes in the rows is what lineage says."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from ingest import Ingest, ingest_schema

from paystream.migrations.lineage import Lineage
from paystream.migrations.schema_graph import read_graph
from paystream.settings import Settings

LINEAGE = Lineage(read_graph())

MESSAGE = {
    "transaction_id": "11111111-1111-4111-8111-111111111111",
    "merchant_id": 1,
    "amount": "10.00",
    "currency": "EUR",
    "status": "captured",
    "created_at": "2024-05-01T12:00:00Z",
    "updated_at": "2024-05-01T12:00:00Z",
}
OTHER_MERCHANT = 99
OTHERWISE = {
    "transaction_id": "22222222-2222-4222-8222-222222222222",
    "merchant_id": OTHER_MERCHANT,
    "amount": "20.00",
    "currency": "GBP",
    "status": "settled",
    "created_at": "2024-05-03T12:00:00Z",
    "updated_at": "2024-05-01T13:00:00Z",
}


MERCHANTS = {field: number for number, field in enumerate(MESSAGE, start=1)}
"""One for each field that is changed, all alike, so that every change is seen in a row of its own."""


@pytest.fixture(scope="module")
def ingest(clickhouse_server: Settings) -> Iterator[Ingest]:
    with ingest_schema(clickhouse_server) as ingest:
        alike = [(number, "A", "DE", "5411") for number in MERCHANTS.values()]
        ingest.load_merchants(*alike, (OTHER_MERCHANT, "B", "FR", "5412"))
        ingest.load_rates(
            *(("EUR", f"2024-05-0{day}", f"1.{day}") for day in range(1, 8)),
            *(("GBP", f"2024-05-0{day}", f"2.{day}") for day in range(1, 8)),
        )
        yield ingest


def stored(ingest: Ingest, table: str, messages: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Deliver messages, one a merchant, and return the row of each merchant."""
    for name in ("transactions", "merchant_slots", "merchant_days"):
        ingest.client.command(f"TRUNCATE TABLE {name}")
    ingest.deliver(*map(json.dumps, messages))
    if table != "transactions":
        ingest.complete_reports()
    columns = LINEAGE.graph.columns_of(table)
    rows = ingest.rows(f"SELECT merchant_id, {', '.join(f'`{name}`' for name in columns)} FROM {table}")
    assert len(rows) == len(messages)
    return {merchant: dict(zip(columns, row, strict=True)) for merchant, *row in rows}


@pytest.mark.parametrize("table", ["transactions", "report_merchant_by_day"])
def test_what_changes_with_a_field_is_what_is_made_of_it(ingest: Ingest, table: str) -> None:
    messages = {
        field: MESSAGE | {"transaction_id": str(uuid.UUID(int=number)), "merchant_id": number}
        for field, number in MERCHANTS.items()
    }
    before = stored(ingest, table, list(messages.values()))
    again = stored(ingest, table, list(messages.values()))
    after = stored(ingest, table, [message | {field: OTHERWISE[field]} for field, message in messages.items()])
    # What differs although the message is the same says when and where it was read.
    always = {name for number, row in before.items() for name in row if row[name] != again[number][name]}
    assert always
    for name in always:
        assert LINEAGE.summary(f"{table}.{name}").clocks or "kafka_" in name
    # What need not change with a field: these say whether there is a rate and of when it is; there is one each time.
    constant = {"enrichment_status", "reporting_currency", "merchant_snapshot_id", "fx_snapshot_id", "fx_rate_date"}
    constant |= {"transactions_without_rate", "transactions_with_provisional_rate"}
    for field, number in MERCHANTS.items():
        row, other = before[number], after[OTHER_MERCHANT if field == "merchant_id" else number]
        changed = {name for name in row if row[name] != other[name]} - always
        made = {
            column.removeprefix(f"{table}.")
            for column in LINEAGE.after([f"topic.{field}"])
            if column.startswith(f"{table}.")
        }
        assert changed <= made, field
        assert made - changed - always <= constant, field
        assert changed or table != "transactions", field
