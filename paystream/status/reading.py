"""Asks for a status: the broker, and each node for its own share of what is stored, all at once."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
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
from paystream.group import ASSIGNED_TOPICS, Asked
from paystream.migrations.sharding import Sharding
from paystream.nodes import Node, Nodes, address_of, find, side_by_side
from paystream.percentiles import ledger_percentile_s
from paystream.settings import Settings
from paystream.status import queries as sql
from paystream.status.lag import partition_lags
from paystream.status.state import (
    OBJECTIVE_LIMIT,
    OBJECTIVE_SHARE,
    OBJECTIVE_WINDOW,
    QUESTION_TIMEOUT_S,
    TIMEOUT_S,
    WINDOW,
    Backlog,
    Cluster,
    DimensionAge,
    FailedLoad,
    Flow,
    LastAudit,
    NodeState,
    Objective,
    Pending,
    Refusals,
    ReportFreshness,
    SetState,
    SlowestReport,
    Status,
    Subject,
    TableParts,
    Unmeasured,
)

T = TypeVar("T")


@dataclass(frozen=True)
class _Flow:
    messages: int
    refused: int
    payments: int
    histogram: list[int]


@dataclass(frozen=True)
class _Refused:
    reason: str
    messages: int


@dataclass(frozen=True)
class _Totals:
    """What is stored of the objective's window. ``quiet_s``: since the last block was read, redelivered or not."""

    payments: int
    late: int
    since: datetime | None
    freshness_s: float | None
    quiet_s: float | None


@dataclass(frozen=True)
class _Self:
    """What only a node of a cluster is asked."""

    schema: str
    consumers: int
    partitions: list[int]
    disk_free_bytes: int
    disk_bytes: int
    sharding: str


@dataclass(frozen=True)
class _Question:
    """Something that every node is asked, of its own share.

    Attributes:
        what: what it is about.
        ask: asks it.
        together: what the answers of several nodes make, given those in a list.
        of_all: whether nodes that hold the same payments have different answers, so that all count.
    """

    what: Subject
    ask: Callable[[Client], Any]
    together: Callable[[list[Any]], Any]
    of_all: bool = False


@dataclass(frozen=True)
class _Heard:
    """What one node answered, by question. ``lost``: why it did not answer all."""

    node: Node
    answers: dict[str, Any]
    refused: list[Unmeasured]
    lost: Unmeasured | None = None


def read_status(settings: Settings) -> Status:
    """Ask the broker and ClickHouse, both at once. Reads only; never raises for what cannot be measured."""
    started = time.monotonic()
    unmeasured: list[Unmeasured] = []
    try:
        nodes = find(settings, QUESTION_TIMEOUT_S)
    except PaystreamError as error:
        nodes = Nodes(settings.clickhouse_cluster, "", False, 0, ())
        unmeasured.append(Unmeasured(Subject.STORED, str(error), error.exit_code))
    brokers = {node.set: _in_background(node.settings) for node in nodes.first_of_sets() or [Node(settings)]}
    questions = _questions(settings)
    # From here on: a node that hangs takes no time from the others.
    deadline = time.monotonic() + TIMEOUT_S
    heard = side_by_side(nodes.present, lambda node: _ask_clickhouse(node, deadline))
    backlogs: dict[str, Backlog | Unmeasured] = {}
    for name, answer in brokers.items():
        try:
            backlogs[name] = answer.get(timeout=max(0.1, deadline + QUESTION_TIMEOUT_S - time.monotonic()))
        except queue.Empty:
            why = f"Kafka '{settings.kafka_brokers}' has not answered within {TIMEOUT_S + QUESTION_TIMEOUT_S} s."
            backlogs[name] = Unmeasured(Subject.UNREAD, why, ServiceUnavailable.exit_code)
    for one in heard:
        unmeasured += [_on(one.node, nodes, gap) for gap in one.refused]
        # Of a cluster the others still tell.
        if one.lost and (not nodes.cluster or all(other.lost for other in heard)):
            unmeasured.append(one.lost)
    shown = _shown_set(nodes, heard)
    stored = _together(heard, questions, shown)
    backlog = backlogs.get(shown) or next(iter(backlogs.values()))
    if isinstance(backlog, Unmeasured):
        unmeasured.insert(0, backlog)
        backlog = None
    totals: _Totals | None = stored.pop("totals", None)
    stored.pop("itself", None)
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
        cluster=_cluster(nodes, heard, questions, backlogs) if settings.clickhouse_cluster else None,
        unmeasured=unmeasured,
        **stored,
    )


