"""ClickHouse as a database that yoyo-migrations can work on.

ClickHouse has no transactions over DDL, so each step is recorded before it runs: whatever interrupts a version, an
error or a kill, it is known how many of its steps may have run, and only those are taken back.
"""

import getpass
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Timer
from typing import Any, Literal

from clickhouse_connect.driver.binding import quote_identifier
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError
from pydantic import SecretStr
from yoyo.backends import DatabaseBackend
from yoyo.connections import DatabaseURI
from yoyo.migrations import Migration, default_migration_table, get_migration_hash

from paystream import lock
from paystream.clickhouse import UNKNOWN_TABLE, cause_of, connect, is_code
from paystream.migrations.statement import words_of
from paystream.settings import Settings

STATEMENT_TIMEOUT_S = 7 * 24 * 3600
"""A statement over a large table takes what it takes. That a server is gone, the connection's keep-alive notices."""
TELL_AFTER_S = 30
"""A statement that takes longer is worth a line."""

# yoyo logs a failed step with its traceback; without a handler, Python would print that beside our one line.
logging.getLogger("yoyo").addHandler(logging.NullHandler())


class StatementFailed(DatabaseError):
    """The engine refused a statement of a version, which is kept as ``statement``."""

    def __init__(self, statement: str, message: str) -> None:
        super().__init__(message)
        self.statement = statement


class UndoFailed(DatabaseError):
    """A step of a version failed, and then taking back the steps before it failed too."""


@dataclass(frozen=True)
class VersionState:
    """How far a version is: applied, or ``unfinished`` with its first ``steps`` steps possibly in the database."""

    state: Literal["applied", "unfinished"]
    steps: int
    changed_at: datetime


@dataclass(frozen=True)
class Cursor:
    """What yoyo runs a step's statement on."""

    client: Client
    tell: Callable[[str], None]
    description: None = None
    """Says to yoyo that no statement has rows to print."""

    def execute(self, statement: str) -> None:
        """Run one statement.

        Raises:
            StatementFailed: the engine refused it, or the connection was lost meanwhile (then the cause says so).
        """
        beginning = " ".join(statement.split())[:80]
        long = Timer(TELL_AFTER_S, self.tell, [f"ClickHouse has worked for {TELL_AFTER_S} s on: {beginning}"])
        long.daemon = True
        long.start()
        try:
            self.client.command(statement)
        except DatabaseError as error:
            raise StatementFailed(statement, cause_of(error)) from error
        finally:
            long.cancel()

    def close(self) -> None:
        """Do nothing: a statement over HTTP leaves nothing open."""


