"""Where the topic ends, and how far the consumer group of the ClickHouse Kafka table has come."""

from collections.abc import Iterator
from contextlib import contextmanager

from paystream.broker import Broker, open_broker
from paystream.settings import Settings


class Topic:
    """The configured topic as a whole, read only: it joins no group and takes no message."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.partition_count = len(broker.partitions)

    def ends(self) -> list[int]:
        """Return the offset after the last message, by partition.

        Raises:
            ServiceUnavailable: the broker does not answer.
        """
        return [high for _, high in self._watermarks()]

    def lag(self) -> int:
        """Return how many offsets the group has yet to commit; all that the topic still has, if it never committed.

        Raises:
            ServiceUnavailable: the broker does not answer.
        """
        watermarks = self._watermarks()
        positions = self._positions(watermarks)
        return sum(max(0, end - position) for (_, end), position in zip(watermarks, positions, strict=True))

    def unread(self) -> int:
        """Return how many messages wait to be read, or for an open transaction, without what never becomes a row.

        Slower than ``lag``, which counts those too.

        Raises:
            ServiceUnavailable: the broker does not answer.
        """
        return sum(position.waiting for position in self._broker.positions())

    def has_read_to(self, ends: list[int]) -> bool:
        """Return whether the group has committed every message before these offsets, which is after storing it.

        Raises:
            ServiceUnavailable: the broker does not answer.
        """
        positions = self._positions(self._watermarks())
        return all(position >= end for position, end in zip(positions, ends, strict=True))

    def _positions(self, watermarks: list[tuple[int, int]]) -> list[int]:
        # What retention has removed can no longer be read.
        committed = self._broker.committed(self._broker.partitions)
        return [max(low, offset or 0) for (low, _), offset in zip(watermarks, committed, strict=True)]

    def _watermarks(self) -> list[tuple[int, int]]:
        return [self._broker.watermarks(partition) for partition in self._broker.partitions]


@contextmanager
def open_topic(settings: Settings) -> Iterator[Topic]:
    """Connect to the configured topic.

    Raises:
        ServiceUnavailable: no broker answers.
        UsageError: the topic does not exist.
    """
    with open_broker(settings) as broker:
        yield Topic(broker)
