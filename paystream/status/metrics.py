"""A status in Prometheus' terms. What was not measured is left out, so that no alert mistakes it for a zero."""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from paystream.status.health import PARTS_LIMIT, Verdict
from paystream.status.lag import PartitionLag
from paystream.status.state import (
    OBJECTIVE_LIMIT,
    OBJECTIVE_SHARE,
    Cluster,
    FailedLoad,
    NodeState,
    Objective,
    Status,
    Subject,
    TableParts,
)

Samples = Iterable[tuple[tuple[str, ...], float | None]]

PROBLEMS = (
    "unmeasured", "node", "set", "snapshot", "version", "sharding", "schema", "settings", "group", "unassigned",
    "expired", "expiry", "transaction", "lag", "latency", "objective", "audit", "refused", "reports", "parts", "load",
    "dimension", "quote", "pending",
)  # fmt: skip
"""Every name that a problem can have: each is exported as 0 or 1, so that an alert on it resolves."""


class StatusCollector(Collector):
    """Asks for the status at each scrape."""

    def __init__(self, current: Callable[[], tuple[Status, Verdict]]) -> None:
        self._current = current

    def describe(self) -> Iterable[Metric]:
        """Return nothing: what there is depends on what can be measured, and registering should ask nobody."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of this moment."""
        return families(*self._current())


def families(status: Status, verdict: Verdict) -> list[Metric]:
    """Return the metrics of a status, without those that have no sample."""
    groups = (
        _verdict(status, verdict),
        _nodes(status.cluster) if status.cluster else (),
        _backlog(status),
        _flow(status),
        _dimensions(status),
        _stores(status),
        _objective(status.objective),
    )
    return [family for group in groups for family in group if family.samples]


def _gauge(name: str, meaning: str, samples: Samples, *labels: str) -> Metric:
    family = GaugeMetricFamily(f"paystream_{name}", meaning, labels=labels)
    for values, value in samples:
        if value is not None:
            family.add_metric(values, value)
    return family


def _single(name: str, meaning: str, value: float | None) -> Metric:
    return _gauge(name, meaning, [((), value)])


def _verdict(status: Status, verdict: Verdict) -> Iterator[Metric]:
    names = {problem.name for problem in verdict.problems}
    away = {unmeasured.what for unmeasured in status.unmeasured if unmeasured.exit_code == 3}
    services = {"kafka": Subject.UNREAD, "clickhouse": Subject.STORED}
    yield _single("healthy", "1 when `paystream status` says healthy.", verdict.exit_code == 0)
    yield _gauge("problem", "1 for each reason not to be healthy.", [((n,), n in names) for n in PROBLEMS], "name")
    up = [((name,), what not in away) for name, what in services.items()]
    yield _gauge("up", "1 when the service answers.", up, "service")
    yield _single("status_duration_seconds", "How long it took to ask for this status.", status.took_s)


_OF_NODE = ("node", "set", "shard")


def _labels(node: NodeState) -> tuple[str, ...]:
    return node.address, node.set or "", str(node.shard or "")


def _partitions(node: NodeState) -> int | None:
    return None if node.partitions is None else len(node.partitions)


def _servers(
    status: Status,
) -> tuple[tuple[str, ...], list[tuple[tuple[str, ...], list[FailedLoad] | None, list[TableParts] | None]]]:
    """Return the labels of what each server has of its own, none for one alone, and what each has."""
    if not status.cluster:
        return (), [((), status.failed_loads, status.parts)]
    return _OF_NODE, [(_labels(node), node.failed_loads, node.parts) for node in status.cluster.nodes]


def _nodes(cluster: Cluster) -> Iterator[Metric]:
    present = [node for node in cluster.nodes if not node.cause]

    def by_node(name: str, meaning: str, value: Callable[[NodeState], float | None]) -> Metric:
        return _gauge(f"node_{name}", meaning, [(_labels(node), value(node)) for node in present], *_OF_NODE)

    up = [((node.address,), not node.cause) for node in cluster.nodes]
    yield _gauge("node_up", "1 when the node of the cluster answers.", up, "node")
    yield by_node("consumers", "Consumers that read the topic for it.", lambda node: node.consumers)
    yield by_node("partitions", "Partitions that they read.", _partitions)
    yield by_node("lag_messages", "Unread messages of these partitions.", lambda node: node.lag_messages)
    yield by_node("lag_seconds", "How long the oldest of them has waited.", lambda node: node.lag_s)
    text = "How long ago the roll-ups of its own payments were complete."
    yield by_node("reports_behind_seconds", text, lambda node: node.behind_s)
    yield by_node("disk_free_bytes", "Free, of its fullest disk.", lambda node: node.disk_free_bytes)
    yield by_node("disk_bytes", "The size of that disk.", lambda node: node.disk_bytes)
    snapshots = [((*_labels(node), *item[:1]), item[1]) for node in present for item in (node.snapshots or {}).items()]
    yield _gauge("node_dimension_snapshot", "The snapshot that it serves.", snapshots, *_OF_NODE, "dimension")


