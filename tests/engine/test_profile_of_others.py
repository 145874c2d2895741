"""The same tests on a server whose default profile is somebody else's: settings that change what a query means.

Users turn each of them on for a whole server, for reasons of their own, and public reports tell of tools that then gave
other answers. The Kafka engine writes, and views refresh, under this profile as well.
"""

import uuid
from collections.abc import Iterator
from decimal import Decimal

import clickhouse_connect
import pytest
from ingest import Ingest, Warehouse
from payments import message
from server_process import running_server
from test_reports import (  # noqa: F401
    ingest,
    test_reports_equal_the_batch_after_duplicates_late_states_restated_rates_and_repaired_merchants,
    warehouse,
)

from paystream.settings import Settings

PROFILE = {
    "join_use_nulls": 1,
    "group_by_use_nulls": 1,
    "aggregate_functions_null_for_empty": 1,
    "transform_null_in": 1,
    "session_timezone": "America/New_York",
    "date_time_input_format": "best_effort",
    "date_time_output_format": "iso",
    "async_insert": 1,
    "wait_for_async_insert": 0,
    "insert_null_as_default": 0,
    "enable_analyzer": 1,
    "max_threads": 1,
    "optimize_on_insert": 1,
    "use_skip_indexes_if_final": 1,
    "use_skip_indexes_if_final_exact_mode": 0,
}


@pytest.fixture(scope="module")
def clickhouse_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings that point to a server with this profile."""
    values = "".join(f"<{name}>{value}</{name}>" for name, value in PROFILE.items())
    files = {"users.d/zz_others.xml": f"<clickhouse><profiles><default>{values}</default></profiles></clickhouse>"}
    with running_server(tmp_path_factory.mktemp("others"), files) as server:
        yield server.settings


def test_ingest_means_the_same(warehouse: Warehouse) -> None:  # noqa: F811
    """What the Kafka engine inserts, it inserts as the profile has it: by a client that keeps nothing of its own."""
    settings, ingest = warehouse  # noqa: F811
    ingest.load_merchants((1, "Bakery", "DE", "5462"))
    ingest.load_rates(("EUR", "2026-09-30", "1.25"))
    others = clickhouse_connect.get_client(
        host=settings.clickhouse_host, port=settings.clickhouse_port, database=settings.clickhouse_database
    )
    assert others.command("SELECT sum(number) IS NULL FROM numbers(0)"), "the profile is not in force"
    ids = [str(uuid.UUID(int=number)) for number in range(1, 4)]
    day = {"created_at": "2026-10-01T23:59:59.999999Z", "amount": "10.00", "currency": "EUR"}
    Ingest(others).deliver(
        message(transaction_id=ids[0], merchant_id=1, **day),
        message(transaction_id=ids[1], merchant_id=2, **day),
        message(transaction_id=ids[2], merchant_id=1, **day | {"currency": "KES"}),
        "not JSON",
        "null",
        message(amount=None),
        message(merchant_id="0"),
    )
    stored = (
        "SELECT transaction_id, toString(created_at), enrichment_status, amount_reporting FROM transactions_current"
    )
    at = "2026-10-01 23:59:59.999999"
    assert ingest.rows(f"{stored} ORDER BY transaction_id") == [
        (uuid.UUID(ids[0]), at, "fx_provisional", Decimal("12.5")),
        (uuid.UUID(ids[1]), at, "merchant_pending", Decimal("12.5")),
        (uuid.UUID(ids[2]), at, "fx_pending", None),
    ]
    refused = ["amount_missing", "merchant_id_malformed", "not_an_object", "not_json"]
    assert ingest.value("SELECT arraySort(groupArray(reason)) FROM quarantine") == refused
    assert ingest.rows("SELECT messages, refused, timed, late FROM ingest_ledger") == [(7, 4, 3, 0)]
    others.close()
