"""Repair: write again, with a newer version, exactly the transactions that would be enriched otherwise today.

What a row should be is the view ``transactions_to_repair``'s to say. Here is where to look: a table of years cannot be
read at each refresh, so a repair reads only the days whose rates or merchants have changed since the last one.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import astuple, dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from clickhouse_connect.driver.client import Client

from paystream.lock import locked
from paystream.schema import connected
from paystream.settings import Settings

BATCH_ROWS = 1_000_000
"""Stored rows that a batch reads, roughly: what a killed repair loses, and what bounds its memory."""

SETTLE_S = 5.0
"""A block under way when a dictionary was exchanged is stored with the old one, and takes less than this."""

LOCK = "transactions_repair"
LOCK_WAIT_S = 15 * 60

LISTED_MERCHANTS = 5_000
"""With more late or changed merchants than this on a day, the whole day is looked at."""

NEEDED = ("transactions", "transactions_to_repair", "repaired_days", "merchants", "merchants_dict", "fx_rates_dict")

# One thread, so that ingest keeps the others; parts as large as ingest's are while catching up.
_SETTINGS = {
    "max_threads": 1,
    "max_insert_threads": 1,
    "min_insert_block_size_rows": 262_144,
    "min_insert_block_size_bytes": 0,
}

_RATES = """
SELECT
    day,
    groupBitXor(
        cityHash64(currency, ifNull(fx.1, 0), ifNull(fx.2, toDate(0)), ifNull(fx.3 AND fx.2 < day, 0))
    ) AS rates_hash
