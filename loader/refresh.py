"""One refresh of a dimension: stage, check, keep a copy, swap, reload the dictionary, verify it, record the snapshot.

At every moment the old snapshot serves or the new one does, never a mix. What is not finished when a refresh is killed,
the next one finishes or clears away. Beside the dimension's table there are for a while, in the same database:

- ``<table>_refresh``: the lock, and as its row the snapshot record of a swap under way;
- ``<table>_refresh_<token>``: the lock of a refresh that died, until the next one has read it;
- ``<table>_staging_<token>``: the new rows before the swap, the old ones after it.
"""

import socket
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import psutil
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from paystream.clickhouse import cause_of
from paystream.errors import CheckFailed, PaystreamError, ServiceUnavailable, UsageError
from paystream.loader import gates, history
from paystream.loader.dimension import Dimension
from paystream.loader.source import Rejected, Source
from paystream.lock import Lock, LockMustStay, locked
from paystream.schema import connected
from paystream.settings import Settings


@dataclass(frozen=True)
class Refreshed:
    """What a refresh did: ``result`` is ``loaded``, ``rolled_back``, or ``unchanged`` where the file serves already.
    ``rejected`` counts the rows of the file that were left out."""

    dimension: str
    result: str
    snapshot_id: int
    rows: int
    checksum: str
    rejected: int = 0


class _Unfinished(LockMustStay, ServiceUnavailable):
    """The swap could be neither completed nor undone: what the next run needs for that must stay."""


def refresh(
    settings: Settings,
    dimension: Dimension,
    source: Source,
    columns: dict[str, list[Any]],
    *,
    merge: bool = False,
    forced: Collection[str] = (),
    rejected: Collection[Rejected] = (),
) -> Refreshed:
    """Replace a dimension by these rows, unless they come from the very file that serves already.

    On return the table, its dictionary and the record in ``dimension_snapshots`` agree, and ``<table>_history`` has a
    copy. After an error the previous snapshot serves as before; if ClickHouse is lost during the swap it may be the
    new one, and the next run settles that.

    Args:
        settings: where ClickHouse is, and the limits of the gates.
        dimension: ``MERCHANTS`` or ``FX``.
        source: the file the rows were read from.
        columns: the validated rows, column by column, without ``snapshot_id``.
        merge: keep the rows that serve and whose keys are not among these.
        forced: names of gates (``gates.GATES``) that are not to refuse.
        rejected: rows of the file that are not among these; what served under their keys goes on.

    Raises:
        UsageError: the schema does not exist yet.
        CheckFailed: another refresh of this dimension is running, or a check failed; ``GateFailed`` for one that
            ``forced`` could have overridden.
        ServiceUnavailable: ClickHouse cannot be reached, or was lost on the way.
    """
    rows = len(columns[dimension.key[0]])

    def fill(client: Client, staging: str, snapshot_id: int) -> None:
        client.insert(
            staging,
            [*columns.values(), [snapshot_id] * rows],
            column_names=[*columns, "snapshot_id"],
            column_oriented=True,
        )
        [[staged, keys]] = _rows(client, f"SELECT count(), uniqExact({', '.join(dimension.key)}) FROM {staging}")
        if not staged == keys == rows:
            raise CheckFailed(
                f"Refresh of '{dimension.name}': {staged:,} rows with {keys:,} keys were staged instead of "
                f"{rows:,}. Nothing was changed; run it again."
            )
        if merge:
            _keep_others(client, dimension, staging, snapshot_id, columns)
        elif rejected:
            _keep(client, dimension, staging, snapshot_id, [row.key for row in rejected])
        gates.check(client, settings, dimension, source, staging, merged=merge, forced=forced)

    with _connected(settings, dimension) as client, _locked(client, dimension) as lock:
        _settle_killed_refresh(client, dimension)
        unchanged = _unchanged(client, dimension, source, columns, rejected)
        if unchanged:
            row = [dimension.name, unchanged.snapshot_id]
            client.insert("dimension_checks", [row], column_names=["dimension", "snapshot_id"])
        origin = _Origin(source.name, source.checksum, source.modified_at, sorted(forced), rejected)
        return unchanged or _load(client, settings, dimension, lock.token, origin, fill)


