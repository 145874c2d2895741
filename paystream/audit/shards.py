"""What only a cluster can have wrong: payments on the wrong shard or on two, and sets of nodes that differ."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from decimal import Decimal

from clickhouse_connect.driver.client import Client

from paystream.nodes import Node, Nodes, each

SHOWN = 20
"""Differences that are listed; all are counted."""

_SLOT = "toStartOfInterval(created_at, INTERVAL 30 MINUTE)"

_MISPLACED = """
SELECT count(), anyLast(toString(transaction_id)) FROM transactions_local
WHERE ingested_at >= {since:DateTime64(3, 'UTC')} AND (%s) != {shard:UInt32} - 1
"""
ON_TWO_SHARDS = """
SELECT count(), anyLast(toString(transaction_id))
FROM
(
    SELECT transaction_id
    FROM transactions
    WHERE ingested_at >= {since:DateTime64(3, 'UTC')}
    GROUP BY transaction_id
    HAVING min(_shard_num) != max(_shard_num)
)
"""
_SLOTS = f"SELECT DISTINCT {_SLOT} FROM transactions_local WHERE ingested_at >= {{since:DateTime64(3, 'UTC')}}"
_SUMS = f"""
SELECT {_SLOT} AS slot, currency, status, count(), sum(amount), sum(ifNull(amount_reporting, 0))
FROM transactions_local FINAL
WHERE toDate(created_at) = {{day:Date}} AND slot IN {{slots:Array(DateTime('UTC'))}}
GROUP BY slot, currency, status
SETTINGS do_not_merge_across_partitions_select_final = 1
"""
# Every row of such a message: one that a later state replaced was replaced by such a message, too.
_IN_MOTION = f"""
SELECT DISTINCT {_SLOT} FROM transactions_local
WHERE toDate(created_at) = {{day:Date}} AND kafka_topic = {{topic:String}}
    AND kafka_offset >= transform(kafka_partition, {{partitions:Array(UInt32)}}, {{ends:Array(UInt64)}}, toUInt64(0))
"""

_Sums = dict[tuple[str, str], tuple[int, Decimal, Decimal]]
"""By currency and status: payments, and the sums of their amounts and of those in the reporting currency."""


@dataclass(frozen=True)
class Misplaced:
    """Rows of payments that lie on a node though they belong to another shard. ``example``: a transaction's id."""

    node: str
    shard: int
    rows: int
    example: str


@dataclass(frozen=True)
class Difference:
    """Payments of a day (UTC, by created_at) of one shard that two sets do not have alike; here of one currency and
    status, first those of ``sets[0]``."""

    day: date
    shard: int
    sets: tuple[str, str]
    currency: str
    status: str
    transactions: tuple[int, int]
    amount: tuple[Decimal, Decimal]


@dataclass
class Comparison:
    """How the sets of nodes compare.

    Attributes:
        sets: those compared.
        half_hours: how many were, by created_at, of each shard.
        in_motion: how many were not, since a message of theirs has not been read by all sets yet.
        differences: by day, shard, currency and status; ``examples`` the first of them.
        enriched_otherwise: half hours of a shard that have the same payments with other reporting amounts.
    """

    sets: list[str]
    half_hours: int = 0
    in_motion: int = 0
    differences: int = 0
    enriched_otherwise: int = 0
    examples: list[Difference] = field(default_factory=list)


@dataclass
class Cluster:
    """What an audit found of the nodes.

    Attributes:
        unseen: which nodes did not answer, and why.
        misplaced: by node, rows that belong to another shard.
        on_two_shards: transactions with rows on two shards of a set; ``example`` one of them.
        sets: how they compare; None with fewer than two that are whole.
    """

    unseen: list[str]
    misplaced: list[Misplaced]
    on_two_shards: int = 0
    example: str = ""
    sets: Comparison | None = None

    @property
    def is_sound(self) -> bool:
        """Return whether every payment that was seen is where it belongs, and the same in all sets."""
        return not (self.misplaced or self.on_two_shards or (self.sets and self.sets.differences))


def by_transaction(client: Client, query: str, since: datetime | None) -> tuple:
    """Return the row of a query that groups by transaction what was stored since a moment, or all: then on the disk."""
    parameters = {"since": since or datetime.fromtimestamp(0, UTC)}
    settings = {} if since else {"max_bytes_before_external_group_by": 300_000_000}
    [row] = client.query(query, parameters=parameters, settings=settings).result_rows
    return row