def _in_background(settings: Settings) -> queue.SimpleQueue[Backlog | Unmeasured]:
    """Ask the broker. One that hangs is not waited for: neither by a scrape nor by Ctrl-C."""
    answer: queue.SimpleQueue[Backlog | Unmeasured] = queue.SimpleQueue()
    threading.Thread(target=lambda: answer.put(_ask_broker(settings)), daemon=True).start()
    return answer


def _ask_broker(settings: Settings) -> Backlog | Unmeasured:
    try:
        with open_broker(settings) as broker:
            asked = Asked(settings)
            return Backlog(partition_lags(broker, OBJECTIVE_LIMIT), asked.answer())
    except PaystreamError as error:
        return Unmeasured(Subject.UNREAD, str(error), error.exit_code)


def _questions(settings: Settings) -> dict[str, _Question]:
    is_cluster = bool(settings.clickhouse_cluster)
    # Beside the name of what is of one node alone.
    place = f" of node '{address_of(settings.clickhouse_host, settings.clickhouse_port)}'" if is_cluster else ""
    parameters = {
        "topic": settings.kafka_topic,
        "window_s": int(WINDOW.total_seconds()),
        "objective_s": int(OBJECTIVE_WINDOW.total_seconds()),
    }

    def rows(query: str, kind: type[T]) -> Callable[[Client], list[T]]:
        text = sql.of_share(query) if is_cluster else query
        return lambda client: [
            kind(**row) for row in client.query(text, parameters=parameters, tz_mode="aware").named_results()
        ]

    def row(query: str, kind: type[T]) -> Callable[[Client], T | None]:
        ask = rows(query, kind)
        return lambda client: next(iter(ask(client)), None)

    def value(query: str) -> Callable[[Client], Any]:
        return lambda client: client.query(query).result_rows[0][0]

    def names(query: str) -> Callable[[Client], list[str]]:
        text = sql.of_share(query) if is_cluster else query
        return lambda client: [f"{name}{place}" for (name,) in client.query(text).result_rows]

    failed, error = rows(sql.FAILED_LOADS, FailedLoad), value(sql.INGEST_ERROR)
    slowest = _unless_not_kept(row(sql.SLOWEST_REPORT, SlowestReport))
    questions = {
        "flow": _Question(Subject.FLOW, row(sql.FLOW, _Flow), _flow),
        "totals": _Question(Subject.TOTALS, row(sql.TOTALS, _Totals), _totals),
        "ingest_error": _Question(Subject.INGEST_ERROR, lambda client: in_short(error(client)), _first, of_all=True),
        "assigned_topics": _Question(Subject.ASSIGNED_TOPICS, value(ASSIGNED_TOPICS), _united),
        "missing": _Question(Subject.SCHEMA, names(sql.MISSING), _united, of_all=True),
        "refusals": _Question(Subject.REFUSALS, rows(sql.REFUSALS, _Refused), _refusals),
        "pending": _Question(Subject.PENDING, row(sql.PENDING, Pending), _pending),
        "dimensions": _Question(Subject.DIMENSIONS, rows(sql.DIMENSIONS, DimensionAge), _newest_snapshots, of_all=True),
        "failed_loads": _Question(
            Subject.FAILED_LOADS,
            lambda client: [replace(one, name=f"{one.name}{place}", why=in_short(one.why)) for one in failed(client)],
            _united,
            of_all=True,
        ),
        "parts": _Question(Subject.PARTS, rows(sql.PARTS, TableParts), _parts, of_all=True),
        "reports": _Question(Subject.REPORTS, row(sql.REPORTS, ReportFreshness), _reports),
        "slowest_report": _Question(Subject.SLOWEST_REPORT, slowest, _slowest, of_all=True),
        "last_audit": _Question(Subject.LAST_AUDIT, row(sql.LAST_AUDIT, LastAudit), _newest_audit, of_all=True),
    }
    if is_cluster:
        questions["itself"] = _Question(Subject.NODE, row(sql.NODE, _Self), _first, of_all=True)
    return questions


