"""Reconcile what the broker says the group has read with what the ledger says was read. Reads only."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import orjson
from clickhouse_connect.driver.client import Client
from confluent_kafka import Message

from paystream.broker import Broker, Position, open_broker, produced_at
from paystream.clickhouse import connect
from paystream.settings import Settings

LEDGER_KEPT = timedelta(days=90)
CLOCK_SLACK = timedelta(minutes=1)
CONTRACT_WINDOW = timedelta(minutes=5)

LOOKUP_MESSAGES = 1_000_000
"""How many messages one run reads from the broker to explain what has no row, a few seconds' worth."""

BLOCKS_AT_ONCE = 250_000
"""How many of the ledger's blocks one query puts in order: about 150 MB in ClickHouse."""

SCAN_OFFSETS = 100_000
JOIN_OFFSETS = 5_000
EXAMPLES = 5
DEEP_OFFSETS = 20_000_000
DEEP_BATCH = 10_000

TOMBSTONE, EMPTY, CONTENT = range(3)

# Rows of a deleted topic of the same name count the same offsets: a message at or after the low watermark cannot have
# been read before the oldest retained one was produced.
_OF_THIS_TOPIC = """
kafka_topic = {topic:String} AND kafka_partition = {partition:UInt32}
AND (last_offset < {low:UInt64} OR read_at >= {born:DateTime64(3, 'UTC')})
"""
_WINDOW = f"""
SELECT count(), min(first_offset), max(last_offset) FROM ingest_ledger
WHERE {_OF_THIS_TOPIC} AND read_at >= {{since:DateTime64(3, 'UTC')}}
"""
_EARLIER = f"{_OF_THIS_TOPIC} AND first_offset < {{first:UInt64}}"
# How far the blocks before reach. At least as far as the one that began last: with that as a lower bound, the skip
# index leaves the same few granules of a ledger of any length.
_BEFORE = f"""
SELECT count(), max(last_offset) FROM ingest_ledger
WHERE {_EARLIER} AND last_offset >=
(
    SELECT last_offset FROM ingest_ledger WHERE {_EARLIER}
    ORDER BY kafka_topic DESC, kafka_partition DESC, first_offset DESC LIMIT 1
)
"""
# `expected` is the offset after the furthest of all blocks before: a block that begins after it leaves a hole, one
# that begins before it was delivered again.
_BLOCKS = f"""
SELECT
    first_offset, last_offset, messages, refused, read_at,
    greatest({{start:UInt64}}, if(count() OVER earlier = 0, 0, max(last_offset) OVER earlier + 1)) AS expected,
    last_offset - first_offset + 1 AS span,
    toUInt64(greatest(0, toInt64(last_offset + 1) - toInt64(greatest(first_offset, expected)))) AS new
FROM
(
    SELECT * FROM ingest_ledger
    WHERE {_OF_THIS_TOPIC} AND first_offset >= {{first:UInt64}} AND first_offset < {{end:UInt64}}
    ORDER BY kafka_topic, kafka_partition, first_offset LIMIT {{most:UInt64}} WITH TIES
)
WINDOW earlier AS (ORDER BY first_offset ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
"""
_INTERVALS = f"""
SELECT
    count(),
    sum(messages),
    sum(refused),
    sum(span) - sum(new),
    max(first_offset),
    if(count() = 0, 0, max(last_offset) + 1),  -- as max(last_offset + 1) the engine makes 1 of no rows at all
    groupArrayIf((expected, first_offset - 1, toUInt64(0), toUnixTimestamp64Milli(read_at)), first_offset > expected),
    groupArrayIf(
        (first_offset, last_offset, messages, toUnixTimestamp64Milli(read_at)),
        messages < span AND last_offset < {{end:UInt64}}
    )
FROM ({_BLOCKS})
"""
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


@dataclass(frozen=True)
class Gap:
    """Offsets of which fewer were stored than there are: between two blocks (``rows`` is 0) or within one.

    Attributes:
        rows: how many of the offsets were stored.
        passed_at: when the reader passed them; None while it is not known to have.
    """

    partition: int
    first: int
    last: int
    rows: int
    passed_at: datetime | None

    @property
    def missing(self) -> int:
        return self.last - self.first + 1 - self.rows


@dataclass(frozen=True)
class Intervals:
    """The union of a partition's ledger rows, from ``start`` to the block that holds the last committed offset.

    Attributes:
        redelivered: offsets read again, each as often as it was.
        end: the offset after the last block.
        gaps: what the blocks leave out, between them and within them.
    """

    blocks: int
    messages: int
    refused: int
    redelivered: int
    end: int
    gaps: list[Gap]


