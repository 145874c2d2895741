"""The exchange of a dimension's rows on a server, or on each node of a cluster, and what makes it whole again.

Beside the dimension's table there are for a while, in the same database of each node:

- ``<table>_refresh``: the lock, and as its row the snapshot record of a swap under way;
- ``<table>_refresh_<token>``: the lock of a refresh that died, until the next one has read it;
- ``<table>_staging_<token>``: the new rows before the swap, the old ones after it.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from paystream.clickhouse import answering, cause_of
from paystream.errors import CheckFailed, PaystreamError, ServiceUnavailable
from paystream.loader import history
from paystream.loader.dimension import Dimension
from paystream.loader.share import copy_rows
from paystream.lock import LockMustStay, locked
from paystream.nodes import Node, Nodes
from paystream.schema import connected

_STATE = "The previous snapshot serves."


class Unfinished(LockMustStay, ServiceUnavailable):
    """The swap could be neither completed nor undone: what the next run needs for that must stay."""


@dataclass(frozen=True)
class Server:
    """A server that this process may change a dimension on: the only one, or a node of a cluster.

    Attributes:
        client: a client on the configured database.
        dimension: which dimension.
        what: what is being done there, for messages.
        token: the lock's.
        of_cluster: whether it is one of several.
    """

    client: Client
    dimension: Dimension
    what: str
    token: str
    of_cluster: bool

    @property
    def staging(self) -> str:
        """Return the name of the table for the new rows."""
        return f"{self.dimension.table}_staging_{self.token}"

    def answering(self) -> AbstractContextManager[None]:
        """Have what ClickHouse refuses meanwhile say on which node."""
        return answering(self.what, _STATE) if self.of_cluster else nullcontext()


def at(node: Node, dimension: Dimension) -> AbstractContextManager[Client]:
    """Open a client on a node that has what the dimension needs."""
    needed = [
        dimension.table,
        dimension.history,
        dimension.dictionary,
        dimension.dictionary_source,
        "dimension_snapshots",
        "dimension_checks",
    ]
    return connected(node.settings, _what(node, dimension), _STATE, needed)


@contextmanager
def held(nodes: Nodes, dimension: Dimension) -> Iterator[list[Server]]:
    """Hold the dimension's lock on each node that answers, once all that killed refreshes left has been settled.

    Raises:
        UsageError: the schema does not exist yet.
        CheckFailed: another refresh of this dimension is running.
        ServiceUnavailable: ClickHouse cannot be reached, or was lost on the way.
    """
    with ExitStack() as stack:
        servers = []
        # In the same order for everybody: of two, one gets all locks and the other none.
        for node in nodes.in_order:
            client = stack.enter_context(at(node, dimension))
            what = _what(node, dimension)
            lock = locked(client, lock_name(dimension), what, like="dimension_snapshots", keeps_left=True)
            token = stack.enter_context(lock).token
            servers.append(Server(client, dimension, what, token, bool(nodes.cluster)))
        for server in servers:
            with server.answering():
                _settle_killed_refresh(server)
        if len(servers) > 1:
            _bring_together(servers, dimension)
        yield servers


def _what(node: Node, dimension: Dimension) -> str:
    return node.told(f"Refresh of '{dimension.name}'")


def lock_name(dimension: Dimension) -> str:
    """Return the name of the dimension's lock."""
    return f"{dimension.table}_refresh"


