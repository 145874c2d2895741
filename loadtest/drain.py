"""How fast a backlog drains, beside the same messages without Kafka, without validation and without enrichment."""

import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from clickhouse_connect.driver.binding import format_str
from clickhouse_connect.driver.client import Client
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from paystream.clickhouse import connect
from paystream.errors import CheckFailed, ServiceUnavailable, UsageError
from paystream.kafka import client_config
from paystream.loadtest.backlog import send
from paystream.loadtest.pipeline import OURS, Pipeline
from paystream.loadtest.plan import Plan
from paystream.loadtest.run import make_plan, wait_until_quiet
from paystream.loadtest.topic import Topic, open_topic
from paystream.loadtest.workload import load
from paystream.settings import Settings

BACKLOG_RATE = 5_000
POLL_S = 0.02
FILE_BLOCK_ROWS = 131_072

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

INGEST = (
    "transactions_queue", "transactions", "quarantine", "ingest_ledger", "transactions_parsed",
    "transactions_mv", "quarantine_mv", "ledger_mv", "transactions_parsed_mv",
)  # fmt: skip
"""Targets before views; the last one makes messages flow."""

VARIANTS = Path(__file__).with_name("variants")


@dataclass(frozen=True)
class Part:
    """A part of the pipeline whose cost is measured, and what takes the place of its views; None: nothing does."""

    label: str
    without: dict[str, str | None]


PARTS = {
    "validation": Part(
        "validation and quarantine",
        {"transactions_parsed_mv": (VARIANTS / "without_validation.sql").read_text(), "quarantine_mv": None},
    ),
    "enrichment": Part("enrichment", {"transactions_mv": (VARIANTS / "without_enrichment.sql").read_text()}),
}

FULL = "full"

_PAYMENTS = """
SELECT groupBitXor(payment)
FROM
(
    SELECT DISTINCT
        cityHash64(transaction_id, created_at, merchant_id, amount, currency, status, updated_at) AS payment,
        kafka_partition,
        kafka_offset
    FROM transactions
)
"""
"""One number for the payments as they were sent, whatever was added to them and however often they were read."""

GROUP_END_TIMEOUT_S = 60
"""A dropped Kafka table leaves its group only by the end of its session, which a broker may set to 45 s."""


@dataclass(frozen=True)
class Comparison:
    """Rates in rows a second, by variant, one for each round: "full", and "without_" each of ``PARTS``."""

    rows_per_second: dict[str, list[float]]

    def cost(self, part: str) -> float:
        """Return the share of the drain rate without a part that the part costs, by the medians of the rounds."""
        return 1 - median(self.rows_per_second[FULL]) / median(self.rows_per_second[f"without_{part}"])

    def cost_by_round(self, part: str) -> list[float]:
        """Return the same for each round alone, to see how much they differ."""
        pairs = zip(self.rows_per_second[FULL], self.rows_per_second[f"without_{part}"], strict=True)
        return [1 - full / without for full, without in pairs]


@dataclass(frozen=True)
class Drain:
    """Rates in rows a second. ``visible`` is what a reader of transactions_current finds of the run at the end."""

    messages: int
    visible: int
    kafka_rows_per_second: float
    file_rows_per_second: float
    first_row_after_s: float
    comparison: Comparison | None

    @property
    def share_of_file(self) -> float:
        """Return the rate through Kafka as a share of the rate from a file."""
        return self.kafka_rows_per_second / self.file_rows_per_second


def drain(settings: Settings, messages: int, rounds: int = 0, timeout_s: float = 300) -> Drain:
    """Let messages pile up in the topic, resume ingest, and time it from the first visible row to the last.

    Afterwards the same messages go as a file through the same views into a table like the real one, in a database of
    its own that is dropped again; the engine must be able to read this machine's files, as the local stack's can.
    With ``rounds``, they are also read from the topic again so many times: by the whole pipeline, without validation,
    and without enrichment, in turns, each time by a consumer group and into a database of its own.
    Ingest of the real table stops while the backlog is produced and while it is read again, and is always resumed.

    Raises:
        ServiceUnavailable: Kafka or ClickHouse cannot be reached.
        UsageError: the topic, the schema or the dimensions are not there yet, or the settings name a cluster.
        CheckFailed: the topic does not come to rest before, or the backlog did not drain in time.
    """
    if settings.clickhouse_cluster:
        raise UsageError(
            f"Drain on cluster '{settings.clickhouse_cluster}': the same messages from a file go through one server's "
            "views, so the two rates cannot be compared. Measure one server, or see how a cluster catches up with "
            "`paystream loadtest faults node-away --nodes 2`."
        )
    with tempfile.TemporaryDirectory() as folder, connect(settings) as client, open_topic(settings) as topic:
        lines = Path(folder) / "messages.jsonl"
        plan = backlog_plan(settings, client, topic, messages)
        live, start = _live(client), topic.ends()
        with OURS.stopped(client), lines.open("wb") as file:
            send(settings, plan, "Backlog", lambda values: file.write(b"\n".join(values) + b"\n"))
        attached = time.monotonic()
        began = datetime.now(UTC)
        first, last = watch_stored(client, plan.messages, began, timeout_s)
        visible = client.query(
            "SELECT uniqExact(transaction_id) FROM transactions_current WHERE ingested_at >= {began:DateTime64(3)}",
            parameters={"began": began},
        ).result_rows[0][0]
        _wait_for_merges(client, timeout_s)
        file_rate = _from_file(settings, live, plan.messages, lines)
        comparison = None
        if rounds:
            with OURS.stopped(client):
                comparison = _compare(settings, live, start, plan.messages, rounds, timeout_s)
    return Drain(
        messages=plan.messages,
        visible=visible,
        kafka_rows_per_second=rate_between(first, last),
        file_rows_per_second=file_rate,
        first_row_after_s=first[0] - attached,
        comparison=comparison,
    )