@dataclass
class Holes:
    """How many offsets have no row, by why.

    Attributes:
        tombstone: a message with a key and no value.
        empty: a message of no bytes.
        marker: nothing at that offset: a transaction's marker, an aborted transaction, or compacted away.
        expired: below the low watermark before it was read, as far as anyone can tell now.
        gone: below the low watermark, and passed longer ago than the topic keeps anything: nobody can tell any more.
        lost: a message with content that no row accounts for.
        unchecked: not looked up, since that would have taken more than ``LOOKUP_MESSAGES``.
    """

    tombstone: int = 0
    empty: int = 0
    marker: int = 0
    expired: int = 0
    gone: int = 0
    lost: int = 0
    unchecked: int = 0

    def add(self, other: "Holes") -> None:
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


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
    """
    since = datetime.now(UTC) - window
    with open_broker(settings) as broker, connect(settings) as client:
        retention_ms = broker.retention_ms()
        found, gaps = [], []
        for partition in broker.partitions:
            one, its_gaps = _reconcile(settings, broker, client, partition, since, retention_ms)
            found.append(one)
            gaps += its_gaps
        by_partition = {one.partition: one for one in found}
        _explain(broker, gaps, by_partition, retention_ms)
        if deep:
            for one in found:
                if not one.recreated:
                    _compare_rows(settings, broker, client, one)
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


def blocks_since(client: Client, since: datetime, scope: dict[str, Any]) -> tuple[int, int, int]:
    """Return how many blocks were read since a moment, the first offset of any and the last of any."""
    [[blocks, first, last]] = client.query(_WINDOW, parameters=scope | {"since": since}).result_rows
    return (blocks, first, last) if blocks else (0, 2**63, 0)


def reach_before(client: Client, first: int, scope: dict[str, Any]) -> int | None:
    """Return the offset after the furthest of the blocks that begin before ``first``; None when none does."""
    [[blocks, last]] = client.query(_BEFORE, parameters=scope | {"first": first}).result_rows
    return last + 1 if blocks else None


def intervals(
    client: Client, start: int, first: int, end: int, scope: dict[str, Any], at_once: int = BLOCKS_AT_ONCE
) -> Intervals:
    """Return the union of the ledger's blocks that begin in ``first`` .. ``end - 1``, and what it leaves out.

    Args:
        client: a connection to the database.
        start: what lies before it is not a hole, and what lies before it again is a redelivery.
        first: the lowest ``first_offset`` to look at.
        end: a block that reaches it is not committed yet, so its own holes do not count.
        scope: the parameters topic, partition, low and born, which say whose rows count.
        at_once: how many blocks to take in one query; what they reach is the next one's start.
    """
    blocks = messages = refused = redelivered = 0
    reached, gaps = start, []
    while first < end:
        parameters = scope | {"start": reached, "first": first, "end": end, "most": at_once}
        [row] = client.query(_INTERVALS, parameters=parameters).result_rows
        here, its_messages, its_refused, its_redelivered, last_begun, its_end, between, within = row
        blocks, messages = blocks + here, messages + its_messages
        refused, redelivered = refused + its_refused, redelivered + its_redelivered
        reached = max(reached, its_end)
        gaps += [
            Gap(scope["partition"], low, min(high, end - 1), rows, datetime.fromtimestamp(passed / 1000, UTC))
            for low, high, rows, passed in [*between, *within]
        ]
        if here < at_once:
            break
        first = last_begun + 1
    if reached < end:
        gaps.append(Gap(scope["partition"], reached, end - 1, 0, None))
    return Intervals(blocks, messages, refused, redelivered, reached, gaps)


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
    scope = {
        "topic": settings.kafka_topic,
        "partition": partition,
        "low": position.low,
        "born": (position.oldest_at or datetime.fromtimestamp(0, UTC) + CLOCK_SLACK) - CLOCK_SLACK,
    }
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


def _explain(broker: Broker, gaps: list[Gap], audits: dict[int, PartitionAudit], retention_ms: int | None) -> None:
    """Look the gaps' offsets up in the broker, the newest first, and add what they are to their partitions."""
    left = LOOKUP_MESSAGES
    for scan in _scans(gaps):
        partition = scan[0].partition
        one = audits[partition]
        first, last = max(one.low, scan[0].first), max(gap.last for gap in scan)
        offsets, kinds, times, reached = _look_up(broker, partition, first, last, left)
        left -= len(offsets)
        low = broker.watermarks(partition)[0]
        for group in _overlapping(scan):
            gap = _joined(group, offsets, kinds)
            if gap.last >= max(reached, first):
                one.holes.unchecked += max(part.missing for part in group)
                continue
            here = slice(*np.searchsorted(offsets, [gap.first, gap.last + 1]))
            gone = gap.passed_at is not None and _is_past(gap.passed_at, retention_ms)
            holes = classify(gap, offsets[here], kinds[here], low, gone)
            one.holes.add(holes)
            if holes.lost and not gap.rows and len(one.lost_examples) < EXAMPLES:
                content = np.flatnonzero(kinds[here] == CONTENT)[: EXAMPLES - len(one.lost_examples)]
                one.lost_examples += [(int(offsets[here][at]), _moment(times[here][at])) for at in content]