def _ask_clickhouse(node: Node, deadline: float) -> _Heard:
    answers: dict[str, Any] = {}
    refused: list[Unmeasured] = []
    try:
        with connect(node.settings, timeout_s=QUESTION_TIMEOUT_S) as client, answering("Status"):
            for name, question in _questions(node.settings).items():
                if time.monotonic() > deadline:
                    raise ServiceUnavailable(
                        f"Status: ClickHouse took more than {TIMEOUT_S} s. Look at its load, then ask again."
                    )
                try:
                    answers[name] = question.ask(client)
                except OperationalError:
                    raise
                except ClickHouseError as error:
                    refused.append(_refused(question.what, error))
    except PaystreamError as error:
        return _Heard(node, answers, refused, Unmeasured(Subject.STORED, str(error), error.exit_code))
    return _Heard(node, answers, refused)


def _refused(what: Subject, error: ClickHouseError) -> Unmeasured:
    if is_code(error, UNKNOWN_TABLE) or is_code(error, UNKNOWN_IDENTIFIER):
        return Unmeasured(what, "The schema is older than this. Bring it up with `paystream migrate up`.", 2)
    advice = "Grant it to the user (access/roles.sql)" if is_code(error, ACCESS_DENIED) else "Correct the cause"
    return Unmeasured(what, f"ClickHouse refused the question: {cause_of(error)}. {advice}.", 1)


def _unless_not_kept(ask: Callable[[Client], SlowestReport | None]) -> Callable[[Client], SlowestReport | None]:
    def asked(client: Client) -> SlowestReport | None:
        try:
            return ask(client)
        except OperationalError:
            raise
        except ClickHouseError as error:
            if is_code(error, UNKNOWN_TABLE) or is_code(error, ACCESS_DENIED):
                return None
            raise

    return asked


def _on(node: Node, nodes: Nodes, gap: Unmeasured) -> Unmeasured:
    return replace(gap, why=f"Node '{node.address}': {gap.why}") if nodes.cluster else gap


def _shown_set(nodes: Nodes, heard: list[_Heard]) -> str:
    """Return the set whose payments are shown: of those with most shards that answer, that of the configured node."""
    shards = {name: {one.node.shard for one in heard if one.node.set == name and not one.lost} for name in nodes.sets}
    return max(nodes.sets, key=lambda name: len(shards[name]), default="")


def _shares(heard: list[_Heard], of_set: str) -> list[_Heard]:
    """Return a node for each shard of a set: all of its payments, each once."""
    of_set_last_first = [one for one in reversed(heard) if one.node.set == of_set]
    # Of several for a shard the first that answered everything.
    of_shards = {one.node.shard: one for one in sorted(of_set_last_first, key=lambda one: one.lost is None)}
    return list(of_shards.values())


def _together(heard: list[_Heard], questions: dict[str, _Question], shown: str) -> dict[str, Any]:
    """Return what the nodes' answers make, by question; nothing for one that no node answered."""
    shares = _shares(heard, shown)
    together = {}
    for name, question in questions.items():
        answers = [one.answers[name] for one in (heard if question.of_all else shares) if name in one.answers]
        if answers:
            together[name] = question.together(answers)
    return together


def _cluster(
    nodes: Nodes, heard: list[_Heard], questions: dict[str, _Question], backlogs: dict[str, Backlog | Unmeasured]
) -> Cluster:
    known = {name: backlog for name, backlog in backlogs.items() if isinstance(backlog, Backlog)}
    states = [_node(one, known.get(one.node.set)) for one in heard]
    states += [NodeState(away.address, away.cause) for away in nodes.away]
    sets = []
    for node in nodes.first_of_sets():
        reports = _together(_shares(heard, node.set), {"reports": questions["reports"]}, node.set).get("reports")
        sets.append(SetState(node.set, node.settings.kafka_group, known.get(node.set), reports))
    return Cluster(
        nodes.cluster,
        nodes.shards,
        sorted(states, key=lambda state: (state.set is None, state.set, state.shard, state.address)),
        sets,
        list(nodes.behind),
    )


