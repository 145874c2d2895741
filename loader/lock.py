"""One at a time, from whichever machine: a lock that is a table in ClickHouse, in its comment whose it is."""

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from clickhouse_connect.driver.binding import format_str
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError

from paystream.clickhouse import TABLE_ALREADY_EXISTS, UNKNOWN_TABLE, is_code
from paystream.errors import CheckFailed, PaystreamError
from paystream.process import is_dead, owner

EXPIRES_S = 15 * 60
"""After so long a holder on another machine or in another container counts as dead. Here its process is looked for."""

LOOK_AGAIN_S = 0.5


class LockMustStay(PaystreamError):
    """An error after which the lock is left where it is: the next run needs what it holds."""


@contextmanager
def locked(client: Client, name: str, what: str, *, like: str, wait_s: float = 0) -> Iterator[str]:
    """Hold a lock while the block runs, and yield a token that is nobody else's.

    The lock of a holder that died is renamed to ``<name>_<token>``, for the next holder to see and to drop.

    Args:
        client: a client on the configured database.
        name: the lock's, which is that of its table.
        what: what is being done, for messages.
        like: the table whose columns the lock's table shall have.
        wait_s: how many seconds to wait for another holder.

    Raises:
        CheckFailed: somebody else holds it.
    """
    token = uuid.uuid4().hex[:12]
    deadline = time.monotonic() + wait_s
    while True:
        try:
            _acquire(client, name, what, like, token)
            break
        except CheckFailed:
            if time.monotonic() > deadline:
                raise
            time.sleep(LOOK_AGAIN_S)
    try:
        yield token
    except LockMustStay:
        raise
    except BaseException:
        # What the error says matters more than a leftover, which the next run clears away.
        with suppress(ClickHouseError):
            _release(client, name, token)
        raise
    _release(client, name, token)


def _acquire(client: Client, name: str, what: str, like: str, token: str) -> None:
    holder = {"token": token, **owner()}
    for _ in range(3):
        try:
            # A table can be created once only, from whichever machine: that is the lock.
            client.command(f"CREATE TABLE {name} AS {like} COMMENT {format_str(json.dumps(holder))}")
            return
        except DatabaseError as error:
            if not is_code(error, TABLE_ALREADY_EXISTS):
                raise
        found = client.query(
            "SELECT comment, dateDiff('second', metadata_modification_time, now()) FROM system.tables "
            "WHERE database = currentDatabase() AND name = {name:String}",
            parameters={"name": name},
        ).result_rows
        if not found:
            continue
        comment, age_s = found[0]
        other = json.loads(comment)
        if other["token"] == token:
            return  # the driver sent the request twice
        if not is_dead(other, age_s, EXPIRES_S):
            raise CheckFailed(
                f"{what}: another one is running for {age_s} s (by {other['user']} on "
                f"{other['host']}, process {other['pid']}). Run this one again when that has ended."
            )
        try:
            client.command(f"RENAME TABLE {name} TO {name}_{token}")
        except DatabaseError as error:
            if not is_code(error, UNKNOWN_TABLE):
                raise
    raise CheckFailed(f"{what}: others are starting at the same time. Run it again.")


def _release(client: Client, name: str, token: str) -> None:
    owners = client.query(
        "SELECT comment FROM system.tables WHERE database = currentDatabase() AND name = {name:String}",
        parameters={"name": name},
    ).result_rows
    # Not ours any more if this run was taken for dead.
    if owners and json.loads(owners[0][0])["token"] == token:
        client.command(f"DROP TABLE IF EXISTS {name} SYNC")
