"""A local ClickHouse: the engine as a library, behind the part of ClickHouse's HTTP interface that clients use.

Loopback only, and without users: whoever reaches the port may do everything. ``python -m devstack.clickhouse_server
--help`` says how to start it.
"""

import argparse
import fcntl
import ipaddress
import json
import os
import re
import secrets
import signal
import socket
import socketserver
import sys
import tempfile
import threading
import time
import traceback
import uuid
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO, NoReturn
from urllib.parse import parse_qsl, urlsplit

from devstack.clickhouse_body import MalformedBody, RequestBody, choose_encoding, decoded, form_fields, packer
from devstack.clickhouse_engine import SYNTAX_ERROR, Connection, Engine, EngineError, Session
from devstack.clickhouse_statement import Insert, Statement, describe, split_insert
from paystream.errors import PaystreamError, UsageError

MAX_HTTP_CONNECTIONS = 256
MAX_HEAD_BYTES = 1 << 18  # ClickHouse's max_query_size: an INSERT must say within it where its data begins
MAX_STATEMENT_BYTES = 1 << 24
MAX_INSERT_BYTES = 1 << 32
MAX_WHOLE_RESULT_BYTES = 1 << 27
"""Rows, in memory, of a result whose format cannot be streamed; a request's own max_result_bytes goes before it."""
BUFFERED_RESULT_BYTES = 1 << 20
"""A result up to this size is sent with its length and summary, a larger one in chunks while it is read."""
SOCKET_TIMEOUT_S = 300
FINISH_REQUESTS_S = 3
STOP_S = 10

_MIN_PACKED_BYTES = 1 << 12  # packing less costs more time than it saves
_MAX_DRAINED_BYTES = 1 << 28

# The engine hands out each block of a streamed result as a document of its own: only formats without a frame around
# the rows can be put together again by concatenation, or with a line of names before them.
_NAMED = {"csvwithnames", "tabseparatedwithnames", "tsvwithnames"}
_STREAMABLE = {"native", "rowbinary", "csv", "tabseparated", "tsv", "jsoneachrow", "jsoncompacteachrow"} | _NAMED
_CONTENT_TYPES = {
    "tabseparated": "text/tab-separated-values; charset=UTF-8",
    "tsv": "text/tab-separated-values; charset=UTF-8",
    "csv": "text/csv; charset=UTF-8",
    "json": "application/json; charset=UTF-8",
    "jsoncompact": "application/json; charset=UTF-8",
    "jsoneachrow": "application/x-ndjson; charset=UTF-8",
    "native": "application/octet-stream",
    "rowbinary": "application/octet-stream",
}

# Parameters of the request itself; every other one is a setting, but for some that a client sends with each request and
# that mean nothing here: responses are always packed as asked and reads always end with their client.
_REQUEST_PARAMETERS = {
    "query",
    "database",
    "query_id",
    "default_format",
    "session_id",
    "session_timeout",
    "session_check",
    "close_session",
    "user",
    "password",
    "quota_key",
    "role",
    "wait_end_of_query",
    "buffer_size",
    "client_protocol_version",
    "stacktrace",
    "compress",
    "decompress",
}
_IDLE_SETTINGS = {
    "enable_http_compression",
    "send_progress_in_http_headers",
    "http_headers_progress_interval_ms",
    "cancel_http_readonly_queries_on_client_close",
}

_BAD_REQUEST = {6, 25, 26, 27, 33, 36, 38, 41, 42, 43, 44, 53, 62, 69, 70, 72, 89, 117, 130, 210, 354, 374, 456, 457}
_BAD_REQUEST |= {561, 618}
_NOT_FOUND = {46, 47, 50, 56, 60, 63, 73, 81, 115, 152, 336, 372}
_STATUS = {48: 501, 159: 408, 202: 503, 229: 413, 307: 413, 373: 423} | dict.fromkeys(_NOT_FOUND, 404)
_STATUS |= dict.fromkeys(_BAD_REQUEST, 400)
_NOT_IMPLEMENTED = 48
_BAD_ARGUMENTS = 36
_NOT_ENOUGH_SPACE = 243
_QUERY_IS_TOO_LARGE = 229
_TOO_MANY_BYTES = 307


