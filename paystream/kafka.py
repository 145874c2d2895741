"""The connection to Kafka, for every tool that produces to the topic or looks at it."""

from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from paystream.errors import ServiceUnavailable, UsageError
from paystream.settings import Settings


def client_config(settings: Settings) -> dict[str, str]:
    """Return the librdkafka settings that reach the configured brokers."""
    return {"bootstrap.servers": settings.kafka_brokers} | settings.kafka_security


def topic_partitions(settings: Settings, timeout_s: float = 5) -> list[int]:
    """Return the partitions of the configured topic, empty when the topic does not exist.

    Raises:
        ServiceUnavailable: no broker answers within ``timeout_s`` seconds.
    """
    # A log callback that says nothing: librdkafka would print each failed connection on stderr, beside our one line.
    admin = AdminClient(client_config(settings) | {"log_level": 0})
    try:
        # Asking for all topics, since asking for one by name would create it where brokers auto-create.
        topic = admin.list_topics(timeout=timeout_s).topics.get(settings.kafka_topic)
    except KafkaException as error:
        raise ServiceUnavailable(
            f"Kafka '{settings.kafka_brokers}' cannot be reached: {error.args[0].str()}. "
            "Start the local stack with `paystream up`, or correct PAYSTREAM_KAFKA_BROKERS."
        ) from error
    return sorted(topic.partitions) if topic else []


def existing_partitions(settings: Settings) -> list[int]:
    """Return the partitions of the configured topic.

    Raises:
        ServiceUnavailable: no broker answers.
        UsageError: the topic does not exist.
    """
    partitions = topic_partitions(settings)
    if not partitions:
        raise UsageError(
            f"Topic '{settings.kafka_topic}' does not exist on '{settings.kafka_brokers}'. "
            "Create it there, with 4 partitions; on the local stack `paystream up` does."
        )
    return partitions


@contextmanager
def answering(settings: Settings, advice: str = "then run again") -> Iterator[None]:
    """Turn what goes wrong in Kafka meanwhile into an error that a user can act upon.

    Raises:
        ServiceUnavailable: the broker stopped answering; ``advice`` says what to do once it is back.
    """
    try:
        yield
    except KafkaException as error:
        raise ServiceUnavailable(
            f"Kafka '{settings.kafka_brokers}' stopped answering: {error.args[0].str()}. Check the broker, {advice}."
        ) from error
