"""One at a time, from whichever machine: a lock that is a table in ClickHouse, in whose comment its holder stands.

A table can be created once only, so exactly one of several gets the lock. That of a dead holder is renamed to
``<name>_<token>``: of two who see it at once one succeeds, and a lock that was taken since can't be hit.
"""

import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from clickhouse_connect.driver.binding import format_str
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError

from paystream.clickhouse import TABLE_ALREADY_EXISTS, UNKNOWN_TABLE, is_code
from paystream.errors import CheckFailed, PaystreamError
from paystream.process import is_alive, owner

EXPIRES_S = 15 * 60
"""A holder on another machine or in another container counts as dead once it has been silent for so long."""
RENEW_S = 60
LAST_STATEMENT_S = 10
"""So long a dead holder's last statement is waited for: the server goes on with it as if the holder lived."""
LOOK_AGAIN_S = 0.2


class Held(CheckFailed):
    """Somebody else holds the lock: ``holder``."""

    def __init__(self, what: str, holder: "Holder") -> None:
        super().__init__(f"{what}: another one is running, {holder}. Run this one again when that has ended.")
        self.holder = holder


class LockMustStay(PaystreamError):
    """An error after which the lock is left where it is: the next run needs what it holds."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock."""

    token: str
    owner: dict[str, Any]
    """What ``owner`` says of its process; empty of a lock that an earlier version took."""
    comment: str
    since: str
    silent_s: int
    """Seconds since it took the lock, or last said that it lives."""

    def is_dead(self, *, expires: bool) -> bool:
        """Return whether it is dead: as known, or else, where it ``expires``, as taken for so after ``EXPIRES_S``."""
        alive = is_alive(self.owner)
        return expires and self.silent_s > EXPIRES_S if alive is None else not alive

    def statement(self, client: Client) -> str:
        """Return the beginning of the statement that the server runs for it; ``""`` for none."""
        query = (
            "SELECT anyOrNull(substring(replaceRegexpAll(query, '\\\\s+', ' '), 1, 80)) FROM system.processes"
            " WHERE Settings['log_comment'] = {session:String}"
        )
        return client.query(query, parameters={"session": _session(self.token)}).first_row[0] or ""

    def __str__(self) -> str:
        who = "process {pid} of {user} on {host}".format(**self.owner) if self.owner else self.comment
        return f"{who}, since {self.since} UTC"


@dataclass
class Lock:
    """A lock that this process holds."""

    client: Client
    name: str
    what: str
    token: str
    _comment: str
    _renewed: float

    def keep(self) -> None:
        """Say that its holder lives, and make sure that it still is this one. For whatever may take long.

        Raises:
            CheckFailed: this one was taken for dead, and another has begun.
        """
        holding = holder(self.client, self.name)
        if not holding or holding.token != self.token:
            raise CheckFailed(
                f"{self.what}: it was taken for dead after {EXPIRES_S} s without a sign, and another one has begun. "
                "What was done so far stays; look at it before you run it again."
            )
        if time.monotonic() > self._renewed + RENEW_S:
            self.client.command(f"ALTER TABLE {self.name} MODIFY COMMENT {self._comment}")
            self._renewed = time.monotonic()


@contextmanager
def locked(
    client: Client,
    name: str,
    what: str,
    *,
    like: str = "",
    keeps_left: bool = False,
    wait_s: float = 0,
    expires: bool = True,
    is_patient: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> Iterator[Lock]:
    """Hold a lock while the block runs.

    Args:
        client: a client on the configured database; its statements are known by the lock from now on.
        name: the lock's, which is that of its table.
        what: what is being done, for messages.
        like: the table whose columns the lock's table shall have.
        keeps_left: leave the locks of dead holders to the caller, who reads and drops them.
        wait_s: how many seconds to wait for another holder.
        expires: whether a holder elsewhere counts as dead after ``EXPIRES_S`` seconds of silence.
        is_patient: wait as long, besides, as the server works on a statement of the holder's.
        tell: told what is waited for, in a sentence.

    Raises:
        Held: somebody else holds it.
    """
    token = secrets.token_hex(6)
    comment = format_str(json.dumps({"token": token, "since": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}", **owner()}))
    client.set_client_setting("log_comment", _session(token))
    deadline, waits_for = time.monotonic() + wait_s, ""
    while not _create(client, name, like, comment):
        other = holder(client, name)
        if other is None:
            continue
        if other.token == token:
            break  # the driver sent the request twice
        is_dead = other.is_dead(expires=expires)
        statement = other.statement(client) if is_dead or is_patient else ""
        if is_dead and not statement and _set_aside(client, name, other):
            continue
        if statement and statement != waits_for:
            tell(f"waiting for a statement of whoever holds the lock: {statement}")
            deadline, waits_for = time.monotonic() + max(wait_s, LAST_STATEMENT_S), statement
        if time.monotonic() >= deadline and not (statement and is_patient):
            raise Held(what, other)
        time.sleep(LOOK_AGAIN_S)
    try:
        if not keeps_left:
            _drop_left(client, name)
        yield Lock(client, name, what, token, comment, time.monotonic())
    except LockMustStay:
        raise
    except BaseException:
        # What the error says matters more than a leftover, which the next run clears away.
        with suppress(ClickHouseError):
            _release(client, name, token)
        raise
    _release(client, name, token)


def holder(client: Client, name: str) -> Holder | None:
    """Return who holds a lock, None when nobody does."""
    rows = client.query(
        "SELECT toString(uuid), comment, toString(toTimeZone(metadata_modification_time, 'UTC')),"
        " dateDiff('second', metadata_modification_time, now())"
        " FROM system.tables WHERE database = currentDatabase() AND name = {name:String}",
        parameters={"name": name},
    ).result_rows
    if not rows:
        return None
    uuid, comment, changed, silent_s = rows[0]
    try:
        process = json.loads(comment)
    except ValueError:  # an earlier version wrote a sentence
        process = {}
    # So did versions that wrote no token: the table's own id serves as one.
    token = process.get("token") or uuid.replace("-", "")[:12]
    return Holder(token, process, comment, process.get("since", changed), silent_s)


def remove(client: Client, name: str) -> None:
    """Remove a lock, whoever holds it."""
    client.command(f"DROP TABLE IF EXISTS {name} SYNC")


def _drop_left(client: Client, name: str) -> None:
    left = client.query(
        "SELECT name FROM system.tables WHERE database = currentDatabase() AND match(name, {pattern:String})",
        parameters={"pattern": f"^{name}_[0-9a-f]{{12}}$"},
    ).result_rows
    for (table,) in left:
        client.command(f"DROP TABLE IF EXISTS {table} SYNC")


def _session(token: str) -> str:
    return f"paystream {token}"


def _create(client: Client, name: str, like: str, comment: str) -> bool:
    structure = f"AS {like}" if like else "(held UInt8) ENGINE = Memory"
    try:
        client.command(f"CREATE TABLE {name} {structure} COMMENT {comment}")
    except DatabaseError as error:
        if is_code(error, TABLE_ALREADY_EXISTS):
            return False
        raise
    return True


def _set_aside(client: Client, name: str, other: Holder) -> bool:
    try:
        client.command(f"RENAME TABLE {name} TO {name}_{other.token}")
    except DatabaseError as error:
        if not (is_code(error, UNKNOWN_TABLE) or is_code(error, TABLE_ALREADY_EXISTS)):
            raise
        return False
    return True


def _release(client: Client, name: str, token: str) -> None:
    holding = holder(client, name)
    # Not ours any more if this run was taken for dead.
    if holding and holding.token == token:
        remove(client, name)