def backlog_plan(settings: Settings, client: Client, topic: Topic, messages: int, pipeline: Pipeline = OURS) -> Plan:
    """Return the plan of a backlog, once all earlier messages are read."""
    # As if sent over the last minutes: a message that lies in the future would be refused.
    began_us = time.time_ns() // 1000 - messages * 1_000_000 // BACKLOG_RATE
    plan = make_plan(client, load("today"), pipeline)
    plan = replace(plan, messages=messages, rate_per_second=BACKLOG_RATE, started_us=began_us)
    wait_until_quiet(settings, topic, plan, lambda _: None, pipeline)
    return plan


def watch_stored(client: Client, messages: int, began: datetime, timeout_s: float) -> tuple[tuple, tuple]:
    """Return (time, rows) of the last look that found none and of the first that found all.

    What is read again after a rebalance does not count twice.
    """
    empty = (time.monotonic(), 0)
    deadline = time.monotonic() + timeout_s

    def stored(what: str) -> int:
        return client.query(
            f"SELECT {what} FROM transactions WHERE ingested_at >= {{began:DateTime64(3)}}", parameters={"began": began}
        ).result_rows[0][0]

    while time.monotonic() < deadline:
        rows = stored("count()")
        now = time.monotonic()
        if rows == 0:
            empty = (now, 0)
        if rows >= messages and stored("uniqExact(kafka_partition, kafka_offset)") >= messages:
            return empty, (now, messages)
        time.sleep(POLL_S)
    raise CheckFailed(
        f"Backlog of {messages} messages: {rows} rows were stored after {timeout_s:.0f} s. "
        "See the exceptions in system.kafka_consumers."
    )


def rate_between(first: tuple, last: tuple) -> float:
    return (last[1] - first[1]) / (last[0] - first[0])


def _wait_for_merges(client: Client, timeout_s: float) -> None:
    """Wait until the engine is at rest, so that merges of the first part do not slow the second."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and client.query("SELECT count() FROM system.merges").result_rows[0][0]:
        time.sleep(0.2)


def _from_file(settings: Settings, live: dict[str, str], messages: int, lines: Path) -> float:
    """Return the rows a second from a file through the live views' own SELECTs, on every core the engine has."""
    with _scratch(settings, live | {"transactions_queue": QUEUE_STANDIN}) as copy:
        threads = copy.query("SELECT getSetting('max_threads')").result_rows[0][0]
        began = time.monotonic()
        copy.command(
            "INSERT INTO transactions_queue (message, _partition, _offset, _timestamp_ms)"
            " SELECT line, number % 4, number, now64(3)"
            " FROM (SELECT line, rowNumberInAllBlocks() AS number"
            f" FROM file('{lines}', LineAsString, 'line String'))"
            # Blocks as large as the Kafka table's while it catches up; larger ones meet the memory limit.
            f" SETTINGS max_insert_threads = {threads}, min_insert_block_size_rows = {FILE_BLOCK_ROWS}"
        )
        seconds = time.monotonic() - began
        stored = copy.query("SELECT count() FROM transactions").result_rows[0][0]
        if stored != messages:
            raise CheckFailed(f"File of {messages} messages: {stored} rows arrived. This benchmark is broken.")
    return messages / seconds


