"""A status as people read it: the figures and tables that the terminal and the page both show."""

from dataclasses import asdict, dataclass
from typing import Any

from paystream.output import counted
from paystream.status.health import Verdict, duration
from paystream.status.state import OBJECTIVE_SHARE, Cluster, NodeState, Status, Subject

CLOCKS = (
    "Latency runs from a message's Kafka timestamp (the producer's clock, unless the topic says LogAppendTime) "
    "until ClickHouse stores it (its clock). Unread messages wait by this machine's clock. "
    "Messages that Kafka delivers again count again."
)


@dataclass(frozen=True)
class Figure:
    """One number to look at first. ``note`` says of what."""

    key: str
    label: str
    value: str
    note: str


@dataclass(frozen=True)
class Section:
    """One table. The first column names the row; the rest are values."""

    key: str
    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""


def figures(status: Status) -> list[Figure]:
    """Return the six numbers to look at first; ``-`` for what was not measured or has no value."""
    flow, backlog, objective = status.flow, status.backlog, status.objective
    payments = f"of {flow.payments:,} messages, last 5 min" if flow else "not known"
    oldest = f"oldest waits {duration(backlog.seconds)}" if backlog and backlog.messages else "all is read"
    refused = f"{flow.refused:,} of {flow.messages:,}, last 5 min" if flow else "not known"
    spent = None if objective is None else objective.budget_spent_share
    late = f"{objective.late:,} late of {objective.payments:,} messages" if objective else "not known"
    return [
        Figure("p95", "Latency, p95", _seconds(flow and flow.p95_s), payments),
        Figure("rate", "Messages a second", f"{flow.messages_per_s:,.1f}" if flow else "-", "last 5 min"),
        Figure("unread", "Unread", f"{backlog.messages:,}" if backlog else "-", oldest if backlog else ""),
        Figure("fresh", "Newest stored", _ago(status.freshness_s), "by its Kafka timestamp"),
        Figure("refused", "Refused", _share(flow.refused, flow.messages) if flow else "-", refused),
        Figure("budget", "Budget spent", "-" if spent is None else f"{spent:.1%}", f"{late} in 30 days"),
    ]


def sections(status: Status) -> list[Section]:
    """Return the tables, in the order in which somebody on call asks."""
    return [
        *([_nodes(status.cluster)] if status.cluster else []),
        _unread(status),
        _latency(status),
        _objective(status),
        _refused(status),
        _dimensions(status),
        _stores(status),
    ]


def fields(status: Status, verdict: Verdict) -> dict[str, Any]:
    """Return what one line of a log says: the verdict first, then the figures; ``none`` for what has no value."""
    flow, backlog, objective = status.flow, status.backlog, status.objective
    values: dict[str, Any] = {
        "verdict": verdict.word,
        "why": "; ".join(problem.text for problem in verdict.problems) or "none",
        "lag_messages": backlog and backlog.messages,
        "lag_s": backlog and _round(backlog.seconds),
        "expires_h": backlog and backlog.expires_s and _round(backlog.expires_s / 3600),
        "p50_s": flow and _round(flow.p50_s),
        "p95_s": flow and _round(flow.p95_s),
        "p99_s": flow and _round(flow.p99_s),
        "messages_per_s": flow and _round(flow.messages_per_s),
        "freshness_s": _round(status.freshness_s),
        "refused": flow and flow.refused,
        "merchant_pending": status.pending and status.pending.merchant_pending,
        "fx_pending": status.pending and status.pending.fx_pending,
    }
    for age in status.dimensions or []:
        values[f"{age.dimension}_snapshot"] = age.snapshot_id
        values[f"{age.dimension}_age_h"] = _round(age.age_hours)
    values |= {
        "parts": None if status.parts is None else sum(table.parts for table in status.parts),
        "reports_behind_s": status.reports and _round(status.reports.behind_s),
        "slowest_report": status.slowest_report and status.slowest_report.report,
        "slowest_report_s": status.slowest_report and _round(status.slowest_report.seconds),
        "failed_loads": None if status.failed_loads is None else len(status.failed_loads),
        "last_audit": status.last_audit and status.last_audit.verdict,
        "last_audit_h": status.last_audit and _round(status.last_audit.age_hours),
        "slo": objective and _round(objective.in_time_share),
        "budget_spent": objective and _round(objective.budget_spent_share),
        "took_s": _round(status.took_s),
    }
    if cluster := status.cluster:
        values["nodes"] = len(cluster.nodes)
        values["nodes_away"] = sum(bool(node.cause) for node in cluster.nodes)
    return _or_none(values)