def roll_back(settings: Settings, dimension: Dimension, snapshot_id: int) -> Refreshed:
    """Let an earlier snapshot serve again, as a new snapshot with the same rows.

    No gate refuses it. The newer file is refused as older from then on, since it has been replaced.

    Raises:
        UsageError: there is no such snapshot, it is not kept any more, or it serves already.
        CheckFailed: a refresh of this dimension is running.
        ServiceUnavailable: ClickHouse cannot be reached, or was lost on the way.
    """

    def fill(client: Client, staging: str, new_id: int) -> None:
        columns = ", ".join(dimension.key + dimension.values)
        client.command(
            f"INSERT INTO {staging} ({columns}, snapshot_id) "
            f"SELECT {columns}, {new_id} FROM {dimension.history} WHERE snapshot_id = {snapshot_id}"
        )

    with _connected(settings, dimension) as client, _locked(client, dimension) as lock:
        _settle_killed_refresh(client, dimension)
        kept = {snapshot.snapshot_id: snapshot for snapshot in history.snapshots(client, dimension)}
        wanted = history.require_kept(dimension, kept, snapshot_id)
        if wanted.serving:
            raise UsageError(
                f"Snapshot {snapshot_id} of '{dimension.name}' serves already. "
                f"Choose an earlier one: `paystream dims history {dimension.name}`."
            )
        if dimension.setting_column:
            [[currency]] = _rows(
                client,
                f"SELECT any({dimension.setting_column}) FROM {dimension.history} WHERE snapshot_id = {snapshot_id}",
            )
            if currency != settings.reporting_currency:
                raise UsageError(
                    f"Snapshot {snapshot_id} of '{dimension.name}' is in {currency}, and PAYSTREAM_REPORTING_CURRENCY "
                    f"is {settings.reporting_currency}. Set that back, or choose another snapshot."
                )
        origin = _Origin(f"snapshot {snapshot_id}", wanted.checksum, wanted.source_modified_at, [], wanted.rejected)
        return _load(client, settings, dimension, lock.token, origin, fill, "rolled_back")


def require_schema(settings: Settings, dimension: Dimension) -> None:
    """Check that ClickHouse is there and has what the dimension needs, before a long file is read for nothing.

    Raises:
        UsageError: the schema does not exist yet.
        ServiceUnavailable: ClickHouse cannot be reached.
    """
    with _connected(settings, dimension):
        pass


def _connected(settings: Settings, dimension: Dimension) -> AbstractContextManager[Client]:
    if settings.clickhouse_cluster:
        # The other nodes would go on with the table that was there before, and enrich from that.
        raise UsageError(
            f"Refresh of '{dimension.name}' cannot run on cluster '{settings.clickhouse_cluster}': "
            "it exchanges tables on one node alone. Load it with the statements of docs/clusters.md."
        )
    needed = [
        dimension.table,
        dimension.history,
        dimension.dictionary,
        dimension.dictionary_source,
        "dimension_snapshots",
        "dimension_checks",
    ]
    return connected(settings, f"Refresh of '{dimension.name}'", "The previous snapshot serves.", needed)


def _locked(client: Client, dimension: Dimension) -> AbstractContextManager[Lock]:
    return locked(
        client, _lock_name(dimension), f"Refresh of '{dimension.name}'", like="dimension_snapshots", keeps_left=True
    )


def _lock_name(dimension: Dimension) -> str:
    return f"{dimension.table}_refresh"


def _settle_killed_refresh(client: Client, dimension: Dimension) -> None:
    """Record the swap that a killed refresh had made, and drop whatever killed refreshes left."""
    leftovers = [
        name
        for (name,) in _rows(
            client,
            "SELECT name FROM system.tables WHERE database = currentDatabase() "
            f"AND match(name, '^{dimension.table}_(staging|refresh)_[0-9a-f]{{12}}$') "
            # Staging tables first: without one, a refresh that was taken for dead too early can swap nothing.
            "ORDER BY name LIKE '%_staging_%' DESC",
        )
    ]
    for name in leftovers:
        if "_refresh_" in name and _rows(
            client, f"SELECT 1 FROM {name} WHERE snapshot_id = ({_live_snapshot(dimension)})"
        ):
            _reload(client, dimension)
            _record(client, dimension, name)
        client.command(f"DROP TABLE IF EXISTS {name} SYNC")