FROM
(
    SELECT
        day,
        currency,
        dictGetOrNull('fx_rates_dict', ('rate', 'rate_date', 'is_latest'), tuple(currency), day) AS fx
    FROM (SELECT toDate({first:Date}) + number AS day FROM numbers(dateDiff('day', {first:Date}, today() + 2))) AS days
    -- One more that nobody has, so that there is each day without any rates too.
    CROSS JOIN (SELECT DISTINCT currency FROM fx_rates_dict UNION DISTINCT SELECT '') AS currencies
)
GROUP BY day
ORDER BY day
"""
"""What the rates of each day come to, from a first day to tomorrow, which payments from a fast clock can be of."""

_LATE = """
SELECT toDate(created_at) AS day, groupUniqArray({limit:UInt32})(merchant_id)
FROM transactions
WHERE enrichment_status = 'merchant_pending' AND dictHas('merchants_dict', merchant_id)
GROUP BY day
"""
"""Stored versions that a later one has replaced are among these until they merge; looking again does no harm."""

_CHANGED = """
SELECT toDate(created_at) AS day, groupUniqArray({limit:UInt32})(merchant_id)
FROM transactions
WHERE merchant_id IN
(
    SELECT merchant_id
    FROM merchants_history AS h
    INNER JOIN merchants AS m USING (merchant_id)
    WHERE h.snapshot_id >= {since:UInt32}
        AND (h.merchant_name, h.country, h.category_code) != (m.merchant_name, m.country, m.category_code)
)
GROUP BY day
"""

_KEPT = "SELECT min(snapshot_id) FROM merchants_history"


@dataclass(frozen=True)
class Repaired:
    """What a repair did."""

    days: int
    """Days that were looked at."""
    rows: int
    """Rows that were written again."""
    seconds: float


@dataclass(frozen=True)
class Move:
    """What a repair would do to one day and currency: rows written again, and their sum in the reporting currency
    before and after. A row without a rate counts as nothing in it."""

    day: date
    currency: str
    rows: int
    amount: Decimal
    reporting_before: Decimal
    reporting_after: Decimal


@dataclass(frozen=True)
class Progress:
    """How far a repair is."""

    day: date
    days_done: int
    days: int
    rows: int


@dataclass(frozen=True)
class _Seen:
    """What a repair saw of a day. Where it differs from the present, the day must be looked at."""

    rates_hash: int
    fx_snapshot_id: int
    merchants_snapshot_id: int
    restated_snapshot_id: int


@dataclass(frozen=True)
class _Plan:
    """Where to look: the days, newest first, each with the merchants that matter or None for all."""

    days: dict[date, list[int] | None]
    seen: dict[date, _Seen]
    """What to record at the end, for the days above and for those that need no look."""


def repair(
    settings: Settings, *, every_day: bool = False, report: Callable[[Progress], None] = lambda progress: None
) -> Repaired:
    """Write the rows again whose merchant or rate is known now, or known better. Ingest goes on meanwhile.

    Killed at any moment it leaves each row as it was or repaired; run again, it does the rest. Of two, one waits.

    Args:
        settings: where ClickHouse is, and the policy for changed merchants (``dims_merchant_changes``).
        every_day: look at each day that has rows, whatever earlier repairs saw.
        report: called after each batch.

    Raises:
        UsageError: the schema does not exist yet.
        CheckFailed: another repair is still running after a quarter of an hour.
        ServiceUnavailable: ClickHouse cannot be reached, or was lost on the way.
    """
    began = time.monotonic()
    with (
        _connected(settings) as client,
        locked(client, LOCK, "Repair of transactions", like="repaired_days", wait_s=LOCK_WAIT_S) as lock,
    ):
        first = _first_day(client)
        if first is None:
            return Repaired(0, 0, time.monotonic() - began)
        while True:
            loaded = _wait_settled(client)
            [[started_at]] = client.query("SELECT now64(3, 'UTC')").result_rows
            plan = _plan(client, settings, first, every_day)
            if _loaded(client) == loaded:
                break  # else a dictionary changed while this waited or planned
        # Until a day is done nothing is known of it: whatever ends this repair, the next one looks at it again.
        _record(client, {day: _Seen(0, 0, 0, 0) for day in plan.days}, started_at)
        names = ", ".join(_columns(client))
        rows = 0
        for number, (day, merchants) in enumerate(plan.days.items()):
            for condition in _batches(client, day, merchants):
                summary = client.command(
                    f"INSERT INTO transactions ({names}) SELECT {names} FROM {_view(settings)} WHERE {condition}",
                    settings=_SETTINGS,
                ).summary
                rows += int(summary["written_rows"])
                lock.keep()
                report(Progress(day, number, len(plan.days), rows))
        # Not where a dictionary changed meanwhile: rows may have been written with either.
        if _loaded(client) == loaded:
            _record(client, plan.seen, started_at + timedelta(milliseconds=1))
    return Repaired(len(plan.days), rows, time.monotonic() - began)


def preview(settings: Settings, *, every_day: bool = False) -> list[Move]:
    """Return what a repair would do now, by day and currency, newest day first. Changes nothing.

    Raises:
        UsageError: the schema does not exist yet.
        ServiceUnavailable: ClickHouse cannot be reached, or was lost on the way.
    """
    moves = []
    with _connected(settings) as client:
        first = _first_day(client)
        if first is None:
            return []
        for day, merchants in _plan(client, settings, first, every_day).days.items():
            moves += client.query(
                f"""
                SELECT
                    toDate(created_at) AS day, currency, count(), sum(amount),
                    sum(ifNull(stored_amount_reporting, 0)), sum(ifNull(amount_reporting, 0))
                FROM {_view(settings)}
                WHERE {_condition(day, merchants)}
                GROUP BY day, currency
                ORDER BY currency
                """
            ).result_rows
    return [Move(*row) for row in moves]


def _connected(settings: Settings) -> AbstractContextManager[Client]:
    return connected(settings, "Repair of transactions", "What was repaired so far stays.", NEEDED)


def _view(settings: Settings) -> str:
    return f"transactions_to_repair(restate_merchants = {int(settings.dims_merchant_changes == 'restate')})"


def _wait_settled(client: Client) -> tuple:
    """Wait until no block can be under way any more that is enriched from dictionaries that have been replaced.

    Returns:
        What tells these dictionaries from those after another load, which may have come meanwhile.
    """
    loaded = _loaded(client)
    [[age_s]] = client.query(
        "SELECT dateDiff('millisecond', max(loading_start_time + loading_duration), now64(3)) / 1000 "
        "FROM system.dictionaries "
        "WHERE database = currentDatabase() AND name IN ('merchants_dict', 'fx_rates_dict')"
    ).result_rows
    time.sleep(min(SETTLE_S, max(0.0, SETTLE_S - age_s)))
    return loaded


def _loaded(client: Client) -> tuple:
    return tuple(
        client.query(
            "SELECT name, toString(loading_start_time), toString(last_successful_update_time), element_count "
            "FROM system.dictionaries WHERE database = currentDatabase() "
            "AND name IN ('merchants_dict', 'fx_rates_dict') ORDER BY name"
        ).result_rows
    )


def _first_day(client: Client) -> date | None:
    """Return the day of the oldest transaction, None where there is none."""
    [[rows, first]] = client.query("SELECT count(), toDate(min(created_at)) FROM transactions").result_rows
    return first if rows else None


def _plan(client: Client, settings: Settings, first: date, every_day: bool) -> _Plan:
    restating = settings.dims_merchant_changes == "restate"
    # Of the dictionaries, not of their tables: between an exchange and the reload the two differ.
    [[merchants, fx, kept_since]] = client.query(
        f"SELECT (SELECT max(snapshot_id) FROM merchants_dict), (SELECT max(snapshot_id) FROM fx_rates_dict), ({_KEPT})"
    ).result_rows
    before = {
        day: _Seen(*seen)
        for day, *seen in client.query(
            "SELECT day, rates_hash, fx_snapshot_id, merchants_snapshot_id, restated_snapshot_id "
            "FROM repaired_days FINAL"
        ).result_rows
    }
    now: dict[date, _Seen] = {}
    whole: set[date] = set()
    for day, rates_hash in client.query(_RATES, parameters={"first": first}).result_rows:
        seen = before.get(day)
        restated = merchants if restating else seen.restated_snapshot_id if seen else 0
        now[day] = _Seen(rates_hash, fx, merchants, restated)
        if every_day or seen is None or seen.rates_hash != rates_hash:
            whole.add(day)
        elif restating and seen.restated_snapshot_id < kept_since:
            whole.add(day)  # what has changed since then is no longer known
    if any(0 < seen.fx_snapshot_id < fx - 1 for seen in before.values()):
        # A snapshot came and went that no repair saw: what was stored meanwhile may have its rates.
        whole |= _enriched_since_oldest_repair(client)
    listed = _merchants(client, _LATE, {}, lambda day: day in before and before[day].merchants_snapshot_id != merchants)
    if restating and (restated := [seen.restated_snapshot_id for seen in before.values() if seen.restated_snapshot_id]):
        since = {"since": max(min(restated), kept_since)}
        changed = _merchants(
            client, _CHANGED, since, lambda day: day in before and before[day].restated_snapshot_id != merchants
        )
        for day, merchant_ids in changed.items():
            listed.setdefault(day, set()).update(merchant_ids)
    whole |= {day for day, merchant_ids in listed.items() if len(merchant_ids) > LISTED_MERCHANTS}
    stored = client.query(
        "SELECT DISTINCT toDate(created_at) FROM transactions WHERE toDate(created_at) IN {days:Array(Date)}",
        parameters={"days": list(whole)},
    ).result_rows
    days = {day: sorted(merchant_ids) for day, merchant_ids in listed.items()} | {day: None for (day,) in stored}
    return _Plan(
        dict(sorted(days.items(), reverse=True)),
        {day: seen for day, seen in now.items() if day in days or before.get(day) != seen},
    )


def _enriched_since_oldest_repair(client: Client) -> set[date]:
    return {
        day
        for (day,) in client.query(
            "SELECT DISTINCT toDate(created_at) FROM transactions "
            "WHERE enriched_at >= (SELECT min(repaired_at) FROM repaired_days FINAL)"
        ).result_rows
    }


def _merchants(
    client: Client, query: str, parameters: dict[str, int], is_open: Callable[[date], bool]
) -> dict[date, set[int]]:
    """Return a query's merchants by day, of the open days; ``LISTED_MERCHANTS`` and one more at most of each."""
    rows = client.query(query, parameters=parameters | {"limit": LISTED_MERCHANTS + 1}).result_rows
    return {day: set(merchant_ids) for day, merchant_ids in rows if is_open(day)}