def fields_of_nodes(status: Status) -> list[dict[str, Any]]:
    """Return what a line of a log says of each node of a cluster."""
    return [
        _or_none(
            {
                "node": node.address,
                "set": node.set,
                "shard": node.shard,
                "cause": node.cause or None,
                "consumers": node.consumers,
                "partitions": None if node.partitions is None else ",".join(map(str, node.partitions)) or None,
                "lag_messages": node.lag_messages,
                "lag_s": _round(node.lag_s),
                "parts": None if node.parts is None else sum(table.parts for table in node.parts),
                "reports_behind_s": _round(node.behind_s),
                **{f"{name}_snapshot": snapshot for name, snapshot in (node.snapshots or {}).items()},
                "disk_free_bytes": node.disk_free_bytes,
                "version": node.version,
                "schema": node.schema,
            }
        )
        for node in (status.cluster.nodes if status.cluster else [])
    ]


def document(status: Status, verdict: Verdict) -> dict[str, Any]:
    """Return everything, for JSON: the verdict, then the fields of ``Status`` by name."""
    head = {"verdict": verdict.word, "exit_code": verdict.exit_code, "problems": [asdict(p) for p in verdict.problems]}
    everything = head | asdict(status) | {"clocks": CLOCKS}
    if not status.cluster:
        del everything["cluster"]
    return everything


def _nodes(cluster: Cluster) -> Section:
    has_sets = len(cluster.sets) > 1
    header = ("node", *["set"] * has_sets, "shard", "reads", "unread", "parts", "behind", "snapshots", "free")
    notes = [f"{node.address} cannot be asked: {node.cause}." for node in cluster.nodes if node.cause]
    notes.append(_in_common("ClickHouse", {node.address: node.version for node in cluster.nodes if node.version}))
    notes.append(_in_common("Schema", {node.address: node.schema for node in cluster.nodes if node.schema}))
    for of_set in cluster.sets if has_sets else []:
        unread = f"{of_set.backlog.messages:,} unread" if of_set.backlog else "what is unread is not known"
        notes.append(f"Set {of_set.name}, consumer group {of_set.group}: {unread}.")
    rows = [_node(node, has_sets) for node in cluster.nodes]
    return Section("nodes", f"Nodes of cluster {cluster.name}", header, rows, " ".join(filter(None, notes)))


def _node(node: NodeState, has_sets: bool) -> tuple[str, ...]:
    values = {
        "set": node.set,
        "shard": node.shard,
        "reads": None if node.partitions is None else ", ".join(map(str, node.partitions)) or "none",
        "unread": None if node.lag_messages is None else f"{node.lag_messages:,}",
        "parts": None if node.parts is None else f"{sum(table.parts for table in node.parts):,}",
        "behind": None if node.behind_s is None else duration(node.behind_s),
        "snapshots": ", ".join(f"{name} {snapshot}" for name, snapshot in (node.snapshots or {}).items()) or None,
        "free": None if not node.disk_bytes else f"{node.disk_free_bytes / node.disk_bytes:.0%}",
    }
    if not has_sets:
        del values["set"]
    return (
        f"{node.address}{' (away)' * bool(node.cause)}",
        *("-" if value is None else str(value) for value in values.values()),
    )


def _in_common(what: str, values: dict[str, str]) -> str:
    if len(set(values.values())) > 1:
        return f"{what}: {', '.join(f'{value} on {address}' for address, value in values.items())}."
    return f"{what} {next(iter(values.values()))}." if values else ""


def _unread(status: Status) -> Section:
    backlog = status.backlog
    header = ("partition", "messages", "oldest waits", "over 5 min")
    if backlog is None:
        return Section("unread", "Unread, by partition", header, [], "Not known.")
    rows = [
        (str(lag.partition), f"{lag.messages:,}", _seconds(lag.seconds), f"{lag.overdue:,}")
        for lag in backlog.partitions
    ]
    note = "The topic keeps messages forever, or the broker does not tell how long."
    if backlog.expires_s is not None:
        what = "The oldest unread message expires in" if backlog.messages else "A message that arrives now is kept for"
        note = f"{what} {duration(max(0, backlog.expires_s))}."
    for lag in backlog.blocked[:1]:
        note += (
            f" Partition {lag.partition}: {lag.blocked:,} messages wait for the transaction that is open since offset "
            f"{lag.blocked_from:,}."
        )
    if expired := sum(lag.expired for lag in backlog.partitions):
        note += f" Expired unread: {expired:,}."
    return Section("unread", "Unread, by partition", header, rows, note)


