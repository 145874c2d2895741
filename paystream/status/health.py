"""Whether a status is healthy, and why not."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta

from paystream.group import attached_otherwise
from paystream.output import counted
from paystream.settings import Settings
from paystream.status.state import DIMENSIONS, OBJECTIVE_LIMIT, OBJECTIVE_SHARE, Cluster, NodeState, Status

PARTS_LIMIT = 500
"""Active parts in one partition. The engine delays inserts from 1,000 on and refuses them from 3,000 on."""
AT_LEAST = 10
"""Refused messages, late or pending payments it takes before their share means something."""
ERROR_AFTER_S = 10
"""An error of ingest is a reason once a message has waited this long: a broker that restarts is not one."""
PENDING_SHARE_LIMIT = 0.05
REPORTS_LIMIT_S = 300
"""Reports are computed every 40 s and are a minute behind at most, unless there is a backlog or a refresh fails."""


@dataclass(frozen=True)
class Problem:
    """One reason for not being healthy.

    Attributes:
        name: a word that alerts and logs can match: the same for the same kind of problem.
        text: what was measured and its limit, without a full stop.
        section: where docs/runbook.md says what to do.
    """

    name: str
    text: str
    section: str


@dataclass(frozen=True)
class Verdict:
    """What the first line and the exit code say."""

    problems: list[Problem]
    exit_code: int

    @property
    def word(self) -> str:
        """Return ``healthy``, ``not healthy``, or ``unknown`` where a service or the schema could not be asked."""
        return {0: "healthy", 1: "not healthy"}.get(self.exit_code, "unknown")

    @property
    def line(self) -> str:
        """Return the verdict and its reasons in one line."""
        reasons = "; ".join(problem.text for problem in self.problems)
        return f"{self.word}: {reasons}" if reasons else self.word


def judge(status: Status, settings: Settings) -> Verdict:
    """Return what is wrong, worst first. Exit code: 0 healthy, 1 not, 2 no schema or topic, 3 a service is away."""
    problems = [
        Problem("unmeasured", f"cannot tell {unmeasured.what}: {unmeasured.why.rstrip('.')}", "Status cannot tell")
        for unmeasured in status.unmeasured
    ]
    problems += _cluster(status.cluster, settings) if status.cluster else []
    problems += [*_readers(status, settings), *_backlog(status, settings), *_speed(status)]
    problems += [*_stored(status, settings), *_dimensions(status, settings)]
    return Verdict(problems, max(status.exit_code, 1 if problems else 0))


def _cluster(cluster: Cluster, settings: Settings) -> list[Problem]:
    present = [node for node in cluster.nodes if not node.cause]
    return [*_away(cluster, present), *_sets(cluster, settings), *_behind(present), *_shards(cluster, present)]


def _away(cluster: Cluster, present: list[NodeState]) -> list[Problem]:
    problems = [
        Problem("node", f"node '{node.address}' cannot be asked: {node.cause}", "A node is away")
        for node in cluster.nodes
        if node.cause
    ]
    shards = set(range(1, cluster.shards + 1))
    unseen = min(
        (shards - {node.shard for node in present if node.set == of.name} for of in cluster.sets),
        key=len,
        default=shards,
    )
    if unseen:
        text = f"no figure has what is stored on shard{_numbers(unseen)} of {cluster.shards}"
        problems.append(Problem("node", text, "A node is away"))
    return problems


def _sets(cluster: Cluster, settings: Settings) -> list[Problem]:
    problems = []
    for of_set in cluster.sets if len(cluster.sets) > 1 else []:
        backlog = of_set.backlog
        behind_s = (of_set.reports and of_set.reports.behind_s) or 0
        told = []
        if backlog and backlog.seconds > settings.status_lag_limit_seconds:
            told.append(f"{messages(backlog.messages)} unread, the oldest for {duration(backlog.seconds)}")
        if behind_s > REPORTS_LIMIT_S:
            told.append(f"reports by {duration(behind_s)}")
        if told:
            problems.append(Problem("set", f"set {of_set.name} is behind: {', '.join(told)}", "A node is behind"))
    return problems


def _behind(present: list[NodeState]) -> list[Problem]:
    problems = []
    newest: dict[str, int] = {}
    for name, snapshot in (item for node in present for item in (node.snapshots or {}).items()):
        newest[name] = max(snapshot, newest.get(name, 0))
    schema = max((node.schema or "" for node in present), default="")
    for node in present:
        older = [
            f"{name} {has or 'never loaded'} (newest {snapshot})"
            for name, snapshot in newest.items()
            if node.snapshots is not None and (has := node.snapshots.get(name)) != snapshot
        ]
        if older:
            text = f"node '{node.address}' has older dimensions: {', '.join(older)}"
            problems.append(Problem("snapshot", text, "A node is behind"))
        if node.schema is not None and node.schema != schema:
            text = f"node '{node.address}' has the schema {node.schema or 'of no version'}, and the newest is {schema}"
            problems.append(Problem("version", text, "A node is behind"))
    return problems


def _shards(cluster: Cluster, present: list[NodeState]) -> list[Problem]:
    problems = []
    rules = {node.sharding: node.address for node in reversed(present) if node.sharding}
    if len(rules) > 1:
        told = ", ".join(f"'{address}' by {rule}" for rule, address in sorted(rules.items()))
        text = f"nodes send payments to different shards: {told}; run `paystream migrate up`"
        problems.append(Problem("sharding", text, "A shard takes no payments"))
    for address in cluster.behind:
        text = f"remote_servers of node '{address}' lack nodes that others have"
        problems.append(Problem("sharding", text, "A shard takes no payments"))
    taking = max((node.shards or 0 for node in present), default=0)
    if 0 < taking < cluster.shards:
        numbers = _numbers(range(taking + 1, cluster.shards + 1))
        verb = "take" if cluster.shards - taking > 1 else "takes"
        text = f"shard{numbers} of {cluster.shards} {verb} no payments: run `paystream cluster add-shard`"
        problems.append(Problem("sharding", text, "A shard takes no payments"))
    return problems


def _numbers(them: Collection[int]) -> str:
    return f"{'s' * (len(them) > 1)} {', '.join(map(str, sorted(them)))}"


def _readers(status: Status, settings: Settings) -> list[Problem]:
    problems = []
    backlog = status.backlog
    if status.missing and status.flow:
        text = f"{', '.join(status.missing)} missing or detached: what is read is not stored"
        problems.append(Problem("schema", text, "A part of ingest is missing"))
    if backlog and (text := attached_otherwise(status.assigned_topics or [], backlog.group, settings)):
        problems.append(Problem("settings", text, "The Kafka table reads something else"))
    sets = status.cluster.sets if status.cluster else []
    for name, read in [(one.group, one.backlog) for one in sets] or [(settings.kafka_group, backlog)]:
        if read and read.group and read.group.others:
            other = read.group.others[0]
            more = len(read.group.others) - 1
            text = (
                f"{other}{f' and {more} more' if more else ''} read"
                f"{'' if more else 's'} with consumer group '{name}' too: what they read is not stored here"
            )
            problems.append(Problem("group", text, "Others read with the consumer group"))
        if read and (nobodys := read.nobodys):
            of_group = f" with consumer group '{name}'" if len(sets) > 1 else ""
            text = f"nobody reads partition{_numbers(nobodys)} of topic '{status.topic}'{of_group}"
            problems.append(Problem("unassigned", text, "Others read with the consumer group"))
    return problems


def _backlog(status: Status, settings: Settings) -> list[Problem]:
    backlog = status.backlog
    if backlog is None:
        return []
    problems = []
    expired = sum(lag.expired for lag in backlog.partitions)
    if expired:
        problems.append(Problem("expired", f"{messages(expired)} expired unread", "Unread messages expire"))
    limit_s = settings.status_lag_limit_seconds
    blocked = [lag for lag in backlog.partitions if lag.waits_for_transaction and lag.seconds > limit_s]
    if blocked:
        # Its own messages may be all there are: what is behind a transaction is known only when it ends.
        oldest = max(blocked, key=lambda lag: lag.seconds)
        since = status.at - timedelta(seconds=oldest.seconds)
        count = sum(lag.blocked for lag in blocked)
        text = (
            f"{messages(count)} wait{'s' * (count == 1)} behind an open transaction since "
            f"{since:%Y-%m-%d %H:%M:%S} UTC (partition {oldest.partition}, offset {oldest.blocked_from})"
        )
        problems.append(Problem("transaction", text, "An open transaction holds messages back"))
    late = any(lag.seconds > limit_s for lag in backlog.partitions if lag not in blocked)
    # Not before half of its time is up: a topic may keep everything for less than the limit.
    left = backlog.expires_s
    soon = min(settings.status_expiry_limit_hours * 3600, backlog.seconds)
    if (late or blocked) and left is not None and left < soon:
        kept = duration(max(0, left))
        text = f"unread messages expire in {kept} (limit {settings.status_expiry_limit_hours:g} h)"
        problems.append(Problem("expiry", text, "Unread messages expire"))
    why = f", ingest runs into: {' '.join(status.ingest_error.split())[:160]}" if status.ingest_error else ""
    if late or (why and backlog.seconds > ERROR_AFTER_S):
        limit = f" (limit {duration(limit_s)})" if late else ""
        text = f"{messages(backlog.messages)} unread, the oldest for {duration(backlog.seconds)}{limit}{why}"
        problems.append(Problem("lag", text, "Ingest stands still"))
    return problems


def _speed(status: Status) -> list[Problem]:
    problems = []
    flow, objective = status.flow, status.objective
    if flow and flow.payments >= AT_LEAST and flow.p95_s is not None and flow.p95_s > OBJECTIVE_LIMIT.total_seconds():
        text = f"95 % of payments are stored within {duration(flow.p95_s)} (limit {duration(OBJECTIVE_LIMIT.seconds)})"
        problems.append(Problem("latency", text, "Payments are stored late"))
    spent = objective and objective.budget_spent_share
    if objective and spent is not None and spent >= 1 and objective.late >= AT_LEAST:
        text = (
            f"only {objective.in_time_share:.2%} of 30 days' payments were stored within five minutes "
            f"(objective {OBJECTIVE_SHARE:.0%})"
        )
        problems.append(Problem("objective", text, "Payments are stored late"))
    return problems


def _stored(status: Status, settings: Settings) -> list[Problem]:
    problems = []
    audit, flow = status.last_audit, status.flow
    if audit and audit.verdict != "complete":
        text = f"the last audit, {duration(audit.age_hours * 3600)} ago, said {audit.verdict}"
        if audit.lost or audit.expired:
            text += f" ({audit.lost:,} lost, {audit.expired:,} expired)"
        if audit.verdict == "recreated":
            problems.append(Problem("audit", text, "Audit says recreated"))
        elif audit.verdict == "misplaced":
            problems.append(Problem("audit", text, "Audit says misplaced"))
        else:
            problems.append(Problem("audit", text, "Audit says lost"))
    limit_s = settings.status_audit_age_limit_hours * 3600
    if audit and audit.age_hours * 3600 > limit_s:
        text = f"the last audit was {duration(audit.age_hours * 3600)} ago (limit {duration(limit_s)})"
        problems.append(Problem("audit", text, "Audit says lost"))
    since = status.objective and status.objective.since
    if not audit and since and (status.at - since).total_seconds() > limit_s:
        problems.append(Problem("audit", "what was stored was never audited", "Audit says lost"))
    if flow and flow.refused >= (2 if flow.refused == flow.messages else AT_LEAST):
        share = flow.refused / flow.messages
        if share > settings.status_refused_share_limit:
            reason = f", most for {status.refusals[0].reason}" if status.refusals else ""
            limit = f"{settings.status_refused_share_limit:.2%}"
            text = f"{share:.2%} of the messages are refused (limit {limit}){reason}"
            problems.append(Problem("refused", text, "Quarantine is growing"))
    behind_s = status.reports and status.reports.behind_s
    if behind_s is not None and behind_s > REPORTS_LIMIT_S:
        text = f"reports are {duration(behind_s)} behind (limit {duration(REPORTS_LIMIT_S)})"
        problems.append(Problem("reports", text, "Reports are behind"))
    elif status.reports and behind_s is None and since and (status.at - since).total_seconds() > 2 * 3600:
        problems.append(Problem("reports", "reports were never computed", "Reports are behind"))
    for parts in status.parts or []:
        if parts.in_fullest_partition > PARTS_LIMIT:
            text = f"{parts.in_fullest_partition:,} parts in a partition of {parts.table} (limit {PARTS_LIMIT})"
            problems.append(Problem("parts", text, "Too many parts"))
    return problems


def _dimensions(status: Status, settings: Settings) -> list[Problem]:
    problems = [
        Problem("load", f"{load.kind} {load.name} failed to load: {' '.join(load.why.split())[:160]}", "A load fails")
        for load in status.failed_loads or []
    ]
    if status.dimensions is not None:
        loaded = {age.dimension: age for age in status.dimensions}
        for name in DIMENSIONS:
            if name not in loaded:
                problems.append(Problem("dimension", f"{name} was never loaded", "A dimension is old"))
            elif loaded[name].age_hours > (limit := settings.dimension_age_limit_hours(name)):
                text = (
                    f"{name} was loaded or found unchanged {duration(loaded[name].age_hours * 3600)} ago "
                    f"(limit {duration(limit * 3600)})"
                )
                problems.append(Problem("dimension", text, "A dimension is old"))
        quote = loaded["fx"].newest_quote if "fx" in loaded else None
        if quote and (status.at.date() - quote).days * 24 > settings.dimension_age_limit_hours("fx"):
            days = (status.at.date() - quote).days
            problems.append(Problem("quote", f"the newest exchange rate is {days} days old", "A dimension is old"))
    pending = status.pending
    if pending and pending.payments >= AT_LEAST and pending.share > PENDING_SHARE_LIMIT:
        text = f"{pending.share:.1%} of the payments came in without merchant or rate (limit {PENDING_SHARE_LIMIT:.0%})"
        problems.append(Problem("pending", text, "A dimension is old"))
    return problems


def messages(count: int) -> str:
    """Return how many messages, in words."""
    return counted(count, "message")


def duration(seconds: float) -> str:
    """Return seconds in the largest unit that leaves a number people can grasp."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            number = seconds / size
            return f"{number:.0f} {unit}" if number >= 10 else f"{number:.1f}".removesuffix(".0") + f" {unit}"
    return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.0f} s"
