"""What the audit concludes from what it found, and how long it looks things up, without a broker."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paystream.audit import holes as lookups
from paystream.audit.command import _advice
from paystream.audit.deep import _near
from paystream.audit.holes import JOIN_OFFSETS, SCAN_OFFSETS, Gap, explain
from paystream.audit.ledger import Block
from paystream.audit.reconcile import Audit, PartitionAudit, _is_of_another_topic, headroom_hours
from paystream.broker import Position, Retention

NOW = datetime.now(UTC)


@dataclass(frozen=True)
class Message:
    at: int
    content: bytes | None = b"{}"
    time_ms: int = 1_000

    def offset(self) -> int:
        return self.at

    def value(self) -> bytes | None:
        return self.content

    def timestamp(self) -> tuple[int, int]:
        return 1, self.time_ms


class Log:
    """A partition in memory. Counts how often it is read from."""

    partitions = (0,)

    def __init__(self, *messages: Message, end: int) -> None:
        self._messages = {message.at: message for message in messages}
        self._end = end
        self.reads = 0

    def watermarks(self, partition: int) -> tuple[int, int]:
        return 0, self._end

    def read(self, partition, first, last, batch_size=5_000):
        self.reads += 1
        messages = [self._messages[at] for at in range(first, min(last + 1, self._end)) if at in self._messages]
        for begin in range(0, len(messages), batch_size):
            yield messages[begin : begin + batch_size]


def position(low: int = 0, oldest_h: float = 2, unread_h: float | None = None) -> Position:
    now = datetime.now(UTC)
    unread_at = None if unread_h is None else now - timedelta(hours=unread_h)
    return Position(0, low, 1_000, 1_000, 900, 900, now - timedelta(hours=oldest_h), unread_at)


def audited(*partitions: PartitionAudit) -> Audit:
    return Audit("transactions", NOW, None, list(partitions), 0, 0, "")


def test_a_group_without_offsets_leaves_the_audit_incomplete_and_says_what_to_do() -> None:
    fine = PartitionAudit(0, 0, 10, 10, 0)
    fresh = PartitionAudit(1, 0, 10, None, 0)
    assert audited(fine, fresh).verdict == "complete"
    result = audited(fine, PartitionAudit(1, 0, 10, None, 0, uncommitted=True))
    assert result.verdict == "incomplete"
    [advice] = _advice(result)
    assert "Partition 1" in advice and "PAYSTREAM_KAFKA_GROUP" in advice


@pytest.mark.parametrize(
    ("retention", "at", "hours"),
    [
        (Retention(None, False), {"low": 5}, None),
        (Retention(86_400_000, False), {"low": 5}, 24),
        (Retention(86_400_000, False), {"low": 5, "unread_h": 4}, 20),
        (Retention(86_400_000, True), {"low": 5, "oldest_h": 2}, 2),
        (Retention(86_400_000, True), {"low": 5, "oldest_h": 2, "unread_h": 1.5}, 0.5),
        (Retention(86_400_000, True), {"low": 5, "oldest_h": 24, "unread_h": 20}, 4),
        (Retention(None, True), {"low": 5, "oldest_h": 2}, 2),
        # Nothing was ever removed: the limit is not reached.
        (Retention(86_400_000, True), {"low": 0, "oldest_h": 2}, 24),
        (Retention(None, True), {"low": 0}, None),
    ],
)
def test_headroom_is_what_time_and_size_leave(retention: Retention, at: dict, hours: float | None) -> None:
    assert headroom_hours(position(**at), retention) == (hours if hours is None else pytest.approx(hours, abs=0.01))


def test_a_block_is_of_another_topic_if_what_stands_in_its_place_is_newer_than_all_it_had() -> None:
    block = Block(10, 12, 5_000, NOW)

    def another(*messages: Message) -> bool:
        return _is_of_another_topic(Log(*messages, end=50), position(), block)

    assert not another(Message(10, time_ms=5_000), Message(11, time_ms=4_000))
    # Whatever the clock of the producer said, the ledger has heard it too.
    assert not another(Message(9, time_ms=9_000_000_000_000), Message(10, time_ms=-1))
    assert another(Message(10, time_ms=5_001))
    # Tombstones are in no block, and what is no longer there says nothing.
    assert not another(Message(10, None, time_ms=9_000), Message(12, time_ms=5_000))
    assert another(Message(10, None, time_ms=1), Message(11, b"", time_ms=1), Message(12, time_ms=5_001))
    assert not another(Message(13, time_ms=9_000))


def test_many_single_holes_far_apart_are_looked_up_no_longer_than_a_long_one(monkeypatch) -> None:
    monkeypatch.setattr(lookups, "LOOKUP_MESSAGES", 10 * JOIN_OFFSETS)
    apart = JOIN_OFFSETS + 1
    holes = [Gap(0, number * apart, number * apart, 0, NOW + timedelta(seconds=number)) for number in range(100)]
    log = Log(*[Message(hole.first, None) for hole in holes], end=100 * apart)
    explained = explain(log, holes, None)[0].holes
    assert (log.reads, explained.tombstone, explained.unchecked) == (10, 10, 90)


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(1, 5_000))
def test_what_is_to_be_read_is_covered_once(missing: list[bool], apart: int) -> None:
    mask = np.zeros(len(missing) * apart, dtype=bool)
    mask[::apart] = missing
    covered = np.zeros(len(mask), dtype=int)
    for low, high in _near(mask):
        assert mask[low] and mask[high] and high - low < SCAN_OFFSETS
        covered[low : high + 1] += 1
    assert (covered[mask] == 1).all() and covered.max() <= 1


def test_every_second_offset_missing_takes_one_reading_of_the_log_per_stretch() -> None:
    mask = np.zeros(10 * SCAN_OFFSETS, dtype=bool)
    mask[::2] = True
    assert len(list(_near(mask))) == 10