def _unchanged(
    client: Client,
    dimension: Dimension,
    source: Source,
    columns: dict[str, list[Any]],
    rejected: Collection[Rejected],
) -> Refreshed | None:
    setting = f"any({dimension.setting_column})" if dimension.setting_column else "''"
    wanted = columns[dimension.setting_column][0] if dimension.setting_column else ""
    query = f"SELECT max(snapshot_id), count(), {setting} FROM {dimension.table}"
    [[snapshot_id, rows, serving]] = _rows(client, query)
    recorded = _rows(
        client,
        "SELECT snapshot_id, row_count, checksum, rejected.key FROM dimension_snapshots "
        f"WHERE dimension = '{dimension.name}' ORDER BY snapshot_id DESC LIMIT 1",
    )
    # Of the same file, other rows may be left out: codes that were unknown then are known by now, or were forced.
    left_out = [row.key for row in rejected]
    if recorded != [(snapshot_id, rows, source.checksum, left_out)] or serving != wanted:
        return None
    if _differences(client, dimension):
        _reload(client, dimension)
    return Refreshed(dimension.name, "unchanged", snapshot_id, rows, source.checksum, len(rejected))


def _keep_others(
    client: Client, dimension: Dimension, staging: str, snapshot_id: int, columns: dict[str, list[Any]]
) -> None:
    """Add the rows that serve and whose keys are not staged."""
    if dimension.setting_column:
        wanted = columns[dimension.setting_column][0]
        others = _rows(
            client,
            f"SELECT DISTINCT {dimension.setting_column} FROM {dimension.table} "
            f"WHERE {dimension.setting_column} != '{wanted}' AND snapshot_id > 0",
        )
        for (other,) in others:
            raise CheckFailed(
                f"Refresh of '{dimension.name}': these rows are in {wanted}, and those that serve are in "
                f"{other}, so they cannot be merged. Nothing was changed. Load a whole history first."
            )
    key, kept = ", ".join(dimension.key), ", ".join(dimension.key + dimension.values)
    client.command(
        f"INSERT INTO {staging} ({kept}, snapshot_id) SELECT {kept}, {snapshot_id} FROM {dimension.table} "
        # Without what `paystream migrate up` wrote before any file was loaded.
        f"WHERE snapshot_id > 0 AND ({key}) NOT IN (SELECT {key} FROM {staging})"
    )


def _keep(client: Client, dimension: Dimension, staging: str, snapshot_id: int, keys: list[str]) -> None:
    """Add the rows that serve under these keys."""
    [key] = dimension.key
    kept = ", ".join(dimension.key + dimension.values)
    client.command(
        f"INSERT INTO {staging} ({kept}, snapshot_id) SELECT {kept}, {snapshot_id} FROM {dimension.table} "
        f"WHERE toString({key}) IN {{keys:Array(String)}}",
        parameters={"keys": keys},
    )


@dataclass(frozen=True)
class _Origin:
    """Where a snapshot comes from, as it is recorded beside its number and rows."""

    source: str
    checksum: str
    source_modified_at: datetime | None
    forced_gates: list[str]
    rejected: Collection[Rejected]