@dataclass
class Request:
    """What one HTTP request asks for."""

    parameters: dict[str, str]
    query_id: str
    insert: Insert | None = None
    data: BinaryIO | None = None
    """The rows of ``insert``, as a file that has no name."""
    text: bytes = b""
    statement: Statement | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    """Tables sent along with a query, by name."""

    @property
    def bindings(self) -> dict[str, str]:
        """The values of the query's parameters, escaped as TSV: the engine unescapes them."""
        return {name[6:]: value for name, value in self.parameters.items() if name.startswith("param_")}

    @property
    def settings(self) -> dict[str, str]:
        """The ClickHouse settings of this request."""
        of_files = tuple(f"{name}_" for name in self.files)
        return {
            name: value
            for name, value in self.parameters.items()
            if name not in _REQUEST_PARAMETERS | _IDLE_SETTINGS
            and not name.startswith("param_")
            and not (of_files and name.startswith(of_files))
        }


class Endpoint(ThreadingHTTPServer):
    """The HTTP server. Listens from the moment it is made, so that the port is ours before the engine opens."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: str, port: int, data: Path) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.engine: Engine
        self.spool = data
        self.stopping = False
        self.running = 0
        self.state = threading.Condition()
        self._slots = threading.BoundedSemaphore(MAX_HTTP_CONNECTIONS)
        super().__init__((host, port), Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # not HTTPServer's, which asks the resolver for this machine's name

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            with suppress(OSError):
                request.sendall(b"HTTP/1.1 503 Too many connections\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # a client that hangs up is no error of ours
            traceback.print_exc()


class Handler(BaseHTTPRequestHandler):
    """One client's connection."""

    protocol_version = "HTTP/1.1"
    server_version = "ClickHouse"
    sys_version = ""
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    timeout = SOCKET_TIMEOUT_S
    server: Endpoint

    def log_message(self, *_: object) -> None:
        """Say nothing: a probe asks a hundred times a second."""

    def do_GET(self) -> None:
        """Answer a query in the URL, and ``/ping``."""
        self._answer()

    def do_POST(self) -> None:
        """Answer a query in the URL, in the body, or begun in the one and continued in the other."""
        self._answer()

    def _answer(self) -> None:
        server = self.server
        with server.state:
            if server.stopping:
                self.close_connection = True
                return
            server.running += 1
        try:
            self._answer_request()
        finally:
            with server.state:
                server.running -= 1
                server.state.notify_all()

    def _answer_request(self) -> None:
        body = None
        self._query_id = str(uuid.uuid4())
        self._responding = False
        try:
            body = RequestBody(self.rfile, self.headers.get("Content-Length"), self.headers.get("Transfer-Encoding"))
            url = urlsplit(self.path)
            if url.path == "/ping" or (url.path in ("", "/") and self.command == "GET" and not url.query):
                self._respond([b"Ok.\n"], "text/html; charset=UTF-8", {})
            elif url.path not in ("", "/"):
                self._respond([b"There is no handle " + url.path.encode() + b"\n"], "text/plain", {}, status=404)
            else:
                parameters = dict(parse_qsl(url.query, keep_blank_values=True, errors="surrogateescape"))
                self._query_id = parameters.get("query_id") or self._query_id
                with ExitStack() as stack:
                    self._execute(self._read(parameters, body, stack), stack)
        except (EngineError, MalformedBody) as error:
            self._respond_error(error, body)
        except OSError:
            self.close_connection = True
        except UnicodeError:
            message = "A parameter of the request holds bytes that are not UTF-8"
            self._respond_error(_refused(_BAD_ARGUMENTS, message), body)
        except Exception as error:
            traceback.print_exc()
            self._respond_error(EngineError(f"Code: 1001. DB::Exception: {type(error).__name__}: {error}.", 1001), body)
        if body and not body.exhausted and not body.drain(_MAX_DRAINED_BYTES):
            self.close_connection = True
        with suppress(OSError):
            self.wfile.flush()

    # Reading a request

    def _read(self, parameters: dict[str, str], body: RequestBody, stack: ExitStack) -> Request:
        request = Request(parameters, self._query_id)
        for name in ("compress", "decompress"):
            if parameters.get(name, "0") != "0":
                raise _refused(_NOT_IMPLEMENTED, f"'{name}=1' is not offered here. Use Content-Encoding instead")
        pieces = decoded(body.pieces(), self.headers.get("Content-Encoding"))
        content_type = self.headers.get("Content-Type", "")
        if content_type.startswith("multipart/form-data"):
            fields, request.files = form_fields(_whole(b"", pieces, MAX_STATEMENT_BYTES), content_type)
            parameters |= fields
            pieces = iter(())
        head = bytearray(parameters.get("query", "").encode(errors="surrogateescape"))
        if head:
            head += b"\n"
        for piece in pieces:
            head += piece
            if len(head) >= MAX_HEAD_BYTES:
                break
        request.insert = split_insert(bytes(head))
        if request.insert:
            request.data = stack.enter_context(_spool(self.server.spool))
            inline = bytes(head[request.insert.data_at :])
            if request.insert.format == "Values" and describe(inline).count > 1:
                raise _refused(SYNTAX_ERROR, "Multi-statements are not allowed")
            size = 0
            for piece in _chain(inline, pieces):
                size += len(piece)
                if size > MAX_INSERT_BYTES:
                    raise _refused(_TOO_MANY_BYTES, f"The data of one INSERT exceeds {MAX_INSERT_BYTES} bytes")
                request.data.write(piece)
            request.data.flush()
        else:
            request.text = _whole(bytes(head), pieces, MAX_STATEMENT_BYTES)
            request.statement = describe(request.text)
            if request.statement.count > 1:
                raise _refused(SYNTAX_ERROR, "Multi-statements are not allowed")
            if request.statement.count == 0:
                raise _refused(SYNTAX_ERROR, "Syntax error: the query is empty")
            if not request.statement.readable:
                raise _refused(SYNTAX_ERROR, "Syntax error: the query begins with an unrecognized character")
            if request.statement.calls_input:
                raise _refused(_NOT_IMPLEMENTED, "INSERT … SELECT from input() is not offered here")
        return request

    # Running it

    def _execute(self, request: Request, stack: ExitStack) -> None:
        parameters, engine = request.parameters, self.server.engine
        session = None
        if session_id := parameters.get("session_id"):
            timeout = parameters.get("session_timeout", "60")
            session = stack.enter_context(
                engine.session(
                    session_id,
                    int(timeout) if timeout.isdigit() else -1,
                    must_exist=parameters.get("session_check") == "1",
                )
            )
        output_format = parameters.get("default_format") or "TabSeparated"
        settings = request.settings
        streamed = False
        if statement := request.statement:
            output_format = statement.format or output_format
            streamed = (
                statement.selects
                and statement.format != ""
                and output_format.lower() in _STREAMABLE
                and not {"extremes", "output_format_json_array_of_rows"} & settings.keys()
                and not re.search(rb"WITH\s+TOTALS|extremes|output_format_json_array_of_rows", request.text, re.I)
            )
            if statement.selects and not streamed:
                settings.setdefault("max_result_bytes", str(MAX_WHOLE_RESULT_BYTES))
        database = parameters.get("database") or None
        connection = stack.enter_context(engine.connection(session, statement, database, settings))
        self._timezone = settings.get("session_timezone") or (session and session.timezone) or engine.timezone
        for name, content in request.files.items():
            _load_table(connection, name, content, parameters, session, stack, self.server.spool)

        if request.insert:
            text = request.insert.reading(f"/proc/self/fd/{request.data.fileno()}")
            self._respond_whole(connection.run(text, params=request.bindings), None)
            return
        format_header = output_format if statement.has_result else None
        if streamed:
            pieces = stack.enter_context(closing(connection.stream(request.text, output_format, request.bindings)))
            try:
                waits = parameters.get("wait_end_of_query") == "1"
                self._respond_stream(
                    pieces, output_format, stack.enter_context(_spool(self.server.spool)) if waits else None
                )
                return
            except EngineError as error:
                if error.code != _BAD_ARGUMENTS or "Streaming query is not supported" not in str(error):
                    raise
                # What begins like a SELECT is none (WITH … INSERT). Nothing was run or sent.
        self._respond_whole(connection.run(request.text, output_format, request.bindings), format_header)

    # Responding

    def _respond_whole(self, result: Any, output_format: str | None) -> None:
        content = result.bytes()
        summary = {
            "read_rows": result.storage_rows_read() or result.rows_read(),
            "read_bytes": result.storage_bytes_read() or result.bytes_read(),
            "written_rows": result.rows_written(),
            "written_bytes": result.bytes_written(),
            "total_rows_to_read": "0",
            "result_rows": 0 if result.rows_written() else result.rows_read(),
            "result_bytes": len(content),
            "elapsed_ns": int(result.elapsed() * 1e9),
        }
        self._respond([content], _content_type(output_format), self._headers(output_format, summary))

    def _respond_stream(self, pieces: Iterator[Any], output_format: str, spool: BinaryIO | None) -> None:
        """Send a result while it is read; with a file, once it holds all of it, so that an error still has a status."""
        started = time.perf_counter_ns()
        named = output_format.lower() in _NAMED
        buffered: list[bytes] = []
        size = read_rows = read_bytes = rows = 0
        for piece in pieces:
            buffered.append(_rows(piece) if named and buffered else piece.bytes())
            size += len(buffered[-1])
            rows += piece.rows_read()
            read_rows += piece.storage_rows_read()
            read_bytes += piece.storage_bytes_read()
            if size > BUFFERED_RESULT_BYTES:
                break
        else:
            summary = {
                "read_rows": read_rows,
                "read_bytes": read_bytes,
                "written_rows": 0,
                "written_bytes": 0,
                "total_rows_to_read": 0,
                "result_rows": rows,
                "result_bytes": size,
                "elapsed_ns": time.perf_counter_ns() - started,
            }
            self._respond(buffered, _content_type(output_format), self._headers(output_format, summary))
            return
        tag = secrets.token_hex(8)
        headers = self._headers(output_format, None) | {"X-ClickHouse-Exception-Tag": tag}
        rest = (_rows(piece) if named else piece.bytes() for piece in pieces)
        if spool:
            try:
                spool.writelines(buffered)
                spool.writelines(rest)
                spool.seek(0)
            except OSError as error:
                raise _refused(_NOT_ENOUGH_SPACE, f"The result cannot be kept: {error.strerror}") from error
            buffered, rest = [], iter(lambda: spool.read(BUFFERED_RESULT_BYTES), b"")
        self._respond(
            _with_error(buffered, rest, tag),
            _content_type(output_format),
            headers,
            sized=False,
        )

    def _headers(self, output_format: str | None, summary: dict[str, Any] | None) -> dict[str, str]:
        headers = {"X-ClickHouse-Query-Id": self._query_id, "X-ClickHouse-Timezone": self._timezone}
        if output_format:
            headers["X-ClickHouse-Format"] = output_format
        if summary:
            headers["X-ClickHouse-Summary"] = json.dumps({name: str(value) for name, value in summary.items()})
        return headers

    def _respond(
        self,
        pieces: Iterable[bytes],
        content_type: str,
        headers: dict[str, str],
        *,
        status: int = 200,
        sized: bool = True,
    ) -> None:
        encoding = choose_encoding(self.headers.get("Accept-Encoding", ""))
        if sized:
            content = b"".join(pieces)
            pieces = [content]
            if len(content) < _MIN_PACKED_BYTES:
                encoding = None
        if encoding:
            pieces = _packed(pieces, encoding)
            if sized:
                content = b"".join(pieces)
                pieces = [content]
        chunked = not sized and self.request_version == "HTTP/1.1"
        self._responding = True
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        for name, value in headers.items():
            # A header ends at its line's end, and the rest of the text would pass for further headers.
            self.send_header(name, re.sub(r"[^\x20-\x7e]", "?", value))
        if encoding:
            self.send_header("Content-Encoding", encoding)
        if sized:
            self.send_header("Content-Length", str(len(content)))
        elif chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.close_connection = True
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        for piece in pieces:
            if piece:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def _respond_error(self, error: EngineError | MalformedBody, body: RequestBody | None) -> None:
        if self._responding:  # too late for a status
            self.close_connection = True
            return
        # Read the rest first: closing a connection with unread data resets it, and the client never sees why.
        if body is None or not body.drain(_MAX_DRAINED_BYTES):
            self.close_connection = True
        text = str(error)
        if isinstance(error, MalformedBody):
            text = f"Code: {error.code}. DB::Exception: {text}."
        if "(version " not in text:
            text += f" (version {self.server.engine.version} (official build))"
        with suppress(OSError):
            self._respond(
                [text.encode(errors="replace") + b"\n"],
                "text/plain; charset=UTF-8",
                {"X-ClickHouse-Exception-Code": str(error.code), "X-ClickHouse-Query-Id": self._query_id},
                status=_STATUS.get(error.code, 500),
            )


