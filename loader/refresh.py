"""One refresh of a dimension: stage, check, swap, reload the dictionary, verify it, record the snapshot.

At every moment the old snapshot serves or the new one does, never a mix. What is not finished when a refresh is killed,
the next one finishes or clears away. Beside the dimension's table there are for a while, in the same database:

- ``<table>_refresh``: the lock, in its comment whose it is, and as its row the snapshot record of a swap under way;
- ``<table>_refresh_<token>``: the lock of a refresh that died, until the next one has read it;
- ``<table>_staging_<token>``: the new rows before the swap, the old ones after it.
"""

import json
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psutil
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError

from loader.source import Source
from paystream.clickhouse import TABLE_ALREADY_EXISTS, UNKNOWN_TABLE, answering, cause_of, connect, is_code
from paystream.errors import CheckFailed, PaystreamError, ServiceUnavailable, UsageError
from paystream.settings import Settings

LOCK_EXPIRES_S = 15 * 60
"""After this long a refresh on another machine counts as dead. On this machine its process is looked for."""


@dataclass(frozen=True)
class Dimension:
    """What a dimension consists of in ClickHouse."""

    name: str
    table: str
    key: tuple[str, ...]
    dictionary: str
    dictionary_source: str
    dictionary_columns: tuple[str, ...]
    setting_column: str | None = None
    """The column with the setting that the rows were computed with: another value makes them other rows."""


MERCHANTS = Dimension(
    name="merchants",
    table="merchants",
    key=("merchant_id",),
    dictionary="merchants_dict",
    dictionary_source="merchants",
    dictionary_columns=("merchant_id", "merchant_name", "country", "category_code", "snapshot_id"),
)

FX = Dimension(
    name="fx",
    table="fx_rates",
    key=("currency", "rate_date"),
    dictionary="fx_rates_dict",
    dictionary_source="fx_rate_periods",
    dictionary_columns=(
        "currency",
        "valid_from",
        "valid_to",
        "rate",
        "rate_date",
        "is_latest",
        "reporting_currency",
        "snapshot_id",
    ),
    setting_column="reporting_currency",
)


@dataclass(frozen=True)
class Refreshed:
    """What a refresh did: ``result`` is ``loaded``, or ``unchanged`` where the file was the one already serving."""

    dimension: str
    result: str
    snapshot_id: int
    rows: int
    checksum: str


class _Unfinished(ServiceUnavailable):
    """The swap could be neither completed nor undone: what the next run needs for that must stay."""


def refresh(settings: Settings, dimension: Dimension, source: Source, columns: dict[str, list[Any]]) -> Refreshed:
    """Replace a dimension by these rows, unless they come from the very file that serves already.

    On return the table, its dictionary and the record in ``dimension_snapshots`` agree. After an error the previous
    snapshot serves as before; only if ClickHouse is lost amid the swap it may be the new one, and the next run settles
    that.

    Args:
        settings: where ClickHouse is.
        dimension: ``MERCHANTS`` or ``FX``.
        source: the file the rows were read from.
        columns: the validated rows, column by column, without ``snapshot_id``.

    Raises:
        UsageError: the schema does not exist yet.
        CheckFailed: another refresh of this dimension is running, or a check failed.
        ServiceUnavailable: ClickHouse cannot be reached, or was lost on the way.
    """
    with _connected(settings, dimension) as client, _lock(client, dimension) as token:
        _settle_killed_refresh(client, dimension, token)
        return _unchanged(client, dimension, source, columns) or _load(client, dimension, token, source, columns)


def require_schema(settings: Settings, dimension: Dimension) -> None:
    """Check that ClickHouse is there and has what the dimension needs, before a long file is read for nothing.

    Raises:
        UsageError: the schema does not exist yet.
        ServiceUnavailable: ClickHouse cannot be reached.
    """
    with _connected(settings, dimension):
        pass


@contextmanager
def _connected(settings: Settings, dimension: Dimension) -> Iterator[Client]:
    needed = {dimension.table, dimension.dictionary, dimension.dictionary_source, "dimension_snapshots"}
    what = f"Refresh of '{dimension.name}'"
    with connect(settings) as client, answering(what, "The previous snapshot serves."):
        missing = needed - {
            name for (name,) in _rows(client, "SELECT name FROM system.tables WHERE database = currentDatabase()")
        }
        if missing:
            raise UsageError(
                f"{what}: {', '.join(sorted(missing))} do{'es' * (len(missing) == 1)} not "
                f"exist in database '{settings.clickhouse_database}'. Run `paystream migrate up`."
            )
        yield client


@contextmanager
def _lock(client: Client, dimension: Dimension) -> Iterator[str]:
    """Hold the dimension's lock; yield the token that names what this refresh creates."""
    token = uuid.uuid4().hex[:12]
    _acquire(client, dimension, token)
    try:
        yield token
    except _Unfinished:
        raise
    except BaseException:
        # What the error says matters more than a leftover, which the next run clears away.
        with suppress(ClickHouseError):
            _release(client, dimension, token)
        raise
    _release(client, dimension, token)


