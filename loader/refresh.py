"""One refresh of a dimension: stage, check, keep a copy, swap, reload the dictionary, verify it, record the snapshot.

At every moment the old snapshot serves or the new one does, never a mix. What is not finished when a refresh is killed,
the next one finishes or clears away. On a cluster each step is taken on every node before the next: none changes what
it serves until all have staged it. ``swap.py`` has what stands beside the table meanwhile.
"""

import socket
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import psutil
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from paystream.errors import CheckFailed, UsageError
from paystream.loader import gates, history, swap
from paystream.loader.dimension import Dimension
from paystream.loader.source import Rejected, Source
from paystream.loader.swap import Server, Unfinished, rows_of
from paystream.nodes import Nodes, find
from paystream.settings import Settings


@dataclass(frozen=True)
class Refreshed:
    """What a refresh did: ``result`` is ``loaded``, ``rolled_back``, or ``unchanged`` where the file serves already.
    ``rejected`` counts the rows of the file that were left out, ``away`` names the nodes that did not answer."""

    dimension: str
    result: str
    snapshot_id: int
    rows: int
    checksum: str
    rejected: int = 0
    away: tuple[str, ...] = ()

    def fields(self) -> dict[str, Any]:
        """Return what it did, as every command reports it."""
        fields = asdict(self)
        if not self.away:
            del fields["away"]
        return fields


def refresh(
    settings: Settings,
    dimension: Dimension,
    source: Source,
    columns: dict[str, list[Any]],
    *,
    merge: bool = False,
    forced: Collection[str] = (),
    rejected: Collection[Rejected] = (),
    skip_away: bool = False,
) -> Refreshed:
    """Replace a dimension by these rows, unless they come from the very file that serves already.

    On return the table, its dictionary and the record in ``dimension_snapshots`` agree, and ``<table>_history`` has a
    copy. After an error the previous snapshot serves as before; if ClickHouse is lost during the swap it may be the
    new one, and the next run settles that. A node of a cluster that lacks a snapshot gets it first.

    Args:
        settings: where ClickHouse is, and the limits of the gates.
        dimension: ``MERCHANTS`` or ``FX``.
        source: the file the rows were read from.
        columns: the validated rows, column by column, without ``snapshot_id``.
        merge: keep the rows that serve and whose keys are not among these.
        forced: names of gates (``gates.GATES``) that are not to refuse.
        rejected: rows of the file that are not among these; what served under their keys goes on.
        skip_away: go on without the nodes of a cluster that do not answer.

    Raises:
        UsageError: the schema does not exist yet.
        CheckFailed: another refresh of this dimension is running, or a check failed; ``GateFailed`` for one that
            ``forced`` could have overridden.
        ServiceUnavailable: ClickHouse cannot be reached, or was lost on the way, or a node does not answer.
    """
    rows = len(columns[dimension.key[0]])

    def fill(client: Client, staging: str, snapshot_id: int) -> None:
        client.insert(
            staging,
            [*columns.values(), [snapshot_id] * rows],
            column_names=[*columns, "snapshot_id"],
            column_oriented=True,
        )
        [[staged, keys]] = rows_of(client, f"SELECT count(), uniqExact({', '.join(dimension.key)}) FROM {staging}")
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

    nodes = _found(settings, dimension, skip_away)
    with swap.held(nodes, dimension) as servers:
        unchanged = _unchanged(servers, dimension, source, columns, rejected)
        if unchanged:
            row = [dimension.name, unchanged.snapshot_id, _now(servers)]
            for server in servers:
                with server.answering():
                    names = ["dimension", "snapshot_id", "checked_at"]
                    server.client.insert("dimension_checks", [row], column_names=names)
        origin = _Origin(source.name, source.checksum, source.modified_at, sorted(forced), rejected)
        done = unchanged or _load(servers, settings, dimension, nodes, origin, fill)
    return replace(done, away=tuple(node.address for node in nodes.away))


def roll_back(settings: Settings, dimension: Dimension, snapshot_id: int, *, skip_away: bool = False) -> Refreshed:
    """Let an earlier snapshot serve again, as a new snapshot with the same rows.

    No gate refuses it. The newer file is refused as older from then on, since it has been replaced. ``skip_away`` is as
    for ``refresh``.

    Raises:
        UsageError: there is no such snapshot, it is not kept any more, or it serves already.
        CheckFailed: a refresh of this dimension is running.
        ServiceUnavailable: ClickHouse cannot be reached, or was lost on the way, or a node does not answer.
    """

    def fill(client: Client, staging: str, new_id: int) -> None:
        columns = ", ".join(dimension.key + dimension.values)
        client.command(
            f"INSERT INTO {staging} ({columns}, snapshot_id) "
            f"SELECT {columns}, {new_id} FROM {dimension.history} WHERE snapshot_id = {snapshot_id}"
        )

    nodes = _found(settings, dimension, skip_away)
    with swap.held(nodes, dimension) as servers:
        client = servers[0].client
        kept = {snapshot.snapshot_id: snapshot for snapshot in history.snapshots(client, dimension)}
        wanted = history.require_kept(dimension, kept, snapshot_id)
        if wanted.serving:
            raise UsageError(
                f"Snapshot {snapshot_id} of '{dimension.name}' serves already. "
                f"Choose an earlier one: `paystream dims history {dimension.name}`."
            )
        if dimension.setting_column:
            [[currency]] = rows_of(
                client,
                f"SELECT any({dimension.setting_column}) FROM {dimension.history} WHERE snapshot_id = {snapshot_id}",
            )
            if currency != settings.reporting_currency:
                raise UsageError(
                    f"Snapshot {snapshot_id} of '{dimension.name}' is in {currency}, and PAYSTREAM_REPORTING_CURRENCY "
                    f"is {settings.reporting_currency}. Set that back, or choose another snapshot."
                )
        origin = _Origin(f"snapshot {snapshot_id}", wanted.checksum, wanted.source_modified_at, [], wanted.rejected)
        done = _load(servers, settings, dimension, nodes, origin, fill, "rolled_back")
    return replace(done, away=tuple(node.address for node in nodes.away))