def _backlog(status: Status) -> Iterator[Metric]:
    if status.cluster:
        labels: tuple[str, ...] = ("set", "partition")
        backlogs = [(of_set.backlog, (of_set.name,)) for of_set in status.cluster.sets]
    else:
        labels, backlogs = ("partition",), [(status.backlog, ())]
    lags = [
        (lag, (*of_set, str(lag.partition))) for backlog, of_set in backlogs if backlog for lag in backlog.partitions
    ]

    def by_partition(name: str, meaning: str, value: Callable[[PartitionLag], float | None]) -> Metric:
        return _gauge(name, meaning, [(values, value(lag)) for lag, values in lags], *labels)

    yield by_partition("lag_messages", "Unread messages.", lambda lag: lag.messages)
    text = "How long the oldest unread message has waited, by its Kafka timestamp."
    yield by_partition("lag_seconds", text, lambda lag: lag.seconds)
    text = "Messages that are handed to nobody until an open transaction ends, its own among them."
    yield by_partition("blocked_messages", text, lambda lag: lag.blocked)
    text = "Messages that retention removed before they were read."
    yield by_partition("expired_messages", text, lambda lag: lag.expired)
    text = "How long the oldest unread message, or one that arrives now, is kept."
    yield by_partition("unread_expires_seconds", text, lambda lag: lag.expires_s)


def _flow(status: Status) -> Iterator[Metric]:
    if flow := status.flow:
        quantiles = (("0.5", flow.p50_s), ("0.95", flow.p95_s), ("0.99", flow.p99_s))
        text = "From the Kafka timestamp to stored, last five minutes, to within 9 %."
        yield _gauge("latency_seconds", text, [((share,), value) for share, value in quantiles], "quantile")
        text = "Payments with an impossible Kafka timestamp, last five minutes; latency leaves them out."
        yield _single("untimed_payments", text, flow.untimed)
        yield _single("messages_per_second", "Messages read, mean of the last five minutes.", flow.messages_per_s)
        share = flow.refused / flow.messages if flow.messages else 0.0
        yield _single("refused_ratio", "Share of the last five minutes' messages that was refused.", share)
    yield _single("freshness_seconds", "Age of the newest stored message, by its Kafka timestamp.", status.freshness_s)
    text = "Messages refused, mean of the last five minutes."
    yield _gauge("refused_per_minute", text, [((r.reason,), r.per_minute) for r in status.refusals or []], "reason")
    if pending := status.pending:
        states = (("merchant_pending", pending.merchant_pending), ("fx_pending", pending.fx_pending))
        text = "Payments that came in without merchant or rate in the last five minutes."
        yield _gauge("pending_payments", text, [((name,), count) for name, count in states], "enrichment_status")
        yield _single("pending_ratio", "Their share of the payments that came in.", pending.share)


def _dimensions(status: Status) -> Iterator[Metric]:
    ages = status.dimensions or []
    text = "Since it was loaded, or its file found to be what serves already."
    hours = [((age.dimension,), age.age_hours * 3600) for age in ages]
    yield _gauge("dimension_age_seconds", text, hours, "dimension")
    yield _gauge("dimension_rows", "Rows that serve.", [((age.dimension,), age.rows) for age in ages], "dimension")
    text = "Rows of the file that were left out of what serves."
    yield _gauge("dimension_rejected_rows", text, [((age.dimension,), age.rejected) for age in ages], "dimension")
    quote = next((age.newest_quote for age in ages if age.newest_quote), None)
    text = "Days since the last day that rates are quoted for."
    yield _single("newest_quote_age_days", text, (status.at.date() - quote).days if quote else None)
    text = "Dictionaries and refreshable views whose last load failed."
    labels, servers = _servers(status)
    failed = [(of_node, None if loads is None else len(loads)) for of_node, loads, _ in servers]
    yield _gauge("failed_loads", text, failed, *labels)


def _stores(status: Status) -> Iterator[Metric]:
    labels, servers = _servers(status)
    tables = [((of.table, *of_node), of) for of_node, _, parts in servers for of in parts or []]
    labels = ("table", *labels)
    yield _gauge("parts", "Active parts.", [(values, of.parts) for values, of in tables], *labels)
    text = f"Active parts of the fullest partition; not healthy above {PARTS_LIMIT}."
    fullest = [(values, of.in_fullest_partition) for values, of in tables]
    yield _gauge("parts_in_fullest_partition", text, fullest, *labels)
    text = "How long ago the report that is furthest behind was complete."
    yield _single("reports_behind_seconds", text, status.reports and status.reports.behind_s)
    if audit := status.last_audit:
        yield _single("audit_age_seconds", "Since the last audit.", audit.age_hours * 3600)
        yield _single("audit_complete", "1 when the last audit found everything.", audit.verdict == "complete")


def _objective(objective: Objective | None) -> Iterator[Metric]:
    yield _single("objective_ratio", "Share of the payments that should be in time.", OBJECTIVE_SHARE)
    yield _single("objective_limit_seconds", "What in time means.", OBJECTIVE_LIMIT.total_seconds())
    if objective:
        yield _single("objective_payments", "Payments timed within 30 days.", objective.payments)
        yield _single("objective_late_payments", "Of those, the late ones.", objective.late)
        yield _single("objective_in_time_ratio", "Share that was in time, 30 days.", objective.in_time_share)
        text = "Share of the 30 days' error budget that is spent; above 1 the objective is missed."
        yield _single("error_budget_spent_ratio", text, objective.budget_spent_share)
