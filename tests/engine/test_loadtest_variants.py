"""The views that `paystream loadtest drain --compare` puts in the real ones' place: the same but for what they omit."""

import json
from datetime import UTC, datetime

import pytest
from ingest import Ingest, ingest_schema
from payments import payment

from paystream.loadtest.drain import INGEST, PARTS
from paystream.project import CHECKOUT

ENRICHED = (
    "merchant_name",
    "merchant_country",
    "merchant_category_code",
    "merchant_snapshot_id",
    "fx_rate",
    "fx_rate_date",
    "amount_reporting",
    "reporting_currency",
    "fx_snapshot_id",
    "enrichment_status",
)
VIEWS = [(part, view) for part, without in PARTS.items() for view, sql in without.without.items() if sql]


@pytest.fixture
def ingest(clickhouse_server):
    with ingest_schema(clickhouse_server) as ingest:
        ingest.load_merchants((7, "Merchant 7", "DE", "5411"), (4294967295, "The last", "FR", "5812"))
        ingest.load_rates(("EUR", datetime.now(UTC).date().isoformat(), "1.1"))
        yield ingest


MESSAGES = [
    json.dumps(payment(**changes), separators=separators)
    for separators in [(",", ":"), (", ", ": ")]
    for changes in [
        {},
        {"amount": "99999999999999.9999", "currency": "JPY", "status": "charged_back"},
        {"amount": "0.0001", "merchant_id": 4294967295},
        {"created_at": "2026-01-02T03:04:05Z", "updated_at": "2026-01-02T03:04:05.123456Z"},
        {"channel": "web", "nested": {"amount": 1}},
    ]
]


def stored(ingest: Ingest) -> list[dict]:
    """Deliver the messages and return their rows, in order, without what differs between two deliveries."""
    first = ingest.deliver(*MESSAGES)[0]
    result = ingest.client.query(
        "SELECT * EXCEPT (kafka_offset, kafka_timestamp, ingested_at, enriched_at) FROM transactions"
        " WHERE kafka_offset >= {first:UInt64} ORDER BY kafka_offset",
        parameters={"first": first},
    )
    return list(result.named_results())


def columns(ingest: Ingest, view: str) -> list[str]:
    of_view = "database = currentDatabase() AND table = {view:String} ORDER BY position"
    return [name for (name,) in ingest.rows(f"SELECT name FROM system.columns WHERE {of_view}", view=view)]


@pytest.mark.parametrize(("part", "view"), VIEWS)
def test_a_view_in_anothers_place_gives_the_same_columns(ingest, part, view):
    real = columns(ingest, view)
    ingest.client.command(f"DROP TABLE {view} SYNC")
    ingest.client.command(PARTS[part].without[view])
    assert columns(ingest, view) == real


def test_without_validation_valid_messages_give_the_same_rows_and_invalid_ones_pass(ingest):
    real = stored(ingest)
    assert len(real) == len(MESSAGES)
    refused = json.dumps(payment(status="unknown"))
    ingest.deliver(refused)
    assert ingest.value("SELECT count() FROM quarantine") == 1

    for view, sql in PARTS["validation"].without.items():
        ingest.client.command(f"DROP TABLE {view} SYNC")
        if sql:
            ingest.client.command(sql)
    assert stored(ingest) == real
    ingest.deliver(refused)
    assert ingest.value("SELECT count() FROM quarantine") == 1
    assert ingest.value("SELECT count() FROM transactions WHERE status = 'unknown'") == 1


def test_without_enrichment_a_row_is_the_same_but_for_what_was_looked_up(ingest):
    real = stored(ingest)
    assert {row["merchant_name"] for row in real} == {"Merchant 7", "The last"}
    assert any(row["amount_reporting"] for row in real)

    [(view, sql)] = PARTS["enrichment"].without.items()
    ingest.client.command(f"DROP TABLE {view} SYNC")
    ingest.client.command(sql)
    bare = stored(ingest)
    assert {tuple(row[name] for name in ENRICHED) for row in bare} == {
        ("", "", "", 0, None, None, None, "", 0, "merchant_pending")
    }

    def paid(rows: list[dict]) -> list[dict]:
        return [{name: value for name, value in row.items() if name not in ENRICHED} for row in rows]

    assert paid(bare) == paid(real)


def test_everything_between_topic_and_tables_is_part_of_the_comparison():
    folders = {"sql/1_ingest", "sql/2_store"}
    written_by_ingest = {path.stem for folder in folders for path in (CHECKOUT / folder).glob("*.sql")}
    assert set(INGEST) == written_by_ingest - {"quarantine_replays", "audits"}
