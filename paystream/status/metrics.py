"""A status in Prometheus' terms. What was not measured is left out, so that no alert mistakes it for a zero."""

from collections.abc import Callable, Iterable

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from paystream.status.health import PARTS_LIMIT, Verdict
from paystream.status.state import OBJECTIVE_LIMIT, OBJECTIVE_SHARE, Status, Subject

Samples = Iterable[tuple[tuple[str, ...], float | None]]

PROBLEMS = (
    "unmeasured", "schema", "settings", "group", "unassigned", "expired", "expiry", "transaction", "lag", "latency",
    "objective", "audit", "refused", "reports", "parts", "load", "dimension", "quote", "pending",
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
    found: list[Metric] = []

    def add(name: str, meaning: str, samples: Samples, *labels: str) -> None:
        family = GaugeMetricFamily(f"paystream_{name}", meaning, labels=labels)
        for values, value in samples:
            if value is not None:
                family.add_metric(values, value)
        if family.samples:
            found.append(family)

    def one(value: float | None) -> Samples:
        return [((), value)]

    names = {problem.name for problem in verdict.problems}
    away = {item.what for item in status.unmeasured if item.exit_code == 3}
    add("healthy", "1 when `paystream status` says healthy.", one(verdict.exit_code == 0))
    add("problem", "1 for each reason not to be healthy.", [((n,), n in names) for n in PROBLEMS], "name")
    services = {"kafka": Subject.UNREAD, "clickhouse": Subject.STORED}
    add("up", "1 when the service answers.", [((n,), what not in away) for n, what in services.items()], "service")
    add("status_duration_seconds", "How long it took to ask for this status.", one(status.took_s))

    if backlog := status.backlog:
        lags = backlog.partitions
        add("lag_messages", "Unread messages.", [((str(p.partition),), p.messages) for p in lags], "partition")
        text = "How long the oldest unread message has waited, by its Kafka timestamp."
        add("lag_seconds", text, [((str(p.partition),), p.seconds) for p in lags], "partition")
        text = "Messages that are handed to nobody until an open transaction ends, its own among them."
        add("blocked_messages", text, [((str(p.partition),), p.blocked) for p in lags], "partition")
        text = "Messages that retention removed before they were read."
        add("expired_messages", text, [((str(p.partition),), p.expired) for p in lags], "partition")
        text = "How long the oldest unread message, or one that arrives now, is kept."
        add("unread_expires_seconds", text, [((str(p.partition),), p.expires_s) for p in lags], "partition")

    if flow := status.flow:
        quantiles = (("0.5", flow.p50_s), ("0.95", flow.p95_s), ("0.99", flow.p99_s))
        text = "From the Kafka timestamp to stored, last five minutes, to within 9 %."
        add("latency_seconds", text, [((share,), value) for share, value in quantiles], "quantile")
        text = "Payments whose Kafka timestamp can't be, last five minutes; latency is of the others."
        add("untimed_payments", text, one(flow.untimed))
        add("messages_per_second", "Messages read, mean of the last five minutes.", one(flow.messages_per_s))
        share = flow.refused / flow.messages if flow.messages else 0.0
        add("refused_ratio", "Share of the last five minutes' messages that was refused.", one(share))
    add("freshness_seconds", "Age of the newest stored message, by its Kafka timestamp.", one(status.freshness_s))

    text = "Messages refused, mean of the last five minutes."
    add("refused_per_minute", text, [((r.reason,), r.per_minute) for r in status.refusals or []], "reason")
    if pending := status.pending:
        states = (("merchant_pending", pending.merchant_pending), ("fx_pending", pending.fx_pending))
        text = "Payments that came in without merchant or rate in the last five minutes."
        add("pending_payments", text, [((name,), count) for name, count in states], "enrichment_status")
        add("pending_ratio", "Their share of the payments that came in.", one(pending.share))

    ages = status.dimensions or []
    add(
        "dimension_age_seconds",
        "Since it was loaded, or its file found to be what serves already.",
        [((d.dimension,), d.age_hours * 3600) for d in ages],
        "dimension",
    )
    add("dimension_rows", "Rows that serve.", [((d.dimension,), d.rows) for d in ages], "dimension")
    rejected = [((d.dimension,), d.rejected) for d in ages]
    add("dimension_rejected_rows", "Rows of the file that were left out of what serves.", rejected, "dimension")
    quotes = [d.newest_quote for d in ages if d.newest_quote]
    text = "Days since the last day that rates are quoted for."
    add("newest_quote_age_days", text, one((status.at.date() - quotes[0]).days if quotes else None))

    text = "Dictionaries and refreshable views whose last load failed."
    add("failed_loads", text, one(None if status.failed_loads is None else len(status.failed_loads)))
    parts = status.parts or []
    add("parts", "Active parts.", [((p.table,), p.parts) for p in parts], "table")
    text = f"Active parts of the fullest partition; not healthy above {PARTS_LIMIT}."
    add("parts_in_fullest_partition", text, [((p.table,), p.in_fullest_partition) for p in parts], "table")

    text = "How long ago the report that is furthest behind was complete."
    add("reports_behind_seconds", text, one(status.reports and status.reports.behind_s))

    if audit := status.last_audit:
        add("audit_age_seconds", "Since the last audit.", one(audit.age_hours * 3600))
        add("audit_complete", "1 when the last audit found everything.", one(audit.verdict == "complete"))

    add("objective_ratio", "Share of the payments that should be in time.", one(OBJECTIVE_SHARE))
    add("objective_limit_seconds", "What in time means.", one(OBJECTIVE_LIMIT.total_seconds()))
    if objective := status.objective:
        add("objective_payments", "Payments timed within 30 days.", one(objective.payments))
        add("objective_late_payments", "Of those, the late ones.", one(objective.late))
        add("objective_in_time_ratio", "Share that was in time, 30 days.", one(objective.in_time_share))
        text = "Share of the 30 days' error budget that is spent; above 1 the objective is missed."
        add("error_budget_spent_ratio", text, one(objective.budget_spent_share))
    return found