def main() -> NoReturn:
    """Run the server until SIGTERM or SIGINT. Exit codes: 0 stopped, 1 the engine fails, 2 wrong use."""
    parser = argparse.ArgumentParser(
        prog="python -m devstack.clickhouse_server",
        description=__doc__,
        epilog="example: python -m devstack.clickhouse_server --port 18123 --data .paystream/clickhouse",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="loopback address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, required=True, help="port to listen on")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data, made if missing")
    parser.add_argument(
        "--config",
        type=Path,
        default=Path(__file__).with_name("clickhouse") / "config.xml",
        help="configuration of the engine",
    )
    parser.add_argument(
        "--until-stdin-ends", action="store_true", help="stop at once when stdin ends, as it does with who started this"
    )
    arguments = parser.parse_args()
    if arguments.until_stdin_ends:
        threading.Thread(target=_die_with_stdin, daemon=True).start()
    try:
        endpoint, lock = _start(arguments.host, arguments.port, arguments.data.resolve(), arguments.config.resolve())
    except PaystreamError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    stop = threading.Event()
    # Only now: the engine installs handlers of its own when it opens.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    threading.Thread(target=endpoint.serve_forever, daemon=True).start()
    host, port = endpoint.server_address[:2]
    print(
        f"ClickHouse {endpoint.engine.version} ready on {host}:{port}, data in {arguments.data.resolve()}", flush=True
    )
    while not stop.wait(1):
        endpoint.engine.end_idle_sessions()
    _stop(endpoint)
    lock.close()
    sys.stderr.flush()
    # Not through the interpreter's own exit: threads of idle clients may be anywhere, the engine's statics among them.
    os._exit(0)


