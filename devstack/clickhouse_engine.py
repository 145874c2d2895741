"""The ClickHouse engine inside this process: one engine, and connections that keep requests apart from each other."""

import importlib.machinery
import importlib.util
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from devstack.clickhouse_statement import Statement
from paystream.errors import PaystreamError, UsageError

MAX_CONNECTIONS = 32
"""Statements that run at once. A result that is still being read counts."""
MAX_PINNED_SESSIONS = 64
"""Sessions that hold settings or temporary tables. A session that never set any costs nothing and is not counted."""
MAX_SESSION_TIMEOUT_S = 3600
_WAIT_FOR_CONNECTION_S = 30
_WAIT_FOR_SESSION_S = 1
"""The client may have read the response, and ask again, a moment before the request that gave it lets go."""

_NONE: Mapping[str, str] = {}
_DEFAULT_DATABASE = "default"
# The library answers text without a SELECT as if it had one, which would hide mistakes that a server reports.
_OPENING_STATEMENT = "SET implicit_select = 0"

SYNTAX_ERROR = 62
_UNKNOWN_SETTING = 115
_TOO_MANY_SIMULTANEOUS_QUERIES = 202
_SESSION_NOT_FOUND = 372
_SESSION_IS_LOCKED = 373
_INVALID_SESSION_TIMEOUT = 374


class EngineError(Exception):
    """ClickHouse refused a statement. ``code`` is its error code, the text is its message."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code

    @classmethod
    def from_exception(cls, error: Exception) -> "EngineError":
        """Wrap what the extension raised."""
        # A message that quotes bytes which are not UTF-8 cannot become a str: the extension raises this instead of it.
        text = error.object.decode(errors="replace") if isinstance(error, UnicodeDecodeError) else str(error)
        code = re.search(r"Code: (\d+)\.", text)
        return cls(text.strip(), int(code[1]) if code else 1000)


@dataclass(eq=False)
class Connection:
    """One connection to the engine, with what was set on it. Used by one thread at a time."""

    raw: Any
    database: str = _DEFAULT_DATABASE
    applied: dict[str, str] = field(default_factory=dict)
    """Settings of the last request, by name."""
    before: dict[str, str] = field(default_factory=dict)
    """SQL that restores a setting to the session's own value, where that is not the default."""
    databases_seen: int = 0
    spoiled: bool = False
    """Whether it carries something of its last request that cannot be taken back."""

    def run(self, sql: str | bytes, output_format: str = "TabSeparated", params: Mapping[str, str] = _NONE) -> Any:
        """Run one statement and return the engine's result object, whole.

        Raises:
            EngineError: the statement failed. The connection is then spoiled: the engine prepends what the failed
                statement had already written to the next result.
        """
        try:
            return self.raw.query(sql, output_format, params=dict(params))
        except (RuntimeError, UnicodeDecodeError) as error:
            self.spoiled = True
            raise EngineError.from_exception(error) from error

    def stream(self, sql: str | bytes, output_format: str, params: Mapping[str, str]) -> Iterator[Any]:
        """Run a SELECT and yield its result in pieces, each in the format on its own. Closing early cancels it.

        Raises:
            EngineError: as in ``run``, or the statement is none that can be streamed.
        """
        handle = None
        try:
            handle = self.raw.send_query(sql, output_format, params=dict(params))
            while True:
                piece = self.raw.streaming_fetch_result(handle)
                if piece is None or piece.rows_read() == 0:
                    handle = None
                    if piece is not None:
                        yield piece  # the header of an empty result
                    return
                yield piece
        except (RuntimeError, UnicodeDecodeError) as error:
            self.spoiled = True
            raise EngineError.from_exception(error) from error
        finally:
            if handle is not None:
                self.spoiled = True
                with suppress(RuntimeError):
                    self.raw.streaming_cancel_query(handle)

    def prepare(self, database: str, settings: Mapping[str, str], *, own_settings: bool, databases_seen: int) -> None:
        """Select a database and make exactly ``settings`` apply, undoing those of the request before.

        Args:
            database: the database that unqualified names refer to.
            settings: by name.
            own_settings: whether the connection has settings of its own, a session's, which the request's must give
                way to afterwards.
            databases_seen: changes when a database came or went, so that the selected one has to be checked again.

        Raises:
            EngineError: the database or a setting does not exist.
        """
        if self.database != database or self.databases_seen != databases_seen:
            self.run(f"USE {_name(database)}")
            self.database, self.databases_seen = database, databases_seen
        changed = {name: value for name, value in settings.items() if self.applied.get(name) != value}
        for name in changed:
            if not re.fullmatch(r"[A-Za-z_][\w.]*", name):
                raise EngineError(
                    f"Code: {_UNKNOWN_SETTING}. DB::Exception: Unknown setting {name!r}.", _UNKNOWN_SETTING
                )
        if own_settings and (new := [name for name in changed if name not in self.applied]):
            names = ", ".join(_quoted(name) for name in new)
            rows = self.run(
                f"SELECT name, value FROM system.settings WHERE changed AND name IN ({names})", "JSONCompact"
            )
            self.before |= {name: _quoted(value) for name, value in _json_rows(rows)}
        gone = [name for name in self.applied if name not in settings]
        parts = [f"{name} = {self.before.get(name, 'DEFAULT')}" for name in gone]
        parts += [f"{name} = {_quoted(value)}" for name, value in changed.items()]
        if parts:
            # Should it fail half-way, the connection is spoiled, so what is applied need not be known.
            self.run("SET " + ", ".join(parts))
            self.applied = dict(settings)
            for name in gone:
                self.before.pop(name, None)

    def close(self) -> None:
        """Close it. The engine stays open."""
        with suppress(RuntimeError):
            self.raw.close()


