"""Lineage by experiment: a message is changed in one field, and what changes in the rows is what lineage says."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from ingest import Ingest, ingest_schema

from migrations.lineage import Lineage
from migrations.schema_graph import read_graph
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
OTHERWISE = {
    "transaction_id": "22222222-2222-4222-8222-222222222222",
    "merchant_id": 2,
    "amount": "20.00",
    "currency": "GBP",
    "status": "settled",
    "created_at": "2024-05-03T12:00:00Z",
    "updated_at": "2024-05-01T13:00:00Z",
}


@pytest.fixture(scope="module")
def ingest(clickhouse_server: Settings) -> Iterator[Ingest]:
    with ingest_schema(clickhouse_server) as ingest:
        ingest.load_merchants((1, "A", "DE", "5411"), (2, "B", "FR", "5412"))
        ingest.load_rates(
            *(("EUR", f"2024-05-0{day}", f"1.{day}") for day in range(1, 8)),
            *(("GBP", f"2024-05-0{day}", f"2.{day}") for day in range(1, 8)),
        )
        yield ingest


def stored(ingest: Ingest, table: str, message: dict[str, Any]) -> dict[str, Any]:
    [offset] = ingest.deliver(json.dumps(message))
    where = "" if table == "report_merchant_by_day" else f" WHERE kafka_offset = {offset}"
    columns = ", ".join(f"`{name}`" for name in LINEAGE.graph.columns_of(table))
    result = ingest.client.query(f"SELECT {columns} FROM {table}{where}")
    [row] = result.result_rows
    ingest.client.command("TRUNCATE TABLE transactions")
    return dict(zip(result.column_names, row, strict=True))


@pytest.mark.parametrize("table", ["transactions", "report_merchant_by_day"])
def test_what_changes_with_a_field_is_what_is_made_of_it(ingest: Ingest, table: str) -> None:
    before = stored(ingest, table, MESSAGE)
    for field, other in OTHERWISE.items():
        after = stored(ingest, table, MESSAGE | {field: other})
        changed = {f"{table}.{name}" for name in before if before[name] != after[name]}
        made = {one for one in LINEAGE.after([f"topic.{field}"]) if one.startswith(f"{table}.")}
        always = {one for one in made | changed if LINEAGE.summary(one).clocks or "kafka_" in one}
        assert changed - always <= made, field
        # What need not change with it: these say whether there is a rate and of when it is, and there is one each time.
        constant = {"enrichment_status", "reporting_currency", "merchant_snapshot_id", "fx_snapshot_id", "fx_rate_date"}
        constant |= {"transactions_without_rate", "transactions_with_provisional_rate"}
        assert made - changed - always <= {f"{table}.{name}" for name in constant}, field
        assert changed - always or table != "transactions", field