def _start(host: str, port: int, data: Path, config: Path) -> tuple[Endpoint, BinaryIO]:
    if not _is_loopback(host):
        raise UsageError(f"ClickHouse host '{host}': not a loopback address. Use 127.0.0.1: this server has no users.")
    try:
        ElementTree.parse(config)
    except (OSError, ElementTree.ParseError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"ClickHouse configuration '{config}': {reason}. Correct --config.") from error
    try:
        endpoint = Endpoint(host, port, data)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a port"
        raise UsageError(f"ClickHouse port '{host}:{port}': {reason}. Stop what uses it or choose another.") from error
    try:
        # The engine keeps the credentials of named collections as plain text in this folder.
        os.umask(0o077)
        lock = _lock(data)
        # The engine takes its time zone from the process; times in the schema are UTC.
        os.environ["TZ"] = "UTC"
        time.tzset()
        # In a virtual machine a page fault costs some microseconds, and a refresh takes and gives back hundreds of MB:
        # huge pages, kept for a minute, save it a tenth of its time. The engine reads this when it is loaded.
        os.environ.setdefault("JE_MALLOC_CONF", "thp:always,dirty_decay_ms:60000,muzzy_decay_ms:60000")
        # It looks for the users file that its configuration names in the working directory.
        os.chdir(config.parent)
        endpoint.engine = Engine(data, config)
    except BaseException:
        endpoint.server_close()
        raise
    return endpoint, lock


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _lock(data: Path) -> BinaryIO:
    try:
        data.mkdir(parents=True, exist_ok=True)
        lock = (data / "endpoint.lock").open("ab+")
    except OSError as error:
        raise UsageError(f"ClickHouse data folder '{data}': {error.strerror}. Correct --data.") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise UsageError(
            f"ClickHouse data folder '{data}': another server is using it. Stop that one or choose another --data."
        ) from None
    return lock


