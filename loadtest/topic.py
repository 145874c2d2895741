"""Where the topic ends, and how far the consumer groups of the ClickHouse Kafka tables have come: one for each set."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from paystream.broker import Broker, open_broker
from paystream.nodes import find
from paystream.settings import Settings


class Topic:
    """The configured topic as a whole, read only: it joins no group and takes no message."""

    def __init__(self, groups: Sequence[Broker]) -> None:
        """Look through these connections, each with a consumer group of its own."""
        self._groups = groups
        self._broker = groups[0]
        self.partition_count = len(self._broker.partitions)

    def ends(self) -> list[int]:
        """Return the offset after the last message, by partition.

        Raises:
            ServiceUnavailable: the broker does not answer.
        """
        return [high for _, high in self._watermarks()]

    def lag(self) -> int:
        """Return how many offsets a group has yet to commit, the one that has most: all that the topic still has, if it
        never committed.

        Raises:
            ServiceUnavailable: the broker does not answer.
        """
        watermarks = self._watermarks()
        return max(
            sum(max(0, end - position) for (_, end), position in zip(watermarks, positions, strict=True))
            for positions in self._positions(watermarks)
        )

    def unread(self) -> int:
        """Return how many messages wait to be read, or for an open transaction, without what never becomes a row.

        Slower than ``lag``, which counts those too.

        Raises:
            ServiceUnavailable: the broker does not answer.
        """
        return max(sum(position.waiting for position in group.positions()) for group in self._groups)

    def has_read_to(self, ends: list[int]) -> bool:
        """Return whether every group has committed every message before these offsets, which is after storing it.

        Raises:
            ServiceUnavailable: the broker does not answer.
        """
        return all(
            position >= end
            for positions in self._positions(self._watermarks())
            for position, end in zip(positions, ends, strict=True)
        )

    def _positions(self, watermarks: list[tuple[int, int]]) -> list[list[int]]:
        """Return how far each group has come, by partition."""
        # What retention has removed can no longer be read.
        return [
            [max(low, offset or 0) for (low, _), offset in zip(watermarks, committed, strict=True)]
            for committed in (group.committed(group.partitions) for group in self._groups)
        ]

    def _watermarks(self) -> list[tuple[int, int]]:
        return [self._broker.watermarks(partition) for partition in self._broker.partitions]


@contextmanager
def open_topic(settings: Settings) -> Iterator[Topic]:
    """Connect to the configured topic, as the group of each set of nodes.

    Raises:
        ServiceUnavailable: no broker answers, or no node.
        UsageError: the topic does not exist.
    """
    with ExitStack() as connections:
        yield Topic([connections.enter_context(open_broker(node.settings)) for node in find(settings).first_of_sets()])
