"""What the broker holds that the consumer group has not read."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from paystream.broker import Broker, kafka_time


@dataclass(frozen=True)
class PartitionLag:
    """What is unread of one partition.

    Attributes:
        messages: offsets that are retained and not read; transaction markers count among them.
        seconds: how long the oldest unread message has waited, by its Kafka timestamp and this machine's clock.
        overdue: how many have waited longer than the objective allows.
        expired: offsets that retention removed before the group read them.
    """

    partition: int
    messages: int
    seconds: float
    overdue: int
    expired: int


def partition_lags(broker: Broker, overdue_after: timedelta) -> list[PartitionLag]:
    """Return what is unread of each partition of the topic. Takes no message from the group.

    Raises:
        ServiceUnavailable: the broker does not answer.
    """
    # Committed offsets first, so that no watermark is older than them.
    committed = broker.committed(broker.partitions)
    return [_lag(broker, *place, overdue_after) for place in zip(broker.partitions, committed, strict=True)]


def _lag(broker: Broker, partition: int, committed: int | None, overdue_after: timedelta) -> PartitionLag:
    low, high = broker.watermarks(partition)
    reader = max(low, committed or 0)
    expired = 0 if committed is None else max(0, low - committed)
    oldest = next((b[0] for b in broker.read(partition, reader, high - 1, 1)), None) if reader < high else None
    if oldest is None:
        return PartitionLag(partition, max(0, high - reader), 0.0, 0, expired)
    seconds = max(0.0, time.time() - kafka_time(oldest.timestamp()[1]).timestamp())
    overdue = 0
    if seconds > overdue_after.total_seconds():
        overdue = broker.first_offset_since(partition, datetime.now(UTC) - overdue_after) - reader
    return PartitionLag(partition, high - reader, seconds, max(0, overdue), expired)
