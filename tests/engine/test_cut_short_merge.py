"""A merge that a full disk cut short: the part it left cannot be read, and loading the table anew brings all back."""

from pathlib import Path

import pytest
from clickhouse_connect.driver.exceptions import ClickHouseError
from ingest import ingest_schema
from payments import message

from paystream.loadtest.faults import reload_if_unreadable
from paystream.settings import Settings

SUMS = "SELECT count(), sum(amount), uniqExact(transaction_id) FROM transactions_current"


def test_a_part_without_marks_is_set_aside_and_its_sources_are_taken(clickhouse_server: Settings) -> None:
    with ingest_schema(clickhouse_server) as ingest:
        for _ in range(5):
            ingest.deliver(*[message() for _ in range(20)])
        before = ingest.client.query(SUMS).result_rows
        assert before[0][0] == 100
        ingest.client.command("OPTIMIZE TABLE transactions FINAL")
        [[merged, path]] = ingest.client.query(
            "SELECT name, path FROM system.parts"
            " WHERE active AND database = currentDatabase() AND table = 'transactions'"
        ).result_rows
        [marks] = Path(path).glob("data.*mrk*")
        marks.write_bytes(b"")
        ingest.client.command("SYSTEM DROP MARK CACHE")
        with pytest.raises(ClickHouseError, match="Empty marks file"):
            ingest.client.query(SUMS)

        assert reload_if_unreadable(ingest.client)
        assert ingest.client.query(SUMS).result_rows == before
        broken = "SELECT name, reason FROM system.detached_parts WHERE database = currentDatabase()"
        assert ingest.client.query(broken).result_rows == [(f"broken-on-start_{merged}", "broken-on-start")]
        assert not reload_if_unreadable(ingest.client)
