"""What the broker knows of the topic: watermarks, committed offsets, retention, and the messages at given offsets."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain, islice

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from paystream.kafka import answering, client_config, existing_partitions
from paystream.settings import Settings

TIMEOUT_S = 10
BATCH = 5_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST_MS = 253_402_300_799_999  # the end of the year 9999

SCAN_OFFSETS = 100_000
"""How far a look for the first message with content goes, a third of a second; what lies behind counts as unread."""

_READER = {
    "enable.auto.commit": False,
    "enable.partition.eof": True,
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
        high: the end of the log: the offset after the last message.
        stable: the last stable offset: the first one of a transaction that is open, ``high`` without one. Nothing
            behind it is handed to a reader who reads what is committed, as the Kafka engine does.
        committed: the next offset the group will read, or None where it has committed nothing.
        unread: the first offset not read that holds, or may come to hold, a payment; ``high`` when there is none.
            Tombstones, empty messages, aborted ones and the markers of transactions never become a row, so the group
            does not commit them until a message with content follows.
        oldest_at: when the oldest retained message was produced; None when the partition is empty.
        unread_at: when the message at ``unread`` was produced; None when there is none.
    """

    partition: int
    low: int
    high: int
    stable: int
    committed: int | None
    unread: int
    oldest_at: datetime | None
    unread_at: datetime | None

    @property
    def reader(self) -> int:
        """Return the next offset that the group will get: what retention removed is nobody's to read."""
        return max(self.low, self.committed or 0)

    @property
    def waiting(self) -> int:
        """Return how many offsets there are from the first unread message to the end of the log."""
        return self.high - self.unread

    @property
    def blocked(self) -> int:
        """Return how many of them nobody is handed before a transaction ends; its own are among them."""
        return self.high - self.stable


class Broker:
    """The configured topic, read only: it joins no group, commits nothing and takes no message from anyone.

    Args:
        settings: where it is.
        partitions: its partitions.
        committed: reads what is committed, as the Kafka engine does.
        log: reads to the end of the log, whatever becomes of open transactions.
    """

    def __init__(self, settings: Settings, partitions: list[int], committed: Consumer, log: Consumer) -> None:
        self._settings = settings
        self._committed = committed
        self._log = log
        self.partitions = partitions

    def position(self, partition: int, with_oldest: bool = True) -> Position:
        """Return where a partition begins and ends and how far the group has come.

        Args:
            partition: its number.
            with_oldest: whether to read when the oldest retained message was produced, which takes a round trip more.

        Raises:
            ServiceUnavailable: the broker does not answer.
        """
        # In this order, so that low and high are never older than what was read, nor the last stable offset than the
        # end: one that is lower is that of an open transaction.
        [committed] = self.committed([partition])
        low, high = self.watermarks(partition)
        with answering(self._settings):
            stable = self._committed.get_watermark_offsets(self._place(partition), timeout=TIMEOUT_S)[1]
        high = max(high, stable)
        unread, unread_at = self._first_unread(partition, max(low, committed or 0), stable, high)
        oldest = None
        if with_oldest and low < stable:
            oldest = next(self.read(partition, low, stable - 1, batch_size=1), None)
        return Position(
            partition,
            low,
            high,
            stable,
            committed,
            unread,
            oldest_at=oldest and kafka_time(oldest[0].timestamp()[1]),
            unread_at=unread_at,
        )

    def positions(self) -> list[Position]:
        """Return where each partition ends and how far the group has come, without its oldest message's time.

        Raises:
            ServiceUnavailable: the broker does not answer.
        """
        return [self.position(partition, with_oldest=False) for partition in self.partitions]

    def committed(self, partitions: list[int]) -> list[int | None]:
        """Return the next offset that the group will read of each partition, None where it has committed nothing.

        Raises:
            ServiceUnavailable: the broker does not answer.
        """
        with answering(self._settings):
            places = self._committed.committed([self._place(partition) for partition in partitions], timeout=TIMEOUT_S)
            for place in places:
                if place.error:
                    raise KafkaException(place.error)
        return [place.offset if place.offset >= 0 else None for place in places]

    def watermarks(self, partition: int) -> tuple[int, int]:
        """Return the oldest retained offset and the end of the log: the offset after the last message.

        Raises:
            ServiceUnavailable: the broker does not answer.
        """
        with answering(self._settings):
            return self._log.get_watermark_offsets(self._place(partition), timeout=TIMEOUT_S)

    def first_offset_since(self, partition: int, moment: datetime) -> int:
        """Return the first offset whose message was produced at or after a moment; the end when there is none.

        Raises:
            ServiceUnavailable: the broker does not answer.
        """
        with answering(self._settings):
            wanted = self._place(partition, int(moment.timestamp() * 1000))
            [place] = self._log.offsets_for_times([wanted], timeout=TIMEOUT_S)
        return place.offset if place.offset >= 0 else self.watermarks(partition)[1]

    def retention(self, timeout_s: float = TIMEOUT_S) -> Retention:
        """Return how long the topic keeps a message; not known when the broker does not tell in time.

        A topic that is compacted and not also deleted from keeps its messages forever.
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

    def read(
        self, partition: int, first: int, last: int, batch_size: int = BATCH, *, uncommitted: bool = False
    ) -> Iterator[list[Message]]:
        """Read the messages with offsets from ``first`` to ``last``, in batches, in order.

        Ends when it has passed ``last`` or reached the partition's end, which is the last stable offset unless
        ``uncommitted``. Offsets that never come are not in the log: transaction markers, messages of aborted
        transactions (those come if ``uncommitted``), and what compaction or retention has removed.

        Raises:
            ServiceUnavailable: the broker sent nothing for ``TIMEOUT_S`` seconds.
        """
        consumer = self._log if uncommitted else self._committed
        with answering(self._settings):
            consumer.assign([self._place(partition, first)])
            heard = time.monotonic()
            while True:
                # No more than there can be, since the call waits for as many as it is asked for.
                batch = consumer.consume(min(batch_size, last - first + 2), timeout=0.2)
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

    def _first_unread(self, partition: int, reader: int, stable: int, high: int) -> tuple[int, datetime | None]:
        """Return the first offset from ``reader`` on that holds content, or waits for a transaction, and its time."""
        end = min(stable, reader + SCAN_OFFSETS)
        if reader < end:
            # The next message alone to begin with, since nearly always it has content.
            next_alone = islice(self.read(partition, reader, end - 1, batch_size=1), 1)
            for message in chain.from_iterable(chain(next_alone, self.read(partition, reader, end - 1))):
                if message.value():
                    return message.offset(), kafka_time(message.timestamp()[1])
        first = max(reader, end)
        if first >= high:
            return high, None
        [message] = next(self.read(partition, first, high - 1, batch_size=1, uncommitted=True), [None])
        return first, message and kafka_time(message.timestamp()[1])

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
    config = client_config(settings) | {"group.id": settings.kafka_group} | _READER
    with ExitStack() as stack:
        consumers = [Consumer(config | {"isolation.level": level}) for level in ("read_committed", "read_uncommitted")]
        for consumer in consumers:
            stack.callback(consumer.close)
        yield Broker(settings, partitions, *consumers)