def classify(gap: Gap, offsets: np.ndarray, kinds: np.ndarray, low: int, gone: bool) -> Holes:
    """Say what the missing offsets of a gap are.

    Args:
        gap: the offsets in question.
        offsets: those of them at which the broker has a message.
        kinds: of each, TOMBSTONE, EMPTY or CONTENT.
        low: the low watermark after they were read.
        gone: the reader passed longer ago than the topic keeps anything.
    """
    content = int(np.count_nonzero(kinds == CONTENT))
    absent_below = max(0, min(gap.last + 1, low) - gap.first) - int(np.count_nonzero(offsets < low))
    absent = gap.last - gap.first + 1 - len(offsets)
    # What was stored and has left the log since is accounted for, and is likeliest to be what expired.
    left_since = max(0, gap.rows - content)
    below = max(0, absent_below - left_since)
    marker = absent - absent_below - max(0, left_since - absent_below)
    return Holes(
        tombstone=int(np.count_nonzero(kinds == TOMBSTONE)),
        empty=int(np.count_nonzero(kinds == EMPTY)),
        marker=marker,
        expired=0 if gone else below,
        gone=below if gone else 0,
        lost=max(0, content - gap.rows),
    )


def _is_past(moment: datetime, retention_ms: int | None) -> bool:
    return retention_ms is not None and datetime.now(UTC) - moment > timedelta(milliseconds=retention_ms)


def _scans(gaps: Iterable[Gap]) -> list[list[Gap]]:
    """Put gaps that overlap or lie close together into one scan of the log, and the newest scan first."""
    scans: list[list[Gap]] = []
    reach = 0
    for gap in sorted(_cut(gaps), key=lambda gap: (gap.partition, gap.first)):
        scan = scans[-1] if scans and scans[-1][0].partition == gap.partition else None
        near = scan and gap.first - reach < JOIN_OFFSETS and gap.last - scan[0].first < SCAN_OFFSETS
        if scan and (near or gap.first <= reach):
            scan.append(gap)
            reach = max(reach, gap.last)
        else:
            scans.append([gap])
            reach = gap.last
    now = datetime.now(UTC)
    return sorted(scans, key=lambda scan: max(gap.passed_at or now for gap in scan), reverse=True)


def _cut(gaps: Iterable[Gap]) -> Iterator[Gap]:
    """Cut long holes between blocks; a block stays whole, since only the count of its rows is known."""
    for gap in gaps:
        if gap.rows:
            yield gap
            continue
        for first in range(gap.first, gap.last + 1, SCAN_OFFSETS):
            yield Gap(gap.partition, first, min(gap.last, first + SCAN_OFFSETS - 1), 0, gap.passed_at)


def _overlapping(scan: list[Gap]) -> list[list[Gap]]:
    """Group the gaps that share offsets: blocks with holes that were delivered again."""
    groups: list[list[Gap]] = []
    reach = -1
    for gap in scan:
        if gap.first <= reach:
            groups[-1].append(gap)
        else:
            groups.append([gap])
        reach = max(reach, gap.last)
    return groups


def _joined(group: list[Gap], offsets: np.ndarray, kinds: np.ndarray) -> Gap:
    """Make one gap of overlapping ones, so that a hole in several counts once.

    Each block alone says how many messages it lacks, since the broker has said how many it should have; the one that
    lacks most speaks for all.
    """
    if len(group) == 1:
        return group[0]

    def content(first: int, last: int) -> int:
        low, high = np.searchsorted(offsets, [first, last + 1])
        return int(np.count_nonzero(kinds[low:high] == CONTENT))

    differences = [content(gap.first, gap.last) - gap.rows for gap in group]
    first, last = group[0].first, max(gap.last for gap in group)
    rows = content(first, last) - max(0, *differences) + max(0, *(-one for one in differences))
    return Gap(
        group[0].partition, first, last, rows, max((gap.passed_at for gap in group if gap.passed_at), default=None)
    )


