"""The state of the pipeline, as one value: what `status`, `metrics` and `dashboard` show are views of it."""

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, OperationalError

from paystream.broker import open_broker
from paystream.clickhouse import (
    ACCESS_DENIED,
    UNKNOWN_IDENTIFIER,
    UNKNOWN_TABLE,
    answering,
    cause_of,
    connect,
    in_short,
    is_code,
)
from paystream.errors import PaystreamError, ServiceUnavailable
from paystream.group import ASSIGNED_TOPICS, Asked, Group
from paystream.percentiles import ledger_percentile_s
from paystream.settings import Settings
from paystream.status import queries as sql
from paystream.status.lag import PartitionLag, partition_lags

WINDOW = timedelta(minutes=5)
"""What "lately" means: latency, throughput, refusals and pending enrichments are those of this window."""

OBJECTIVE_SHARE = 0.95
OBJECTIVE_LIMIT = timedelta(minutes=5)
"""Also in ledger_mv.sql, which counts as `late` what took longer."""
OBJECTIVE_WINDOW = timedelta(days=30)

DIMENSIONS = ("fx", "merchants")
QUESTION_TIMEOUT_S, TIMEOUT_S = 3, 6
"""Of one question to ClickHouse, and of all: Prometheus gives up a scrape some seconds later."""

T = TypeVar("T")


class Subject(StrEnum):
    """What a question is about, as messages call it. ``UNREAD`` is all of Kafka, ``STORED`` all of ClickHouse."""

    UNREAD = "what is unread"
    STORED = "what is stored"
    FLOW = "latency and throughput"
    TOTALS = "the objective and freshness"
    INGEST_ERROR = "what ingest runs into"
    ASSIGNED_TOPICS = "what ingest reads"
    SCHEMA = "the schema"
    REFUSALS = "refused messages"
    PENDING = "pending enrichments"
    DIMENSIONS = "the dimensions"
    FAILED_LOADS = "failed loads"
    PARTS = "parts"
    REPORTS = "the reports"
    SLOWEST_REPORT = "the slowest report"
    LAST_AUDIT = "the last audit"


@dataclass(frozen=True)
class Unmeasured:
    """Something that this status says nothing about, and why; ``exit_code`` as of the error that was in the way."""

    what: Subject
    why: str
    exit_code: int


@dataclass(frozen=True)
class Backlog:
    """What is unread, and the consumer group that reads it; None where the broker does not tell."""

    partitions: list[PartitionLag]
    group: Group | None = None

    @property
    def nobodys(self) -> list[int]:
        """The partitions that no member of the group reads."""
        return self.group.nobodys([lag.partition for lag in self.partitions]) if self.group else []

    @property
    def messages(self) -> int:
        return sum(lag.messages for lag in self.partitions)

    @property
    def seconds(self) -> float:
        return max((lag.seconds for lag in self.partitions), default=0.0)

    @property
    def blocked(self) -> list[PartitionLag]:
        """The partitions in which messages wait for an open transaction, the one that has waited longest first."""
        return sorted((lag for lag in self.partitions if lag.blocked), key=lambda lag: -lag.seconds)

    @property
    def expires_s(self) -> float | None:
        return min((lag.expires_s for lag in self.partitions if lag.expires_s is not None), default=None)


@dataclass(frozen=True)
class Flow:
    """What was read lately, redelivered messages again each time.

    Attributes:
        p50_s, p95_s, p99_s: from a payment's Kafka timestamp (by default the producer's clock) until it is stored
            (ClickHouse's clock), to within 9 %; None when no payment was.
        payments: how many these are of.
        untimed: further payments, without a Kafka timestamp or with one more than a year old.
    """

    messages: int
    messages_per_s: float
    refused: int
    payments: int
    untimed: int
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None


@dataclass(frozen=True)
class Objective:
    """How the objective stands: 95 % of payments stored within five minutes, over 30 days.

    Attributes:
        payments: stored in that time, and those unread that have waited longer already. Redelivered ones count again.
        late: of those, after more than five minutes, by the clocks of ``Flow``.
        in_time_share: None when there were no payments.
        budget_spent_share: late payments among those that may be late; above 1 the objective is missed.
        since: the hour (UTC) that the first of them was stored in.
    """

    payments: int
    late: int
    in_time_share: float | None
    budget_spent_share: float | None
    since: datetime | None


@dataclass(frozen=True)
class _Totals:
    """What is stored of the objective's window. ``quiet_s``: since the last block was read, redelivered or not."""

    payments: int
    late: int
    since: datetime | None
    freshness_s: float | None
    quiet_s: float | None


@dataclass(frozen=True)
class Refusals:
    """Messages refused lately for one reason, each once."""

    reason: str
    messages: int
    per_minute: float


@dataclass(frozen=True)
class Pending:
    """Payments that came in lately without a merchant or a rate; one that was repaired since may still count.

    ``looked_at``: the newest rows, among which these were found: all that came in lately, as long as those are less
    than a few million.
    """

    merchant_pending: int
    fx_pending: int
    looked_at: int

    @property
    def payments(self) -> int:
        return self.merchant_pending + self.fx_pending

    @property
    def share(self) -> float:
        return self.payments / self.looked_at if self.looked_at else 0.0


@dataclass(frozen=True)
class DimensionAge:
    """A dimension as it serves. ``age_hours``: since it was loaded, or its file found to be what serves already.
    ``newest_quote``: the last day that exchange rates are quoted for. ``rejected``: rows of its file left out."""

    dimension: str
    snapshot_id: int
    rows: int
    loaded_at: datetime
    age_hours: float
    newest_quote: date | None
    rejected: int = 0


@dataclass(frozen=True)
class FailedLoad:
    """A dictionary or a refreshable view whose last load failed; what it had before still serves."""

    kind: str
    name: str
    why: str


@dataclass(frozen=True)
class TableParts:
    """The active parts of a table, and how many its fullest partition has: the engine slows inserts down by that."""

    table: str
    parts: int
    in_fullest_partition: int


@dataclass(frozen=True)
class LastAudit:
    """The newest audit of the topic. ``verdict``: complete, incomplete, recreated or loss."""

    audited_at: datetime
    age_hours: float
    verdict: str
    window_hours: float
    is_deep: bool
    lost: int
    expired: int


@dataclass(frozen=True)
class ReportFreshness:
    """Up to which time of reading all reports are complete, and how long ago that was; None before a refresh."""

    complete_until: datetime | None
    behind_s: float | None


@dataclass(frozen=True)
class SlowestReport:
    """The query on a report that took longest within a day, of those that took a tenth of a second and more."""

    report: str
    seconds: float
    user: str
    asked_at: datetime


@dataclass(frozen=True)
class Status:
    """The state at one moment. None: not measured, and ``unmeasured`` says why.

    Attributes:
        freshness_s: age of the newest stored message, by its Kafka timestamp; it grows while nothing is sent.
        ingest_error: what the Kafka table ran into lately, '' when nothing.
        assigned_topics: what the Kafka table reads; empty while it reads nothing.
        missing: tables and views of ingest that are detached or gone, so that messages are read and not stored.
        dimensions: those that were ever loaded.
        slowest_report: None also when none took long or the server keeps no query log; never in ``unmeasured``.
        last_audit: None also when none was recorded, without an entry in ``unmeasured``.
        took_s: how long it took to ask.
    """

    topic: str
    database: str
    at: datetime
    took_s: float
    backlog: Backlog | None = None
    flow: Flow | None = None
    objective: Objective | None = None
    freshness_s: float | None = None
    ingest_error: str | None = None
    assigned_topics: list[str] | None = None
    refusals: list[Refusals] | None = None
    pending: Pending | None = None
    dimensions: list[DimensionAge] | None = None
    failed_loads: list[FailedLoad] | None = None
    parts: list[TableParts] | None = None
    missing: list[str] | None = None
    reports: ReportFreshness | None = None
    slowest_report: SlowestReport | None = None
    last_audit: LastAudit | None = None
    unmeasured: list[Unmeasured] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """Return what was in the way of measuring: 3 a service, 2 the schema or the topic, 0 nothing."""
        return max((unmeasured.exit_code for unmeasured in self.unmeasured), default=0)


def read_status(settings: Settings) -> Status:
    """Ask the broker and ClickHouse, both at once. Reads only; never raises for what cannot be measured."""
    started = time.monotonic()
    unmeasured: list[Unmeasured] = []
    answers: queue.SimpleQueue[Backlog | Unmeasured] = queue.SimpleQueue()
    # A broker that hangs is not waited for: neither by a scrape nor by Ctrl-C.
    threading.Thread(target=lambda: answers.put(_ask_broker(settings)), daemon=True).start()
    stored = _ask_clickhouse(settings, unmeasured)
    try:
        backlog = answers.get(timeout=max(0.1, started + TIMEOUT_S + QUESTION_TIMEOUT_S - time.monotonic()))
    except queue.Empty:
        why = f"Kafka '{settings.kafka_brokers}' has not answered within {TIMEOUT_S + QUESTION_TIMEOUT_S} s."
        backlog = Unmeasured(Subject.UNREAD, why, ServiceUnavailable.exit_code)
    if isinstance(backlog, Unmeasured):
        unmeasured.insert(0, backlog)
        backlog = None
    totals: _Totals | None = stored.pop("totals", None)
    if backlog and totals and totals.quiet_s is not None:
        # The oldest unread message has no plausible time; it can have waited since the last block at most.
        partitions = [lag if lag.is_dated else replace(lag, seconds=totals.quiet_s) for lag in backlog.partitions]
        backlog = replace(backlog, partitions=partitions)
    # Without the broker nobody knows what is overdue, and the budget would seem to recover.
    objective = _objective(totals, backlog) if totals and backlog else None
    return Status(
        topic=settings.kafka_topic,
        database=settings.clickhouse_database,
        at=datetime.now(UTC),
        took_s=time.monotonic() - started,
        backlog=backlog,
        objective=objective,
        freshness_s=totals and totals.freshness_s,
        unmeasured=unmeasured,
        **stored,
    )


def _ask_broker(settings: Settings) -> Backlog | Unmeasured:
    try:
        with open_broker(settings) as broker:
            asked = Asked(settings)
            return Backlog(partition_lags(broker, OBJECTIVE_LIMIT), asked.answer())
    except PaystreamError as error:
        return Unmeasured(Subject.UNREAD, str(error), error.exit_code)


def _ask_clickhouse(settings: Settings, unmeasured: list[Unmeasured]) -> dict[str, Any]:
    parameters = {
        "topic": settings.kafka_topic,
        "window_s": int(WINDOW.total_seconds()),
        "objective_s": int(OBJECTIVE_WINDOW.total_seconds()),
    }
    questions: dict[str, tuple[Subject, Callable[[Client], Any]]] = {
        "flow": (Subject.FLOW, lambda client: _flow(client, parameters)),
        "totals": (Subject.TOTALS, lambda client: _one(client, sql.TOTALS, _Totals, parameters)),
        "ingest_error": (Subject.INGEST_ERROR, lambda client: in_short(_value(client, sql.INGEST_ERROR))),
        "assigned_topics": (Subject.ASSIGNED_TOPICS, lambda client: _value(client, ASSIGNED_TOPICS)),
        "missing": (Subject.SCHEMA, lambda client: [name for (name,) in client.query(sql.MISSING).result_rows]),
        "refusals": (Subject.REFUSALS, lambda client: _refusals(client, parameters)),
        "pending": (Subject.PENDING, lambda client: _one(client, sql.PENDING, Pending, parameters)),
        "dimensions": (Subject.DIMENSIONS, lambda client: _all(client, sql.DIMENSIONS, DimensionAge)),
        "failed_loads": (Subject.FAILED_LOADS, _failed_loads),
        "parts": (Subject.PARTS, lambda client: _all(client, sql.PARTS, TableParts)),
        "reports": (Subject.REPORTS, lambda client: _one(client, sql.REPORTS, ReportFreshness)),
        "slowest_report": (Subject.SLOWEST_REPORT, _slowest_report),
        "last_audit": (Subject.LAST_AUDIT, lambda client: _one(client, sql.LAST_AUDIT, LastAudit, parameters)),
    }
    answers: dict[str, Any] = {}
    deadline = time.monotonic() + TIMEOUT_S
    try:
        with connect(settings, timeout_s=QUESTION_TIMEOUT_S) as client, answering("Status"):
            for name, (what, ask) in questions.items():
                if time.monotonic() > deadline:
                    raise ServiceUnavailable(
                        f"Status: ClickHouse took more than {TIMEOUT_S} s. Look at its load, then ask again."
                    )
                try:
                    answers[name] = ask(client)
                except OperationalError:
                    raise
                except ClickHouseError as error:
                    unmeasured.append(_refused(what, error))
    except PaystreamError as error:
        unmeasured.append(Unmeasured(Subject.STORED, str(error), error.exit_code))
    return answers


def _refused(what: Subject, error: ClickHouseError) -> Unmeasured:
    if is_code(error, UNKNOWN_TABLE) or is_code(error, UNKNOWN_IDENTIFIER):
        return Unmeasured(what, "The schema is older than this. Bring it up with `paystream migrate up`.", 2)
    advice = "Grant it to the user (access/roles.sql)" if is_code(error, ACCESS_DENIED) else "Correct the cause"
    return Unmeasured(what, f"ClickHouse refused the question: {cause_of(error)}. {advice}.", 1)


def _all(client: Client, query: str, kind: type[T], parameters: dict[str, Any] | None = None) -> list[T]:
    return [kind(**row) for row in client.query(query, parameters=parameters, tz_mode="aware").named_results()]


def _one(client: Client, query: str, kind: type[T], parameters: dict[str, Any] | None = None) -> T | None:
    return next(iter(_all(client, query, kind, parameters)), None)


def _value(client: Client, query: str) -> Any:
    [[value]] = client.query(query).result_rows
    return value


def _slowest_report(client: Client) -> SlowestReport | None:
    try:
        return _one(client, sql.SLOWEST_REPORT, SlowestReport)
    except OperationalError:
        raise
    except ClickHouseError as error:
        if is_code(error, UNKNOWN_TABLE) or is_code(error, ACCESS_DENIED):
            return None
        raise


def _failed_loads(client: Client) -> list[FailedLoad]:
    return [replace(load, why=in_short(load.why)) for load in _all(client, sql.FAILED_LOADS, FailedLoad)]


def _flow(client: Client, parameters: dict[str, Any]) -> Flow:
    [[messages, refused, payments, histogram]] = client.query(sql.FLOW, parameters=parameters).result_rows
    p50, p95, p99 = (ledger_percentile_s(histogram, percent) for percent in (50, 95, 99))
    untimed = messages - refused - payments
    return Flow(messages, messages / WINDOW.total_seconds(), refused, payments, untimed, p50, p95, p99)


def _refusals(client: Client, parameters: dict[str, Any]) -> list[Refusals]:
    rows = client.query(sql.REFUSALS, parameters=parameters).result_rows
    return [Refusals(reason, count, count * 60 / WINDOW.total_seconds()) for reason, count in rows]


def _objective(totals: _Totals, backlog: Backlog) -> Objective:
    # While ingest stands still nothing late is stored, so what is unread and late already counts as well.
    overdue = sum(lag.overdue for lag in backlog.partitions)
    payments, late = totals.payments + overdue, totals.late + overdue
    if not payments:
        return Objective(0, 0, None, None, None)
    return Objective(payments, late, 1 - late / payments, late / payments / (1 - OBJECTIVE_SHARE), totals.since)
