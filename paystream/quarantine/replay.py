"""Send refused messages again: same topic, same partition, same key, same bytes.

The record comes first: a row ``sending`` in quarantine_replays, then the message, then ``sent`` with its new offset.
Each replayed message names its replay and its origin in a header, so that whoever comes after a killed replay can look
into the topic for what it had sent, and neither loses nor repeats any of it.

A Kafka transaction would do that too, but a replay killed inside one would hold up ingest until the broker aborts it.
"""

import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import groupby, islice

import psutil
from clickhouse_connect.driver.client import Client
from confluent_kafka import KafkaError, Message, Producer

from paystream.broker import Broker, open_broker
from paystream.clickhouse import connect
from paystream.errors import ServiceUnavailable, UsageError
from paystream.kafka import answering, client_config
from paystream.lock import locked
from paystream.nodes import Nodes, find
from paystream.quarantine.messages import (
    MESSAGES,
    Example,
    Place,
    Selection,
    contents,
    example,
    reading,
    require_known,
    sizes,
)
from paystream.settings import Settings

HEADER = "paystream-replay"
BATCH_MESSAGES = 500
BATCH_BYTES = 32_000_000
DELIVERY_TIMEOUT_S = 60

SEARCH_TIME = timedelta(minutes=15)
"""What a killed replay had sent stands in the topic at most this long after its record, by the messages' timestamps."""

LOCK = "quarantine_replay_lock"

_WHAT = "Replay of refused messages"

_COLUMNS = [
    "kafka_topic",
    "kafka_partition",
    "kafka_offset",
    "kafka_timestamp",
    "replay_id",
    "state",
    "replayed_at",
    "replayed_by",
    "new_partition",
    "new_offset",
    "new_timestamp",
]

_OUTCOMES = MESSAGES + "SELECT outcome, count() FROM messages WHERE {condition} GROUP BY outcome"

_CHOSEN = (
    MESSAGES
    + """
SELECT kafka_partition, kafka_offset, toUnixTimestamp64Milli(kafka_timestamp) FROM messages
WHERE ({condition}) AND outcome IN {outcomes:Array(String)}
-- In the order in which they came, so that they go in that order.
ORDER BY kafka_partition, kafka_offset
LIMIT {most:UInt64}
"""
)

_CHECKSUM = """
SELECT count(), groupBitXor(cityHash64(kafka_partition, kafka_offset, kafka_timestamp, replay_id, state))
FROM quarantine_replays FINAL
WHERE kafka_topic = {topic:String}
"""

_UNSETTLED = """
SELECT kafka_partition, kafka_offset, toUnixTimestamp64Milli(kafka_timestamp), replay_id, replayed_at, replayed_by,
       new_partition, new_offset
FROM quarantine_replays FINAL
WHERE kafka_topic = {topic:String} AND state = 'sending'
ORDER BY new_partition
"""


@dataclass(frozen=True)
class Plan:
    """What a selection amounts to at one moment. ``to_send`` is part of ``matched``; the other counts are outcomes of
    earlier replays of those matched."""

    matched: int
    to_send: int
    stored: int
    refused_again: int
    in_flight: int
    example: Example | None
    """The first that would be sent."""


@dataclass(frozen=True)
class Replayed:
    """What a replay did. ``rejected`` messages were turned down by the broker for good, for the reason in ``error``;
    ``found_sent`` ones had been sent by an earlier replay that was killed before it could say so."""

    replay_id: str
    plan: Plan
    sent: int
    rejected: int
    found_sent: int
    error: str = ""


@dataclass(frozen=True)
class _Attempt:
    place: Place
    replay_id: str
    replayed_at: datetime
    replayed_by: str
    new: Place
    """While sending: the first place that it can get."""


def plan(settings: Settings, selection: Selection, *, again: bool = False) -> Plan:
    """Return what a replay of these messages would do. Reads only, and only ClickHouse.

    Raises:
        ServiceUnavailable: ClickHouse cannot be reached, or a node of the cluster does not answer.
        UsageError: the schema does not exist yet, or no message was refused for the reason.
    """
    nodes = find(settings)
    nodes.require_all(_WHAT)
    with reading(nodes) as (client, within):
        require_known(client, settings, selection, within)
        return _plan(client, settings, selection, again, 1, within)[0]