def _look_up(
    broker: Broker, partition: int, first: int, last: int, limit: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Read a range: offsets found, what each is, when it was produced; and the offset after the range looked at."""
    offsets: list[int] = []
    kinds: list[int] = []
    times: list[int] = []
    reached = last + 1
    if limit <= 0:
        reached = first
    elif first <= last:
        for batch in broker.read(partition, first, last):
            offsets += [message.offset() for message in batch]
            kinds += [_kind(message) for message in batch]
            times += [message.timestamp()[1] for message in batch]
            if len(offsets) >= limit and offsets[-1] < last:
                reached = offsets[-1] + 1
                break
    return np.array(offsets, dtype=np.int64), np.array(kinds, dtype=np.int8), np.array(times, dtype=np.int64), reached


def _kind(message: Message) -> int:
    value = message.value()
    return TOMBSTONE if value is None else CONTENT if value else EMPTY


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(max(0, int(milliseconds)) / 1000, UTC)


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


# --deep: the rows themselves

_STORED = """
SELECT kafka_offset FROM {table}
WHERE kafka_topic = {{topic:String}} AND kafka_partition = {{partition:UInt32}}
  AND kafka_offset >= {{first:UInt64}} AND kafka_offset < {{end:UInt64}}
  AND kafka_timestamp >= {{born:DateTime64(3, 'UTC')}}
"""
# A merge replaces a row by one of the same sorting key only, so the row that did is found by that key.
_REPLACED = """
WITH messages AS
(
    SELECT
        message.1 AS number,
        toUUIDOrNull(message.2) AS transaction_id,
        toUInt32OrNull(message.3) AS merchant_id,
        parseDateTime64BestEffortOrNull(upper(message.4), 6, 'UTC') AS created_at,
        parseDateTime64BestEffortOrNull(upper(message.5), 6, 'UTC') AS updated_at
    FROM
    (
        SELECT arrayJoin(
            arrayZip(range(toUInt32(%(count)s)), %(ids)s, %(merchants)s, %(created)s, %(updated)s)
        ) AS message
    )
)
SELECT DISTINCT number
FROM messages
INNER JOIN
(
    SELECT transaction_id, merchant_id, created_at, max(updated_at) AS newest
    FROM transactions
    WHERE toDate(created_at) IN (SELECT toDate(created_at) FROM messages)
      AND transaction_id IN (SELECT transaction_id FROM messages)
    GROUP BY transaction_id, merchant_id, created_at
) AS stored USING (transaction_id, merchant_id, created_at)
WHERE newest >= updated_at
"""
_FIELDS = ("transaction_id", "merchant_id", "created_at", "updated_at")


def _compare_rows(settings: Settings, broker: Broker, client: Client, one: PartitionAudit) -> None:
    """Find a row, or the row that replaced it, for every retained message that the group has read."""
    one.absent_rows = one.superseded_rows = 0
    low, _ = broker.watermarks(one.partition)
    oldest = broker.position(one.partition).oldest_at or datetime.fromtimestamp(0, UTC)
    end = max(one.low, one.committed or 0)
    for first in range(max(one.start, low), end, DEEP_OFFSETS):
        last = min(end, first + DEEP_OFFSETS) - 1
        present = np.zeros(last - first + 1, dtype=bool)
        parameters = {
            "topic": settings.kafka_topic,
            "partition": one.partition,
            "first": first,
            "end": last + 1,
            "born": oldest - CLOCK_SLACK,
        }
        for table in ("transactions", "quarantine"):
            with client.query_column_block_stream(_STORED.format(table=table), parameters=parameters) as blocks:
                for [offsets] in blocks:
                    present[np.asarray(offsets, dtype=np.int64) - first] = True
        missing = (Gap(one.partition, first + start, first + stop - 1, 0, None) for start, stop in _runs(~present))
        for scan in _scans(missing):
            for batch in broker.read(one.partition, scan[0].first, scan[-1].last):
                without = [m for m in batch if m.value() and not present[m.offset() - first]]
                for at in range(0, len(without), DEEP_BATCH):
                    some = without[at : at + DEEP_BATCH]
                    replaced = _replaced(client, some)
                    one.superseded_rows += len(replaced)
                    one.absent_rows += len(some) - len(replaced)
                    absent = (m for number, m in enumerate(some) if number not in replaced)
                    for message in absent:
                        if len(one.absent_examples) == EXAMPLES:
                            break
                        one.absent_examples.append((message.offset(), produced_at(message)))


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """Return the runs of true values, each as its first index and the one after its last."""
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _replaced(client: Client, messages: Sequence[Message]) -> set[int]:
    """Return the numbers of the messages whose transaction is stored in the same state or a later one."""
    columns = list(zip(*(_texts(message.value()) for message in messages), strict=True))
    names = ("ids", "merchants", "created", "updated")
    parameters = {"count": len(messages)} | {name: list(column) for name, column in zip(names, columns, strict=True)}
    rows = client.query(_REPLACED, parameters=parameters, settings={"max_query_size": 100_000_000}).result_rows
    return {number for (number,) in rows}


def _texts(value: bytes) -> list[str]:
    try:
        fields = orjson.loads(value)
    except orjson.JSONDecodeError:
        fields = None
    return [str(fields.get(name, "")) for name in _FIELDS] if isinstance(fields, dict) else [""] * len(_FIELDS)
