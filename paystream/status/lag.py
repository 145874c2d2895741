"""What the broker holds that the consumer group has not read."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from paystream.audit.reconcile import headroom_hours
from paystream.broker import Broker, Position, Retention

RETENTION_TIMEOUT_S = 2
"""The stand-in broker never answers this one."""

CLOCK_TOLERANCE = timedelta(seconds=5)
"""How far apart the clocks of sound machines may be."""

OLDEST = timedelta(days=365)
"""An older time is taken for wrong: a producer that counts in seconds stamps January 1970. Also in ledger_mv.sql."""


@dataclass(frozen=True)
class PartitionLag:
    """What is unread of one partition.

    Attributes:
        messages: offsets from the first that is not read and holds, or may come to hold, a payment, to the end of the
            log; transaction markers and what has no content count among them.
        blocked: those of them that are handed to nobody until a transaction ends; its own count among them.
        blocked_from: the offset of the first message of that transaction; None when none is open.
        seconds: how long the oldest unread message has waited, by its Kafka timestamp and this machine's clock.
        is_dated: whether that timestamp is there, less than a year old, and not ahead of this machine's clock.
        overdue: how many have waited longer than the objective allows.
        expired: offsets that retention removed before the group read them.
        expires_s: how long the oldest unread message is still kept, or one that arrives now; None: forever, or the
            broker does not tell.
    """

    partition: int
    messages: int
    seconds: float
    overdue: int
    expired: int
    expires_s: float | None
    is_dated: bool = True
    blocked: int = 0
    blocked_from: int | None = None

    @property
    def waits_for_transaction(self) -> bool:
        """Whether all that could be read was read."""
        return 0 < self.messages == self.blocked


def partition_lags(broker: Broker, overdue_after: timedelta) -> list[PartitionLag]:
    """Return what is unread of each partition of the topic. Takes no message from the group.

    Raises:
        ServiceUnavailable: the broker does not answer.
    """
    retention = broker.retention(RETENTION_TIMEOUT_S)
    return [_lag(broker, partition, retention, overdue_after) for partition in broker.partitions]


def _lag(broker: Broker, partition: int, retention: Retention, overdue_after: timedelta) -> PartitionLag:
    position = broker.position(partition, with_oldest=retention.by_size)
    now = datetime.now(UTC)
    is_dated = not position.unread_at or now - OLDEST < position.unread_at <= now + CLOCK_TOLERANCE
    waited = max(now - position.unread_at, timedelta(0)) if position.unread_at and is_dated else timedelta(0)
    overdue = broker.first_offset_since(partition, now - overdue_after) if waited > overdue_after else 0
    kept_hours = headroom_hours(position, retention)
    return PartitionLag(
        partition,
        messages=position.waiting,
        seconds=waited.total_seconds(),
        overdue=max(0, overdue - position.unread),
        expired=_expired(position),
        # A message without a time is kept as long as the newest one of its segment: no reason to wake anybody.
        expires_s=None if kept_hours is None or not is_dated else kept_hours * 3600,
        is_dated=is_dated,
        blocked=position.blocked,
        blocked_from=position.stable if position.blocked else None,
    )


def _expired(position: Position) -> int:
    """Return how many offsets retention removed before the group read them; a last one alone is a transaction marker's,
    which the group has no reason to pass."""
    if position.committed is None:
        return 0
    gap = max(0, position.low - position.committed)
    return 0 if gap == 1 and position.low == position.high else gap