def _batches(client: Client, day: date, merchants: list[int] | None) -> Iterator[str]:
    """Yield conditions that together select a day's rows of these merchants (None: all), each some million rows."""
    counts = client.query(
        f"SELECT merchant_id, count() FROM transactions WHERE {_condition(day, merchants)} "
        "GROUP BY merchant_id ORDER BY merchant_id"
    ).result_rows
    batch: list[int] = []
    rows = 0
    for merchant_id, count in counts:
        if batch and rows + count > BATCH_ROWS:
            yield _condition(day, merchants and batch, batch)
            batch, rows = [], 0
        batch.append(merchant_id)
        rows += count
    if batch:
        yield _condition(day, merchants and batch, batch)


def _condition(day: date, merchants: list[int] | None, within: list[int] | None = None) -> str:
    condition = f"toDate(created_at) = '{day}'"
    if within:
        condition += f" AND merchant_id BETWEEN {within[0]} AND {within[-1]}"
    if merchants is not None:
        condition += f" AND merchant_id IN ({', '.join(map(str, merchants))})"
    return condition


def _columns(client: Client) -> list[str]:
    """Return the columns that the view gives for the table."""
    return [
        name
        for (name,) in client.query(
            "SELECT name FROM system.columns WHERE database = currentDatabase() AND table = 'transactions' "
            "AND default_kind != 'MATERIALIZED' ORDER BY position"
        ).result_rows
    ]


def _record(client: Client, seen: dict[date, _Seen], started_at: datetime) -> None:
    if seen:
        client.insert(
            "repaired_days",
            [[day, *astuple(of_day), started_at.replace(tzinfo=UTC)] for day, of_day in seen.items()],
        )