def rows_of(client: Client, sql: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query."""
    return [tuple(row) for row in client.query(sql).result_rows]


def live_snapshot(dimension: Dimension) -> str:
    """Return the query for the snapshot in the dimension's table."""
    return f"SELECT max(snapshot_id) FROM {dimension.table}"


def stage_copy(origin: Server, table: str, server: Server) -> None:
    """Stage on a node what a table of another one holds.

    Raises:
        CheckFailed: not all of it arrived.
    """
    with server.answering():
        copy_rows(origin.client, server.client, table, server.staging)
        there, wanted = _content(server, server.staging), _content(origin, table)
        if there != wanted:
            raise CheckFailed(
                f"{server.what}: {there[1]:,} rows (checksum {there[2]}) were staged instead of {wanted[1]:,} "
                f"({wanted[2]}). Nothing was changed there; run it again."
            )


def swap(servers: list[Server], dimension: Dimension, snapshot_id: int) -> None:
    """Exchange the staged rows with the live ones and reload the dictionary, everywhere, or undo both.

    Raises:
        Unfinished: neither could be done, or payments may have the new snapshot already on some node and not on others.
    """
    has_served = False
    try:
        for server in servers:
            with server.answering():
                _exchange(server)
                # A request that the network repeated would have exchanged them back.
                if server.client.command(live_snapshot(dimension)) != snapshot_id:
                    raise CheckFailed(f"{server.what}: the exchange did not take place. Run it again.")
        for server in servers:
            with server.answering():
                reload(server)
            has_served = True
    except BaseException as error:
        if has_served:
            # Its number must not be given away a second time, so the next run goes on from here.
            raise unfinished(dimension, error) from error
        if not all([_undone(server, snapshot_id) for server in servers]):
            raise unfinished(dimension, error) from error
        raise


def _undone(server: Server, snapshot_id: int) -> bool:
    try:
        # Asked, not remembered: an exchange whose answer got lost may have happened.
        if server.client.command(live_snapshot(server.dimension)) == snapshot_id:
            _exchange(server)
            reload(server)
    except (ClickHouseError, PaystreamError):
        return False
    return True


def reload(server: Server) -> None:
    """Load the dictionary from the live rows, and make sure that it has them."""
    server.client.command(f"SYSTEM RELOAD DICTIONARY {server.dimension.dictionary}")
    if difference := differences(server):
        raise CheckFailed(
            f"{server.what}: after its reload the dictionary {server.dimension.dictionary} is not what "
            f"{server.dimension.dictionary_source} holds ({difference}). Look at its "
            "last_exception in system.dictionaries and run it again."
        )


def differences(server: Server) -> str:
    """Compare the dictionary with what it is loaded from by number of rows and a sum of their hashes; '' when equal."""
    dimension = server.dimension
    # As texts, since the dictionary's types are not always the table's (LowCardinality) and hashes may depend on them.
    row = ", ".join(f"toString({column})" for column in dimension.dictionary_columns)
    counted = f"SELECT count(), sum(cityHash64({row})) FROM "
    [table] = rows_of(server.client, counted + dimension.dictionary_source)
    [dictionary] = rows_of(server.client, counted + dimension.dictionary)
    return "" if table == dictionary else f"rows and checksum {dictionary} instead of {table}"


def record(server: Server, pending: str) -> None:
    """Record the snapshot that is the row of a lock, unless it is recorded."""
    # By name: a refresh may have been killed before an upgrade added a column.
    [[columns]] = rows_of(
        server.client,
        "SELECT arrayStringConcat(groupArray(name), ', ') FROM system.columns "
        f"WHERE database = currentDatabase() AND table = '{pending}'",
    )
    server.client.command(
        f"INSERT INTO dimension_snapshots ({columns}) SELECT {columns} FROM {pending} WHERE snapshot_id NOT IN "
        f"(SELECT snapshot_id FROM dimension_snapshots WHERE dimension = '{server.dimension.name}')"
    )


def drop_staging(server: Server) -> None:
    """Drop the table for the new rows."""
    server.client.command(f"DROP TABLE IF EXISTS {server.staging} SYNC")


def unfinished(dimension: Dimension, error: BaseException) -> Unfinished:
    """Return the error that says that the next run has to go on from here."""
    cause = cause_of(error) if isinstance(error, Exception) else "interrupted"
    return Unfinished(
        f"Refresh of '{dimension.name}': the swap was cut off and could not be undone: {cause}. "
        "Run it again: that completes or replaces it."
    )


def _settle_killed_refresh(server: Server) -> None:
    """Record the swap that a killed refresh had made, and drop whatever killed refreshes left."""
    client, dimension = server.client, server.dimension
    leftovers = [
        name
        for (name,) in rows_of(
            client,
            "SELECT name FROM system.tables WHERE database = currentDatabase() "
            f"AND match(name, '^{dimension.table}_(staging|refresh)_[0-9a-f]{{12}}$') "
            # Staging tables first: without one, a refresh that was taken for dead too early can swap nothing.
            "ORDER BY name LIKE '%_staging_%' DESC",
        )
    ]
    for name in leftovers:
        if "_refresh_" in name and rows_of(
            client, f"SELECT 1 FROM {name} WHERE snapshot_id = ({live_snapshot(dimension)})"
        ):
            reload(server)
            record(server, name)
        client.command(f"DROP TABLE IF EXISTS {name} SYNC")


@dataclass(frozen=True)
class _Standing:
    """What a node has of a dimension."""

    server: Server
    content: tuple[int, int, int]
    """The snapshot in its table, and how many rows they are, and their checksum."""
    snapshots: dict[int, history.Snapshot]

    @property
    def age(self) -> tuple:
        """Return what is greatest where the newest snapshot is: with its record, and of two of one number the later."""
        recorded = [(number, snapshot.loaded_at) for number, snapshot in self.snapshots.items()]
        return self.content[0], max(recorded, default=())


def _bring_together(servers: list[Server], dimension: Dimension) -> None:
    """Give each node what it lacks: snapshots that were loaded while it was away, or whose swap never came to it.

    That a snapshot serves on one node is enough: payments may have been enriched with it.
    """
    standings = []
    for server in servers:
        with server.answering():
            snapshots = {snapshot.snapshot_id: snapshot for snapshot in history.snapshots(server.client, dimension)}
            standings.append(_Standing(server, _content(server, dimension.table), snapshots))
    standings.sort(key=lambda standing: standing.age)
    newest = standings[-1]
    known: dict[int, tuple[Server, history.Snapshot]] = {}
    for standing in standings:
        known |= {number: (standing.server, snapshot) for number, snapshot in standing.snapshots.items()}
    for standing in standings:
        server = standing.server
        lacking = [
            (origin, number)
            for number, (origin, snapshot) in known.items()
            if not _is_there(snapshot, standing.snapshots.get(number))
        ]
        for origin, number in lacking:
            with server.answering():
                server.client.command(f"ALTER TABLE {dimension.history} DROP PARTITION {number}")
                copy_rows(origin.client, server.client, dimension.history, dimension.history, f"snapshot_id = {number}")
        if standing.content != newest.content:
            _take_over(newest, server, dimension)
        # Last, since it says that all of the rest is there.
        for origin, number in lacking:
            with server.answering():
                condition = f"dimension = '{dimension.name}' AND snapshot_id = {number}"
                if number in standing.snapshots:
                    server.client.command(
                        f"ALTER TABLE dimension_snapshots DELETE WHERE {condition} SETTINGS mutations_sync = 1"
                    )
                copy_rows(origin.client, server.client, "dimension_snapshots", "dimension_snapshots", condition)


def _is_there(wanted: history.Snapshot, there: history.Snapshot | None) -> bool:
    return (
        there is not None
        and (there.loaded_at, there.checksum, there.rows) == (wanted.loaded_at, wanted.checksum, wanted.rows)
        and there.kept >= wanted.kept
    )


def _take_over(newest: _Standing, server: Server, dimension: Dimension) -> None:
    try:
        with server.answering():
            server.client.command(f"CREATE TABLE {server.staging} AS {dimension.table}")
        stage_copy(newest.server, dimension.table, server)
        swap([server], dimension, newest.content[0])
    except Unfinished:
        raise
    except BaseException:
        with suppress(ClickHouseError):
            drop_staging(server)
        raise
    with server.answering():
        drop_staging(server)


def _content(server: Server, table: str) -> tuple[int, int, int]:
    columns = ", ".join([*server.dimension.key, *server.dimension.values, "snapshot_id"])
    [content] = rows_of(server.client, f"SELECT max(snapshot_id), count(), sum(cityHash64({columns})) FROM {table}")
    return content


def _exchange(server: Server) -> None:
    server.client.command(f"EXCHANGE TABLES {server.dimension.table} AND {server.staging}")
