"""The snapshots of a dimension: which there are, what differs between two of them, and which are kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from clickhouse_connect.driver.client import Client

from paystream.errors import UsageError
from paystream.loader.dimension import FX, MERCHANTS, Dimension
from paystream.loader.source import Rejected
from paystream.nodes import Node, Nodes, each, find
from paystream.schema import connected
from paystream.settings import Settings

SHOWN_CHANGES = 20


@dataclass(frozen=True)
class Snapshot:
    """One recorded snapshot. ``kept``: it can be compared and rolled back to. Times are UTC."""

    snapshot_id: int
    loaded_at: datetime
    rows: int
    source: str
    checksum: str
    loaded_by: str
    source_modified_at: datetime | None
    forced_gates: list[str]
    rejected: list[Rejected]
    serving: bool
    kept: bool


@dataclass(frozen=True)
class Change:
    """One key that two snapshots have differently; None where one of them lacks it."""

    key: tuple[Any, ...]
    before: tuple[Any, ...] | None
    after: tuple[Any, ...] | None


@dataclass(frozen=True)
class Comparison:
    """What differs between two snapshots; ``shown`` are the first changes by key."""

    added: int
    removed: int
    changed: int
    unchanged: int
    shown: list[Change]


def list_snapshots(settings: Settings, dimension: Dimension) -> list[Snapshot]:
    """Return the recorded snapshots, oldest first.

    Raises:
        UsageError: the schema does not exist yet.
        ServiceUnavailable: ClickHouse cannot be reached.
    """
    with connected(find(settings).entry, f"History of '{dimension.name}'") as client:
        return snapshots(client, dimension)


def serving(nodes: Nodes) -> dict[str, dict[str, int]]:
    """Return for each node that answers, by its address, the snapshot of each dimension that it enriches with.

    Raises:
        UsageError: the schema does not exist yet.
        ServiceUnavailable: a node was lost on the way.
    """

    def ask(node: Node, client: Client) -> dict[str, int]:
        # Of the dictionaries, not of their tables: between an exchange and the reload the two differ.
        columns = ", ".join(f"(SELECT max(snapshot_id) FROM {dimension.dictionary})" for dimension in (MERCHANTS, FX))
        merchants, fx = client.query(f"SELECT {columns}").first_row
        return {MERCHANTS.name: merchants, FX.name: fx}

    return {node.address: there for node, there in each(nodes, "Snapshots that serve", ask)}


def lagging(served: Mapping[str, Mapping[str, int]], dimension: Dimension) -> list[str]:
    """Return for each node that enriches with an older snapshot than another a clause that says so.

    Args:
        served: what ``serving`` gives.
        dimension: which one.
    """
    newest = max(there[dimension.name] for there in served.values())
    return [
        f"node '{address}' serves {there[dimension.name]}, and the newest is {newest}"
        for address, there in served.items()
        if there[dimension.name] != newest
    ]


def compare(settings: Settings, dimension: Dimension, before: int, after: int) -> Comparison:
    """Return what the second snapshot has differently from the first.

    Raises:
        UsageError: one of them does not exist or is not kept any more, or the schema does not exist yet.
        ServiceUnavailable: ClickHouse cannot be reached.
    """
    key, values = ", ".join(dimension.key), ", ".join(dimension.values)
    rows_of = f"SELECT {key}, tuple({values}) AS content FROM {dimension.history} WHERE snapshot_id = "
    # The default of what a join does not find is told from a row by its marker, not by NULL.
    both = (
        f"SELECT {key}, b.content AS before, a.content AS after, b.there AS was, a.there AS is "
        f"FROM (SELECT *, 1 AS there FROM ({rows_of}{before})) AS b "
        f"FULL JOIN (SELECT *, 1 AS there FROM ({rows_of}{after})) AS a USING ({key})"
    )
    with connected(find(settings).entry, f"History of '{dimension.name}'") as client:
        kept = {snapshot.snapshot_id: snapshot for snapshot in snapshots(client, dimension)}
        for snapshot_id in (before, after):
            require_kept(dimension, kept, snapshot_id)
        [[added, removed, changed, unchanged]] = client.query(
            f"SELECT countIf(NOT was), countIf(NOT is), countIf(was AND is AND before != after), "
            f"countIf(was AND is AND before = after) FROM ({both})"
        ).result_rows
        shown = client.query(
            f"SELECT tuple({key}), before, after, was, is FROM ({both}) "
            f"WHERE NOT was OR NOT is OR before != after ORDER BY {key} LIMIT {SHOWN_CHANGES}"
        ).result_rows
    changes = [
        Change(tuple(keys), tuple(old) if was else None, tuple(new) if is_ else None)
        for keys, old, new, was, is_ in shown
    ]
    return Comparison(added, removed, changed, unchanged, changes)


def snapshots(client: Client, dimension: Dimension) -> list[Snapshot]:
    """Return the recorded snapshots, oldest first."""
    rows = client.query(
        f"""
        SELECT
            snapshot_id, loaded_at, row_count, source, checksum, loaded_by, source_modified_at, forced_gates,
            rejected,
            snapshot_id = (SELECT max(snapshot_id) FROM {dimension.table}) AS serving,
            (snapshot_id, row_count) IN (
                SELECT toUInt32(partition), sum(rows)
                FROM system.parts
                WHERE database = currentDatabase() AND table = '{dimension.history}' AND active
                GROUP BY partition
            ) AS kept
        FROM dimension_snapshots
        WHERE dimension = '{dimension.name}'
        ORDER BY snapshot_id
        """
    ).result_rows
    return [
        Snapshot(*values, [Rejected(**row) for row in rejected], bool(serving), bool(kept))
        for *values, rejected, serving, kept in rows
    ]


def require_kept(dimension: Dimension, known: Mapping[int, Snapshot], snapshot_id: int) -> Snapshot:
    """Return the snapshot of this number.

    Raises:
        UsageError: there is none, or its rows are no longer kept.
    """
    cause = "does not exist" if snapshot_id not in known else "is not kept any more"
    if snapshot_id not in known or not known[snapshot_id].kept:
        raise UsageError(
            f"Snapshot {snapshot_id} of '{dimension.name}' {cause}. "
            f"Choose one that `paystream dims history {dimension.name}` lists as kept."
        )
    return known[snapshot_id]


def keep(client: Client, dimension: Dimension, staging: str, snapshot_id: int) -> None:
    """Copy staged rows into the history, in place of what a killed refresh left under this number."""
    client.command(f"ALTER TABLE {dimension.history} DROP PARTITION {snapshot_id}")
    client.command(f"INSERT INTO {dimension.history} SELECT * FROM {staging}")


def prune(client: Client, dimension: Dimension, kept: int) -> None:
    """Drop the rows of all but the newest ``kept`` snapshots; their records stay."""
    old = client.query(
        "SELECT DISTINCT toUInt32(partition) AS snapshot_id FROM system.parts WHERE database = currentDatabase() "
        f"AND table = '{dimension.history}' AND active ORDER BY snapshot_id DESC LIMIT 1000000 OFFSET {kept}"
    ).result_rows
    for (snapshot_id,) in old:
        client.command(f"ALTER TABLE {dimension.history} DROP PARTITION {snapshot_id}")
