"""The generator alone: a workload sent to a topic of its own, which nobody reads, to know what the sender can do."""

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from paystream.errors import ServiceUnavailable
from paystream.kafka import client_config, existing_partitions
from paystream.loadtest.generator import Generator, Sent
from paystream.loadtest.workload import WITHOUT_RATE, Workload, plan_of
from paystream.settings import Settings

MERCHANTS = 80_000
LEAD_S = 0.5
LOOK_EVERY_S = 0.5
TOPIC_TIMEOUT_S = 10


@dataclass(frozen=True)
class Generated:
    """What the generator did, and the time from the intended first message until all were confirmed, in seconds."""

    sent: Sent
    seconds: float

    @property
    def cpu_s_per_million(self) -> float:
        """Return the processor seconds that a million messages took, of the producer's threads too."""
        return self.sent.cpu_s / max(1, self.sent.sent) * 1e6

    @property
    def per_core(self) -> float:
        """Return how many messages a second one core would generate if it did nothing else."""
        return self.sent.sent / max(self.sent.cpu_s, 1e-9)


def generate(settings: Settings, workload: Workload, report: Callable[[int], None]) -> Generated:
    """Send a workload to a new topic with as many partitions as the configured one, and delete that topic.

    Nothing is stored or checked, and ClickHouse is not needed. The merchants are made up.

    Args:
        settings: where Kafka is.
        workload: what to send; its thresholds are not looked at.
        report: called about twice a second with the number of messages sent.

    Raises:
        ServiceUnavailable: Kafka cannot be reached, or refuses to create or delete a topic.
        UsageError: the configured topic does not exist.
    """
    merchants = list(range(1, MERCHANTS + 1))
    plan = plan_of(workload, secrets.randbits(63), merchants, secrets.choice(merchants), list(WITHOUT_RATE))
    with _topic(settings) as topic, Generator(plan, client_config(settings), topic) as generator:
        generator.wait_ready()
        began = time.time() + LEAD_S
        generator.start(int(began * 1e6))
        while generator.result is None:
            generator.wait(LOOK_EVERY_S)
            report(generator.sent)
        return Generated(generator.result, time.time() - began)


@contextmanager
def _topic(settings: Settings) -> Iterator[str]:
    admin = AdminClient(client_config(settings) | {"log_level": 0})
    name = f"{settings.kafka_topic}-generate-{secrets.token_hex(4)}"
    partitions = len(existing_partitions(settings))
    try:
        admin.create_topics([NewTopic(name, partitions)], request_timeout=TOPIC_TIMEOUT_S)[name].result()
    except KafkaException as error:
        raise ServiceUnavailable(
            f"Topic '{name}': Kafka did not create it: {error.args[0].str()}. "
            "Allow this user to create topics; the broker in memory can't."
        ) from error
    try:
        yield name
    except BaseException:
        with suppress(KafkaException):
            _delete(admin, name)
        raise
    try:
        _delete(admin, name)
    except KafkaException as error:
        raise ServiceUnavailable(
            f"Topic '{name}': Kafka did not delete it: {error.args[0].str()}. Delete it with Kafka's own tools."
        ) from error


def _delete(admin: AdminClient, topic: str) -> None:
    admin.delete_topics([topic], request_timeout=TOPIC_TIMEOUT_S)[topic].result()
