"""Reconcile what the broker says the group has read with what the ledger says was read. Reads only."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from clickhouse_connect.driver.client import Client

from paystream.audit_deep import compare_rows
from paystream.audit_holes import Gap, Holes, explain
from paystream.audit_ledger import blocks_since, intervals, reach_before, scope_of
from paystream.broker import Broker, Position, open_broker
from paystream.clickhouse import answering, connect
from paystream.settings import Settings

LEDGER_KEPT = timedelta(days=90)
CONTRACT_WINDOW = timedelta(minutes=5)

# Recently created days only: a payment arrives about when it is made, and the day leads the primary key.
_CONTRACT = """
SELECT countIf(toYYYYMM(earliest) != toYYYYMM(latest)), count(), anyLast(toString(transaction_id))
FROM
(
    SELECT transaction_id, min(created_at) AS earliest, max(created_at) AS latest
    FROM transactions
    WHERE {where}
    GROUP BY transaction_id
    HAVING earliest != latest OR min(merchant_id) != max(merchant_id)
)
"""


@dataclass
class PartitionAudit:
    """One partition of the topic.

    Attributes:
        start: the first offset audited. ``committed`` ends the audited range.
        stored: messages in the ledger's blocks from ``start`` on, redelivered ones each time.
        in_flight: messages' offsets from the committed one to the end; they are nobody's loss.
        hours_from_oldest: how much time lies between the oldest retained message and the reader's position.
        headroom_hours: how long until the oldest unread message expires, or one that arrives now; None: never.
        recreated: the ledger knows offsets that the topic does not have: it was deleted and made again, or cut.
        lost_examples, absent_examples: some of the messages in question, as offset and time.
        absent_rows: with ``--deep``: messages whose row is in no table, nor a later state that replaced it.
        superseded_rows: with ``--deep``: messages whose row a later state of the same transaction has replaced.
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
    hours_from_oldest: float | None = None
    headroom_hours: float | None = None
    recreated: bool = False
    lost_examples: list[tuple[int, datetime]] = field(default_factory=list)
    absent_examples: list[tuple[int, datetime]] = field(default_factory=list)
    absent_rows: int | None = None
    superseded_rows: int | None = None


@dataclass(frozen=True)
class Audit:
    """The result of one audit.

    Attributes:
        since: blocks read from then on were audited.
        in_several_partitions: transactions that the table holds in more than one monthly partition.
        changed_keys: transactions stored with more than one ``created_at`` or ``merchant_id``.
        example: one of them.
    """

    topic: str
    since: datetime
    retention_hours: float | None
    partitions: list[PartitionAudit]
    in_several_partitions: int
    changed_keys: int
    example: str

    @property
    def holes(self) -> Holes:
        total = Holes()
        for one in self.partitions:
            total.add(one.holes)
        return total

    @property
    def verdict(self) -> str:
        """Return the worst that is true: ``loss``, ``recreated``, ``incomplete`` or ``complete``."""
        holes = self.holes
        if holes.lost or holes.expired or any(one.absent_rows for one in self.partitions):
            return "loss"
        if any(one.recreated for one in self.partitions):
            return "recreated"
        return "incomplete" if holes.unchecked else "complete"


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
    what = f"Audit of topic '{settings.kafka_topic}'"
    with open_broker(settings) as broker, connect(settings) as client, answering(what):
        retention_ms = broker.retention_ms()
        found, gaps = [], []
        for partition in broker.partitions:
            one, its_gaps = _reconcile(settings, broker, client, partition, since, retention_ms)
            found.append(one)
            gaps += its_gaps
        explained = explain(broker, gaps, retention_ms)
        for one in found:
            one.holes, one.lost_examples = explained[one.partition].holes, explained[one.partition].lost_examples
            if deep and not one.recreated:
                end = max(one.low, one.committed or 0)
                rows = compare_rows(settings, broker, client, one.partition, one.start, end)
                one.absent_rows, one.superseded_rows = rows.absent, rows.superseded
                one.absent_examples = rows.absent_examples
        several, changed, example = _contract(
            client, None if deep else datetime.now(UTC) - min(window, CONTRACT_WINDOW)
        )
    return Audit(
        topic=settings.kafka_topic,
        since=since,
        retention_hours=None if retention_ms is None else retention_ms / 3_600_000,
        partitions=found,
        in_several_partitions=several,
        changed_keys=changed,
        example=example,
    )


def _reconcile(
    settings: Settings,
    broker: Broker,
    client: Client,
    partition: int,
    since: datetime,
    retention_ms: int | None,
) -> tuple[PartitionAudit, list[Gap]]:
    # The broker first: whatever the group has committed by now is in the ledger by the time that is read.
    position = broker.position(partition)
    scope = scope_of(settings, position)
    in_window, first, last = blocks_since(client, since, scope)
    start = reach_before(client, first, scope)
    known = max(last + 1 if in_window else 0, start or 0)
    if start is None:
        # What the ledger is too young or too old to know of is audited as far as the ledger would still have it.
        oldest = max(position.low, broker.first_offset_since(partition, datetime.now(UTC) - LEDGER_KEPT))
        start = min(first, oldest)
    one = PartitionAudit(
        partition,
        position.low,
        position.high,
        position.committed,
        start,
        in_flight=max(0, position.high - position.reader),
        hours_from_oldest=_hours_from_oldest(position),
        headroom_hours=_headroom_hours(position, retention_ms),
        # The topic has grown since the first look, so look again before saying that it is shorter than what was read.
        recreated=known > position.high and known > broker.watermarks(partition)[1],
    )
    if one.recreated:
        return one, []
    if position.reader <= start and not in_window:
        return one, []
    found = intervals(client, start, min(first, position.reader), position.reader, scope)
    one.blocks, one.stored, one.refused = found.blocks, found.messages, found.refused
    one.redelivered = found.redelivered
    return one, [gap for gap in found.gaps if gap.first <= gap.last]


def _hours_from_oldest(position: Position) -> float | None:
    if position.oldest_at is None:
        return None
    return ((position.unread_at or datetime.now(UTC)) - position.oldest_at).total_seconds() / 3600


def _headroom_hours(position: Position, retention_ms: int | None) -> float | None:
    if retention_ms is None:
        return None
    waiting = datetime.now(UTC) - position.unread_at if position.unread_at else timedelta(0)
    return retention_ms / 3_600_000 - waiting.total_seconds() / 3600


def _contract(client: Client, since: datetime | None) -> tuple[int, int, str]:
    if since is None:
        where, parameters = "1", {}
        settings = {"max_bytes_before_external_group_by": 300_000_000}
    else:
        where = "toDate(created_at) >= {day:Date} AND ingested_at >= {since:DateTime64(3, 'UTC')}"
        parameters = {"day": (since - timedelta(days=1)).date(), "since": since}
        settings = {}
    [row] = client.query(_CONTRACT.replace("{where}", where), parameters=parameters, settings=settings).result_rows
    return row