@dataclass
class Session:
    """What a client's ``session_id`` names: its connection, once it has set anything that must outlive a request."""

    timeout_s: int
    busy: threading.Lock = field(default_factory=threading.Lock)
    idle_since: float = field(default_factory=time.monotonic)
    connection: Connection | None = None
    database: str = _DEFAULT_DATABASE
    timezone: str | None = None


class Engine:
    """The engine on one data folder, for as long as the process lives.

    It is opened once and closed once: after any close, the library refuses every Kafka table in this process.
    """

    def __init__(self, data: Path, config: Path) -> None:
        """Open the engine.

        Raises:
            UsageError: the library is missing or a path cannot be passed to it.
            PaystreamError: the engine does not start on this folder.
        """
        for path in (data, config):
            if re.search(r"[?&#%]", str(path)):
                raise UsageError(
                    f"ClickHouse path '{path}': the engine cannot open paths with ?, &, # or %. Choose another."
                )
        self._target = f"{data}?config-file={config}"
        self._module = _load_extension()
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._sessions: dict[str, Session] = {}
        self._databases_seen = 0
        try:
            self._root = self._open()
            answer = self._root.run("SELECT version(), timezone()").bytes().decode()
            self._refresh_what_came_too_early()
        except (RuntimeError, ValueError, EngineError) as error:
            raise PaystreamError(
                f"ClickHouse data folder '{data}': {' '.join(str(error).split())}. Remove the folder to start afresh."
            ) from error
        self.version, self.timezone = answer.strip().split("\t")

    @contextmanager
    def connection(
        self, session: Session | None, statement: Statement | None, database: str | None, settings: Mapping[str, str]
    ) -> Iterator[Connection]:
        """Lend a prepared connection for one statement: the session's own, where it has or needs one, or a pooled one.

        Args:
            session: of the request, held by it.
            statement: what will be run; None for an INSERT with data.
            database: the request's, None for the session's or the default.
            settings: the request's.

        Raises:
            EngineError: the database or a setting is unknown, or too many statements run already.
        """
        changes_connection = statement is not None and statement.changes_connection
        if session and (session.connection or changes_connection):
            yield from self._pinned(session, changes_connection, database or session.database, settings)
        else:
            yield from self._pooled(database or _DEFAULT_DATABASE, settings, changes_connection)
        if statement is not None and statement.changes_databases:
            with self._lock:
                self._databases_seen += 1

    @contextmanager
    def session(self, session_id: str, timeout_s: int, *, must_exist: bool) -> Iterator[Session]:
        """Hold a session for one request, creating it if need be. It ends ``timeout_s`` after its last request.

        Raises:
            EngineError: another request of this session is running, or it does not exist though it must.
        """
        if not 0 <= timeout_s <= MAX_SESSION_TIMEOUT_S:
            raise _error(_INVALID_SESSION_TIMEOUT, f"Session timeout must be 0 to {MAX_SESSION_TIMEOUT_S} seconds")
        with self._lock:
            session = self._sessions.get(session_id)
            if session is None:
                if must_exist:
                    raise _error(_SESSION_NOT_FOUND, f"Session {session_id} not found")
                session = self._sessions[session_id] = Session(timeout_s)
            session.idle_since = time.monotonic()
        if not session.busy.acquire(timeout=_WAIT_FOR_SESSION_S):
            raise _error(_SESSION_IS_LOCKED, f"Session {session_id} is locked by a concurrent client")
        session.timeout_s = timeout_s
        try:
            yield session
        finally:
            session.idle_since = time.monotonic()
            session.busy.release()

    def end_idle_sessions(self) -> None:
        """End the sessions whose time is up."""
        now = time.monotonic()
        with self._lock:
            over = [
                name
                for name, session in self._sessions.items()
                if now - session.idle_since > session.timeout_s + _WAIT_FOR_SESSION_S and not session.busy.locked()
            ]
            connections = [self._sessions.pop(name).connection for name in over]
        for connection in connections:
            if connection:
                connection.close()

    def _refresh_what_came_too_early(self) -> None:
        # The library starts refreshes, and gives up those that fail, before it has its system tables. A server has
        # them first.
        failed = self._root.run("SELECT database, view FROM system.view_refreshes WHERE exception != ''", "JSONCompact")
        for database, view in _json_rows(failed):
            self._root.run(f"SYSTEM REFRESH VIEW {_name(database)}.{_name(view)}")

    def detach_kafka_tables(self) -> None:
        """Detach every Kafka table until the next start, so that its consumers leave their group at once.

        Raises:
            EngineError: a table cannot be detached; the others are.
        """
        rows = self._root.run("SELECT database, name FROM system.tables WHERE engine = 'Kafka'", "JSONCompact")
        errors: list[EngineError] = []

        def detach(database: str, table: str) -> None:
            connection = self._open()
            try:
                connection.prepare(database, {"check_table_dependencies": "0"}, own_settings=False, databases_seen=0)
                connection.run(f"DETACH TABLE {_name(table)}")
            except EngineError as error:
                errors.append(error)
            finally:
                connection.close()

        # At once, since each waits for its consumers to say goodbye to the broker.
        threads = [threading.Thread(target=detach, args=row, daemon=True) for row in _json_rows(rows)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]

    def close(self) -> None:
        """Close the engine. No statement may be running."""
        with self._lock:
            connections = [*self._idle, *(s.connection for s in self._sessions.values() if s.connection), self._root]
            self._idle.clear()
            self._sessions.clear()
        for connection in connections:
            connection.close()

    def _open(self) -> Connection:
        connection = Connection(self._module.connect(self._target))
        connection.run(_OPENING_STATEMENT)
        return connection

    def _pooled(self, database: str, settings: Mapping[str, str], changes_connection: bool) -> Iterator[Connection]:
        if not self._slots.acquire(timeout=_WAIT_FOR_CONNECTION_S):
            raise _error(_TOO_MANY_SIMULTANEOUS_QUERIES, f"Too many simultaneous queries. Maximum: {MAX_CONNECTIONS}")
        try:
            with self._lock:
                # One that needs no preparation, or else the one used last.
                ready = (c for c in reversed(self._idle) if c.applied == settings and c.database == database)
                connection = next(ready, None) or (self._idle[-1] if self._idle else None)
                if connection:
                    self._idle.remove(connection)
                databases_seen = self._databases_seen
            connection = connection or self._open()
            try:
                connection.prepare(database, settings, own_settings=False, databases_seen=databases_seen)
                yield connection
                # Without a session, a setting or a temporary table ends with its request.
                connection.spoiled |= changes_connection
            except BaseException:
                connection.spoiled = True
                raise
            finally:
                if connection.spoiled:
                    connection.close()
                else:
                    with self._lock:
                        self._idle.append(connection)
        finally:
            self._slots.release()

    def _pinned(
        self, session: Session, changes_connection: bool, database: str, settings: Mapping[str, str]
    ) -> Iterator[Connection]:
        if session.connection is None:
            with self._lock:
                if sum(1 for one in self._sessions.values() if one.connection) >= MAX_PINNED_SESSIONS:
                    raise _error(
                        _TOO_MANY_SIMULTANEOUS_QUERIES,
                        f"Too many sessions with a state. Maximum: {MAX_PINNED_SESSIONS}",
                    )
            session.connection = self._open()
        connection = session.connection
        with self._lock:
            databases_seen = self._databases_seen
        try:
            # A SET works on the session's own settings, so those of the request step aside for it.
            connection.prepare(
                database, {} if changes_connection else settings, own_settings=True, databases_seen=databases_seen
            )
            yield connection
            if changes_connection:
                current = connection.run("SELECT currentDatabase(), timezone()", "JSONCompact")
                [[connection.database, session.timezone]] = _json_rows(current)
                session.database = connection.database
        finally:
            if connection.spoiled:
                # The session must keep its connection, so swallow what the failed statement left in its output.
                with suppress(RuntimeError, UnicodeDecodeError):
                    connection.raw.query("SELECT 1", "TabSeparated")
                connection.spoiled = False


