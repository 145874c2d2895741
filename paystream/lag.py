"""What the broker holds that the consumer group has not read."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from paystream.audit import headroom_hours
from paystream.broker import Broker, Retention

RETENTION_TIMEOUT_S = 2
"""The stand-in broker never answers this one."""


@dataclass(frozen=True)
class PartitionLag:
    """What is unread of one partition.

    Attributes:
        messages: offsets that are retained and not read; transaction markers count among them.
        seconds: how long the oldest unread message has waited, by its Kafka timestamp and this machine's clock.
        overdue: how many have waited longer than the objective allows.
        expired: offsets that retention removed before the group read them.
        expires_s: how long the oldest unread message is still kept, or one that arrives now; None: for ever, or the
            broker does not tell.
    """

    partition: int
    messages: int
    seconds: float
    overdue: int
    expired: int
    expires_s: float | None


def partition_lags(broker: Broker, overdue_after: timedelta) -> list[PartitionLag]:
    """Return what is unread of each partition of the topic. Takes no message from the group.

    Raises:
        ServiceUnavailable: the broker does not answer.
    """
    retention = broker.retention(RETENTION_TIMEOUT_S)
    return [_lag(broker, partition, retention, overdue_after) for partition in broker.partitions]


def _lag(broker: Broker, partition: int, retention: Retention, overdue_after: timedelta) -> PartitionLag:
    position = broker.position(partition)
    now = datetime.now(UTC)
    waited = max(now - position.unread_at, timedelta(0)) if position.unread_at else timedelta(0)
    overdue = broker.first_offset_since(partition, now - overdue_after) if waited > overdue_after else 0
    kept_hours = headroom_hours(position, retention)
    return PartitionLag(
        partition,
        messages=max(0, position.high - position.reader),
        seconds=waited.total_seconds(),
        overdue=max(0, overdue - position.reader),
        expired=0 if position.committed is None else max(0, position.low - position.committed),
        expires_s=None if kept_hours is None else kept_hours * 3600,
    )
