"""``paystream audit --deep``: the stored rows themselves, against the messages that the topic retains."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import orjson
from clickhouse_connect.driver.client import Client
from confluent_kafka import Message

from paystream.audit.holes import EXAMPLES, JOIN_OFFSETS, SCAN_OFFSETS
from paystream.broker import Broker, kafka_time
from paystream.settings import Settings

DEEP_OFFSETS = 20_000_000
DEEP_BATCH = 10_000

BLOCK_TIME = timedelta(minutes=1)
"""A block's rows are stored at most so long before its row in the ledger. Both times are ClickHouse's."""

_STORED = """
SELECT kafka_offset FROM {table}
WHERE kafka_topic = {{topic:String}} AND kafka_partition = {{partition:UInt32}}
  AND kafka_offset >= {{first:UInt64}} AND kafka_offset < {{end:UInt64}}
  AND {stored_at} >= {{since:DateTime64(3, 'UTC')}}
"""
_TABLES = {"transactions": "ingested_at", "quarantine": "quarantined_at"}
# A merge replaces a row by one of the same sorting key only, so the row that did is found by that key.
_REPLACED = """
WITH messages AS
(
    SELECT
        message.1 AS number,
        toUUIDOrNull(message.2) AS transaction_id,
        toUInt32OrNull(message.3) AS merchant_id,
        toDate(parseDateTime64BestEffortOrNull(upper(message.4), 6, 'UTC')) AS day,
        parseDateTime64BestEffortOrNull(upper(message.5), 6, 'UTC') AS updated_at
    FROM
    (
        SELECT arrayJoin(
            arrayZip(range(toUInt32(%(count)s)), %(ids)s, %(merchants)s, %(created)s, %(updated)s)
        ) AS message
    )
)
SELECT DISTINCT number
FROM messages
INNER JOIN
(
    SELECT transaction_id, merchant_id, toDate(created_at) AS day, max(updated_at) AS newest
    FROM transactions
    WHERE day GLOBAL IN (SELECT day FROM messages) AND transaction_id GLOBAL IN (SELECT transaction_id FROM messages)
    GROUP BY transaction_id, merchant_id, day
) AS stored USING (transaction_id, merchant_id, day)
WHERE newest >= updated_at
"""
_FIELDS = ("transaction_id", "merchant_id", "created_at", "updated_at")


@dataclass
class Rows:
    """How the stored rows compare with the retained messages that the group has read.

    Attributes:
        absent: messages whose row is in no table, nor a later state that replaced it.
        superseded: messages whose row a later state of the same transaction has replaced.
        absent_examples: some of the absent, as offset and time.
    """

    absent: int = 0
    superseded: int = 0
    absent_examples: list[tuple[int, datetime]] = field(default_factory=list)


def compare_rows(
    settings: Settings,
    broker: Broker,
    client: Client,
    partition: int,
    start: int,
    end: int,
    since: datetime | None,
    within: Callable[[str], str] = str,
) -> Rows:
    """Look for the row, or the row that replaced it, of every message from ``start`` to ``end - 1``.

    Reads from the broker only what has no row. Memory: a byte for each of at most ``DEEP_OFFSETS`` offsets at once.

    Args:
        settings: the topic.
        broker: where to read it.
        client: a connection to the database.
        partition: which partition.
        start: the first offset; those that the topic does not retain are left out.
        end: the one after the last.
        since: when the first block of these was read: an older row is of a deleted topic of the same name.
        within: turns SQL into that about the rows of the own set, where there are several.

    Raises:
        ServiceUnavailable: the broker stops answering.
    """
    rows = Rows()
    since = since - BLOCK_TIME if since else datetime.fromtimestamp(0, UTC)
    parameters = {"topic": settings.kafka_topic, "partition": partition, "since": since}
    for first in range(max(start, broker.watermarks(partition)[0]), end, DEEP_OFFSETS):
        last = min(end, first + DEEP_OFFSETS) - 1
        absent = np.ones(last - first + 1, dtype=bool)
        for table, stored_at in _TABLES.items():
            stored = within(_STORED.format(table=table, stored_at=stored_at))
            with client.query_column_block_stream(
                stored, parameters=parameters | {"first": first, "end": last + 1}
            ) as blocks:
                for [offsets] in blocks:
                    absent[np.asarray(offsets, dtype=np.int64) - first] = False
        waiting: list[_Message] = []
        for low, high in _near(absent):
            for batch in broker.read(partition, first + low, first + high):
                waiting += [_read(message) for message in batch if message.value() and absent[message.offset() - first]]
                # Each look goes through whole days: few of many messages, not one for each batch of the broker's.
                while len(waiting) >= DEEP_BATCH:
                    _judge(client, waiting[:DEEP_BATCH], rows, within)
                    del waiting[:DEEP_BATCH]
        if waiting:
            _judge(client, waiting, rows, within)
    return rows


@dataclass(frozen=True)
class _Message:
    """What is kept of a message until it is looked for. ``texts``: of ``_FIELDS``."""

    offset: int
    timestamp_ms: int
    texts: list[str]


def _read(message: Message) -> _Message:
    return _Message(message.offset(), message.timestamp()[1], _texts(message.value()))


def _judge(client: Client, messages: Sequence[_Message], rows: Rows, within: Callable[[str], str]) -> None:
    replaced = _replaced(client, [message.texts for message in messages], within)
    absent = [message for number, message in enumerate(messages) if number not in replaced]
    rows.superseded += len(replaced)
    rows.absent += len(absent)
    examples = absent[: EXAMPLES - len(rows.absent_examples)]
    rows.absent_examples += [(message.offset, kafka_time(message.timestamp_ms)) for message in examples]


def _near(mask: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield the first and last indices of true values that lie close together, to be read in one go."""
    for begin in range(0, len(mask), SCAN_OFFSETS):
        at = begin + np.flatnonzero(mask[begin : begin + SCAN_OFFSETS])
        for group in np.split(at, np.flatnonzero(np.diff(at) >= JOIN_OFFSETS) + 1):
            if len(group):
                yield int(group[0]), int(group[-1])


def _replaced(client: Client, texts: Sequence[list[str]], within: Callable[[str], str] = str) -> set[int]:
    """Return the numbers of those that are stored in the same state or a later one."""
    columns = list(zip(*texts, strict=True))
    names = ("ids", "merchants", "created", "updated")
    parameters = {"count": len(texts)} | {name: list(column) for name, column in zip(names, columns, strict=True)}
    rows = client.query(within(_REPLACED), parameters=parameters, settings={"max_query_size": 100_000_000}).result_rows
    return {number for (number,) in rows}


def _texts(value: bytes) -> list[str]:
    try:
        fields = orjson.loads(value)
    except orjson.JSONDecodeError:
        fields = None
    # No valid one is longer.
    return [str(fields.get(name, ""))[:64] for name in _FIELDS] if isinstance(fields, dict) else [""] * len(_FIELDS)
