"""Roll-ups in bulk: what the refreshable views of ``sql/5_rollup`` would take hours for, a day at a time."""

import re
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache

from clickhouse_connect.driver.client import Client

from paystream.nodes import Node, Nodes, each, find
from paystream.reports.report import require_reports, stored_days
from paystream.settings import Settings, project_folder

BATCH_ROWS = 1_000_000
"""Stored rows that are read at a time, roughly: what bounds the memory, and what a killed rebuild loses."""

_SETTINGS = {"max_threads": 1}
"""One thread, so that ingest keeps the others."""

_SOURCES = {
    "merchant_slots": "SELECT * FROM transactions FINAL WHERE toDate(created_at) = {day:Date}"
    " AND merchant_id BETWEEN {first:UInt32} AND {last:UInt32}",
    "merchant_days": "SELECT * FROM merchant_slots FINAL WHERE toDate(slot) = {day:Date}"
    " AND merchant_id BETWEEN {first:UInt32} AND {last:UInt32}",
    "volume_hours": "SELECT * FROM merchant_slots FINAL WHERE toDate(slot) = {day:Date}",
}
"""What each is computed from, in place of what has changed since the last refresh."""

_OF_RANGE = "toDate(slot) = {day:Date} AND merchant_id BETWEEN {first:UInt32} AND {last:UInt32} AND notEmpty(payments)"
_GONE = {
    "merchant_slots": ("slot, merchant_id", f"""
        SELECT slot, merchant_id FROM merchant_slots FINAL
        WHERE {_OF_RANGE} AND (slot, merchant_id) NOT IN
        (
            SELECT toStartOfInterval(created_at, INTERVAL 30 MINUTE), merchant_id FROM transactions
            WHERE toDate(created_at) = {{day:Date}} AND merchant_id BETWEEN {{first:UInt32}} AND {{last:UInt32}}
        )
    """),
    "merchant_days": ("day, merchant_id", f"""
        SELECT day, merchant_id FROM merchant_days FINAL
        WHERE day = {{day:Date}} AND merchant_id BETWEEN {{first:UInt32}} AND {{last:UInt32}} AND notEmpty(payments)
            AND merchant_id NOT IN (SELECT merchant_id FROM merchant_slots FINAL WHERE {_OF_RANGE})
    """),
    "volume_hours": ("hour", """
        SELECT hour FROM volume_hours FINAL
        WHERE toDate(hour) = {day:Date} AND notEmpty(payments) AND hour NOT IN
        (
            SELECT toStartOfHour(slot) FROM merchant_slots FINAL
            WHERE toDate(slot) = {day:Date} AND notEmpty(payments)
        )
    """),
}  # fmt: skip
"""The key of each, and its buckets whose payments were deleted, which leaves nothing to compute them from."""

_LAST_MERCHANT = 2**32 - 1

# What a rebuild has written, the next steps' refreshes need not look at: the rebuild takes these steps itself.
_UNTIL = "toDateTime64(0, 3, 'UTC')"


@dataclass(frozen=True)
class Progress:
    """How far a rebuild is."""

    day: date
    days_done: int
    days: int
    rows: int


@dataclass(frozen=True)
class Rebuilt:
    """What a rebuild read: days, stored rows, and the seconds it took."""

    days: int
    rows: int
    seconds: float


def rebuild(
    settings: Settings,
    first: date | None = None,
    last: date | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    among: Collection[date] | None = None,
) -> Rebuilt:
    """Recompute the roll-ups of the days from ``first`` to ``last``, or of all days; ingest and refreshes go on.

    With ``among``, only of the days that are also in it. Each node of a cluster does so for its own shard.

    A bucket whose payments were deleted is emptied. After all days the refreshes go on from here, and need not look at
    what was stored before. Killed at any moment it leaves each bucket as it was or as it should be; run again, it does
    the rest.

    Raises:
        UsageError: the schema is older, or does not exist.
        ServiceUnavailable: ClickHouse cannot be reached, or was lost on the way, or a node does not answer.
    """
    began = time.monotonic()
    nodes = find(settings)
    nodes.require_all("Roll-ups")
    local = localized(nodes)
    rows: dict[str, int] = {}

    def rebuild_one(node: Node, client: Client) -> int:
        def told(day: date, done: int, days: int, count: int) -> None:
            rows[node.address] = count
            report(Progress(day, done, days, sum(rows.copy().values())))

        return _rebuild(client, local, (first, last, among), told)

    require_reports(nodes)
    days = max(days for _, days in each(nodes, "Reports", rebuild_one))
    return Rebuilt(days, sum(rows.values()), time.monotonic() - began)