def replay(
    settings: Settings,
    selection: Selection,
    *,
    again: bool = False,
    most: int,
    on_progress: Callable[[int, int], None] = lambda sent, planned: None,
) -> Replayed:
    """Send the chosen messages again, each at most once, and record where they went.

    A message that was replayed before is left out, whatever became of it; with ``again``, only if it was stored. Two
    replays never send at the same time: the second is refused. First of all, what killed replays left open is settled.

    Args:
        settings: the topic and the database.
        selection: which messages.
        again: also those whose earlier replay was refused again or is still in flight.
        most: refuse to send more than this.
        on_progress: called after each batch with the messages sent so far, and all there are to send.

    Raises:
        CheckFailed: another replay is running.
        ServiceUnavailable: Kafka or ClickHouse cannot be reached, or one was lost on the way. Running it again sends
            what is left.
        UsageError: the schema or the topic does not exist, no message was refused for the reason, a message's partition
            is no longer there, or more than ``most`` match; nothing was sent.
    """
    replay_id = str(uuid.uuid4())
    nodes = find(settings)
    nodes.require_all(_WHAT)
    with reading(nodes) as (client, within), _records(nodes) as (first, records):
        require_known(client, settings, selection, within)
        with (
            open_broker(settings) as broker,
            locked(first, LOCK, _WHAT) as lock,
            answering(settings, "then run it again: that sends what is left"),
        ):
            _align(nodes, settings, records)
            found_sent = _settle(records, settings, broker)
            planned, chosen = _plan(client, settings, selection, again, most, within)
            if planned.to_send > most:
                raise UsageError(
                    f"Replay of {planned.to_send} messages: that is more than {most}. Choose fewer with --reason, "
                    f"--since, --until or --partition, or allow them with --max {planned.to_send}."
                )
            if gone := sorted({place.partition for place in chosen} - set(broker.partitions)):
                raise UsageError(
                    f"Partition '{gone[0]}' of topic '{settings.kafka_topic}' is no longer there, but messages to "
                    "replay came from it. Choose others with --partition."
                )
            sent, rejected, error = 0, 0, ""
            sender = _Sender(settings, client, records, broker, replay_id)
            for batch in _batches(client, settings, chosen):
                lock.keep()
                delivered, refused, why = sender.send(batch)
                sent, rejected, error = sent + delivered, rejected + refused, why or error
                on_progress(sent, planned.to_send)
    return Replayed(replay_id, planned, sent, rejected, found_sent, error)


@contextmanager
def _records(nodes: Nodes) -> Iterator[tuple[Client, list[Client]]]:
    """Open a client on each node, since each has all the records; the first is the same whichever node is asked."""
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(node.settings)) for node in nodes.in_order]
        yield clients[0], clients


def _align(nodes: Nodes, settings: Settings, clients: list[Client]) -> None:
    """Give each node the records that another has and it lacks: one was lost while a replay wrote them."""
    if len(clients) == 1:
        return
    sums = {client.query(_CHECKSUM, parameters={"topic": settings.kafka_topic}).first_row for client in clients}
    if len(sums) == 1:
        return
    place = f"'{nodes.cluster}', '{settings.clickhouse_database}', 'quarantine_replays'"
    for client in clients:
        client.command(f"INSERT INTO quarantine_replays SELECT * FROM clusterAllReplicas({place})")


