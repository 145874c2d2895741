"""The real schema without a broker: every file of sql/ and dictionaries/, with a Null table in the Kafka table's place.

What is inserted into that table runs through the same views as what Kafka delivers.
"""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import batch
from clickhouse_connect.driver.client import Client

from paystream.clickhouse import connect
from paystream.loadtest.drain import QUEUE_STANDIN
from paystream.project import CHECKOUT
from paystream.settings import Settings

# Dependencies first: a view needs its source and its target, a dictionary its table.
OBJECTS = [
    "sql/3_enrich/merchants.sql",
    "sql/3_enrich/fx_rates.sql",
    "sql/3_enrich/fx_rate_periods.sql",
    "sql/3_enrich/dimension_snapshots.sql",
    "sql/3_enrich/dimension_checks.sql",
    "sql/3_enrich/merchants_history.sql",
    "sql/3_enrich/fx_rates_history.sql",
    "sql/3_enrich/repaired_days.sql",
    "dictionaries/merchants_dict.sql",
    "dictionaries/fx_rates_dict.sql",
    "sql/2_store/transactions.sql",
    "sql/2_store/quarantine.sql",
    "sql/2_store/quarantine_replays.sql",
    "sql/2_store/ingest_ledger.sql",
    "sql/2_store/audits.sql",
    "sql/1_ingest/transactions_parsed.sql",
    "sql/1_ingest/transactions_mv.sql",
    "sql/1_ingest/quarantine_mv.sql",
    "sql/1_ingest/ledger_mv.sql",
    "sql/1_ingest/transactions_queue.sql",
    "sql/1_ingest/transactions_parsed_mv.sql",
    "sql/3_enrich/transactions_to_repair.sql",
    "sql/4_report/transactions_current.sql",
    "sql/5_rollup/rollup_progress.sql",
    "sql/5_rollup/merchant_slots.sql",
    "sql/5_rollup/merchant_days.sql",
    "sql/5_rollup/volume_hours.sql",
    "sql/5_rollup/latency_minutes.sql",
    "sql/5_rollup/rollup_state.sql",
    "sql/5_rollup/merchant_slots_mv.sql",
    "sql/5_rollup/merchant_days_mv.sql",
    "sql/5_rollup/volume_hours_mv.sql",
    "sql/5_rollup/latency_minutes_mv.sql",
    "sql/5_rollup/rollup_progress_mv.sql",
    "sql/5_rollup/merchant_days_current.sql",
    "sql/5_rollup/merchant_days_by_currency.sql",
    "sql/4_report/report_freshness.sql",
    "sql/4_report/report_merchant_by_day.sql",
    "sql/4_report/report_settlement_by_day.sql",
    "sql/4_report/report_merchant_ranking.sql",
    "sql/4_report/report_volume_by_hour.sql",
    "sql/4_report/report_currency_exposure_by_day.sql",
    "sql/4_report/report_pending_by_day.sql",
    "sql/4_report/report_latency_by_minute.sql",
]

BLOCK_COLUMNS = [
    "kafka_topic",
    "kafka_partition",
    "first_offset",
    "last_offset",
    "messages",
    "refused",
    "last_kafka_timestamp",
    "read_at",
]
"""What the ledger says of a block, without how long its payments took."""


def kafka_now() -> datetime:
    """Return this moment with the milliseconds that Kafka keeps."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


@dataclass
class Ingest:
    """A database with the whole schema, and a way to deliver messages to it."""

    client: Client
    offsets: Iterator[int] = field(default_factory=count)

    def deliver(self, *messages: bytes | str, partition: int = 0, first_offset: int | None = None) -> list[int]:
        """Deliver messages as one block and return their offsets."""
        if first_offset is None:
            offsets = [next(self.offsets) for _ in messages]
        else:
            offsets = list(range(first_offset, first_offset + len(messages)))
        rows = [
            [m if isinstance(m, bytes) else m.encode(), f"key-{offset}", partition, offset, kafka_now()]
            for m, offset in zip(messages, offsets, strict=True)
        ]
        self.client.insert(
            "transactions_queue", rows, column_names=["message", "_key", "_partition", "_offset", "_timestamp_ms"]
        )
        return offsets

    def rows(self, sql: str, **parameters: Any) -> Sequence[Sequence[Any]]:
        """Return the rows of a query."""
        return self.client.query(sql, parameters=parameters).result_rows

    def value(self, sql: str, **parameters: Any) -> Any:
        """Return the single value of a query."""
        [[value]] = self.rows(sql, **parameters)
        return value

    def complete_reports(self) -> None:
        """Refresh the roll-ups until reports have all that was delivered so far, which takes some seconds."""
        batch.complete_reports(self.client)

    def load_merchants(self, *merchants: tuple[int, str, str, str], snapshot_id: int = 1) -> None:
        """Replace the merchants and reload their dictionary."""
        self.client.command("TRUNCATE TABLE merchants")
        self.client.insert("merchants", [[*merchant, snapshot_id] for merchant in merchants])
        self.client.command("SYSTEM RELOAD DICTIONARY merchants_dict")

    def load_rates(self, *rates: tuple[str, str, str], snapshot_id: int = 1) -> None:
        """Replace the rates, each (currency, ISO date, rate to USD), and reload their dictionary."""
        self.client.command("TRUNCATE TABLE fx_rates")
        values = ", ".join(f"('{c}', '{day}', '{rate}', 'USD', {snapshot_id})" for c, day, rate in rates)
        if values:
            self.client.command(f"INSERT INTO fx_rates VALUES {values}")
        self.client.command("SYSTEM RELOAD DICTIONARY fx_rates_dict")


@contextmanager
def ingest_schema(settings: Settings) -> Iterator[Ingest]:
    """Create the schema in a database of its own and drop it afterwards."""
    database = f"ingest_{uuid.uuid4().hex[:8]}"
    with connect(settings, database="") as client:
        client.command(f"CREATE DATABASE {database}")
        client.command("CREATE NAMED COLLECTION IF NOT EXISTS paystream_dictionaries AS user = 'default'")
    try:
        with connect(settings, database=database) as client:
            for path in OBJECTS:
                is_queue = Path(path).stem == "transactions_queue"
                client.command(QUEUE_STANDIN if is_queue else (CHECKOUT / path).read_text())
            yield Ingest(client)
    finally:
        with connect(settings, database="") as client:
            client.command(f"DROP DATABASE {database} SYNC")


class Warehouse(NamedTuple):
    """A database with the whole schema, and the settings that lead to it."""

    settings: Settings
    ingest: Ingest


@contextmanager
def warehouse_of(server: Settings, home: Path, **changes: Any) -> Iterator[Warehouse]:
    """Create the schema in a database of its own, with settings changed so, and drop it afterwards."""
    with ingest_schema(server) as ingest:
        update = {"clickhouse_database": ingest.client.database, "home": home} | changes
        yield Warehouse(server.model_copy(update=update), ingest)