def _node(heard: _Heard, backlog: Backlog | None) -> NodeState:
    node, answers = heard.node, heard.answers
    itself: _Self | None = answers.get("itself")
    sharding = Sharding.parsed(itself.sharding) if itself else None
    lags = [lag for lag in backlog.partitions if lag.partition in itself.partitions] if backlog and itself else None
    reports: ReportFreshness | None = answers.get("reports")
    dimensions: list[DimensionAge] | None = answers.get("dimensions")
    return NodeState(
        address=node.address,
        cause=heard.lost.why.rstrip(".") if heard.lost else "",
        set=node.set,
        shard=node.shard,
        version=node.version,
        schema=itself and itself.schema,
        consumers=itself and itself.consumers,
        partitions=itself and itself.partitions,
        lag_messages=None if lags is None else sum(lag.messages for lag in lags),
        lag_s=None if lags is None else max((lag.seconds for lag in lags), default=0.0),
        parts=answers.get("parts") and _parts([answers["parts"]]),
        failed_loads=answers.get("failed_loads"),
        snapshots=None if dimensions is None else {age.dimension: age.snapshot_id for age in dimensions},
        behind_s=reports and reports.behind_s,
        disk_free_bytes=itself and itself.disk_free_bytes,
        disk_bytes=itself and itself.disk_bytes,
        sharding=itself and itself.sharding.partition("_local', ")[2].removesuffix(")"),
        shards=sharding and sharding.shards,
    )


def _first(answers: list[Any]) -> Any:
    return next((answer for answer in answers if answer), answers[0])


def _united(answers: list[list[T]]) -> list[T]:
    return list(dict.fromkeys(one for answer in answers for one in answer))


def _least(values: Iterable[T | None]) -> T | None:
    return min((value for value in values if value is not None), default=None)


def _flow(answers: list[_Flow]) -> Flow:
    messages, refused, payments = (
        sum(getattr(one, name) for one in answers) for name in ("messages", "refused", "payments")
    )
    counts = [one.histogram for one in answers if one.histogram]
    histogram = [sum(column) for column in zip(*counts, strict=True)]
    p50, p95, p99 = (ledger_percentile_s(histogram, percent) for percent in (50, 95, 99))
    untimed = messages - refused - payments
    return Flow(messages, messages / WINDOW.total_seconds(), refused, payments, untimed, p50, p95, p99)


def _totals(answers: list[_Totals]) -> _Totals:
    return _Totals(
        sum(one.payments for one in answers),
        sum(one.late for one in answers),
        *(_least(getattr(one, name) for one in answers) for name in ("since", "freshness_s", "quiet_s")),
    )


def _refusals(answers: list[list[_Refused]]) -> list[Refusals]:
    counts: dict[str, int] = {}
    for one in (one for answer in answers for one in answer):
        counts[one.reason] = counts.get(one.reason, 0) + one.messages
    in_order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [Refusals(reason, count, count * 60 / WINDOW.total_seconds()) for reason, count in in_order]


def _pending(answers: list[Pending]) -> Pending:
    return Pending(
        *(sum(getattr(one, name) for one in answers) for name in ("merchant_pending", "fx_pending", "looked_at"))
    )


def _newest_snapshots(answers: list[list[DimensionAge]]) -> list[DimensionAge]:
    newest: dict[str, DimensionAge] = {}
    for age in (age for answer in answers for age in answer):
        known = newest.get(age.dimension, age)
        newest[age.dimension] = max(known, age, key=lambda one: (one.snapshot_id, -one.age_hours))
    return [newest[name] for name in sorted(newest)]


def _parts(answers: list[list[TableParts]]) -> list[TableParts]:
    tables: dict[str, TableParts] = {}
    for parts in (parts for answer in answers for parts in answer):
        name = parts.table.removesuffix("_local")
        known = tables.get(name, TableParts(name, 0, 0))
        fullest = max(known.in_fullest_partition, parts.in_fullest_partition)
        tables[name] = TableParts(name, known.parts + parts.parts, fullest)
    return sorted(tables.values(), key=lambda parts: parts.table, reverse=True)


def _reports(answers: Sequence[ReportFreshness]) -> ReportFreshness:
    unknown = [one for one in answers if one.behind_s is None]
    return (unknown or sorted(answers, key=lambda one: -one.behind_s))[0]


def _slowest(answers: list[SlowestReport | None]) -> SlowestReport | None:
    return max((one for one in answers if one), key=lambda one: one.seconds, default=None)


def _newest_audit(answers: list[LastAudit | None]) -> LastAudit | None:
    return max((one for one in answers if one), key=lambda one: one.audited_at, default=None)


def _objective(totals: _Totals, backlog: Backlog) -> Objective:
    # While ingest stands still nothing late is stored, so what is unread and late already counts as well.
    overdue = sum(lag.overdue for lag in backlog.partitions)
    payments, late = totals.payments + overdue, totals.late + overdue
    if not payments:
        return Objective(0, 0, None, None, None)
    return Objective(payments, late, 1 - late / payments, late / payments / (1 - OBJECTIVE_SHARE), totals.since)