def _plan(
    client: Client,
    settings: Settings,
    selection: Selection,
    again: bool,
    most: int,
    within: Callable[[str], str] = str,
) -> tuple[Plan, list[Place]]:
    """Return what a selection amounts to, and the first ``most`` of the messages to send."""
    condition, parameters = selection.condition()
    outcomes = ["never_replayed", "refused_again", "in_flight"] if again else ["never_replayed"]
    parameters |= {"topic": settings.kafka_topic, "outcomes": outcomes, "most": most}
    outcome_counts = within(_OUTCOMES.replace("{condition}", condition))
    counts = dict(client.query(outcome_counts, parameters=parameters).result_rows)
    rows = client.query(within(_CHOSEN.replace("{condition}", condition)), parameters=parameters).result_rows
    chosen = [Place(*row) for row in rows]
    planned = Plan(
        matched=sum(counts.values()),
        to_send=sum(counts.get(outcome, 0) for outcome in outcomes),
        stored=counts.get("stored", 0),
        refused_again=counts.get("refused_again", 0),
        in_flight=counts.get("in_flight", 0),
        example=example(client, settings, chosen[0]) if chosen else None,
    )
    return planned, chosen


def _batches(client: Client, settings: Settings, chosen: list[Place]) -> Iterator[list[Place]]:
    """Cut into batches of one partition each, bounded in number and bytes."""
    for _, of_partition in groupby(chosen, key=lambda place: place.partition):
        while places := list(islice(of_partition, BATCH_MESSAGES)):
            its_sizes = sizes(client, settings, places)
            batch: list[Place] = []
            total = 0
            for place in places:
                size = its_sizes.get(place, 0)
                if batch and total + size > BATCH_BYTES:
                    yield batch
                    batch, total = [], 0
                batch.append(place)
                total += size
            yield batch


class _Sender:
    """A producer, and the records that go with what it sends."""

    def __init__(
        self, settings: Settings, client: Client, records: list[Client], broker: Broker, replay_id: str
    ) -> None:
        self._settings = settings
        self._client = client
        self._records = records
        self._broker = broker
        self._replay_id = replay_id
        self._by = f"{psutil.Process().username()}@{socket.gethostname()}"
        self._producer = Producer(
            client_config(settings)
            | {
                "enable.idempotence": True,  # which takes acks=all with it
                "delivery.timeout.ms": DELIVERY_TIMEOUT_S * 1000,
                "message.max.bytes": 1_000_000_000,  # the broker decides
                "compression.type": "lz4",
                "log_level": 0,
            }
        )

    def send(self, places: list[Place]) -> tuple[int, int, str]:
        """Send messages of one partition; return how many were delivered, how many rejected, and why."""
        [partition] = {place.partition for place in places}
        content = contents(self._client, self._settings, places)
        [[now]] = self._client.query("SELECT now64(3, 'UTC')", tz_mode="aware").result_rows
        _, end = self._broker.watermarks(partition)
        attempts = [
            _Attempt(place, self._replay_id, now, self._by, Place(partition, end, 0))
            for place in places
            if place in content
        ]
        _record(self._records, self._settings, "sending", attempts)
        reports = self._deliver(attempts, content)
        # The broker judges the producer's batch, so what was turned down may only have been near a message too large.
        for attempt in attempts:
            if _is_too_large(reports.get(attempt.place)):
                reports |= self._deliver([attempt], content)
        delivered, rejected, unknown = [], [], []
        for attempt in attempts:
            report = reports.get(attempt.place)
            if isinstance(report, Place):
                delivered.append(replace(attempt, new=report))
            elif _is_too_large(report):
                rejected.append(attempt)
            else:
                unknown.append(report)
        _record(self._records, self._settings, "sent", delivered)
        _record(self._records, self._settings, "not_sent", rejected)
        if unknown:
            cause = next((error.str() for error in unknown if error), "no answer")
            raise ServiceUnavailable(
                f"Replay to topic '{self._settings.kafka_topic}': {len(unknown)} messages of a batch of "
                f"{len(attempts)} were not confirmed: {cause}. Run it again: that finds out, and sends the rest."
            )
        return len(delivered), len(rejected), "the broker finds the message too large" if rejected else ""

    def _deliver(
        self, attempts: list[_Attempt], content: dict[Place, tuple[bytes, bytes]]
    ) -> dict[Place, Place | KafkaError]:
        """Return for each message where it stands now, or why not; what the broker did not answer is missing."""
        reports: dict[Place, Place | KafkaError] = {}
        for attempt in attempts:
            place = attempt.place
            sent_ms = time.time_ns() // 1_000_000

            def confirmed(
                error: KafkaError | None, message: Message, place: Place = place, sent_ms: int = sent_ms
            ) -> None:
                reports[place] = error or _reported(message, sent_ms)

            key, value = content[place]
            self._producer.produce(
                self._settings.kafka_topic,
                value,
                key or None,
                partition=place.partition,
                timestamp=sent_ms,
                headers={HEADER: _header(attempt)},
                on_delivery=confirmed,
            )
            self._producer.poll(0)
        self._producer.flush(DELIVERY_TIMEOUT_S + 5)
        return reports


