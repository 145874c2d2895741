"""What the broker knows of the topic: watermarks, committed offsets, retention, and the messages at given offsets."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from paystream.kafka import answering, client_config, existing_partitions
from paystream.settings import Settings

TIMEOUT_S = 10
BATCH = 5_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST_MS = 253_402_300_799_999  # the end of the year 9999

_READER = {
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    # As the Kafka engine reads, so that an aborted transaction's messages are absent here as they are there.
    "isolation.level": "read_committed",
    "auto.offset.reset": "earliest",
    "check.crcs": False,
    "fetch.wait.max.ms": 10,
    # Not the default of a second, which a scan would spend after each 20,000 messages.
    "fetch.queue.backoff.ms": 10,
    # Enough ahead to keep a scan going, and not the default of 64 MB before each look at a single offset.
    "queued.min.messages": 20_000,
    "queued.max.messages.kbytes": 16_384,
    "log_level": 0,
}


@dataclass(frozen=True)
class Retention:
    """How long the topic keeps a message.

    Attributes:
        milliseconds: its ``retention.ms``; None when time alone removes nothing, or the broker does not tell.
        by_size: whether a partition that has grown large enough (``retention.bytes``) loses messages before that.
    """

    milliseconds: int | None
    by_size: bool


@dataclass(frozen=True)
class Position:
    """Where one partition begins and ends, and how far the consumer group has come.

    Attributes:
        low: the oldest offset that is retained.
        high: the offset after the last message that a reader may see.
        committed: the next offset the group will read, or None where it has committed nothing.
        oldest_at: when the oldest retained message was produced; None when the partition is empty.
        unread_at: when the oldest message that the group has not read was produced; None when it has read all.
    """

    partition: int
    low: int
    high: int
    committed: int | None
    oldest_at: datetime | None
    unread_at: datetime | None

    @property
    def reader(self) -> int:
        """Return the next offset that the group will get: what retention removed is nobody's to read."""
        return max(self.low, self.committed or 0)


class Broker:
    """The configured topic, read only: it joins no group, commits nothing and takes no message from anyone."""

    def __init__(self, settings: Settings, partitions: list[int], consumer: Consumer) -> None:
        self._settings = settings
        self._consumer = consumer
        self.partitions = partitions

    def position(self, partition: int, with_oldest: bool = True) -> Position:
        """Return where a partition begins and ends and how far the group has come.

        Args:
            partition: its number.
            with_oldest: whether to read when the oldest retained message was produced, which takes a round trip more.

        Raises:
            ServiceUnavailable: the broker does not answer.
        """
        # First, so that low and high are never older than what was read.
        [committed] = self.committed([partition])
        low, high = self.watermarks(partition)
        return Position(
            partition,
            low,
            high,
            committed,
            oldest_at=self._produced_at(partition, low, high) if with_oldest else None,
            unread_at=self._produced_at(partition, max(low, committed or 0), high),
        )

    def committed(self, partitions: list[int]) -> list[int | None]:
        """Return the next offset that the group will read of each partition, None where it has committed nothing.

        Raises:
            ServiceUnavailable: the broker does not answer.
        """
        with answering(self._settings):
            found = self._consumer.committed([self._place(partition) for partition in partitions], timeout=TIMEOUT_S)
            for one in found:
                if one.error:
                    raise KafkaException(one.error)
        return [one.offset if one.offset >= 0 else None for one in found]

    def watermarks(self, partition: int) -> tuple[int, int]:
        """Return the oldest retained offset and the one after the last message.

        Raises:
            ServiceUnavailable: the broker does not answer.
        """
        with answering(self._settings):
            return self._consumer.get_watermark_offsets(self._place(partition), timeout=TIMEOUT_S)

    def first_offset_since(self, partition: int, moment: datetime) -> int:
        """Return the first offset whose message was produced at or after a moment; the end when there is none.

        Raises:
            ServiceUnavailable: the broker does not answer.
        """
        with answering(self._settings):
            wanted = self._place(partition, int(moment.timestamp() * 1000))
            [found] = self._consumer.offsets_for_times([wanted], timeout=TIMEOUT_S)
        return found.offset if found.offset >= 0 else self.watermarks(partition)[1]

    def retention(self, timeout_s: float = TIMEOUT_S) -> Retention:
        """Return how long the topic keeps a message; not known when the broker does not tell in time.

        A topic that is compacted and not also deleted from keeps its messages for ever.
        """
        admin = AdminClient(client_config(self._settings) | {"log_level": 0})
        resource = ConfigResource(ResourceType.TOPIC, self._settings.kafka_topic)
        try:
            config = admin.describe_configs([resource], request_timeout=timeout_s)[resource].result(timeout_s + 1)
        except (KafkaException, TimeoutError):
            return Retention(None, False)
        if "cleanup.policy" in config and "delete" not in config["cleanup.policy"].value:
            return Retention(None, False)
        milliseconds, size = (
            int(config[name].value) if name in config else -1 for name in ("retention.ms", "retention.bytes")
        )
        return Retention(milliseconds if milliseconds >= 0 else None, size >= 0)

    def read(self, partition: int, first: int, last: int, batch_size: int = BATCH) -> Iterator[list[Message]]:
        """Read the messages with offsets from ``first`` to ``last``, in batches, in order.

        Ends when it has passed ``last`` or reached the partition's end. Offsets that never come are not in the log:
        transaction markers, messages of aborted transactions, and what compaction or retention has removed.

        Raises:
            ServiceUnavailable: the broker sent nothing for ``TIMEOUT_S`` seconds.
        """
        with answering(self._settings):
            self._consumer.assign([self._place(partition, first)])
            heard = time.monotonic()
            while True:
                # No more than there can be, since the call waits for as many as it is asked for.
                batch = self._consumer.consume(min(batch_size, last - first + 2), timeout=0.2)
                wanted = []
                for message in batch:
                    if error := message.error():
                        if error.code() == KafkaError._PARTITION_EOF:
                            if wanted:
                                yield wanted
                            return
                        if error.fatal() or not error.retriable():
                            raise KafkaException(error)
                        continue
                    if message.offset() > last:
                        if wanted:
                            yield wanted
                        return
                    wanted.append(message)
                if wanted:
                    heard = time.monotonic()
                    yield wanted
                    if wanted[-1].offset() == last:
                        return
                elif time.monotonic() - heard > TIMEOUT_S:
                    raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"no message for {TIMEOUT_S} s"))

    def _produced_at(self, partition: int, offset: int, high: int) -> datetime | None:
        if offset >= high:
            return None
        for batch in self.read(partition, offset, high - 1, batch_size=1):
            return kafka_time(batch[0].timestamp()[1])
        return None

    def _place(self, partition: int, offset: int = 0) -> TopicPartition:
        return TopicPartition(self._settings.kafka_topic, partition, offset)


def kafka_time(milliseconds: int) -> datetime:
    """Return the moment that a Kafka timestamp says, in UTC.

    Producers may send any number: the negative one of a message without a timestamp gives 1970, and what no calendar
    here has, the end of the year 9999.
    """
    return _EPOCH + timedelta(milliseconds=min(max(0, int(milliseconds)), _LATEST_MS))


@contextmanager
def open_broker(settings: Settings) -> Iterator[Broker]:
    """Connect to the configured topic.

    Raises:
        ServiceUnavailable: no broker answers.
        UsageError: the topic does not exist.
    """
    partitions = existing_partitions(settings)
    consumer = Consumer(client_config(settings) | {"group.id": settings.kafka_group} | _READER)
    try:
        yield Broker(settings, partitions, consumer)
    finally:
        consumer.close()
