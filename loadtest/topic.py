"""Where the topic ends, and how far the consumer group of the ClickHouse Kafka table has come."""

from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import Consumer, KafkaException, TopicPartition

from paystream.errors import ServiceUnavailable
from paystream.kafka import client_config, existing_partitions
from paystream.settings import Settings

TIMEOUT_S = 5


class Topic:
    """The configured topic, read only: it joins no group and takes no message."""

    def __init__(self, settings: Settings, partitions: list[int], consumer: Consumer) -> None:
        self._settings = settings
        self._partitions = partitions
        self.partition_count = len(partitions)
        self._consumer = consumer

    def ends(self) -> list[int]:
        """Return the offset after the last message, by partition.

        Raises:
            ServiceUnavailable: the broker does not answer.
        """
        return [high for _, high in self._watermarks()]

    def lag(self) -> int:
        """Return how many messages the group has not committed yet; all that are kept, when it never committed.

        Raises:
            ServiceUnavailable: the broker does not answer.
        """
        positions = self._positions()
        return sum(max(0, end - position) for end, position in zip(self.ends(), positions, strict=True))

    def has_read_to(self, ends: list[int]) -> bool:
        """Return whether the group has committed every message before these offsets, which is after storing it.

        Raises:
            ServiceUnavailable: the broker does not answer.
        """
        return all(position >= end for position, end in zip(self._positions(), ends, strict=True))

    def _positions(self) -> list[int]:
        # A negative offset says that nothing was committed; what retention has removed is nobody's to read.
        committed = self._committed()
        return [max(low, offset) for (low, _), offset in zip(self._watermarks(), committed, strict=True)]

    def _committed(self) -> list[int]:
        wanted = [TopicPartition(self._settings.kafka_topic, partition) for partition in self._partitions]
        try:
            return [found.offset for found in self._consumer.committed(wanted, timeout=TIMEOUT_S)]
        except KafkaException as error:
            raise self._unreachable(error) from error

    def _watermarks(self) -> list[tuple[int, int]]:
        try:
            return [
                self._consumer.get_watermark_offsets(
                    TopicPartition(self._settings.kafka_topic, partition), timeout=TIMEOUT_S
                )
                for partition in self._partitions
            ]
        except KafkaException as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: KafkaException) -> ServiceUnavailable:
        return ServiceUnavailable(
            f"Kafka '{self._settings.kafka_brokers}' stopped answering: {error.args[0].str()}. "
            "Check the broker, then run again."
        )


@contextmanager
def open_topic(settings: Settings) -> Iterator[Topic]:
    """Connect to the configured topic.

    Raises:
        ServiceUnavailable: no broker answers.
        UsageError: the topic does not exist.
    """
    partitions = existing_partitions(settings)
    consumer = Consumer(
        client_config(settings)
        | {"group.id": settings.kafka_group, "enable.auto.commit": False, "auto.offset.reset": "error", "log_level": 0}
    )
    try:
        yield Topic(settings, partitions, consumer)
    finally:
        consumer.close()