def _error(code: int, message: str) -> EngineError:
    return EngineError(f"Code: {code}. DB::Exception: {message}.", code)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _name(text: str) -> str:
    return "`" + text.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _json_rows(result: Any) -> list[list[str]]:
    return json.loads(result.bytes())["data"]


def _load_extension() -> ModuleType:
    package = importlib.util.find_spec("chdb")
    if package is None or not package.submodule_search_locations:
        raise UsageError("ClickHouse engine 'chdb-core': not installed. Run `make setup`.")
    # Not `import chdb`: it opens and closes an engine of its own, after which this process refuses Kafka tables.
    path = Path(package.submodule_search_locations[0]) / "_chdb.abi3.so"
    loader = importlib.machinery.ExtensionFileLoader("_chdb", str(path))
    flags = sys.getdlopenflags()
    # The engine carries its own allocator and C++ library: they must not mix with those other packages loaded.
    sys.setdlopenflags(flags | os.RTLD_DEEPBIND)
    try:
        module = importlib.util.module_from_spec(importlib.util.spec_from_loader("_chdb", loader))
        loader.exec_module(module)
    except ImportError as error:
        raise UsageError(f"ClickHouse engine '{path}': {error}. Run `make setup`.") from error
    finally:
        sys.setdlopenflags(flags)
    return module