def localized(nodes: Nodes) -> Callable[[str], str]:
    """Return what turns SQL into that about a node's own share of what is split over the shards."""
    if not nodes.cluster:
        return str
    # sqlglot, which this takes, is not for one server to wait for.
    from paystream.migrations.runner import cluster_for

    return cluster_for(nodes).localized


def _rebuild(
    client: Client,
    local: Callable[[str], str],
    wanted: tuple[date | None, date | None, Collection[date] | None],
    told: Callable[[date, int, int, int], None],
) -> int:
    """Recompute the roll-ups of what one server holds; return of how many days."""
    first, last, among = wanted
    [[began_at]] = client.query("SELECT now64(3, 'UTC')", tz_mode="aware").result_rows
    [[today]] = client.query("SELECT toDate(now('UTC'))").result_rows
    days = [
        day
        for day in stored_days(client, local)
        if (first is None or day >= first) and (last is None or day <= last) and (among is None or day in among)
    ]
    rows = 0
    # The newest first: it is what people look at.
    for done, day in enumerate(reversed(days)):
        for low, high, count in _batches(client, local, day):
            told(day, done, len(days), rows)
            ranges = {"day": day, "first": low, "last": high}
            _write(client, local, "merchant_slots", ranges)
            if day < today:
                _write(client, local, "merchant_days", ranges)
            rows += count
        _write(client, local, "volume_hours", {"day": day})
        told(day, done, len(days), rows)
    if first is None and last is None and among is None:
        _note(client, local, began_at)
    return len(days)


def _batches(client: Client, local: Callable[[str], str], day: date) -> Iterator[tuple[int, int, int]]:
    # Merchants that are neighbours lie together: each batch reads its own part of the day. Together they are all that
    # there can be, since reports may have merchants that have no payments any more.
    query = """
        SELECT max(merchant_id), sum(n)
        FROM
        (
            SELECT merchant_id, count() AS n, sum(n) OVER (ORDER BY merchant_id) AS before
            FROM transactions WHERE toDate(created_at) = {day:Date} GROUP BY merchant_id
        )
        GROUP BY intDiv(before, {rows:UInt64}) AS batch
        ORDER BY batch
    """
    batches = client.query(local(query), parameters={"day": day, "rows": BATCH_ROWS}).result_rows
    ends = [high for high, _ in batches[:-1]] + [_LAST_MERCHANT]
    starts = [0] + [high + 1 for high in ends[:-1]]
    yield from zip(starts, ends, [count for _, count in batches] or [0], strict=True)


def _write(client: Client, local: Callable[[str], str], rollup: str, ranges: dict[str, object]) -> None:
    client.command(local(f"INSERT INTO {rollup} {_select(rollup)}"), parameters=ranges, settings=_SETTINGS)
    key, gone = _GONE[rollup]
    emptied = (
        f"INSERT INTO {rollup} ({key}, refreshed_at, complete_until) SELECT {key}, now64(3), {_UNTIL} FROM ({gone})"
    )
    client.command(local(emptied), parameters=ranges, settings=_SETTINGS)


@cache
def _select(rollup: str) -> str:
    text = (project_folder() / "sql" / "5_rollup" / f"{rollup}_mv.sql").read_text()
    # The view's own SELECT, without its WITH, which says what has changed: that is to be everything here.
    select = text[text.index("\nSELECT\n") :]
    select = select.replace("FROM changed\n", f"FROM ({_SOURCES[rollup]})\n").replace("assumeNotNull(until)", _UNTIL)
    # Nor does it say that a refresh was complete.
    return re.sub(r"    UNION ALL\n    -- Says.*\n    SELECT .*\n", "", select)


def _note(client: Client, local: Callable[[str], str], began_at: datetime) -> None:
    noted = (
        "INSERT INTO rollup_progress"
        " SELECT arrayJoin(['merchant_slots_mv', 'merchant_days_mv', 'volume_hours_mv']) AS view,"
        " toDateTime({at:DateTime64(3, 'UTC')}) AS began_at, {at:DateTime64(3, 'UTC')} - INTERVAL 5 SECOND"
    )
    client.command(local(noted), parameters={"at": began_at})
