"""Who reads the topic with the consumer group, and whether that is the Kafka table as the settings describe it."""

import re
import socket
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass

from clickhouse_connect.driver.client import Client
from confluent_kafka import ConsumerGroupState, KafkaException
from confluent_kafka.admin import AdminClient, ConsumerGroupDescription

from paystream.errors import UsageError
from paystream.kafka import client_config
from paystream.nodes import Nodes, each
from paystream.settings import Settings

TABLE = "transactions_queue"
TIMEOUT_S = 2
"""The stand-in broker never answers this one."""

ASSIGNED_TOPICS = f"""
SELECT arraySort(groupUniqArrayArray(assignments.topic))
FROM system.kafka_consumers
WHERE database = currentDatabase() AND table = '{TABLE}'
"""


_ASSIGNED = f"""
SELECT sum(length(assignments.partition_id))
FROM system.kafka_consumers
WHERE database = currentDatabase() AND table = '{TABLE}'
"""


@dataclass(frozen=True)
class Member:
    """One consumer of the group.

    Attributes:
        client_id: as it calls itself; the Kafka engine says server, database and table.
        host: the address it comes from, as the broker sees it.
        is_own: whether it calls itself as the Kafka table of the configured database does.
        topics: what it reads.
        partitions: those of the configured topic.
    """

    client_id: str
    host: str
    is_own: bool
    topics: list[str]
    partitions: list[int]

    def __str__(self) -> str:
        table = re.fullmatch(rf"ClickHouse-(?P<server>.+)-(?P<database>\w+)-{TABLE}(-\d+)?", self.client_id)
        if not table:
            return f"'{self.client_id}' of {self.host}"
        return f"database '{table['database']}' of the ClickHouse server '{table['server']}' ({self.host})"


@dataclass(frozen=True)
class Group:
    """The consumer group. ``is_stable``: no partition is on its way from one member to another."""

    is_stable: bool
    members: list[Member]

    @property
    def others(self) -> list[Member]:
        """The members that are not this database's Kafka table: what they read is not stored here."""
        return [member for member in self.members if not member.is_own]

    def nobodys(self, partitions: list[int]) -> list[int]:
        """Return those partitions that no member reads, though there are members."""
        if not (self.is_stable and self.members):
            return []
        return sorted(set(partitions) - {partition for member in self.members for partition in member.partitions})


class Asked:
    """A question that is under way, so that others can be asked meanwhile."""

    def __init__(self, settings: Settings, timeout_s: float = TIMEOUT_S) -> None:
        self._settings = settings
        self._timeout_s = timeout_s
        self._admin = AdminClient(client_config(settings) | {"log_level": 0})
        wanted = self._admin.describe_consumer_groups([settings.kafka_group], request_timeout=timeout_s)
        self._future: Future[ConsumerGroupDescription] = wanted[settings.kafka_group]

    def answer(self) -> Group | None:
        """Return the group; None where the broker does not tell in time, or is not allowed to."""
        try:
            group = self._future.result(self._timeout_s + 1)
        except (KafkaException, TimeoutError):
            return None
        return Group(
            group.state in (ConsumerGroupState.STABLE, ConsumerGroupState.EMPTY),
            [self._member(member) for member in group.members],
        )

    def _member(self, member: object) -> Member:
        places = member.assignment.topic_partitions if member.assignment else []
        own = rf"ClickHouse-.+-{self._settings.clickhouse_database}-{TABLE}(-\d+)?"
        return Member(
            member.client_id,
            member.host.lstrip("/"),
            re.fullmatch(own, member.client_id) is not None,
            sorted({place.topic for place in places}),
            sorted(place.partition for place in places if place.topic == self._settings.kafka_topic),
        )


def partitions_assigned(nodes: Nodes) -> int:
    """Return how many partitions the Kafka tables of all servers that answer have; each set of nodes has its own."""
    counts = each(nodes, "Consumers", lambda node, client: client.query(_ASSIGNED).first_row[0])
    return sum(count for _, count in counts)


def attached_otherwise(topics: list[str], group: Group | None, settings: Settings) -> str:
    """Return in what the attached Kafka table differs from the settings; ``""`` where nothing can be seen of that.

    Args:
        topics: what it reads, by ``ASSIGNED_TOPICS``; empty while it reads nothing.
        group: the members of the configured group; None where the broker does not tell.
        settings: what it should read.
    """
    if topics and settings.kafka_topic not in topics:
        return f"{TABLE} reads topic '{', '.join(topics)}', and the settings say '{settings.kafka_topic}'"
    if topics and group and group.is_stable and not any(member.is_own for member in group.members):
        return f"{TABLE} reads with another consumer group than '{settings.kafka_group}', or from other brokers"
    return ""


def look(client: Client, settings: Settings) -> str:
    """Return in what the attached Kafka table differs from the settings; asks the broker only where it reads."""
    [[topics]] = client.query(ASSIGNED_TOPICS).result_rows
    return attached_otherwise(topics, Asked(settings).answer() if topics else None, settings)


def refuse_others(settings: Settings) -> None:
    """Make sure that nobody else reads with the consumer group. Where no broker can be asked, nothing is known.

    Raises:
        UsageError: naming somebody who does.
    """
    if not _is_anybody_there(settings.kafka_addresses):
        return
    group = Asked(settings).answer()
    if group and group.others:
        other = group.others[0]
        raise UsageError(
            f"Consumer group '{settings.kafka_group}' cannot be this database's: {other} "
            "reads with it, and each message goes to one of the two. Set PAYSTREAM_KAFKA_GROUP to a group of its own, "
            "or end the other reader."
        )


def _is_anybody_there(addresses: list[tuple[str, int]]) -> bool:
    # The client library would wait for its whole time-out where a connection is refused at once.
    for address in addresses:
        with suppress(OSError), socket.create_connection(address, timeout=1):
            return True
    return False