def _compare(
    settings: Settings, live: dict[str, str], start: list[int], messages: int, rounds: int, timeout_s: float
) -> Comparison:
    """Read the messages from ``start`` on again, in rounds, with and without each part; ingest must be stopped."""
    variants: dict[str, dict[str, str | None]] = {FULL: {}} | {
        f"without_{name}": part.without for name, part in PARTS.items()
    }
    rates: dict[str, list[float]] = {name: [] for name in variants}
    payments = set()
    with _groups(settings, start) as new_group:
        for _ in range(rounds):
            # In turns, so that whatever else the machine does affects all of them alike.
            for name, replaced in variants.items():
                queue = {"transactions_queue": _read_by(new_group(), live["transactions_queue"])}
                began = datetime.now(UTC)
                with _scratch(settings, live | queue | replaced) as copy:
                    rates[name].append(rate_between(*watch_stored(copy, messages, began, timeout_s)))
                    payments.add(copy.query(_PAYMENTS).result_rows[0][0])
    if len(payments) != 1:
        raise CheckFailed(
            f"Variants {', '.join(variants)}: they stored different payments, so their rates can't be compared. "
            "Bring the views in loadtest/variants/ in line with those in sql/1_ingest/."
        )
    return Comparison(rates)


def _read_by(group: str, queue: str) -> str:
    """Return the statement that creates the Kafka table, for another consumer group."""
    name = f"kafka_group_name = {format_str(group)}"
    changed = re.sub(r"\bKafka\((\w+)\)", lambda engine: f"Kafka({engine[1]}, {name})", queue, count=1)
    if changed == queue:
        raise CheckFailed(
            "Table 'transactions_queue': its engine is not Kafka over a named collection. Bring it to what "
            "sql/1_ingest/transactions_queue.sql says."
        )
    return changed


@contextmanager
def _groups(settings: Settings, start: list[int]) -> Iterator[Callable[[], str]]:
    """Yield a function that makes a consumer group at these offsets, by partition; delete its groups afterwards.

    Raises:
        ServiceUnavailable: the broker refuses; a group that could not be deleted expires by itself.
    """
    admin = AdminClient(client_config(settings) | {"log_level": 0})
    prefix = f"{settings.kafka_group}-drain-{secrets.token_hex(4)}"
    made: list[str] = []

    def new() -> str:
        made.append(f"{prefix}-{len(made)}")
        offsets = [TopicPartition(settings.kafka_topic, partition, offset) for partition, offset in enumerate(start)]
        [future] = admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(made[-1], offsets)]).values()
        try:
            future.result()
        except KafkaException as error:
            raise ServiceUnavailable(
                f"Consumer group '{made[-1]}': Kafka did not set its offsets: {error.args[0].str()}. "
                "Allow this user to, and look at the broker's log."
            ) from error
        return made[-1]

    try:
        yield new
    finally:
        _delete_groups(admin, made)


def _delete_groups(admin: AdminClient, groups: list[str]) -> None:
    """Delete groups, each as soon as the session of its last member has ended."""
    deadline = time.monotonic() + GROUP_END_TIMEOUT_S
    while groups:
        kept = {}
        for name, future in admin.delete_consumer_groups(groups).items():
            try:
                future.result()
            except KafkaException as error:
                if error.args[0].code() != KafkaError.GROUP_ID_NOT_FOUND:
                    kept[name] = error.args[0].str()
        groups = list(kept)
        if groups and time.monotonic() > deadline:
            raise ServiceUnavailable(
                f"Consumer groups {', '.join(groups)}: Kafka did not delete them in {GROUP_END_TIMEOUT_S} s: "
                f"{kept[groups[0]]}. Delete them with Kafka's own tools, or leave them: they expire."
            )
        time.sleep(POLL_S)


@contextmanager
def _scratch(settings: Settings, statements: Mapping[str, str | None]) -> Iterator[Client]:
    """Create the tables and views of ingest in a database of their own, give a client on it, and drop it afterwards.

    Args:
        settings: where the live ones are; the dictionaries stay theirs.
        statements: the CREATE statement of each, by name, as the live database has it; None leaves it out.
    """
    source, copy = settings.clickhouse_database, f"{settings.clickhouse_database}_drain"
    with connect(settings) as client:
        client.command(f"DROP DATABASE IF EXISTS {copy} SYNC")
        client.command(f"CREATE DATABASE {copy}")
        try:
            with connect(settings, database=copy) as there:
                for name in INGEST:
                    if (statement := statements[name]) is not None:
                        there.command(_moved(statement, source, copy))
                yield there
        finally:
            client.command(f"DROP DATABASE IF EXISTS {copy} SYNC")
        _wait_for_merges(client, timeout_s=60)


def _live(client: Client) -> dict[str, str]:
    """Return the CREATE statement of each table and view of the live database."""
    return dict(
        client.query(
            "SELECT name, create_table_query FROM system.tables WHERE database = currentDatabase()"
        ).result_rows
    )


def _moved(create: str, source: str, copy: str) -> str:
    return re.sub(rf"\b{source}\.(?!\w+_dict\b)", f"{copy}.", create)
