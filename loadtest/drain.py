"""How fast a backlog drains, beside what the engine reaches for the same messages without Kafka."""

import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from clickhouse_connect.driver.client import Client
from confluent_kafka import Producer

from loadtest.messages import Plan, render
from loadtest.run import make_plan, wait_until_quiet
from loadtest.topic import open_topic
from loadtest.workload import load
from paystream.clickhouse import connect
from paystream.errors import CheckFailed
from paystream.kafka import client_config
from paystream.settings import Settings

BATCH = 20_000
BACKLOG_RATE = 5_000
POLL_S = 0.02

QUEUE_STANDIN = """
CREATE TABLE transactions_queue
(
    message String,
    _key String,
    _topic LowCardinality(String) DEFAULT 'transactions',
    _partition UInt64,
    _offset UInt64,
    _timestamp_ms Nullable(DateTime64(3, 'UTC'))
)
ENGINE = Null
"""
"""A table in the Kafka table's place: what is inserted into it runs through the same views."""


@dataclass(frozen=True)
class Drain:
    """Rates in rows a second. ``visible`` is what a reader of transactions_current finds of the run at the end."""

    messages: int
    visible: int
    kafka_rows_per_second: float
    file_rows_per_second: float
    first_row_after_s: float

    @property
    def share_of_file(self) -> float:
        """Return the rate through Kafka as a share of the rate from a file."""
        return self.kafka_rows_per_second / self.file_rows_per_second


def drain(settings: Settings, messages: int, timeout_s: float = 300) -> Drain:
    """Let so many messages wait in the topic, open the way, and time them from the first visible row to the last.

    Afterwards the same messages go as a file through the same views into a table like the real one, in a database of
    its own that is dropped again; the engine must be able to read this machine's files, as the local stack's can.
    Ingest of the real table stops while the backlog is produced, and is always resumed.

    Raises:
        ServiceUnavailable: Kafka or ClickHouse cannot be reached.
        UsageError: the topic, the schema or the dimensions are not there yet.
        CheckFailed: the topic does not come to rest before, or the backlog did not drain in time.
    """
    with tempfile.TemporaryDirectory() as folder, connect(settings) as client, open_topic(settings) as topic:
        lines = Path(folder) / "messages.jsonl"
        # As if sent over the last minutes: a message that lies in the future would be refused.
        began_us = time.time_ns() // 1000 - messages * 1_000_000 // BACKLOG_RATE
        plan = replace(
            make_plan(client, load("today")), messages=messages, rate_per_second=BACKLOG_RATE, started_us=began_us
        )
        wait_until_quiet(settings, topic, client, plan, lambda _: None)
        with _ingest_stopped(client):
            _produce(settings, plan, lines)
        attached = time.monotonic()
        began = datetime.now(UTC)
        first, last = _watch(client, plan.messages, began, timeout_s)
        visible = client.query(
            "SELECT uniqExact(transaction_id) FROM transactions_current WHERE ingested_at >= {began:DateTime64(3)}",
            parameters={"began": began},
        ).result_rows[0][0]
        _wait_for_merges(client, timeout_s)
        file_rate = _from_file(settings, plan.messages, lines)
    return Drain(
        messages=plan.messages,
        visible=visible,
        kafka_rows_per_second=(last[1] - first[1]) / (last[0] - first[0]),
        file_rows_per_second=file_rate,
        first_row_after_s=first[0] - attached,
    )


@contextmanager
def _ingest_stopped(client: Client) -> Iterator[None]:
    client.command("DETACH TABLE transactions_queue SYNC")
    try:
        yield
    finally:
        client.command("ATTACH TABLE transactions_queue")


def _produce(settings: Settings, plan: Plan, copy: Path) -> None:
    producer = Producer(
        client_config(settings)
        | {"enable.idempotence": True, "linger.ms": 50, "compression.type": "lz4", "log_level": 0}
    )
    with copy.open("wb") as file:
        for start in range(0, plan.messages, BATCH):
            keys, values = render(plan, np.arange(start, min(start + BATCH, plan.messages)))
            file.write(b"\n".join(values) + b"\n")
            for key, value in zip(keys, values, strict=True):
                producer.produce(settings.kafka_topic, value, key)
            # A whole batch is confirmed before the next, so the queue stays bounded.
            if producer.flush(60):
                raise CheckFailed(
                    f"Backlog for topic '{settings.kafka_topic}': the broker did not take it within 60 s. "
                    "Look at the broker's log."
                )


def _watch(client: Client, messages: int, began: datetime, timeout_s: float) -> tuple[tuple, tuple]:
    """Return (time, rows) of the last look that found none and of the first that found all."""
    empty = (time.monotonic(), 0)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        rows = client.query(
            "SELECT count() FROM transactions WHERE ingested_at >= {began:DateTime64(3)}", parameters={"began": began}
        ).result_rows[0][0]
        now = time.monotonic()
        if rows == 0:
            empty = (now, 0)
        if rows >= messages:
            return empty, (now, rows)
        time.sleep(POLL_S)
    raise CheckFailed(
        f"Backlog of {messages} messages: {rows} were stored after {timeout_s:.0f} s. "
        "See the exceptions in system.kafka_consumers."
    )


def _wait_for_merges(client: Client, timeout_s: float) -> None:
    """Wait until the engine is at rest, so that merges of the first part do not slow the second."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and client.query("SELECT count() FROM system.merges").result_rows[0][0]:
        time.sleep(0.2)


def _from_file(settings: Settings, messages: int, lines: Path) -> float:
    """Return the rows a second from a file through the live views' own SELECTs, on every core the engine has."""
    source, copy = settings.clickhouse_database, f"{settings.clickhouse_database}_drain"
    with connect(settings) as client:
        live = dict(
            client.query(
                "SELECT name, create_table_query FROM system.tables WHERE database = currentDatabase()"
            ).result_rows
        )
        client.command(f"DROP DATABASE IF EXISTS {copy} SYNC")
        client.command(f"CREATE DATABASE {copy}")
        try:
            client.command(QUEUE_STANDIN.replace("transactions_queue", f"{copy}.transactions_queue"))
            # Targets before views; the dictionaries stay the live ones.
            for name in ("transactions", "quarantine", "ingest_ledger", "transactions_parsed"):
                client.command(_moved(live[name], source, copy))
            for name in ("transactions_mv", "quarantine_mv", "ledger_mv", "transactions_parsed_mv"):
                client.command(_moved(live[name], source, copy))
            threads = client.query("SELECT getSetting('max_threads')").result_rows[0][0]
            began = time.monotonic()
            client.command(
                f"INSERT INTO {copy}.transactions_queue (message, _partition, _offset, _timestamp_ms)"
                " SELECT line, number % 4, number, now64(3)"
                " FROM (SELECT line, rowNumberInAllBlocks() AS number"
                f" FROM file('{lines}', LineAsString, 'line String'))"
                f" SETTINGS max_insert_threads = {threads}"
            )
            seconds = time.monotonic() - began
            stored = client.query(f"SELECT count() FROM {copy}.transactions").result_rows[0][0]
            if stored != messages:
                raise CheckFailed(f"File of {messages} messages: {stored} rows arrived. This benchmark is broken.")
        finally:
            client.command(f"DROP DATABASE IF EXISTS {copy} SYNC")
    return messages / seconds


def _moved(create: str, source: str, copy: str) -> str:
    return re.sub(rf"\b{source}\.(?!\w+_dict\b)", f"{copy}.", create)
