"""Repair: write again, with a newer version, exactly the transactions that would be enriched otherwise today.

What a row should be is the view ``transactions_to_repair``'s to say. Here is where to look: a table of years cannot be
read at each refresh, so a repair reads only the days whose rates or merchants have changed since the last one.

On a cluster each node's rows are repaired on the node itself: what a payment is enriched with there, and where it is
stored, is what it would be for the node's ingest. One node of each shard is enough, in each set.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import astuple, dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from clickhouse_connect.driver.client import Client

from paystream.clickhouse import answering
from paystream.errors import CheckFailed
from paystream.loader import history
from paystream.loader.dimension import FX, MERCHANTS
from paystream.lock import locked
from paystream.nodes import Node, Nodes, find
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

NEEDED = ("transactions_to_repair", "repaired_days", "merchants", "merchants_dict", "fx_rates_dict")

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
FROM {stored}
WHERE enrichment_status = 'merchant_pending' AND dictHas('merchants_dict', merchant_id)
GROUP BY day
"""
"""Stored versions that a later one has replaced are among these until they merge; looking again does no harm."""

_CHANGED = """
SELECT toDate(created_at) AS day, groupUniqArray({limit:UInt32})(merchant_id)
FROM {stored}
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

    def plus(self, other: "Move") -> "Move":
        """Return both in one: of the same day and currency."""
        sums = [mine + its for mine, its in zip(astuple(self)[2:], astuple(other)[2:], strict=True)]
        return Move(self.day, self.currency, *sums)


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


@dataclass(frozen=True)
class _Share:
    """The rows to repair on a server: all, or those of a node of a cluster.

    Attributes:
        client: a client on the configured database.
        node: the server.
        stored: the table that has the rows.
    """

    client: Client
    node: Node
    stored: str


def repair(
    settings: Settings,
    *,
    every_day: bool = False,
    skip_away: bool = False,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Repaired:
    """Write the rows again whose merchant or rate is known now, or known better. Ingest goes on meanwhile.

    Killed at any moment it leaves each row as it was or repaired; run again, it does the rest. Of two, one waits.

    Args:
        settings: where ClickHouse is, and the policy for changed merchants (``dims_merchant_changes``).
        every_day: look at each day that has rows, whatever earlier repairs saw.
        skip_away: go on without the nodes of a cluster that do not answer.
        report: called after each batch.

    Raises:
        UsageError: the schema does not exist yet.
        CheckFailed: another repair is still running after a quarter of an hour, or nodes serve different snapshots.
        ServiceUnavailable: ClickHouse cannot be reached, or was lost on the way, or a node does not answer.
    """
    began = time.monotonic()
    nodes = _found(settings, skip_away)
    days: set[date] = set()
    # A set of a cluster has all payments, so they are counted in one.
    rows: Counter[str] = Counter()
    with ExitStack() as stack:
        held = []
        for node in nodes.of_each_shard():
            share = stack.enter_context(_connected(nodes, node))
            # In the same order for everybody, so that two never wait for each other.
            lock = locked(share.client, LOCK, node.told(_WHAT), like="repaired_days", wait_s=LOCK_WAIT_S)
            held.append((share, stack.enter_context(lock)))
        if nodes.cluster:
            _refuse_different_snapshots(nodes)

        def keep() -> None:
            for _, lock in held:
                lock.keep()

        for share, _ in held:
            so_far = rows[share.node.set]
            with _answering(nodes, share.node):
                looked_at, written = _repair_share(share, keep, settings, every_day, so_far, report)
            days |= looked_at
            rows[share.node.set] += written
    return Repaired(len(days), max(rows.values()), time.monotonic() - began)


def _repair_share(
    share: _Share,
    keep: Callable[[], None],
    settings: Settings,
    every_day: bool,
    so_far: int,
    report: Callable[[Progress], None],
) -> tuple[set[date], int]:
    """Return the days that were looked at, and how many rows were written."""
    client = share.client
    first = _first_day(share)
    if first is None:
        return set(), 0
    while True:
        loaded = _wait_settled(client)
        [[started_at]] = client.query("SELECT now64(3, 'UTC')").result_rows
        plan = _plan(share, settings, first, every_day)
        if _loaded(client) == loaded:
            break  # else a dictionary changed while this waited or planned
    # Until a day is done nothing is known of it: whatever ends this repair, the next one looks at it again.
    _record(client, {day: _Seen(0, 0, 0, 0) for day in plan.days}, started_at)
    names = ", ".join(_columns(client, share.stored))
    rows = 0
    for number, (day, merchants) in enumerate(plan.days.items()):
        for condition in _batches(share, day, merchants):
            summary = client.command(
                f"INSERT INTO {share.stored} ({names}) SELECT {names} FROM {_view(settings)} WHERE {condition}",
                settings=_SETTINGS,
            ).summary
            rows += int(summary["written_rows"])
            keep()
            report(Progress(day, number, len(plan.days), so_far + rows))
    # Not where a dictionary changed meanwhile: rows may have been written with either.
    if _loaded(client) == loaded:
        _record(client, plan.seen, started_at + timedelta(milliseconds=1))
    return set(plan.days), rows


def preview(settings: Settings, *, every_day: bool = False, skip_away: bool = False) -> list[Move]:
    """Return what a repair would do now, by day and currency, newest day first. Changes nothing.

    Of several sets of a cluster, which have the same payments, it is what the one would need that has most to repair.

    Raises:
        UsageError: the schema does not exist yet.
        ServiceUnavailable: ClickHouse cannot be reached, or was lost on the way, or a node does not answer.
    """
    nodes = _found(settings, skip_away)
    of_sets: dict[str, dict[tuple[date, str], Move]] = {name: {} for name in nodes.sets}
    for node in nodes.of_each_shard():
        moves = of_sets[node.set]
        with _connected(nodes, node) as share:
            for move in _preview_share(share, settings, every_day):
                before = moves.get((move.day, move.currency))
                moves[move.day, move.currency] = before.plus(move) if before else move
    most = max(of_sets.values(), key=lambda moves: sum(move.rows for move in moves.values()))
    return sorted(most.values(), key=lambda move: (-move.day.toordinal(), move.currency))


def _preview_share(share: _Share, settings: Settings, every_day: bool) -> list[Move]:
    first = _first_day(share)
    if first is None:
        return []
    moves = []
    for day, merchants in _plan(share, settings, first, every_day).days.items():
        moves += share.client.query(
            f"""
            SELECT
                toDate(created_at) AS day, currency, count(), sum(amount),
                sum(ifNull(stored_amount_reporting, 0)), sum(ifNull(amount_reporting, 0))
            FROM {_view(settings)}
            WHERE {_condition(day, merchants)}
            GROUP BY day, currency
            """
        ).result_rows
    return [Move(*row) for row in moves]


def _found(settings: Settings, skip_away: bool) -> Nodes:
    nodes = find(settings)
    if not skip_away:
        nodes.require_all(_WHAT)
    return nodes


_WHAT = "Repair of transactions"
_STATE = "What was repaired so far stays."


@contextmanager
def _connected(nodes: Nodes, node: Node) -> Iterator[_Share]:
    stored = nodes.share("transactions")
    with connected(node.settings, node.told(_WHAT), _STATE, [stored, *NEEDED]) as client:
        yield _Share(client, node, stored)


def _answering(nodes: Nodes, node: Node) -> AbstractContextManager[None]:
    """Have what ClickHouse refuses meanwhile say on which node: others are connected to as well."""
    return answering(node.told(_WHAT), _STATE) if nodes.cluster else nullcontext()


def _refuse_different_snapshots(nodes: Nodes) -> None:
    served = history.serving(nodes)
    for dimension in (MERCHANTS, FX):
        if told := history.lagging(served, dimension):
            raise CheckFailed(
                f"Repair of transactions: of '{dimension.name}', {'; '.join(told)}. "
                f"Run `paystream dims refresh {dimension.name}`, which brings all nodes to one; it repairs then."
            )


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


def _first_day(share: _Share) -> date | None:
    """Return the day of the oldest transaction, None where there is none."""
    query = f"SELECT count(), toDate(min(created_at)) FROM {share.stored}"
    [[rows, first]] = share.client.query(query).result_rows
    return first if rows else None


def _plan(share: _Share, settings: Settings, first: date, every_day: bool) -> _Plan:
    client = share.client
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
        whole |= _enriched_since_oldest_repair(share)
    listed = _merchants(share, _LATE, {}, lambda day: day in before and before[day].merchants_snapshot_id != merchants)
    if restating and (restated := [seen.restated_snapshot_id for seen in before.values() if seen.restated_snapshot_id]):
        since = {"since": max(min(restated), kept_since)}
        changed = _merchants(
            share, _CHANGED, since, lambda day: day in before and before[day].restated_snapshot_id != merchants
        )
        for day, merchant_ids in changed.items():
            listed.setdefault(day, set()).update(merchant_ids)
    whole |= {day for day, merchant_ids in listed.items() if len(merchant_ids) > LISTED_MERCHANTS}
    stored = client.query(
        f"SELECT DISTINCT toDate(created_at) FROM {share.stored} WHERE toDate(created_at) IN {{days:Array(Date)}}",
        parameters={"days": list(whole)},
    ).result_rows
    days = {day: sorted(merchant_ids) for day, merchant_ids in listed.items()} | {day: None for (day,) in stored}
    return _Plan(
        dict(sorted(days.items(), reverse=True)),
        {day: seen for day, seen in now.items() if day in days or before.get(day) != seen},
    )


def _enriched_since_oldest_repair(share: _Share) -> set[date]:
    return {
        day
        for (day,) in share.client.query(
            f"SELECT DISTINCT toDate(created_at) FROM {share.stored} "
            "WHERE enriched_at >= (SELECT min(repaired_at) FROM repaired_days FINAL)"
        ).result_rows
    }


def _merchants(
    share: _Share, query: str, parameters: dict[str, int], is_open: Callable[[date], bool]
) -> dict[date, set[int]]:
    """Return a query's merchants by day, of the open days; ``LISTED_MERCHANTS`` and one more at most of each."""
    parameters = parameters | {"limit": LISTED_MERCHANTS + 1}
    rows = share.client.query(query.replace("{stored}", share.stored), parameters=parameters).result_rows
    return {day: set(merchant_ids) for day, merchant_ids in rows if is_open(day)}


def _batches(share: _Share, day: date, merchants: list[int] | None) -> Iterator[str]:
    """Yield conditions that together select a day's rows of these merchants (None: all), each some million rows."""
    counts = share.client.query(
        f"SELECT merchant_id, count() FROM {share.stored} WHERE {_condition(day, merchants)} "
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


def _columns(client: Client, stored: str) -> list[str]:
    """Return the columns that the view gives for the table."""
    return [
        name
        for (name,) in client.query(
            f"SELECT name FROM system.columns WHERE database = currentDatabase() AND table = '{stored}' "
            "AND default_kind != 'MATERIALIZED' ORDER BY position"
        ).result_rows
    ]


def _record(client: Client, seen: dict[date, _Seen], started_at: datetime) -> None:
    if seen:
        client.insert(
            "repaired_days",
            [[day, *astuple(of_day), started_at.replace(tzinfo=UTC)] for day, of_day in seen.items()],
        )