def record(client: Client, settings: Settings, state: str, attempts: list[_Attempt]) -> None:
    """Write the state of these attempts. A row of a later state replaces that of an earlier one."""
    # Kafka's timestamps as numbers: a producer may have set one that no datetime can hold.
    rows = [
        [
            settings.kafka_topic,
            attempt.place.partition,
            attempt.place.offset,
            attempt.place.timestamp_ms,
            attempt.replay_id,
            state,
            attempt.replayed_at,
            attempt.replayed_by,
            attempt.new.partition,
            attempt.new.offset,
            attempt.new.timestamp_ms,
        ]
        for attempt in attempts
    ]
    if rows:
        client.insert("quarantine_replays", rows, column_names=_COLUMNS)


def _record(clients: list[Client], settings: Settings, state: str, attempts: list[_Attempt]) -> None:
    for client in clients:
        record(client, settings, state, attempts)


def _settle(records: list[Client], settings: Settings, broker: Broker) -> int:
    """Find out what became of the messages that killed replays were sending; return how many had been sent."""
    rows = records[0].query(_UNSETTLED, parameters={"topic": settings.kafka_topic}, tz_mode="aware").result_rows
    attempts = [
        _Attempt(Place(*place), str(replay_id), at, by, Place(partition, offset, 0))
        for *place, replay_id, at, by, partition, offset in rows
    ]
    count = 0
    for partition, of_partition in groupby(attempts, key=lambda attempt: attempt.new.partition):
        left = {_header(attempt): attempt for attempt in of_partition}
        sent = _search(broker, partition, left) if partition in broker.partitions else {}
        _record(records, settings, "sent", [replace(left[header], new=new) for header, new in sent.items()])
        _record(records, settings, "not_sent", [attempt for header, attempt in left.items() if header not in sent])
        count += len(sent)
    return count


def _search(broker: Broker, partition: int, wanted: dict[bytes, _Attempt]) -> dict[bytes, Place]:
    """Look for replayed messages in the part of the topic where they can be; return the places of those found."""
    first = min(attempt.new.offset for attempt in wanted.values())
    latest = max(attempt.replayed_at for attempt in wanted.values()) + SEARCH_TIME
    low, end = broker.watermarks(partition)
    first, end = max(low, first), min(end, broker.first_offset_since(partition, latest))
    places: dict[bytes, Place] = {}
    if first >= end:
        return places
    # Also behind an open transaction, where a message that was sent is not to be read yet: else it were sent again.
    for batch in broker.read(partition, first, end - 1, uncommitted=True):
        for message in batch:
            for name, value in message.headers() or []:
                if name == HEADER and value in wanted:
                    places[value] = _place(message)
        if len(places) == len(wanted):
            break
    return places


def _is_too_large(report: Place | KafkaError | None) -> bool:
    return isinstance(report, KafkaError) and report.code() == KafkaError.MSG_SIZE_TOO_LARGE


def _place(message: Message) -> Place:
    return Place(message.partition(), message.offset(), message.timestamp()[1])


def _reported(message: Message, sent_ms: int) -> Place:
    """Return the place in a delivery report. The broker in memory reports 1234 as the time of every message."""
    place = _place(message)
    return place if place.timestamp_ms > 1234 else Place(place.partition, place.offset, sent_ms)


def _header(attempt: _Attempt) -> bytes:
    place = attempt.place
    return f"{attempt.replay_id}/{place.partition}/{place.offset}/{place.timestamp_ms}".encode()
