"""What a refresh checks before it swaps, beyond each row by itself: is this plausibly the next snapshot?"""

from collections.abc import Collection
from datetime import UTC

from clickhouse_connect.driver.client import Client

from paystream.errors import UsageError
from paystream.loader.dimension import FX, MERCHANTS, Dimension
from paystream.loader.source import UNKNOWN_CODES, GateFailed, Source
from paystream.settings import Settings

ROW_COUNT = "row-count"
RATE_MOVE = "rate-move"
OLDER_SNAPSHOT = "older-snapshot"

GATES = {
    UNKNOWN_CODES: "a country, category or currency code that no list has",
    ROW_COUNT: "fewer rows than what serves, by more than PAYSTREAM_DIMS_ROW_FALL_LIMIT",
    RATE_MOVE: "a rate that moves by more than PAYSTREAM_DIMS_RATE_MOVE_LIMIT",
    OLDER_SNAPSHOT: "older than what serves",
}
"""The gates that ``--force`` can override. A file that is malformed, empty or has a key twice cannot be forced: what it
means is not known."""

SHOWN_MOVES = 20

# A new day's quote against the one before it, and a corrected quote against what it was. History that serves already
# was let in once and is not asked about again; a first load has nothing to be compared with.
_MOVES = """
SELECT currency, rate_date, before, rate, count() OVER () AS moves
FROM
(
    SELECT
        s.currency AS currency,
        s.rate_date AS rate_date,
        s.rate AS rate,
        (SELECT max(rate_date) FROM fx_rates) AS newest,
        lagInFrame(s.rate) OVER quotes AS rate_before,
        lagInFrame(s.rate_date) OVER quotes AS date_before,
        -- 0 where there is nothing to compare with, as joins and windows give it.
        multiIf(s.rate_date <= newest, serving.rate, s.rate_date - date_before <= 10, rate_before, 0) AS before
    FROM {staging} AS s
    LEFT JOIN fx_rates AS serving
        ON serving.currency = s.currency
        AND serving.rate_date = s.rate_date
        AND serving.reporting_currency = s.reporting_currency
    WINDOW quotes AS (PARTITION BY s.currency ORDER BY s.rate_date ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
)
WHERE before > 0 AND abs(rate - before) > before * toDecimal128('{limit:.4f}', 4)
ORDER BY rate_date DESC, currency
LIMIT {shown}
"""


def require_known(forced: Collection[str]) -> None:
    """Check the names given to ``--force``.

    Raises:
        UsageError: one of them is not a gate.
    """
    unknown = [name for name in forced if name not in GATES]
    if unknown:
        listed = "; ".join(f"{name} ({what})" for name, what in GATES.items())
        raise UsageError(f"Gate '{unknown[0]}': there is no such gate. --force takes {listed}.")


def check(
    client: Client,
    settings: Settings,
    dimension: Dimension,
    source: Source,
    staging: str,
    *,
    merged: bool,
    forced: Collection[str],
) -> None:
    """Check staged rows against those that serve.

    Args:
        client: a client on the configured database.
        settings: the limits.
        dimension: which one.
        source: where the rows came from.
        staging: the table that holds them.
        merged: whether the rows that serve are among them.
        forced: gates that are not asked.

    Raises:
        GateFailed: a gate refuses them.
    """
    # What `paystream migrate up` wrote before any file was loaded is nothing to compare with.
    [[serving]] = client.query(f"SELECT count() FROM {dimension.table} WHERE snapshot_id > 0").result_rows
    if not serving:
        return
    if OLDER_SNAPSHOT not in forced:
        _check_age(client, dimension, source, staging, merged)
    if ROW_COUNT not in forced:
        _check_row_count(client, settings, dimension, source, staging, serving)
    if dimension is FX and RATE_MOVE not in forced:
        _check_moves(client, settings, source, staging)


def _check_age(client: Client, dimension: Dimension, source: Source, staging: str, merged: bool) -> None:
    recorded = client.query(
        "SELECT snapshot_id, checksum, source_modified_at FROM dimension_snapshots "
        f"WHERE dimension = '{dimension.name}' ORDER BY snapshot_id DESC"
    ).result_rows
    newest_id, _, newest_modified_at = recorded[0] if recorded else (None, "", None)
    same_id = next((snapshot_id for snapshot_id, checksum, _ in recorded if checksum == source.checksum), newest_id)
    if same_id != newest_id:
        raise _refusal(
            source,
            OLDER_SNAPSHOT,
            f"it was snapshot {same_id}, which {newest_id} has replaced "
            f"(`paystream dims rollback {dimension.name} --to {same_id}` lets it serve again)",
        )
    if dimension is MERCHANTS:
        if newest_modified_at and source.modified_at and source.modified_at < newest_modified_at.replace(tzinfo=UTC):
            raise _refusal(
                source,
                OLDER_SNAPSHOT,
                f"it is of {source.modified_at:%Y-%m-%d %H:%M:%S} UTC, "
                f"and what serves is of {newest_modified_at:%Y-%m-%d %H:%M:%S}",
            )
    elif not merged:
        newest = "SELECT max(rate_date) FROM"
        [[new, old]] = client.query(f"SELECT ({newest} {staging}), ({newest} {dimension.table})").result_rows
        if new < old:
            raise _refusal(source, OLDER_SNAPSHOT, f"its newest quote is of {new}, and what serves has {old}")


def _check_row_count(
    client: Client, settings: Settings, dimension: Dimension, source: Source, staging: str, serving: int
) -> None:
    [[rows]] = client.query(f"SELECT count() FROM {staging}").result_rows
    limit = settings.dims_row_fall_limit
    if rows < serving * (1 - limit):
        raise _refusal(
            source,
            ROW_COUNT,
            f"it has {rows:,} rows where {serving:,} serve, a fall by {1 - rows / serving:.1%} "
            f"(at most {limit:.0%}: PAYSTREAM_DIMS_ROW_FALL_LIMIT)"
            # The likeliest mistake, whose remedy is another than to override the gate.
            + ("; to add these rates to those that serve, use --merge" if dimension is FX else ""),
        )


def _check_moves(client: Client, settings: Settings, source: Source, staging: str) -> None:
    limit = settings.dims_rate_move_limit
    moves = list(client.query(_MOVES.format(staging=staging, limit=limit, shown=SHOWN_MOVES)).named_results())
    if moves:
        count = moves[0]["moves"]
        listed = "".join(
            f"\n  {move['currency']} on {move['rate_date']}: from {move['before']:f} to {move['rate']:f} "
            f"({float(move['rate'] / move['before']) - 1:+.1%})"
            for move in moves
        )
        error = _refusal(
            source,
            RATE_MOVE,
            f"{count:,} rate{'s' * (count != 1)} moved by more than {limit:.0%} (PAYSTREAM_DIMS_RATE_MOVE_LIMIT)",
        )
        raise GateFailed(str(error) + listed, RATE_MOVE)


def _refusal(source: Source, gate: str, cause: str) -> GateFailed:
    return GateFailed(
        f"{source.kind} '{source.name}': {cause}. Nothing was changed. Look at the file; "
        f"if it is right, run again with --force {gate}.",
        gate,
    )