def _stop(endpoint: Endpoint) -> None:
    watchdog = threading.Timer(STOP_S, _give_up)
    watchdog.daemon = True
    watchdog.start()
    endpoint.shutdown()
    endpoint.server_close()
    with endpoint.state:
        endpoint.stopping = True
        finished = endpoint.state.wait_for(lambda: not endpoint.running, timeout=FINISH_REQUESTS_S)
    try:
        endpoint.engine.detach_kafka_tables()
    except EngineError as error:
        print(f"error: ClickHouse Kafka tables: {error}", file=sys.stderr)
    if finished:  # closing the engine under a running statement would crash it
        endpoint.engine.close()
    watchdog.cancel()


def _give_up() -> None:
    print(
        f"error: ClickHouse did not stop within {STOP_S} s and was cut off. Its data is safe.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def _die_with_stdin() -> None:
    while os.read(0, 1 << 10):
        pass
    os._exit(0)


def _spool(folder: Path) -> BinaryIO:
    # Without a name, so nothing stays behind, whatever happens to this process.
    return tempfile.TemporaryFile(dir=folder)


def _refused(code: int, message: str) -> EngineError:
    return EngineError(f"Code: {code}. DB::Exception: {message}.", code)


def _content_type(output_format: str | None) -> str:
    return _CONTENT_TYPES.get((output_format or "").lower(), "text/plain; charset=UTF-8")


def _whole(head: bytes, pieces: Iterable[bytes], limit_bytes: int) -> bytes:
    text = bytearray(head)
    for piece in pieces:
        text += piece
        if len(text) > limit_bytes:
            raise _refused(_QUERY_IS_TOO_LARGE, f"The query exceeds {limit_bytes} bytes")
    return bytes(text)


def _chain(first: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _packed(pieces: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    compressor, opening = packer(encoding)
    yield opening
    for piece in pieces:
        yield compressor.compress(piece)
    yield compressor.flush()


def _rows(piece: Any) -> bytes:
    """Return a block without its line of names."""
    _, _, rows = piece.bytes().partition(b"\n")
    return rows


def _with_error(buffered: list[bytes], rest: Iterator[bytes], tag: str) -> Iterator[bytes]:
    """Yield the pieces; an error among them follows in the way ClickHouse reports one once the status is sent."""
    yield from buffered
    buffered.clear()
    try:
        yield from rest
    except EngineError as error:
        message = str(error).encode(errors="replace")
        yield b"\r\n__exception__\r\n%s\r\n%s\n%d %s\r\n__exception__\r\n" % (
            tag.encode(),
            message,
            len(message) + 1,
            tag.encode(),
        )


def _load_table(
    connection: Connection,
    name: str,
    content: bytes,
    parameters: dict[str, str],
    session: Session | None,
    stack: ExitStack,
    spool: Path,
) -> None:
    """Make a table that was sent along with a query visible to it, for this one request."""
    structure = parameters.get(f"{name}_structure")
    if types := parameters.get(f"{name}_types"):
        structure = ", ".join(f"_{number} {one}" for number, one in enumerate(types.split(","), 1))
    if not structure or not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise _refused(_BAD_ARGUMENTS, f"External table {name!r} needs a plain name and a structure")
    connection.run(f"CREATE TEMPORARY TABLE {name} ({structure})")
    if session and session.connection is connection:
        stack.callback(connection.run, f"DROP TEMPORARY TABLE {name}")
    else:
        connection.spoiled = True
    with _spool(spool) as file:
        file.write(content)
        file.flush()
        table_format = parameters.get(f"{name}_format", "TabSeparated")
        insert = Insert(f"INSERT INTO {name}".encode(), b"", table_format, 0)
        connection.run(insert.reading(f"/proc/self/fd/{file.fileno()}"))


if __name__ == "__main__":
    main()
