"""A small HTTP server for what people and Prometheus look at: read only, on loopback unless told otherwise."""

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from paystream.errors import PaystreamError, UsageError
from paystream.output import errors, note
from paystream.settings import Settings
from paystream.signals import sigterm_interrupts
from paystream.status.health import Verdict, judge
from paystream.status.reading import read_status
from paystream.status.state import Status

KEPT_S = 2.0

# The page is all there is: no script, style, picture or connection from elsewhere.
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class Answer:
    """What a path answers with."""

    content_type: str
    body: bytes
    code: int = 200


def kept_status(settings: Settings, kept_s: float = KEPT_S) -> Callable[[], tuple[Status, Verdict]]:
    """Return a function that gives a status at most ``kept_s`` old: however many look, the services are asked once."""
    lock = threading.Lock()
    last: list[tuple[float, Status, Verdict]] = []

    def current() -> tuple[Status, Verdict]:
        with lock:
            if not last or time.monotonic() - last[0][0] > kept_s:
                status = read_status(settings)
                last[:] = [(time.monotonic(), status, judge(status, settings))]
            return last[0][1:]

    return current


def handler(routes: Mapping[str, Callable[[], Answer]]) -> type[BaseHTTPRequestHandler]:
    """Return what answers GET and HEAD with these paths' answers, and says on stderr when one fails."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 30  # a reader that says nothing holds no thread forever

        def do_GET(self) -> None:
            route = routes.get(self.path.partition("?")[0])
            try:
                answer = route() if route else Answer("text/plain", f"Try {', '.join(routes)}\n".encode(), 404)
            except Exception as error:
                why = error if isinstance(error, PaystreamError) else repr(error)
                errors.print(f"error: {self.path}: {why}", style="red", soft_wrap=True, markup=False, highlight=False)
                answer = Answer("text/plain", b"Failed; see the server's own output.\n", 500)
            self.send_response(answer.code)
            self.send_header("Content-Type", f"{answer.content_type}; charset=utf-8")
            self.send_header("Content-Length", str(len(answer.body)))
            for name, value in _HEADERS.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(answer.body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

        def version_string(self) -> str:
            return "paystream"

    return Handler


def serve(host: str, port: int, routes: Mapping[str, Callable[[], Answer]], ready: Callable[[str], None]) -> None:
    """Answer until Ctrl-C or SIGTERM.

    Args:
        host: an address of this machine.
        port: 0 takes a free one.
        routes: what each path answers with.
        ready: called with the address (``http://…``) once it listens.

    Raises:
        UsageError: it cannot listen there.
    """

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a reader that went away before it had its answer

    try:
        server = Server((host, port), handler(routes))
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(
            f"Address '{host}:{port}': cannot listen there: {why}. Choose another with --host and --port."
        ) from error
    if not _is_loopback(server.server_address[0]):
        note(f"'{host}' can be reached from other machines, and asks for no password.")
    with server, sigterm_interrupts():
        shown = f"[{host}]" if ":" in host else host
        ready(f"http://{shown}:{server.server_address[1]}")
        try:
            server.serve_forever(poll_interval=0.1)
        except KeyboardInterrupt:
            return


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback
