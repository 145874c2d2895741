"""The state of the pipeline, as one value: what `status`, `metrics` and `dashboard` show are views of it."""

from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import StrEnum

from paystream.group import Group
from paystream.status.lag import PartitionLag

WINDOW = timedelta(minutes=5)
"""What "lately" means: latency, throughput, refusals and pending enrichments are those of this window."""

OBJECTIVE_SHARE = 0.95
OBJECTIVE_LIMIT = timedelta(minutes=5)
"""Also in ledger_mv.sql, which counts as `late` what took longer."""
OBJECTIVE_WINDOW = timedelta(days=30)

DIMENSIONS = ("fx", "merchants")
QUESTION_TIMEOUT_S, TIMEOUT_S = 3, 6
"""Of one question to ClickHouse, and of all: Prometheus gives up a scrape some seconds later."""


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
    NODE = "the node"


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
class NodeState:
    """A node of a cluster. None: not measured.

    Attributes:
        cause: why it could not be asked; ``""`` where it answered.
        schema: the newest version that it has applied.
        consumers: how many read the topic for it, and ``partitions`` those that they read.
        lag_messages, lag_s: what is unread of these, and how long the oldest of that has waited.
        snapshots: of each dimension, the one that it serves.
        behind_s: how long ago the roll-ups of its own payments were complete.
        disk_free_bytes, disk_bytes: of its disk that is fullest.
        sharding: by what it sends payments to the shards.
        shards: how many shards take payments by that.
    """

    address: str
    cause: str = ""
    set: str | None = None
    shard: int | None = None
    version: str | None = None
    schema: str | None = None
    consumers: int | None = None
    partitions: list[int] | None = None
    lag_messages: int | None = None
    lag_s: float | None = None
    parts: list[TableParts] | None = None
    failed_loads: list[FailedLoad] | None = None
    snapshots: dict[str, int] | None = None
    behind_s: float | None = None
    disk_free_bytes: int | None = None
    disk_bytes: int | None = None
    sharding: str | None = None
    shards: int | None = None


@dataclass(frozen=True)
class SetState:
    """A set of nodes, which reads all payments with a consumer group of its own.

    Attributes:
        group: the consumer group.
        backlog: what it has not read yet.
        reports: how far its roll-ups are, of the shards that answer.
    """

    name: str
    group: str
    backlog: Backlog | None
    reports: ReportFreshness | None


@dataclass(frozen=True)
class Cluster:
    """A cluster's nodes, each by what it says itself, and its sets.

    Attributes:
        shards: how many its servers know of.
        behind: the addresses of those whose remote_servers lack nodes that others have.
    """

    name: str
    shards: int
    nodes: list[NodeState]
    sets: list[SetState]
    behind: list[str] = field(default_factory=list)


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
        cluster: None for one server. What is stored is then that of all shards of one set, as far as they answer.
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
    cluster: Cluster | None = None
    unmeasured: list[Unmeasured] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """Return what was in the way of measuring: 3 a service, 2 the schema or the topic, 0 nothing."""
        return max((unmeasured.exit_code for unmeasured in self.unmeasured), default=0)
