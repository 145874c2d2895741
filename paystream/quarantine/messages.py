"""Refused messages: which there are, which were sent again, and what became of them.

A message is one message however often it was sent again: its replays that were refused stand in quarantine as rows of
their own, but are told from it by where the replay put them, and are never counted or chosen by themselves. It counts
under the reason and the time of its newest replay's refusal, else of its own.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from clickhouse_connect.driver.client import Client

from paystream.broker import kafka_time
from paystream.errors import UsageError
from paystream.nodes import Nodes, find
from paystream.schema import connected
from paystream.settings import Settings

EXAMPLE_CHARACTERS = 100

MESSAGES = """
WITH
attempts AS
(
    SELECT *
    FROM quarantine_replays FINAL
    WHERE kafka_topic = {topic:String} AND state != 'not_sent'
),
newest AS
(
    SELECT
        kafka_partition, kafka_offset, kafka_timestamp,
        count() AS replays,
        argMax((state, new_partition, new_offset, new_timestamp), replayed_at) AS place,
        place.1 = 'sent' AS is_sent, place.2 AS sent_partition, place.3 AS sent_offset, place.4 AS sent_timestamp
    FROM attempts
    GROUP BY kafka_partition, kafka_offset, kafka_timestamp
),
again AS
(
    SELECT reason, kafka_partition, kafka_offset, kafka_timestamp, quarantined_at
    FROM quarantine FINAL
    WHERE kafka_topic = {topic:String}
      AND (kafka_partition, kafka_offset, kafka_timestamp) GLOBAL IN
          (SELECT sent_partition, sent_offset, sent_timestamp FROM newest)
),
-- The blocks that hold a replay: few, however long the ledger is.
holding AS
(
    SELECT kafka_partition, first_offset, last_offset
    FROM
    (
        SELECT kafka_partition, first_offset, last_offset
        FROM ingest_ledger
        WHERE kafka_topic = {topic:String}
          AND read_at >= (SELECT min(replayed_at) FROM attempts)
          -- The views of one block commit one after the other: what was read just now may not be in quarantine yet.
          AND read_at < now64(3) - INTERVAL 2 SECOND
    ) AS block
    ASOF JOIN newest ON block.kafka_partition = newest.sent_partition AND block.first_offset <= newest.sent_offset
    WHERE last_offset >= sent_offset
),
-- How far the blocks reach that begin at an offset or before it: to it, if one of them holds it.
reading AS
(
    SELECT
        kafka_partition, first_offset,
        max(last_offset) OVER (PARTITION BY kafka_partition ORDER BY first_offset) AS reach
    FROM holding
),
replayed AS
(
    SELECT
        newest.kafka_partition AS kafka_partition,
        newest.kafka_offset AS kafka_offset,
        newest.kafka_timestamp AS kafka_timestamp,
        replays, sent_partition, sent_offset,
        again.reason AS new_reason,
        again.quarantined_at AS refused_again_at,
        is_sent AND reading.reach >= sent_offset AS was_read
    FROM newest
    LEFT JOIN again
        ON sent_partition = again.kafka_partition
        AND sent_offset = again.kafka_offset
        AND sent_timestamp = again.kafka_timestamp
    ASOF LEFT JOIN reading ON sent_partition = reading.kafka_partition AND sent_offset >= reading.first_offset
),
messages AS
(
    SELECT
        original.kafka_partition AS kafka_partition,
        original.kafka_offset AS kafka_offset,
        original.kafka_timestamp AS kafka_timestamp,
        if(new_reason != '', new_reason, original.reason) AS reason,
        if(new_reason != '', refused_again_at, original.quarantined_at) AS refused_at,
        replays,
        sent_partition AS new_partition,
        sent_offset AS new_offset,
        multiIf(
            replays = 0, 'never_replayed', new_reason != '', 'refused_again', was_read, 'stored', 'in_flight'
        ) AS outcome
    FROM (SELECT * FROM quarantine FINAL WHERE kafka_topic = {topic:String}) AS original
    LEFT JOIN replayed
        ON original.kafka_partition = replayed.kafka_partition
        AND original.kafka_offset = replayed.kafka_offset
        AND original.kafka_timestamp = replayed.kafka_timestamp
    WHERE (original.kafka_partition, original.kafka_offset, original.kafka_timestamp)
        NOT IN (SELECT new_partition, new_offset, new_timestamp FROM attempts WHERE state = 'sent')
)
"""
"""One row a message of the topic: whether it was replayed, and what became of the newest replay.

A replay that a block of the ledger holds and that was not refused is ``stored``. The ledger says so and not a row of
transactions with its offset: that row is merged away once a later state of the transaction, or the same one, is there
too. While a view throws, a block that it holds up may be in the ledger already."""

_IS_STORED = "was_read, 'stored'"

_GROUPS = (
    MESSAGES
    + """
