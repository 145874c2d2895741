"""``paystream audit --deep``: the stored rows themselves, against the messages that the topic retains."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import orjson
from clickhouse_connect.driver.client import Client
from confluent_kafka import Message

from paystream.audit_holes import EXAMPLES, Gap, scans
from paystream.audit_ledger import scope_of
from paystream.broker import Broker, kafka_time
from paystream.settings import Settings

DEEP_OFFSETS = 20_000_000
DEEP_BATCH = 10_000

_STORED = """
SELECT kafka_offset FROM {table}
WHERE kafka_topic = {{topic:String}} AND kafka_partition = {{partition:UInt32}}
  AND kafka_offset >= {{first:UInt64}} AND kafka_offset < {{end:UInt64}}
  AND kafka_timestamp >= {{born:DateTime64(3, 'UTC')}}
"""
# A merge replaces a row by one of the same sorting key only, so the row that did is found by that key.
_REPLACED = """
WITH messages AS
(
    SELECT
        message.1 AS number,
        toUUIDOrNull(message.2) AS transaction_id,
        toUInt32OrNull(message.3) AS merchant_id,
        parseDateTime64BestEffortOrNull(upper(message.4), 6, 'UTC') AS created_at,
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
    SELECT transaction_id, merchant_id, created_at, max(updated_at) AS newest
    FROM transactions
    WHERE toDate(created_at) IN (SELECT toDate(created_at) FROM messages)
      AND transaction_id IN (SELECT transaction_id FROM messages)
    GROUP BY transaction_id, merchant_id, created_at
) AS stored USING (transaction_id, merchant_id, created_at)
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


def compare_rows(settings: Settings, broker: Broker, client: Client, partition: int, start: int, end: int) -> Rows:
    """Look for the row, or the row that replaced it, of every message from ``start`` to ``end - 1``.

    Reads from the broker only what has no row. Memory: a byte for each of at most ``DEEP_OFFSETS`` offsets at once.

    Raises:
        ServiceUnavailable: the broker stops answering.
    """
    rows = Rows()
    position = broker.position(partition)
    for first in range(max(start, position.low), end, DEEP_OFFSETS):
        last = min(end, first + DEEP_OFFSETS) - 1
        parameters = scope_of(settings, position) | {"first": first, "end": last + 1}
        present = np.zeros(last - first + 1, dtype=bool)
        for table in ("transactions", "quarantine"):
            with client.query_column_block_stream(_STORED.format(table=table), parameters=parameters) as blocks:
                for [offsets] in blocks:
                    present[np.asarray(offsets, dtype=np.int64) - first] = True
        missing = [Gap(partition, first + begin, first + stop - 1, 0, None) for begin, stop in _runs(~present)]
        for scan in scans(missing):
            for batch in broker.read(partition, scan[0].first, scan[-1].last):
                without = [message for message in batch if message.value() and not present[message.offset() - first]]
                for at in range(0, len(without), DEEP_BATCH):
                    _judge(client, without[at : at + DEEP_BATCH], rows)
    return rows


def _judge(client: Client, messages: Sequence[Message], rows: Rows) -> None:
    replaced = _replaced(client, messages)
    absent = [message for number, message in enumerate(messages) if number not in replaced]
    rows.superseded += len(replaced)
    rows.absent += len(absent)
    examples = absent[: EXAMPLES - len(rows.absent_examples)]
    rows.absent_examples += [(message.offset(), kafka_time(message.timestamp()[1])) for message in examples]


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """Return the runs of true values, each as its first index and the one after its last."""
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _replaced(client: Client, messages: Sequence[Message]) -> set[int]:
    """Return the numbers of the messages whose transaction is stored in the same state or a later one."""
    columns = list(zip(*(_texts(message.value()) for message in messages), strict=True))
    names = ("ids", "merchants", "created", "updated")
    parameters = {"count": len(messages)} | {name: list(column) for name, column in zip(names, columns, strict=True)}
    rows = client.query(_REPLACED, parameters=parameters, settings={"max_query_size": 100_000_000}).result_rows
    return {number for (number,) in rows}


def _texts(value: bytes) -> list[str]:
    try:
        fields = orjson.loads(value)
    except orjson.JSONDecodeError:
        fields = None
    return [str(fields.get(name, "")) for name in _FIELDS] if isinstance(fields, dict) else [""] * len(_FIELDS)
