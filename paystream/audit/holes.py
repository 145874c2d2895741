"""Look up in the broker what the offsets are that no ledger row accounts for."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
from confluent_kafka import Message

from paystream.broker import Broker, kafka_time

LOOKUP_MESSAGES = 3_000_000
"""How many messages one run reads from the broker to explain what has no row, about ten seconds' worth."""

SCAN_OFFSETS = 100_000
JOIN_OFFSETS = 5_000
"""Seeking elsewhere takes at least as long as reading on over this many messages, and is charged as such."""
EXAMPLES = 5

TOMBSTONE, EMPTY, CONTENT = range(3)


@dataclass(frozen=True, slots=True)
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


@dataclass
class Holes:
    """How many offsets have no row, by why.

    Attributes:
        tombstone: a message with a key and no value.
        empty: a message of no bytes.
        marker: nothing at that offset: a transaction's marker, an aborted transaction, or compacted away.
        expired: below the low watermark before it was read, as far as anyone can tell now.
        gone: below the low watermark, but not for want of a reader: it read the block around, or passed longer ago than
            the topic keeps anything. What it was, nobody can tell any more.
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
class Explained:
    """What the holes of one partition are. ``lost_examples``: some of the lost messages, as offset and time."""

    holes: Holes = field(default_factory=Holes)
    lost_examples: list[tuple[int, datetime]] = field(default_factory=list)


def explain(broker: Broker, gaps: Sequence[Gap], retention_ms: int | None) -> dict[int, Explained]:
    """Look the gaps' offsets up in the broker, the newest first, and say by partition what they are.

    Raises:
        ServiceUnavailable: the broker stops answering.
    """
    explained = {partition: Explained() for partition in broker.partitions}
    lows = {partition: broker.watermarks(partition)[0] for partition in {gap.partition for gap in gaps}}
    left = LOOKUP_MESSAGES
    for scan in scans(gaps):
        partition = scan[0].partition
        explanation = explained[partition]
        first, last = max(lows[partition], scan[0].first), max(gap.last for gap in scan)
        offsets, kinds, times, reached = _look_up(broker, partition, first, last, left)
        if reached > first:
            left -= max(len(offsets), JOIN_OFFSETS)
            # Again, since what is absent from the scan may have expired in the meantime.
            lows[partition] = broker.watermarks(partition)[0]
        low = lows[partition]
        for group in _overlapping(scan):
            gap = _joined(group, offsets, kinds)
            if gap.last >= max(reached, first):
                explanation.holes.unchecked += max(part.missing for part in group)
                continue
            here = slice(*np.searchsorted(offsets, [gap.first, gap.last + 1]))
            gone = gap.passed_at is not None and _is_past(gap.passed_at, retention_ms)
            holes = classify(gap, offsets[here], kinds[here], low, gone)
            explanation.holes.add(holes)
            if holes.lost and not gap.rows and len(explanation.lost_examples) < EXAMPLES:
                content = np.flatnonzero(kinds[here] == CONTENT)[: EXAMPLES - len(explanation.lost_examples)]
                explanation.lost_examples += [(int(offsets[here][at]), kafka_time(times[here][at])) for at in content]
    return explained


def classify(gap: Gap, offsets: np.ndarray, kinds: np.ndarray, low: int, gone: bool) -> Holes:
    """Say what the missing offsets of a gap are.

    Args:
        gap: the offsets in question.
        offsets: those of them at which the broker has a message.
        kinds: of each, TOMBSTONE, EMPTY or CONTENT.
        low: the low watermark after they were read.
        gone: the reader passed longer ago than the topic keeps anything.
    """
    # Within a block nothing was passed unread: the reader was there.
    gone = gone or gap.rows > 0
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


def scans(gaps: Iterable[Gap]) -> list[list[Gap]]:
    """Put gaps that overlap or lie close together into one scan of the log, and the newest scan first."""
    scanned: list[list[Gap]] = []
    reach = 0
    for gap in sorted(_cut(gaps), key=lambda gap: (gap.partition, gap.first)):
        scan = scanned[-1] if scanned and scanned[-1][0].partition == gap.partition else None
        near = scan and gap.first - reach < JOIN_OFFSETS and gap.last - scan[0].first < SCAN_OFFSETS
        if scan and (near or gap.first <= reach):
            scan.append(gap)
            reach = max(reach, gap.last)
        else:
            scanned.append([gap])
            reach = gap.last
    now = datetime.now(UTC)
    return sorted(scanned, key=lambda scan: max(gap.passed_at or now for gap in scan), reverse=True)


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
    rows = content(first, last) - max(0, *differences) + max(0, *(-difference for difference in differences))
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