def _load(
    client: Client,
    settings: Settings,
    dimension: Dimension,
    token: str,
    origin: _Origin,
    fill: Callable[[Client, str, int], None],
    result: str = "loaded",
) -> Refreshed:
    """Stage what ``fill`` writes, check it, and let it serve."""
    [[snapshot_id]] = _rows(
        client,
        "SELECT 1 + greatest(max(snapshot_id), "
        f"({_live_snapshot(dimension)})) FROM dimension_snapshots WHERE dimension = '{dimension.name}'",
    )
    staging = f"{dimension.table}_staging_{token}"
    try:
        client.command(f"CREATE TABLE {staging} AS {dimension.table}")
        fill(client, staging, snapshot_id)
        [[rows]] = _rows(client, f"SELECT count() FROM {staging}")
        history.keep(client, dimension, staging, snapshot_id)
        process = psutil.Process()
        pending = {
            "dimension": dimension.name,
            "snapshot_id": snapshot_id,
            "source": origin.source,
            "checksum": origin.checksum,
            "row_count": rows,
            "loaded_by": f"{process.username()}@{socket.gethostname()}",
            "source_modified_at": origin.source_modified_at,
            "forced_gates": origin.forced_gates,
            "rejected": [asdict(row) for row in origin.rejected],
        }
        client.insert(_lock_name(dimension), [list(pending.values())], column_names=list(pending))
        _swap(client, dimension, staging, snapshot_id)
        try:
            _record(client, dimension, _lock_name(dimension))
        except BaseException as error:
            raise _unfinished(dimension, error) from error
    except _Unfinished:
        raise
    except BaseException:
        with suppress(ClickHouseError):
            client.command(f"DROP TABLE IF EXISTS {staging} SYNC")
        raise
    client.command(f"DROP TABLE IF EXISTS {staging} SYNC")
    history.prune(client, dimension, settings.dims_snapshots_kept)
    return Refreshed(dimension.name, result, snapshot_id, rows, origin.checksum, len(origin.rejected))


def _swap(client: Client, dimension: Dimension, staging: str, snapshot_id: int) -> None:
    """Exchange the staged rows with the live ones and reload the dictionary, or undo both."""
    exchange = f"EXCHANGE TABLES {dimension.table} AND {staging}"
    try:
        client.command(exchange)
        # A request that the network repeated would have exchanged them back.
        if client.command(_live_snapshot(dimension)) != snapshot_id:
            raise CheckFailed(f"Refresh of '{dimension.name}': the exchange did not take place. Run it again.")
        _reload(client, dimension)
    except BaseException as error:
        try:
            # Asked, not remembered: an exchange whose answer got lost may have happened.
            if client.command(_live_snapshot(dimension)) == snapshot_id:
                client.command(exchange)
                _reload(client, dimension)
        except (ClickHouseError, PaystreamError):
            raise _unfinished(dimension, error) from error
        raise


def _reload(client: Client, dimension: Dimension) -> None:
    client.command(f"SYSTEM RELOAD DICTIONARY {dimension.dictionary}")
    if difference := _differences(client, dimension):
        raise CheckFailed(
            f"Refresh of '{dimension.name}': after its reload the dictionary {dimension.dictionary} is not what "
            f"{dimension.dictionary_source} holds ({difference}). Look at its "
            "last_exception in system.dictionaries and run it again."
        )


def _differences(client: Client, dimension: Dimension) -> str:
    """Compare the dictionary with what it is loaded from by number of rows and a sum of their hashes; '' when equal."""
    # As texts, since the dictionary's types are not always the table's (LowCardinality) and hashes may depend on them.
    row = ", ".join(f"toString({column})" for column in dimension.dictionary_columns)
    counted = f"SELECT count(), sum(cityHash64({row})) FROM "
    [table] = _rows(client, counted + dimension.dictionary_source)
    [dictionary] = _rows(client, counted + dimension.dictionary)
    return "" if table == dictionary else f"rows and checksum {dictionary} instead of {table}"


def _record(client: Client, dimension: Dimension, pending: str) -> None:
    # By name: a refresh may have been killed before an upgrade added a column.
    [[columns]] = _rows(
        client,
        "SELECT arrayStringConcat(groupArray(name), ', ') FROM system.columns "
        f"WHERE database = currentDatabase() AND table = '{pending}'",
    )
    client.command(
        f"INSERT INTO dimension_snapshots ({columns}) SELECT {columns} FROM {pending} WHERE snapshot_id NOT IN "
        f"(SELECT snapshot_id FROM dimension_snapshots WHERE dimension = '{dimension.name}')"
    )


def _live_snapshot(dimension: Dimension) -> str:
    return f"SELECT max(snapshot_id) FROM {dimension.table}"


def _unfinished(dimension: Dimension, error: BaseException) -> _Unfinished:
    cause = cause_of(error) if isinstance(error, Exception) else "interrupted"
    return _Unfinished(
        f"Refresh of '{dimension.name}': the swap was cut off and could not be undone: {cause}. "
        "Run it again: that completes or replaces it."
    )


def _rows(client: Client, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in client.query(sql).result_rows]
