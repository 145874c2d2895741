"""Reading from HTTP and S3: what comes, what is refused, and that no source can hold a refresh up.

The HTTP server is Python's own on the loopback interface. S3 is moto's server there, a stand-in: no test here has met
the real S3, its TLS or its signatures.
"""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest
import requests
from boto3.resources.base import ServiceResource
from hypothesis import given
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer

from paystream.errors import CheckFailed, PaystreamError, ServiceUnavailable, UsageError
from paystream.loader.fetch import Limits, shown_name
from paystream.loader.merchants import read_merchants
from paystream.loader.source import Source, read_source

MERCHANTS = b"merchant_id,merchant_name,country,category_code\n1,Acme,DE,5411\n"

QUICK = Limits(connect_s=5, idle_s=0.5, total_s=60, retries=0)
"""Nothing is tried twice, and half a second of silence is too long."""

HURRIED = Limits(connect_s=5, idle_s=60, total_s=2, retries=0)
"""Silence is fine, but two seconds is all there is."""

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers as the test says; the connection ends with the answer."""

    server: "Server"

    def do_GET(self) -> None:
        self.server.asked.append(self)
        self.server.answer(self)

    do_HEAD = do_GET

    def respond(self, status: int, body: bytes = b"", length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def drip(self, data: bytes) -> None:
        """Send these bytes again and again, twenty a second, until the other end or the test has enough."""
        try:
            while not self.server.closing.is_set():
                for byte in data:
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    self.server.closing.wait(0.05)
        except OSError:
            pass

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    answer: Answer
    # The handlers that hang are told to end, and waited for.
    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[Handler] = []
        self.closing = threading.Event()

    def url(self, path: str = "/m.csv") -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def s3_url(self) -> str:
        return f"s3://bucket/m.csv?endpoint_override=127.0.0.1:{self.server_port}&scheme=http&region=us-east-1"


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Take away what this machine's environment would add: a proxy, or AWS's configuration."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }.items():
        monkeypatch.setenv(name, value)


@contextmanager
def serving(answer: Answer) -> Iterator[Server]:
    with Server() as server:
        server.answer = answer
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()


def refusal(place: str, limits: Limits = QUICK) -> PaystreamError:
    with pytest.raises(PaystreamError) as caught:
        read_source("Merchants file", place, limits)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("Merchants file '")
    assert message.endswith(".")
    return caught.value


def test_what_a_server_has_comes_with_its_address_and_the_time_it_was_changed() -> None:
    changed = "Mon, 23 Nov 2026 10:30:00 GMT"
    with serving(lambda asked: asked.respond(200, MERCHANTS, Last_Modified=changed)) as server:
        source = read_source("Merchants file", server.url("/a/m.csv?sig=abc"), QUICK)
        assert source == Source(
            "Merchants file", server.url("/a/m.csv"), MERCHANTS, datetime(2026, 11, 23, 10, 30, tzinfo=UTC)
        )
        assert server.asked[0].path == "/a/m.csv?sig=abc"
    assert read_merchants(source).columns["merchant_name"] == ["Acme"]


@pytest.mark.parametrize("headers", [{}, {"Last_Modified": "yesterday"}])
def test_a_server_need_not_say_when_it_was_changed(headers: dict[str, str]) -> None:
    with serving(lambda asked: asked.respond(200, MERCHANTS, **headers)) as server:
        assert read_source("Merchants file", server.url(), QUICK).modified_at is None


def test_a_path_knows_when_it_was_changed_and_the_largest_size_holds_for_it_too(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(MERCHANTS)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    for place in (path, str(path)):
        # 1,700,000,000 s after 1970 is 2023-11-14 22:13:20.
        expected = Source("Merchants file", str(path), MERCHANTS, datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC))
        assert read_source("Merchants file", place, Limits(largest_bytes=len(MERCHANTS))) == expected
        with pytest.raises(CheckFailed, match="larger than 10 bytes"):
            read_source("Merchants file", place, Limits(largest_bytes=10))


def test_user_and_password_are_sent_to_the_server_and_shown_to_nobody() -> None:
    with serving(lambda asked: asked.respond(200, MERCHANTS)) as server:
        place = server.url().replace("//", "//anna:sesame%40@")
        assert read_source("Merchants file", place, QUICK).name == server.url()
        # base64 of "anna:sesame@"
        assert server.asked[0].headers["Authorization"] == "Basic YW5uYTpzZXNhbWVA"
        server.answer = lambda asked: asked.respond(403)
        assert "sesame" not in str(refusal(place))


@given(st.text(st.characters(codec="ascii"), max_size=4), st.text(st.characters(codec="ascii"), max_size=4))
def test_no_part_of_an_address_that_may_be_secret_is_in_its_name(before: str, after: str) -> None:
    secret = f"{before}TOPSECRET{after}"
    for place in (
        f"https://anna:{secret}@host.example/folder/m.csv",
        f"https://{secret}@host.example:8080/folder/m.csv",
        f"https://host.example/folder/m.csv?X-Amz-Signature={secret}",
        f"https://anna:{secret}@host.example/folder/m.csv?a={secret}#{secret}",
        f"s3://key:{secret}@bucket/m.csv",
    ):
        try:
            name = shown_name(place)
        except ValueError:
            continue
        assert "topsecret" not in name.lower()


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("https://u:p@host.example:8443/a/b.csv?x=1&y=2#z", "https://host.example:8443/a/b.csv"),
        ("http://[::1]:80/a", "http://[::1]:80/a"),
        ("S3://bucket/a/b.csv?region=eu-west-1", "s3://bucket/a/b.csv"),
    ],
)
def test_the_name_of_an_address_is_its_host_and_path(place: str, name: str) -> None:
    assert shown_name(place) == name


@pytest.mark.parametrize(
    ("status", "error", "says"),
    [
        (404, UsageError, "there is no such file (HTTP 404 Not Found)"),
        (410, UsageError, "there is no such file (HTTP 410 Gone)"),
        (401, UsageError, "access is refused (HTTP 401 Unauthorized)"),
        (403, UsageError, "access is refused (HTTP 403 Forbidden)"),
        (400, UsageError, "HTTP 400 Bad Request instead of 200 OK"),
        (204, UsageError, "HTTP 204 No Content instead of 200 OK"),
        (299, UsageError, "HTTP 299 instead of 200 OK"),
        (500, ServiceUnavailable, "it answers HTTP 500 Internal Server Error"),
        (429, ServiceUnavailable, "it answers HTTP 429 Too Many Requests"),
        (599, ServiceUnavailable, "it answers HTTP 599."),
    ],
)
def test_an_answer_that_is_not_the_file_says_whose_turn_it_is(
    status: int, error: type[PaystreamError], says: str
) -> None:
    with serving(lambda asked: asked.respond(status)) as server:
        refused = refusal(server.url("/m.csv?sig=abc"))
        assert type(refused) is error
        assert str(refused).startswith(f"Merchants file '{server.url()}': ")
        assert says in str(refused)
        assert "abc" not in str(refused)


def test_a_failing_server_is_asked_again_and_only_so_often() -> None:
    def recover(asked: Handler) -> None:
        asked.respond(503) if len(asked.server.asked) < 2 else asked.respond(200, MERCHANTS)

    with serving(recover) as server:
        assert read_source("Merchants file", server.url(), Limits(retries=1)).data == MERCHANTS
        server.answer = lambda asked: asked.respond(503)
        server.asked.clear()
        assert "HTTP 503 Service Unavailable" in str(refusal(server.url(), Limits(retries=1)))
        assert len(server.asked) == 2


def test_redirects_are_followed_but_not_for_ever() -> None:
    def redirect(asked: Handler) -> None:
        if asked.path == "/old":
            asked.respond(302, Location="/m.csv")
        elif asked.path == "/loop":
            asked.respond(302, Location="/loop")
        elif asked.path == "/away":
            asked.respond(302, Location="file:///etc/passwd")
        else:
            asked.respond(200, MERCHANTS)

    with serving(redirect) as server:
        assert read_source("Merchants file", server.url("/old"), QUICK).data == MERCHANTS
        assert "more than 5 redirects" in str(refusal(server.url("/loop")))
        assert len(server.asked) == 2 + 6
        assert "where it redirects to, is not a valid address" in str(refusal(server.url("/away")))


def test_a_body_shorter_than_announced_is_refused() -> None:
    with serving(lambda asked: asked.respond(200, MERCHANTS, length=len(MERCHANTS) + 10)) as server:
        refused = refusal(server.url())
        assert type(refused) is ServiceUnavailable
        assert f"cut off before its end ({len(MERCHANTS) + 10} bytes)" in str(refused)


def test_chunks_that_stop_before_the_last_are_refused() -> None:
    def chunked(asked: Handler) -> None:
        asked.protocol_version = "HTTP/1.1"
        asked.send_response(200)
        asked.send_header("Transfer-Encoding", "chunked")
        asked.end_headers()
        asked.wfile.write(b"%x\r\n%s\r\n" % (len(MERCHANTS), MERCHANTS) + end)
        asked.close_connection = True

    with serving(chunked) as server:
        end = b"0\r\n\r\n"
        assert read_source("Merchants file", server.url(), QUICK).data == MERCHANTS
        end = b""
        assert "cut off before its end" in str(refusal(server.url()))


def test_a_body_larger_than_the_limit_is_refused_announced_or_not() -> None:
    def unannounced(asked: Handler) -> None:
        asked.send_response(200)
        asked.end_headers()
        asked.wfile.write(MERCHANTS)

    limits = Limits(largest_bytes=len(MERCHANTS) - 1)
    for answer in (unannounced, lambda asked: asked.respond(200, MERCHANTS)):
        with serving(answer) as server:
            refused = refusal(server.url(), limits)
            assert type(refused) is CheckFailed
            assert f"larger than {len(MERCHANTS) - 1} bytes" in str(refused)


def test_a_compressed_body_is_neither_asked_for_nor_taken() -> None:
    with serving(lambda asked: asked.respond(200, MERCHANTS, Content_Encoding="gzip")) as server:
        assert "it comes compressed (Content-Encoding: gzip)" in str(refusal(server.url()))
        assert server.asked[0].headers["Accept-Encoding"] == "identity"


def test_an_error_page_with_status_200_is_refused_by_what_it_holds() -> None:
    page = b"<!DOCTYPE html><html><title>Sign in</title></html>"
    with serving(lambda asked: asked.respond(200, page, Content_Type="text/html")) as server:
        source = read_source("Merchants file", server.url(), QUICK)
    with pytest.raises(CheckFailed, match="HTML or XML page instead of CSV"):
        read_merchants(source)


def test_a_source_that_accepts_and_says_nothing_is_given_up_after_the_idle_time() -> None:
    # The kernel accepts: nobody here ever reads.
    with socket.create_server(("127.0.0.1", 0)) as listening:
        refused = refusal(f"http://127.0.0.1:{listening.getsockname()[1]}/m.csv")
    assert type(refused) is ServiceUnavailable
    assert "nothing came for 0.5 s" in str(refused)


def test_a_body_that_stops_coming_is_given_up_after_the_idle_time() -> None:
    def stop(asked: Handler) -> None:
        asked.respond(200, MERCHANTS, length=1000)
        asked.server.closing.wait()

    with serving(stop) as server:
        refused = refusal(server.url())
        assert type(refused) is ServiceUnavailable
        assert "cut off before its end (1000 bytes): nothing came for 0.5 s" in str(refused)


def drip_body(asked: Handler) -> None:
    asked.respond(200, length=10**9, ETag='"1"', Last_Modified="Mon, 23 Nov 2026 10:30:00 GMT")
    # S3 is asked for the length first, by HEAD, which has no body.
    if asked.command == "GET":
        asked.drip(b"merchant_id,")


def drip_header(asked: Handler) -> None:
    asked.drip(b"HTTP/1.0 200 OK\r\nX-Padding: ")


@pytest.mark.parametrize("answer", [drip_header, drip_body, lambda asked: asked.server.closing.wait()])
@pytest.mark.parametrize("place", [Server.url, Server.s3_url])
def test_a_source_that_drips_or_keeps_silent_for_ever_is_ended_at_the_deadline(
    answer: Answer, place: Callable[[Server], str]
) -> None:
    with serving(answer) as server:
        refused = refusal(place(server), HURRIED)
        assert type(refused) is ServiceUnavailable
        assert str(refused).startswith(f"Merchants file '{shown_name(place(server))}': it was not complete after 2 s.")


@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_a_port_where_nobody_listens_is_an_unreachable_service(scheme: str, free_port: Callable[[], int]) -> None:
    port = free_port()
    place = {
        "http": f"http://127.0.0.1:{port}/m.csv",
        "s3": f"s3://bucket/m.csv?endpoint_override=127.0.0.1:{port}&scheme=http",
    }[scheme]
    refused = refusal(place)
    assert type(refused) is ServiceUnavailable
    assert {"http": "connection refused", "s3": "NETWORK_CONNECTION"}[scheme] in str(refused)


def test_a_server_that_does_not_speak_tls_where_it_should_is_an_unreachable_service() -> None:
    with serving(lambda asked: asked.respond(200, MERCHANTS)) as server:
        refused = refusal(server.url().replace("http:", "https:"))
        assert type(refused) is ServiceUnavailable
        assert "ssl" in str(refused).lower()


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("ftp://host.example/m.csv", "'ftp://host.example/m.csv': its scheme is not http, https or s3"),
        ("http:///m.csv", "'http://...': it is not a valid address"),
        ("http://host.example:port/m.csv", "'http://...': it is not a valid address"),
        ("http://anna:pass/word@host.example/m.csv", "'http://...': it is not a valid address"),
        ("http://.example/m.csv", "'http://.example/m.csv': it, or where it redirects to, is not a valid address"),
        ("s3://bucket/m.csv?regoin=x", "'s3://bucket/m.csv': unknown option regoin"),
        ("s3://key:secret@bucket/m.csv", "'s3://bucket/m.csv': credentials are in the address"),
    ],
)
def test_an_address_that_is_wrong_is_wrong_use(place: str, says: str) -> None:
    refused = refusal(place)
    assert type(refused) is UsageError
    assert says in str(refused)


def test_a_temporary_folder_without_room_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every write to this device fails as on a disk without room.
    full = Path("/dev/full")
    with serving(lambda asked: asked.respond(200, MERCHANTS)) as server:
        monkeypatch.setattr("paystream.loader.fetch.tempfile.TemporaryFile", lambda: full.open("r+b", buffering=0))
        refused = refusal(server.url())
        assert type(refused) is UsageError
        assert "no space left on device. Set TMPDIR" in str(refused)


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(moto: str) -> Iterator[ServiceResource]:
    s3 = boto3.resource("s3", endpoint_url=f"http://{moto}", region_name="us-east-1")
    yield s3.create_bucket(Bucket="dims")
    requests.post(f"http://{moto}/moto-api/reset", timeout=10).raise_for_status()


def s3_url(moto: str, key: str) -> str:
    return f"s3://dims/{key}?endpoint_override={moto}&scheme=http&region=us-east-1"


@pytest.mark.parametrize(("key", "address"), [("a/m.csv", "a/m.csv"), ("a b/ü+@#?.csv", "a%20b/%C3%BC+%40%23%3F.csv")])
def test_an_object_comes_with_its_address_and_the_time_it_was_changed(
    moto: str, bucket: ServiceResource, key: str, address: str
) -> None:
    # More than is read at once.
    data = MERCHANTS * 300_000
    stored = bucket.put_object(Key=key, Body=data)
    source = read_source("Merchants file", s3_url(moto, address), Limits(total_s=60))
    assert source == Source("Merchants file", f"s3://dims/{address}", data, stored.last_modified)


@pytest.mark.parametrize("key", ["a/none.csv", "a", ""])
def test_what_is_no_object_is_wrong_use(moto: str, bucket: ServiceResource, key: str) -> None:
    bucket.put_object(Key="a/m.csv", Body=MERCHANTS)
    for place in (s3_url(moto, key), s3_url(moto, key).replace("dims", "no-bucket")):
        refused = refusal(place)
        assert type(refused) is UsageError
        assert "there is no such object" in str(refused)


def test_an_object_larger_than_the_limit_is_refused(moto: str, bucket: ServiceResource) -> None:
    bucket.put_object(Key="m.csv", Body=MERCHANTS)
    refused = refusal(s3_url(moto, "m.csv"), Limits(largest_bytes=10))
    assert type(refused) is CheckFailed
    assert "larger than 10 bytes" in str(refused)


def test_credentials_that_are_not_accepted_are_wrong_use(moto: str, bucket: ServiceResource) -> None:
    bucket.put_object(Key="m.csv", Body=MERCHANTS)
    requests.post(f"http://{moto}/moto-api/reset-auth", data=b"0", timeout=10).raise_for_status()
    try:
        refused = refusal(s3_url(moto, "m.csv"))
    finally:
        requests.post(f"http://{moto}/moto-api/reset-auth", data=b"inf", timeout=10).raise_for_status()
    assert type(refused) is UsageError
    assert "ACCESS_DENIED" in str(refused)
    assert "secret" not in str(refused)


def test_the_libraries_are_loaded_only_where_they_are_needed() -> None:
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, paystream.loader.command; print({'requests', 'pyarrow'} & set(sys.modules))",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert loaded == "set()\n"
