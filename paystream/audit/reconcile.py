"""Reconcile what the broker says the group has read with what the ledger says was read. Reads only."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from clickhouse_connect.driver.client import Client

from paystream.audit.deep import compare_rows
from paystream.audit.holes import Gap, Holes, explain
from paystream.audit.ledger import Block, blocks_since, intervals, reach_before, read_first
from paystream.audit.shards import ON_TWO_SHARDS, Cluster, by_transaction, compare_sets, misplaced
from paystream.broker import Broker, Position, Retention, open_broker
from paystream.errors import UsageError
from paystream.nodes import Node, Nodes, find
from paystream.schema import connected
from paystream.settings import Settings

LEDGER_KEPT = timedelta(days=90)
CONTRACT_WINDOW = timedelta(minutes=5)

# Rows that differ in the sorting key, which has the day, are never merged into one. Reports add up half hours: where a
# payment goes to another one, the one that it left is not computed again.
_CONTRACT = """
SELECT countIf(toYYYYMM(earliest) != toYYYYMM(latest)), count(), anyLast(toString(transaction_id))
FROM
(
    SELECT transaction_id, min(toStartOfInterval(created_at, INTERVAL 30 MINUTE)) AS earliest,
        max(toStartOfInterval(created_at, INTERVAL 30 MINUTE)) AS latest
    FROM transactions
    WHERE ingested_at >= {since:DateTime64(3, 'UTC')}
    GROUP BY transaction_id
    HAVING earliest != latest OR min(merchant_id) != max(merchant_id)
)
"""


_OTHER_TOPICS = (
    "SELECT DISTINCT kafka_topic FROM ingest_ledger WHERE kafka_topic != {topic:String} ORDER BY kafka_topic"
)


@dataclass
class PartitionAudit:
    """One partition of the topic.

    Attributes:
        start: the first offset audited. ``committed`` ends the audited range.
        stored: messages in the ledger's blocks from ``start`` on, redelivered ones each time.
        in_flight: offsets from the first unread message to the end of the log; they are nobody's loss.
        blocked: those of them that wait for an open transaction to end.
        hours_from_oldest: how much time lies between the oldest retained message and the reader's position.
        headroom_hours: how long until the oldest unread message expires, or one that arrives now; None: never.
        recreated: the ledger knows offsets that the topic does not have, or other messages at those that it has: it was
            deleted and made again, or cut.
        uncommitted: the ledger knows retained offsets, and the group has committed none: there is nothing to compare.
        lost_examples, absent_examples: some of the messages in question, as offset and time.
        absent_rows: with ``--deep``: messages whose row is in no table, nor a later state that replaced it.
        superseded_rows: with ``--deep``: messages whose row a later state of the same transaction has replaced.
        set: the set of nodes that read it, where a cluster has several; ``""`` otherwise.
    """

    partition: int
    low: int
    high: int
    committed: int | None
    start: int
    blocks: int = 0
    stored: int = 0
    refused: int = 0
    redelivered: int = 0
    holes: Holes = field(default_factory=Holes)
    in_flight: int = 0
    blocked: int = 0
    hours_from_oldest: float | None = None
    headroom_hours: float | None = None
    recreated: bool = False
    uncommitted: bool = False
    lost_examples: list[tuple[int, datetime]] = field(default_factory=list)
    absent_examples: list[tuple[int, datetime]] = field(default_factory=list)
    absent_rows: int | None = None
    superseded_rows: int | None = None
    set: str = ""


@dataclass
class Audit:
    """The result of one audit.

    Attributes:
        since: blocks read from then on were audited.
        in_several_partitions: transactions that the table holds in more than one monthly partition.
        changed_keys: transactions stored with more than one ``merchant_id`` or half hour of ``created_at``.
        example: one of them.
        left_unread: messages of other topics that the group was reading once and has not read, by topic.
        cluster: what only a cluster can have wrong; None for one server.
    """

    topic: str
    since: datetime
    retention_hours: float | None
    partitions: list[PartitionAudit]
    in_several_partitions: int
    changed_keys: int
    example: str
    left_unread: dict[str, int] = field(default_factory=dict)
    cluster: Cluster | None = None

    @property
    def holes(self) -> Holes:
        total = Holes()
        for partition in self.partitions:
            total.add(partition.holes)
        return total

    @property
    def verdict(self) -> str:
        """Return the worst that is true: ``loss``, ``recreated``, ``misplaced`` (a payment on a shard or in a set where
        it should not be), ``incomplete`` or ``complete``."""
        holes = self.holes
        if holes.lost or holes.expired or any(partition.absent_rows for partition in self.partitions):
            return "loss"
        if any(partition.recreated for partition in self.partitions):
            return "recreated"
        if self.cluster and not self.cluster.is_sound:
            return "misplaced"
        doubtful = holes.unchecked or self.left_unread or any(partition.uncommitted for partition in self.partitions)
        return "incomplete" if doubtful or (self.cluster and self.cluster.unseen) else "complete"


def audit(settings: Settings, window: timedelta, deep: bool = False) -> Audit:
    """Reconcile the topic with the ledger, for blocks read within ``window``, and explain every hole.

    Reads at most ``LOOKUP_MESSAGES`` messages from the broker, the newest holes first; with ``deep``, as many as the
    window has. Consumes nothing from the group.

    Raises:
        ServiceUnavailable: Kafka or ClickHouse does not answer.
        UsageError: the topic or the schema does not exist.
        PaystreamError: ClickHouse refused a query.
    """
    since = datetime.now(UTC) - window
    nodes = find(settings)
    audits = [_audit_set(nodes, node, since, window, deep) for node in nodes.first_of_sets()]
    # Each set has all payments: what is wrong with their keys, every set that is whole knows.
    result = max(audits, key=lambda audit: audit.changed_keys)
    result.partitions = [partition for audit in audits for partition in audit.partitions]
    for audit in audits:
        result.left_unread |= audit.left_unread
    if nodes.cluster:
        placed_since = datetime.fromtimestamp(0, UTC) if deep else since
        ends = _read_by_all(result.partitions)
        on_two = max((audit.cluster for audit in audits), key=lambda cluster: cluster.on_two_shards)
        result.cluster = replace(
            on_two,
            misplaced=misplaced(nodes, placed_since),
            sets=compare_sets(nodes, settings.kafka_topic, ends, placed_since),
        )
    return result


def _audit_set(nodes: Nodes, node: Node, since: datetime, window: timedelta, deep: bool) -> Audit:
    """Reconcile the topic with what one set of nodes has of it, asked through one of them."""
    settings = node.settings
    is_whole = not nodes.lacking(node.set)
    what = f"Audit of topic '{settings.kafka_topic}'"
    with open_broker(settings) as broker, connected(settings, what) as client:
        if not is_whole:
            nodes.leave_out_away(client)
        retention = broker.retention()
        audited = [
            _reconcile(nodes, settings, broker, client, partition, since, retention) for partition in broker.partitions
        ]
        partitions = [partition for partition, _, _ in audited]
        # Of what has no row here, the rest of the set may have one.
        gaps = [gap for _, gaps, _ in audited for gap in gaps]
        explained = explain(broker, gaps if is_whole else [], retention.milliseconds)
        for partition, its_gaps, earliest in audited:
            partition.set = node.set if len(nodes.sets) > 1 else ""
            if not is_whole:
                partition.holes.unchecked += sum(gap.missing for gap in its_gaps)
                continue
            partition.holes.add(explained[partition.partition].holes)
            partition.lost_examples = explained[partition.partition].lost_examples
            if deep and not partition.recreated:
                end = max(partition.low, partition.committed or 0)
                read_since = earliest and earliest.read_at
                bounds = (partition.partition, partition.start, end, read_since)
                rows = compare_rows(settings, broker, client, *bounds, nodes.in_one_set)
                partition.absent_rows, partition.superseded_rows = rows.absent, rows.superseded
                partition.absent_examples = rows.absent_examples
        other_topics = client.query(nodes.in_one_set(_OTHER_TOPICS), parameters={"topic": settings.kafka_topic})
        topics = [topic for (topic,) in other_topics.result_rows]
        contract_since = None if deep else datetime.now(UTC) - min(window, CONTRACT_WINDOW)
        several, changed, example = _contract(client, contract_since, nodes.in_one_set)
        cluster = None
        if nodes.cluster:
            on_two, on_two_example = by_transaction(client, nodes.in_one_set(ON_TWO_SHARDS), contract_since)
            cluster = Cluster([str(node) for node in nodes.away], [], on_two, on_two_example)
    return Audit(
        topic=settings.kafka_topic,
        since=since,
        retention_hours=None if retention.milliseconds is None else retention.milliseconds / 3_600_000,
        partitions=partitions,
        in_several_partitions=several,
        changed_keys=changed,
        example=example,
        left_unread=_left_unread(settings, topics),
        cluster=cluster,
    )


def _read_by_all(partitions: list[PartitionAudit]) -> dict[int, int]:
    """Return up to where every set has read each partition."""
    ends: dict[int, int] = {}
    for partition in partitions:
        committed = partition.committed or 0
        ends[partition.partition] = min(committed, ends.get(partition.partition, committed))
    return ends


def _left_unread(settings: Settings, topics: list[str]) -> dict[str, int]:
    left = {}
    for topic in topics:
        with suppress(UsageError), open_broker(settings.model_copy(update={"kafka_topic": topic})) as broker:
            # Where the group has committed nothing, it was another that read it.
            if unread := sum(position.waiting for position in broker.positions() if position.committed is not None):
                left[topic] = unread
    return left


def _reconcile(
    nodes: Nodes,
    settings: Settings,
    broker: Broker,
    client: Client,
    partition: int,
    since: datetime,
    retention: Retention,
) -> tuple[PartitionAudit, list[Gap], Block | None]:
    """Return what the ledger says of a partition, what it leaves out, and the block that was read first."""
    # The broker first: whatever the group has committed by now is in the ledger by the time that is read.
    position = broker.position(partition)
    scope = {"topic": settings.kafka_topic, "partition": partition, "within": nodes.in_one_set}
    in_window, first, last = blocks_since(client, since, scope)
    start = reach_before(client, first, scope)
    known = max(last + 1 if in_window else 0, start or 0)
    if start is None:
        # What the ledger is too young or too old to know of is audited as far as the ledger would still have it.
        oldest = max(position.low, broker.first_offset_since(partition, datetime.now(UTC) - LEDGER_KEPT))
        start = min(first, oldest)
    # From the block on that says where to start.
    earliest = read_first(client, max(position.low, start - 1), position.reader, scope)
    result = PartitionAudit(
        partition,
        position.low,
        position.high,
        position.committed,
        start,
        in_flight=position.waiting,
        blocked=position.blocked,
        hours_from_oldest=_hours_from_oldest(position),
        headroom_hours=headroom_hours(position, retention),
        # The topic has grown since the first look, so look again before saying that it is shorter than what was read.
        recreated=(known > position.high and known > broker.watermarks(partition)[1])
        or (earliest is not None and _is_of_another_topic(broker, position, earliest)),
        # Between the first block's row in the ledger and its commit there are milliseconds.
        uncommitted=position.committed is None and known > position.low and broker.committed([partition]) == [None],
    )
    if result.recreated or (position.reader <= start and not in_window):
        return result, [], earliest
    counted = intervals(client, start, min(first, position.reader), position.reader, scope)
    result.blocks, result.stored, result.refused = counted.blocks, counted.messages, counted.refused
    result.redelivered, result.holes = counted.redelivered, Holes(unchecked=counted.unkept)
    return result, counted.gaps, earliest


def _is_of_another_topic(broker: Broker, position: Position, block: Block) -> bool:
    """Return whether a block of the ledger was read from a topic of the same name that no longer exists.

    The ledger knows the newest timestamp in the block, so a newer message in its place is not one that it had. Both
    are the producers' times, compared with nothing else: their clocks may be wrong. Of the blocks in question the one
    that was read first speaks for all.
    """
    for batch in broker.read(position.partition, max(position.low, block.first), block.last, batch_size=1):
        # Empty messages and tombstones are in no block.
        if batch[0].value():
            return batch[0].timestamp()[1] > block.newest_ms
    return False


def _hours_from_oldest(position: Position) -> float | None:
    if position.oldest_at is None:
        return None
    return ((position.unread_at or datetime.now(UTC)) - position.oldest_at).total_seconds() / 3600


def headroom_hours(position: Position, retention: Retention) -> float | None:
    """Return how long the oldest unread message is still kept, or one arriving now; None: forever, or not known."""
    hours = []
    if retention.milliseconds is not None:
        waiting = datetime.now(UTC) - position.unread_at if position.unread_at else timedelta(0)
        hours.append(retention.milliseconds / 3_600_000 - waiting.total_seconds() / 3600)
    # Once a limit has removed something, the log is as long as it allows: what comes in pushes out the oldest. Before
    # that nobody can tell how far off it is: the size of a log is not in what a client may ask here.
    if retention.by_size and position.low > 0 and (from_oldest := _hours_from_oldest(position)) is not None:
        hours.append(from_oldest)
    return min(hours, default=None)


def _contract(client: Client, since: datetime | None, within: Callable[[str], str] = str) -> tuple[int, int, str]:
    return by_transaction(client, within(_CONTRACT), since)