def require_schema(settings: Settings, dimension: Dimension, *, skip_away: bool = False) -> None:
    """Check that ClickHouse is there and has what the dimension needs, before a long file is read for nothing.

    Raises:
        UsageError: the schema does not exist yet.
        ServiceUnavailable: ClickHouse cannot be reached, or a node does not answer.
    """
    for node in _found(settings, dimension, skip_away).in_order:
        with swap.at(node, dimension):
            pass


def _found(settings: Settings, dimension: Dimension, skip_away: bool) -> Nodes:
    nodes = find(settings)
    if not skip_away:
        nodes.require_all(f"Refresh of '{dimension.name}'")
    return nodes


def _unchanged(
    servers: list[Server],
    dimension: Dimension,
    source: Source,
    columns: dict[str, list[Any]],
    rejected: Collection[Rejected],
) -> Refreshed | None:
    setting = f"any({dimension.setting_column})" if dimension.setting_column else "''"
    wanted = columns[dimension.setting_column][0] if dimension.setting_column else ""
    client = servers[0].client
    query = f"SELECT max(snapshot_id), count(), {setting} FROM {dimension.table}"
    [[snapshot_id, rows, serving]] = rows_of(client, query)
    recorded = rows_of(
        client,
        "SELECT snapshot_id, row_count, checksum, rejected.key FROM dimension_snapshots "
        f"WHERE dimension = '{dimension.name}' ORDER BY snapshot_id DESC LIMIT 1",
    )
    # Of the same file, other rows may be left out: codes that were unknown then are known by now, or were forced.
    left_out = [row.key for row in rejected]
    if recorded != [(snapshot_id, rows, source.checksum, left_out)] or serving != wanted:
        return None
    for server in servers:
        with server.answering():
            if swap.differences(server):
                swap.reload(server)
    return Refreshed(dimension.name, "unchanged", snapshot_id, rows, source.checksum, len(rejected))


def _keep_others(
    client: Client, dimension: Dimension, staging: str, snapshot_id: int, columns: dict[str, list[Any]]
) -> None:
    """Add the rows that serve and whose keys are not staged."""
    if dimension.setting_column:
        wanted = columns[dimension.setting_column][0]
        others = rows_of(
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
    servers: list[Server],
    settings: Settings,
    dimension: Dimension,
    nodes: Nodes,
    origin: _Origin,
    fill: Callable[[Client, str, int], None],
    result: str = "loaded",
) -> Refreshed:
    """Stage what ``fill`` writes, check it, and let it serve."""
    snapshot_id = 1 + max(_greatest(server, dimension, bool(nodes.away)) for server in servers)
    first, others = servers[0], servers[1:]
    try:
        for server in servers:
            with server.answering():
                server.client.command(f"CREATE TABLE {server.staging} AS {dimension.table}")
        with first.answering():
            fill(first.client, first.staging, snapshot_id)
            [[rows]] = rows_of(first.client, f"SELECT count() FROM {first.staging}")
        for server in others:
            swap.stage_copy(first, first.staging, server)
        process = psutil.Process()
        pending = {
            "dimension": dimension.name,
            "snapshot_id": snapshot_id,
            "source": origin.source,
            "checksum": origin.checksum,
            "row_count": rows,
            "loaded_at": _now(servers),
            "loaded_by": f"{process.username()}@{socket.gethostname()}",
            "source_modified_at": origin.source_modified_at,
            "forced_gates": origin.forced_gates,
            "rejected": [asdict(row) for row in origin.rejected],
        }
        for server in servers:
            with server.answering():
                history.keep(server.client, dimension, server.staging, snapshot_id)
                server.client.insert(swap.lock_name(dimension), [list(pending.values())], column_names=list(pending))
        swap.swap(servers, dimension, snapshot_id)
        try:
            for server in servers:
                with server.answering():
                    swap.record(server, swap.lock_name(dimension))
        except BaseException as error:
            raise swap.unfinished(dimension, error) from error
    except Unfinished:
        raise
    except BaseException:
        for server in servers:
            with suppress(ClickHouseError):
                swap.drop_staging(server)
        raise
    for server in servers:
        with server.answering():
            swap.drop_staging(server)
            history.prune(server.client, dimension, settings.dims_snapshots_kept)
    return Refreshed(dimension.name, result, snapshot_id, rows, origin.checksum, len(origin.rejected))


def _greatest(server: Server, dimension: Dimension, is_any_away: bool) -> int:
    """Return the greatest number that a snapshot has had."""
    # Of a swap that was cut off, a node that is away may serve it; the others have its copy in the history.
    tried = f", (SELECT max(snapshot_id) FROM {dimension.history})" * is_any_away
    query = (
        f"SELECT greatest(max(snapshot_id), ({swap.live_snapshot(dimension)}){tried}) FROM dimension_snapshots "
        f"WHERE dimension = '{dimension.name}'"
    )
    with server.answering():
        [[greatest]] = rows_of(server.client, query)
    return greatest


def _now(servers: list[Server]) -> datetime:
    """Return the time by the first server's clock: what is written on each node is the same."""
    [[now]] = rows_of(servers[0].client, "SELECT now64(3, 'UTC')")
    return now.replace(tzinfo=UTC)
