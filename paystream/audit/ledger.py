"""What the ledger says was read of a partition, and what it leaves out."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from clickhouse_connect.driver.client import Client

from paystream.audit.holes import Gap

BLOCKS_AT_ONCE = 100_000
"""How many of the ledger's blocks one query puts in order: the engine holds them all in memory, and so do we."""

MOST_GAPS = 100_000
"""How many gaps of a partition are kept to be looked up, more than one run can: the newest ones."""

_OF_PARTITION = "kafka_topic = {topic:String} AND kafka_partition = {partition:UInt32}"
_WINDOW = f"""
SELECT count(), min(first_offset), max(last_offset) FROM ingest_ledger
WHERE {_OF_PARTITION} AND read_at >= {{since:DateTime64(3, 'UTC')}}
"""
_EARLIER = f"{_OF_PARTITION} AND first_offset < {{first:UInt64}}"
# How far the blocks before reach. At least as far as the one that began last: with that as a lower bound, the skip
# index leaves the same few granules of a ledger of any length.
_BEFORE = f"""
SELECT count(), max(last_offset) FROM ingest_ledger
WHERE {_EARLIER} AND last_offset >=
(
    SELECT last_offset FROM ingest_ledger WHERE {_EARLIER}
    ORDER BY kafka_topic DESC, kafka_partition DESC, first_offset DESC LIMIT 1
)
"""
_READ_FIRST = f"""
SELECT first_offset, last_offset, toUnixTimestamp64Milli(last_kafka_timestamp), read_at FROM ingest_ledger
WHERE {_EARLIER} AND last_offset >= {{reaching:UInt64}}
ORDER BY read_at LIMIT 1
"""
# `expected` is the offset after the furthest of all blocks before: a block that begins after it leaves a hole, one
# that begins before it was delivered again.
_BLOCKS = f"""
SELECT
    first_offset, last_offset, messages, refused, read_at,
    greatest({{start:UInt64}}, if(count() OVER earlier = 0, 0, max(last_offset) OVER earlier + 1)) AS expected,
    last_offset - first_offset + 1 AS span,
    toUInt64(greatest(0, toInt64(last_offset + 1) - toInt64(greatest(first_offset, expected)))) AS new
FROM
(
    SELECT * FROM ingest_ledger
    WHERE {_OF_PARTITION} AND first_offset >= {{first:UInt64}} AND first_offset < {{until:UInt64}}
    ORDER BY kafka_topic, kafka_partition, first_offset LIMIT {{most:UInt64}} WITH TIES
)
WINDOW earlier AS (ORDER BY first_offset ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
"""
_INTERVALS = f"""
SELECT
    count(),
    sum(messages),
    sum(refused),
    sum(span) - sum(new),
    max(first_offset),
    if(count() = 0, 0, max(last_offset) + 1),  -- as max(last_offset + 1) the engine makes 1 of no rows at all
    groupArrayIf((expected, first_offset - 1, toUInt64(0), toUnixTimestamp64Milli(read_at)), first_offset > expected),
    groupArrayIf(
        (first_offset, last_offset, messages, toUnixTimestamp64Milli(read_at)),
        messages < span AND last_offset < {{end:UInt64}}
    )
FROM ({_BLOCKS})
"""


@dataclass(frozen=True)
class Block:
    """One ledger row. ``newest_ms`` is the latest Kafka timestamp of its messages, in milliseconds since 1970."""

    first: int
    last: int
    newest_ms: int
    read_at: datetime


@dataclass(frozen=True)
class Intervals:
    """The union of a partition's ledger rows, from ``start`` to the block that holds the last committed offset.

    Attributes:
        redelivered: offsets read again, each as often as it was.
        end: the offset after the last block.
        gaps: what the blocks leave out, between them and within them: the newest ``MOST_GAPS``.
        unkept: how many offsets the other gaps leave out.
    """

    blocks: int
    messages: int
    refused: int
    redelivered: int
    end: int
    gaps: list[Gap]
    unkept: int


def blocks_since(client: Client, since: datetime, scope: dict[str, Any]) -> tuple[int, int, int]:
    """Return how many blocks were read since a moment, the first offset of any and the last of any.

    ``scope``, here and below, names the ledger rows meant: ``topic`` and ``partition``, and ``within``, what turns SQL
    into that about the own set's ledger, where there are several.
    """
    [[blocks, first, last]] = _rows(client, _WINDOW, scope, since=since)
    return (blocks, first, last) if blocks else (0, 2**63, 0)


def reach_before(client: Client, first: int, scope: dict[str, Any]) -> int | None:
    """Return the offset after the furthest of the blocks that begin before ``first``; None when none does."""
    [[blocks, last]] = _rows(client, _BEFORE, scope, first=first)
    return last + 1 if blocks else None


def read_first(client: Client, reaching: int, end: int, scope: dict[str, Any]) -> Block | None:
    """Return the block that was read first of those with an offset in ``reaching`` .. ``end - 1``; None without any."""
    rows = _rows(client, _READ_FIRST, scope, reaching=reaching, first=end)
    return Block(*rows[0]) if rows else None


def intervals(
    client: Client,
    start: int,
    first: int,
    end: int,
    scope: dict[str, Any],
    at_once: int = BLOCKS_AT_ONCE,
    most_gaps: int = MOST_GAPS,
) -> Intervals:
    """Return the union of the ledger's blocks that begin in ``first`` .. ``end - 1``, and what it leaves out.

    Args:
        client: a connection to the database.
        start: what lies before it is not a hole, and what lies before it again is a redelivery.
        first: the lowest ``first_offset`` to look at.
        end: a block that reaches it is not committed yet, so its own holes do not count.
        scope: whose blocks count.
        at_once: how many blocks to take in one query; what they reach is the next one's start.
        most_gaps: how many gaps to keep, those at the highest offsets.
    """
    blocks = messages = refused = redelivered = unkept = 0
    reached, gaps = start, []
    # How many offsets are likely to hold so many blocks: the engine reads far ahead of a limit, but not beyond a bound.
    width = at_once
    while first < end:
        until = min(end, first + width)
        [row] = _rows(client, _INTERVALS, scope, start=reached, first=first, until=until, end=end, most=at_once)
        here, its_messages, its_refused, its_redelivered, last_begun, its_end, between, within = row
        blocks, messages = blocks + here, messages + its_messages
        refused, redelivered = refused + its_refused, redelivered + its_redelivered
        reached = max(reached, its_end)
        gaps += [
            Gap(scope["partition"], low, high, rows, datetime.fromtimestamp(passed / 1000, UTC))
            for low, high, rows, passed in sorted([*between, *within])
        ]
        unkept += sum(gap.missing for gap in gaps[:-most_gaps])
        del gaps[:-most_gaps]
        if here >= at_once:
            width, first = last_begun + 1 - first, last_begun + 1
        else:
            width, first = width if 2 * here > at_once else 8 * width, until
    if reached < end:
        gaps.append(Gap(scope["partition"], reached, end - 1, 0, None))
    return Intervals(blocks, messages, refused, redelivered, reached, gaps, unkept)


def _rows(client: Client, query: str, scope: dict[str, Any], **parameters: Any) -> Sequence[Sequence[Any]]:
    parameters |= {name: scope[name] for name in ("topic", "partition")}
    within = scope.get("within", str)
    return client.query(within(query), parameters=parameters, tz_mode="aware").result_rows