def _latency(status: Status) -> Section:
    flow = status.flow
    rows = (
        [("50 %", _seconds(flow.p50_s)), ("95 %", _seconds(flow.p95_s)), ("99 %", _seconds(flow.p99_s))] if flow else []
    )
    note = "Last five minutes, to within 9 %."
    if flow and flow.untimed:
        note += f" Of {flow.payments:,} messages; {flow.untimed:,} more have an impossible Kafka timestamp."
    return Section("latency", "Latency, produced to stored", ("of the payments", "within"), rows, note)


def _objective(status: Status) -> Section:
    objective = status.objective
    title = "Objective"
    aim = f"{OBJECTIVE_SHARE:.0%} of payments stored within five minutes, over 30 days"
    if objective is None or objective.in_time_share is None:
        return Section(
            "objective", title, ("", ""), [], f"{aim}. {'No payment was timed yet' if objective else 'Not known'}."
        )
    rows = [
        ("in time", f"{objective.in_time_share:.3%} of {objective.payments:,} messages"),
        ("late", f"{objective.late:,}"),
        ("error budget spent", f"{objective.budget_spent_share:.1%}"),
    ]
    note = f"{aim}; measured since {objective.since:%Y-%m-%d %H:00} UTC." if objective.since else f"{aim}."
    return Section("objective", title, ("", ""), rows, note)


def _refused(status: Status) -> Section:
    rows = [(of.reason, f"{of.messages:,}", f"{of.per_minute:,.1f}") for of in status.refusals or []]
    note = "" if rows or status.refusals is None else "Nothing was refused in the last five minutes."
    return Section("refused", "Refused, last five minutes", ("reason", "messages", "per minute"), rows, note)


def _dimensions(status: Status) -> Section:
    header = ("dimension", "loaded or unchanged", "newest quote", "rows", "snapshot")
    rows = [
        (
            age.dimension,
            f"{duration(age.age_hours * 3600)} ago",
            str(age.newest_quote or "-"),
            f"{age.rows:,}",
            str(age.snapshot_id),
        )
        for age in status.dimensions or []
    ]
    note = ""
    if status.dimensions == []:
        note = "No dimension was loaded yet. Load them with `paystream dims refresh`. "
    for age in status.dimensions or []:
        if age.rejected:
            note += (
                f"Left out of the file of {age.dimension}: {counted(age.rejected, 'row')} "
                f"(`paystream dims history {age.dimension}`). "
            )
    if pending := status.pending:
        note += (
            f"Of {pending.looked_at:,} payments stored in the last five minutes, {pending.merchant_pending:,} came "
            f"without a known merchant and {pending.fx_pending:,} without a rate."
        )
    return Section("dimensions", "Dimensions and enrichment", header, rows, note.strip())


def _stores(status: Status) -> Section:
    rows = [
        (f"parts of {parts.table}", f"{parts.parts:,}", f"fullest partition {parts.in_fullest_partition:,}")
        for parts in status.parts or []
    ]
    if status.failed_loads is not None:
        why = "; ".join(f"{load.kind} {load.name}: {load.why}" for load in status.failed_loads)
        rows.append(("failed loads and refreshes", str(len(status.failed_loads)), " ".join(why.split())[:200]))
    if reports := status.reports:
        behind = "-" if reports.behind_s is None else f"{duration(reports.behind_s)} behind"
        until = (
            f"complete until {reports.complete_until:%Y-%m-%d %H:%M:%S} UTC" if reports.complete_until else "not yet"
        )
        rows.append(("reports", behind, until))
    if slowest := status.slowest_report:
        who = f"{slowest.report}, {slowest.asked_at:%Y-%m-%d %H:%M} UTC, by {slowest.user}"
        rows.append(("slowest report of a day", _seconds(slowest.seconds), who))
    if audit := status.last_audit:
        looked = f"{duration(audit.age_hours * 3600)} ago, over {duration(audit.window_hours * 3600)}"
        rows.append(("last audit", audit.verdict, f"{looked}{', deep' if audit.is_deep else ''}"))
    elif not any(gap.what is Subject.LAST_AUDIT for gap in status.unmeasured) and status.parts is not None:
        rows.append(("last audit", "never", "run `paystream audit` from cron"))
    return Section("stores", "Tables, loads and audits", ("", "", ""), rows)


def _or_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: "none" if value is None else value for name, value in values.items()}


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f} s" if 0 < value < 10 else duration(value)


def _ago(value: float | None) -> str:
    return "-" if value is None else f"{duration(value)} old"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.2%}" if whole else "0 %"