SELECT
    reason,
    count() AS messages,
    min(refused_at) AS first,
    max(refused_at) AS last,
    arraySort(groupUniqArray(kafka_partition)) AS partitions,
    countIf(replays > 0) AS replayed,
    countIf(outcome = 'stored') AS stored,
    countIf(outcome = 'refused_again') AS refused_again,
    countIf(outcome = 'in_flight') AS in_flight,
    -- An example that still is a problem, where there is one, and of those the newest.
    argMax(
        (kafka_partition, kafka_offset, toUnixTimestamp64Milli(kafka_timestamp), outcome, new_partition, new_offset),
        (outcome != 'stored', refused_at, kafka_partition, kafka_offset)
    ) AS example
FROM messages
WHERE {condition}
GROUP BY reason
ORDER BY messages DESC, reason
"""
)

_REASONS = MESSAGES + "SELECT DISTINCT reason FROM messages ORDER BY reason"

_CONTENT = """
SELECT kafka_offset, toUnixTimestamp64Milli(kafka_timestamp), kafka_key, {columns}
FROM quarantine FINAL
WHERE kafka_topic = {{topic:String}}
  AND kafka_partition = {{partition:UInt32}}
  AND kafka_offset IN {{offsets:Array(UInt64)}}
"""


@dataclass(frozen=True)
class Place:
    """Where a message stands in the topic. The timestamp (milliseconds since 1970) tells a topic that was deleted and
    recreated, whose offsets start over."""

    partition: int
    offset: int
    timestamp_ms: int


@dataclass(frozen=True)
class Example:
    """One message to look at. ``text`` is safe to print whatever the bytes are, and shortened; ``size`` in bytes."""

    partition: int
    offset: int
    kafka_timestamp: datetime
    key: str
    text: str
    size: int
    outcome: str = ""
    refused_again_at: tuple[int, int] | None = None
    """Partition and offset of the replay that was refused, where one was."""


@dataclass(frozen=True)
class Group:
    """The messages refused for one reason, and what became of those that were replayed."""

    reason: str
    messages: int
    first: datetime
    last: datetime
    partitions: list[int]
    replayed: int
    stored: int
    refused_again: int
    in_flight: int
    example: Example | None
    """None if its bytes expired while this was asked."""


@dataclass(frozen=True)
class Selection:
    """Which messages are meant; all conditions hold together. Times are those of the refusal, from ``since`` on and
    before ``until``. An offset is the message's own or its refused replay's, in the same partition."""

    reason: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    partition: int | None = None
    offset: int | None = None

    @property
    def is_everything(self) -> bool:
        """Return whether no condition was given."""
        return self == Selection()

    def condition(self) -> tuple[str, dict[str, Any]]:
        """Return the condition on ``messages`` in SQL, with its parameters."""
        parts = {
            "reason": "reason = {reason:String}",
            "since": "refused_at >= {since:DateTime64(6, 'UTC')}",
            "until": "refused_at < {until:DateTime64(6, 'UTC')}",
            "partition": "kafka_partition = {partition:UInt32}",
            "offset": "(kafka_offset = {offset:UInt64} OR outcome = 'refused_again' AND new_offset = {offset:UInt64})",
        }
        given = {name: getattr(self, name) for name in parts if getattr(self, name) is not None}
        return " AND ".join(parts[name] for name in given) or "1", given


@contextmanager
def reading(nodes: Nodes) -> Iterator[tuple[Client, Callable[[str], str]]]:
    """Open a client to read refused messages with, and what turns SQL into that about one set of nodes.

    Where no node of a shard answers, what is on the others is read, and no replay is taken for stored.

    Raises:
        UsageError, ServiceUnavailable, PaystreamError: as ``connected``.
    """
    node = nodes.of_one_set()
    with connected(node.settings, f"Quarantine of '{node.settings.clickhouse_database}'") as client:
        if nodes.lacking():
            nodes.leave_out_away(client)
            # What was not refused here may have been on the other shards.
            yield client, lambda text: text.replace(_IS_STORED, "0, 'stored'")
        else:
            yield client, str if nodes.lacking(node.set) else nodes.in_one_set


def groups(settings: Settings, selection: Selection, nodes: Nodes | None = None) -> list[Group]:
    """Return the refused messages of the configured topic by reason, the largest group first.

    Those on a shard of which no node answers are left out; ``nodes.lacking()`` says so.

    Raises:
        ServiceUnavailable: ClickHouse cannot be reached.
        UsageError: the schema does not exist yet, or nothing was ever refused for the reason.
    """
    with reading(nodes or find(settings)) as (client, within):
        require_known(client, settings, selection, within)
        condition, parameters = selection.condition()
        rows = client.query(
            within(_GROUPS.replace("{condition}", condition)),
            parameters=parameters | {"topic": settings.kafka_topic},
            tz_mode="aware",
        ).result_rows
        return [Group(*group, example=_example(client, settings, newest)) for *group, newest in rows]


def require_known(client: Client, settings: Settings, selection: Selection, within: Callable[[str], str] = str) -> None:
    """Refuse a reason that no refused message has, unless there are no refused messages at all.

    Raises:
        UsageError: naming the reasons that there are.
    """
    if selection.reason is None:
        return
    rows = client.query(within(_REASONS), parameters={"topic": settings.kafka_topic}).result_rows
    reasons = [reason for (reason,) in rows]
    if reasons and selection.reason not in reasons:
        raise UsageError(
            f"Reason '{printable(selection.reason.encode(errors='replace'))}': no refused message has it. "
            f"Choose one of {', '.join(reasons)}."
        )


def contents(client: Client, settings: Settings, places: list[Place]) -> dict[Place, tuple[bytes, bytes]]:
    """Return key and bytes of messages in one partition. Those that have expired meanwhile are missing."""
    rows = _content(client, settings, places, "raw_message")
    return {place: (key, message) for place, (key, message) in rows.items() if place in places}


def sizes(client: Client, settings: Settings, places: list[Place]) -> dict[Place, int]:
    """Return how many bytes each of these messages in one partition has. Those that have expired are missing."""
    return {place: size for place, (_, size) in _content(client, settings, places, "length(raw_message)").items()}


def example(client: Client, settings: Settings, place: Place) -> Example | None:
    """Return a message shortened to look at, None if it has expired meanwhile."""
    columns = f"substring(raw_message, 1, {4 * EXAMPLE_CHARACTERS}), length(raw_message)"
    content = _content(client, settings, [place], columns).get(place)
    if content is None:
        return None
    key, start, size = content
    moment = kafka_time(place.timestamp_ms)
    return Example(place.partition, place.offset, moment, printable(key), printable(start, size=size), size)


def printable(value: bytes, *, size: int | None = None, characters: int = EXAMPLE_CHARACTERS) -> str:
    """Return bytes as one line of text that is safe on a terminal, cut to ``characters`` and an ellipsis.

    Whatever is not printable Unicode is escaped as in Python: control characters, invisible and direction-changing
    ones, invalid UTF-8. A backslash is doubled, so that no text looks like an escape.

    Args:
        value: the bytes, or how they begin.
        size: how many bytes there are altogether, where ``value`` is only their beginning.
        characters: the longest result without the ellipsis.
    """
    text = ""
    for character in value.decode(errors="surrogateescape"):
        if "\udc80" <= character <= "\udcff":
            shown = f"\\x{ord(character) - 0xDC00:02x}"
        elif character == "\\":
            shown = "\\\\"
        else:
            shown = character if character.isprintable() else character.encode("unicode_escape").decode()
        if len(text) + len(shown) > characters:
            return text + "…"
        text += shown
    return text if size is None or size <= len(value) else text + "…"


def parse_time(text: str, now: datetime) -> datetime:
    """Return the moment that a text names: ISO 8601, UTC where it says nothing else, or an age such as ``90m``.

    Raises:
        UsageError: it is neither.
    """
    try:
        age = re.fullmatch(r"(\d{1,9})([smhd])", text, re.ASCII)
        if age:
            unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[age[2]]
            return now - timedelta(**{unit: int(age[1])})
        moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        # Outside of these years ClickHouse's type has no such moment.
        if not 1970 <= moment.astimezone(UTC).year <= 2200:
            raise ValueError
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise UsageError(
            f"Time '{printable(text.encode(errors='replace'))}' is not understood. "
            "Write it as 2026-05-31T14:00, which is UTC, or as an age: 90m, 2h, 7d."
        ) from None


def _example(client: Client, settings: Settings, row: tuple[Any, ...]) -> Example | None:
    partition, offset, timestamp_ms, outcome, new_partition, new_offset = row
    shown = example(client, settings, Place(partition, offset, timestamp_ms))
    again = (new_partition, new_offset) if outcome == "refused_again" else None
    return shown and Example(**(vars(shown) | {"outcome": outcome, "refused_again_at": again}))


def _content(client: Client, settings: Settings, places: list[Place], columns: str) -> dict[Place, tuple[Any, ...]]:
    [partition] = {place.partition for place in places}
    rows = client.query(
        _CONTENT.format(columns=columns),
        parameters={
            "topic": settings.kafka_topic,
            "partition": partition,
            "offsets": [place.offset for place in places],
        },
        # Otherwise the driver would give bytes that are not UTF-8 as hexadecimal text.
        query_formats={"String": "bytes"},
    ).result_rows
    return {Place(partition, offset, timestamp_ms): tuple(rest) for offset, timestamp_ms, *rest in rows}