class ClickHouseBackend(DatabaseBackend):
    """yoyo's view of one ClickHouse database, which must exist.

    It keeps two tables there: ``_yoyo_migration`` says how far each version is, ``_yoyo_log`` who changed what when.
    A third, ``_yoyo_lock``, exists while somebody migrates.
    """

    driver_module = "clickhouse_connect.driver.exceptions"
    lock_table = "_yoyo_lock"
    tell: Callable[[str], None] = staticmethod(lambda text: None)
    """Told, in a sentence, what takes long."""
    _has_tables = False

    @classmethod
    def of(cls, settings: Settings) -> "ClickHouseBackend":
        """Connect to the configured database."""
        return cls(
            DatabaseURI(
                scheme="clickhouse",
                username=settings.clickhouse_user,
                password=settings.clickhouse_password.get_secret_value(),
                hostname=settings.clickhouse_host,
                port=settings.clickhouse_port,
                database=settings.clickhouse_database,
                args={"secure": str(settings.clickhouse_secure)},
            ),
            default_migration_table,
        )

    def connect(self, dburi: DatabaseURI) -> Client:
        # Constructed without the environment: the URI says everything about the connection.
        settings = Settings.model_construct(
            clickhouse_host=dburi.hostname,
            clickhouse_port=dburi.port or Settings.model_fields["clickhouse_port"].default,
            clickhouse_user=dburi.username or "default",
            clickhouse_password=SecretStr(dburi.password or ""),
            clickhouse_secure=dburi.args.get("secure", "").lower() in ("1", "true"),
            clickhouse_database=dburi.database,
        )
        self._open = ExitStack()
        return self._open.enter_context(connect(settings, timeout_s=STATEMENT_TIMEOUT_S))

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def init_database(self) -> None:
        """Do nothing: the lock table is created by whoever locks."""

    def transaction(self, rollback_on_exit: bool = False) -> AbstractContextManager[Any]:
        return nullcontext()

    def cursor(self) -> Cursor:
        return Cursor(self.connection, self.tell)

    def quote_identifier(self, s: str) -> str:
        return quote_identifier(s)

    def ensure_internal_schema_updated(self) -> None:
        """Create the tables that this backend keeps its state in, once a connection."""
        if self._has_tables:
            return
        self.connection.command(
            f"CREATE TABLE IF NOT EXISTS {self.migration_table_quoted} ("
            "migration_id String, state LowCardinality(String), steps UInt16,"
            " changed_at DateTime64(3, 'UTC') DEFAULT now64(3)"
            # Without a version column the row inserted last wins, whatever the clock did in between.
            ") ENGINE = ReplacingMergeTree ORDER BY migration_id"
            " COMMENT 'How far each version of the schema is; kept by `paystream migrate`'"
        )
        self.connection.command(
            f"CREATE TABLE IF NOT EXISTS {self.log_table_quoted} ("
            "logged_at DateTime64(3, 'UTC') DEFAULT now64(3), operation LowCardinality(String), subject String,"
            " comment String, username String, hostname String"
            ") ENGINE = MergeTree ORDER BY logged_at"
            " COMMENT 'Who changed the schema and when; written by `paystream migrate`'"
        )
        self._has_tables = True

    def states(self) -> dict[str, VersionState]:
        """Return the state of each version that is applied or unfinished, by id. Changes nothing."""
        try:
            rows = self.connection.query(
                f"SELECT migration_id, state, steps, changed_at FROM {self.migration_table_quoted} FINAL"
                " WHERE state IN ('applied', 'unfinished') ORDER BY migration_id"
            ).result_rows
        except DatabaseError as error:
            if is_code(error, UNKNOWN_TABLE):
                return {}
            raise
        return {name: VersionState(state, steps, at.replace(tzinfo=UTC)) for name, state, steps, at in rows}

    def get_applied_migration_hashes(self) -> list[str]:
        return [get_migration_hash(name) for name, state in self.states().items() if state.state == "applied"]

    def apply_one(self, migration: Migration, force: bool = False, mark: bool = True) -> None:
        """Run all steps of a version. If it was left unfinished, what may have run of it is taken back first.

        Raises:
            StatementFailed: a step failed; the steps before it are taken back.
            UndoFailed: a step failed, and so did taking back those before it; the version stays unfinished.
        """
        self.ensure_internal_schema_updated()
        migration.load()
        unfinished = self.states().get(migration.id)
        if unfinished:
            try:
                self._undo(migration, unfinished.steps)
            except StatementFailed as error:
                raise UndoFailed(f"taking back what an earlier try left: {error}") from error.__cause__
        for number, step in enumerate(migration.steps):
            self._record(migration, "unfinished", number + 1)
            try:
                step.apply(self, force)
            except StatementFailed as error:
                try:
                    self._undo(migration, number)
                except DatabaseError as second:
                    raise UndoFailed(f"{error}; then, taking back the steps before it: {second}") from error
                raise
        if mark:
            self.mark_one(migration, log=False)
        self.log_migration(migration, "apply")

    def rollback_one(self, migration: Migration, force: bool = False) -> None:
        """Take a version back, the last step first.

        Raises:
            StatementFailed: a step could not be taken back; the version stays unfinished, without the later steps.
        """
        self.ensure_internal_schema_updated()
        migration.load()
        state = self.states().get(migration.id)
        self._undo(migration, state.steps if state and state.state == "unfinished" else len(migration.steps))

    def mark_one(self, migration: Migration, log: bool = True) -> None:
        migration.load()
        self._record(migration, "applied", len(migration.steps))
        if log:
            self.log_migration(migration, "mark")

    def unmark_one(self, migration: Migration, log: bool = True) -> None:
        self._record(migration, "absent", 0)
        if log:
            self.log_migration(migration, "unmark")

    def log_migration(self, migration: Migration, operation: str) -> None:
        self.log(operation, migration.id)

    def log(self, operation: str, subject: str, comment: str = "") -> None:
        """Write a line of the log, with the user and the host that this process runs as."""
        self._insert(
            self.log_table_quoted,
            operation=operation,
            subject=subject,
            comment=comment,
            username=_username(),
            hostname=socket.gethostname(),
        )

    def newest_comment(self, operation: str) -> str:
        """Return the comment of the newest log line of an operation, ``""`` when there is none. Changes nothing."""
        try:
            return self.connection.query(
                "SELECT argMax(comment, logged_at)"
                f" FROM {self.log_table_quoted} WHERE operation = {{operation:String}}",
                parameters={"operation": operation},
            ).first_row[0]
        except DatabaseError as error:
            if is_code(error, UNKNOWN_TABLE):
                return ""
            raise

    @contextmanager
    def lock(self, timeout: float = 10) -> Iterator[None]:
        """Hold the database's migration lock. That of a migrator that is surely dead is taken over at once.

        Args:
            timeout: seconds to wait for another migrator, and as long as the server works on a statement of its.

        Raises:
            Held: saying who holds it.
        """
        with lock.locked(
            self.connection,
            self.lock_table,
            "Migration",
            wait_s=timeout,
            expires=False,  # a statement may take days
            is_patient=True,
            tell=self.tell,
        ):
            yield

    def _undo(self, migration: Migration, steps: int) -> None:
        if steps:
            # Before anything is taken back: the server finishes a statement whose migrator was killed meanwhile.
            self._record(migration, "unfinished", steps)
        # yoyo wraps the steps that it has read itself.
        self._drop_kafka_tables_first([getattr(step, "step", step)._rollback for step in migration.steps[:steps]])
        for number in reversed(range(steps)):
            self._record(migration, "unfinished", number + 1)
            migration.steps[number].rollback(self)
        self.unmark_one(migration, log=False)
        self.log_migration(migration, "rollback")

    def _drop_kafka_tables_first(self, rollbacks: list[str]) -> None:
        """Run those that drop a Kafka table before their turn, at which they then have nothing to do.

        To drop the view on one takes seconds, some twelve without a broker, as it waits for the consumers to look up.
        """
        drops = [text for text in rollbacks if text and words_of(text).begins("DROP", "TABLE", "IF", "EXISTS")]
        dropped = {words_of(text)[1:].names()[0]: text for text in drops}
        if dropped:
            rows = self.connection.query(
                "SELECT name FROM system.tables WHERE database = currentDatabase() AND engine = 'Kafka'"
                " AND has({names:Array(String)}, name)",
                parameters={"names": list(dropped)},
            ).result_rows
            for (name,) in rows:
                self.cursor().execute(dropped[name])

    def _record(self, migration: Migration, state: str, steps: int) -> None:
        self._insert(self.migration_table_quoted, migration_id=migration.id, state=state, steps=str(steps))

    def _insert(self, table: str, **values: str) -> None:
        placeholders = ", ".join(f"{{{column}:String}}" for column in values)
        self.connection.command(f"INSERT INTO {table} ({', '.join(values)}) SELECT {placeholders}", parameters=values)


def _username() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without an entry in passwd
        return f"uid {os.getuid()}"