def misplaced(nodes: Nodes, since: datetime) -> list[Misplaced]:
    """Return where rows that were stored since a moment lie on another shard than ingest sends them to."""
    # sqlglot, which this takes, is not for one server to wait for.
    from paystream.migrations.runner import cluster_for

    cluster = cluster_for(nodes)
    query = _MISPLACED % cluster.sharding.expression(cluster.keys["transactions"])

    def ask(node: Node, client: Client) -> tuple[int, str]:
        [row] = client.query(query, parameters={"since": since, "shard": node.shard}).result_rows
        return row

    found = each(nodes, "Audit", ask)
    return [Misplaced(node.address, node.shard, *row) for node, row in found if row[0]]


def compare_sets(nodes: Nodes, topic: str, ends: Mapping[int, int], since: datetime) -> Comparison | None:
    """Compare the payments of the sets that are whole, by half hour and shard.

    Half hours that hold a message which not all sets have read are left out: so what is compared is equal, whatever
    the sets are reading meanwhile. Memory: a day's sums.

    Args:
        nodes: the cluster.
        topic: what the sets read.
        ends: by partition, up to where every one of them has read it; known before this is called.
        since: compare half hours of which a set has stored something since.
    """
    whole = [node for node in nodes.of_each_shard() if not nodes.lacking(node.set)]
    sets = sorted({node.set for node in whole})
    if len(sets) < 2:
        return None
    result = Comparison(sets)
    of_each = replace(nodes, present=tuple(whole))

    def slots(query: str, **parameters: object) -> list[tuple[Node, set[datetime]]]:
        def ask(node: Node, client: Client) -> set[datetime]:
            return {slot for (slot,) in client.query(query, parameters=parameters, tz_mode="aware").result_rows}

        return each(of_each, "Comparison of the sets", ask)

    days = defaultdict(set)
    for slot in set().union(*(its for _, its in slots(_SLOTS, since=since))):
        days[slot.date()].add(slot)
    for day, of_day in sorted(days.items(), reverse=True):

        def sums(node: Node, client: Client, day: date = day, of_day: Iterable = of_day) -> dict[datetime, _Sums]:
            found: dict[datetime, _Sums] = defaultdict(dict)
            parameters = {"day": day, "slots": sorted(of_day)}
            for slot, currency, status, *row in client.query(_SUMS, parameters=parameters, tz_mode="aware").result_rows:
                found[slot][currency, status] = tuple(row)
            return found

        # The sums first: a message that they have and another set has not is among those in motion by then.
        by_place = {(node.set, node.shard): its for node, its in each(of_each, "Comparison of the sets", sums)}
        moving = defaultdict(set)
        partitions = {"partitions": list(ends), "ends": list(ends.values())}
        for node, its in slots(_IN_MOTION, day=day, topic=topic, **partitions):
            moving[node.shard] |= its
        for shard in range(1, nodes.shards + 1):
            still = of_day - moving[shard]
            result.in_motion += len(of_day) - len(still)
            result.half_hours += len(still)
            for other in sets[1:]:
                _compare(result, day, shard, other, by_place[sets[0], shard], by_place[other, shard], still)
    return result


def _compare(
    result: Comparison,
    day: date,
    shard: int,
    other: str,
    first: Mapping[datetime, _Sums],
    second: Mapping[datetime, _Sums],
    slots: Iterable[datetime],
) -> None:
    nothing = (0, Decimal(0), Decimal(0))
    totals = defaultdict(lambda: (nothing, nothing))
    for slot in slots:
        one, two = first.get(slot, {}), second.get(slot, {})
        for key in one.keys() | two.keys():
            here, there = one.get(key, nothing), two.get(key, nothing)
            if here[:2] != there[:2]:
                was = totals[key]
                totals[key] = (_plus(was[0], here), _plus(was[1], there))
        result.enriched_otherwise += any(
            one[key][:2] == two[key][:2] and one[key][2] != two[key][2] for key in one.keys() & two.keys()
        )
    result.differences += len(totals)
    for (currency, status), (here, there) in sorted(totals.items())[: SHOWN - len(result.examples)]:
        result.examples.append(
            Difference(
                day,
                shard,
                (result.sets[0], other),
                currency,
                status,
                (here[0], there[0]),
                (here[1], there[1]),
            )
        )


def _plus(total: tuple[int, Decimal, Decimal], more: tuple[int, Decimal, Decimal]) -> tuple[int, Decimal, Decimal]:
    return total[0] + more[0], total[1] + more[1], total[2] + more[2]