def _acquire(client: Client, dimension: Dimension, token: str) -> None:
    lock = f"{dimension.table}_refresh"
    process = psutil.Process()
    owner = {
        "token": token,
        "host": socket.gethostname(),
        "pid": process.pid,
        "process_started": process.create_time(),
        "user": process.username(),
    }
    for _ in range(3):
        try:
            # A table can be created once only, from whichever machine: that is the lock.
            client.command(f"CREATE TABLE {lock} AS dimension_snapshots COMMENT {_literal(json.dumps(owner))}")
            return
        except DatabaseError as error:
            if not is_code(error, TABLE_ALREADY_EXISTS):
                raise
        holder = _rows(
            client,
            "SELECT comment, dateDiff('second', metadata_modification_time, now()) FROM system.tables "
            f"WHERE database = currentDatabase() AND name = '{lock}'",
        )
        if not holder:
            continue
        comment, age_s = holder[0]
        other = json.loads(comment)
        if other["token"] == token:
            return  # the driver sent the request twice
        if not _is_dead(other, age_s):
            raise CheckFailed(
                f"Refresh of '{dimension.name}': another one is running for {age_s} s (by {other['user']} on "
                f"{other['host']}, process {other['pid']}). Run this one again when that has ended."
            )
        try:
            client.command(f"RENAME TABLE {lock} TO {lock}_{token}")
        except DatabaseError as error:
            if not is_code(error, UNKNOWN_TABLE):
                raise
    raise CheckFailed(f"Refresh of '{dimension.name}': others are starting at the same time. Run it again.")


def _is_dead(owner: dict[str, Any], age_s: int) -> bool:
    if age_s > LOCK_EXPIRES_S:
        return True
    if owner["host"] != socket.gethostname():
        return False
    try:
        process = psutil.Process(owner["pid"])
        # The start time tells a process from a later one with its id; it is known to a few seconds only.
        return process.status() == psutil.STATUS_ZOMBIE or abs(process.create_time() - owner["process_started"]) > 5
    except psutil.NoSuchProcess:
        return True


def _release(client: Client, dimension: Dimension, token: str) -> None:
    client.command(f"DROP TABLE IF EXISTS {dimension.table}_staging_{token} SYNC")
    lock = f"{dimension.table}_refresh"
    owners = _rows(client, f"SELECT comment FROM system.tables WHERE database = currentDatabase() AND name = '{lock}'")
    # Not ours any more if this refresh was taken for dead.
    if owners and json.loads(owners[0][0])["token"] == token:
        client.command(f"DROP TABLE IF EXISTS {lock} SYNC")


def _settle_killed_refresh(client: Client, dimension: Dimension, token: str) -> None:
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


def _unchanged(client: Client, dimension: Dimension, source: Source, columns: dict[str, list[Any]]) -> Refreshed | None:
    setting = f"any({dimension.setting_column})" if dimension.setting_column else "''"
    wanted = columns[dimension.setting_column][0] if dimension.setting_column else ""
    live = _rows(client, f"SELECT max(snapshot_id), count(), {setting} FROM {dimension.table}")[0]
    recorded = _rows(
        client,
        f"SELECT snapshot_id, row_count, checksum FROM dimension_snapshots WHERE dimension = '{dimension.name}' "
        "ORDER BY snapshot_id DESC LIMIT 1",
    )
    if not recorded or recorded[0] != (*live[:2], source.checksum) or live[2] != wanted:
        return None
    if _differences(client, dimension):
        _reload(client, dimension)
    snapshot_id, rows, _ = live
    return Refreshed(dimension.name, "unchanged", snapshot_id, rows, source.checksum)


def _load(client: Client, dimension: Dimension, token: str, source: Source, columns: dict[str, list[Any]]) -> Refreshed:
    lock, staging = f"{dimension.table}_refresh", f"{dimension.table}_staging_{token}"
    rows = len(columns[dimension.key[0]])
    (snapshot_id,) = _rows(
        client,
        "SELECT 1 + greatest(max(snapshot_id), "
        f"({_live_snapshot(dimension)})) FROM dimension_snapshots WHERE dimension = '{dimension.name}'",
    )[0]

    client.command(f"CREATE TABLE {staging} AS {dimension.table}")
    client.insert(
        staging,
        [*columns.values(), [snapshot_id] * rows],
        column_names=[*columns, "snapshot_id"],
        column_oriented=True,
    )
    staged = _rows(client, f"SELECT count(), uniqExact({', '.join(dimension.key)}) FROM {staging}")[0]
    if staged != (rows, rows):
        raise CheckFailed(
            f"Refresh of '{dimension.name}': {staged[0]:,} rows with {staged[1]:,} keys were staged instead of "
            f"{rows:,}. Nothing was changed; run it again."
        )

    process = psutil.Process()
    client.insert(
        lock,
        [
            [
                dimension.name,
                snapshot_id,
                source.name,
                source.checksum,
                rows,
                f"{process.username()}@{socket.gethostname()}",
            ]
        ],
        column_names=["dimension", "snapshot_id", "source", "checksum", "row_count", "loaded_by"],
    )
    _swap(client, dimension, staging, snapshot_id)
    try:
        _record(client, dimension, lock)
    except BaseException as error:
        raise _unfinished(dimension, error) from error
    return Refreshed(dimension.name, "loaded", snapshot_id, rows, source.checksum)


def _swap(client: Client, dimension: Dimension, staging: str, snapshot_id: int) -> None:
    """Exchange the staged rows with the live ones and reload the dictionary, or undo both."""
    exchange = f"EXCHANGE TABLES {dimension.table} AND {staging}"
    try:
        client.command(exchange)
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
    table = _rows(client, counted + dimension.dictionary_source)[0]
    dictionary = _rows(client, counted + dimension.dictionary)[0]
    return "" if table == dictionary else f"rows and checksum {dictionary} instead of {table}"


def _record(client: Client, dimension: Dimension, pending: str) -> None:
    client.command(
        f"INSERT INTO dimension_snapshots SELECT * FROM {pending} WHERE snapshot_id NOT IN "
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


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
