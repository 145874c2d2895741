"""Fetching a file over HTTP or from S3, in a process of its own that ends at the deadline whatever the source does.

No time-out of an HTTP or S3 library bounds the whole: a source that drips one byte a second keeps each of them content,
and Python waits for a pending S3 call even at its exit. A process can be ended. This module, run as a program,
is that process: it writes to standard output one line of JSON, then the file.

pyarrow.fs reads S3 but no HTTP. fsspec's HTTP neither retries nor follows REQUESTS_CA_BUNDLE, so requests does that.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import responses
from typing import NoReturn
from urllib.parse import parse_qsl, unquote, urlsplit

from paystream.errors import CheckFailed, PaystreamError, ServiceUnavailable, UsageError

CHUNK_BYTES = 8 * 2**20

MAX_REDIRECTS = 5

BACKOFF_S = 0.5
"""Before the second retry; doubled before each further one."""

_ERRORS = {10 + error.exit_code: error for error in (CheckFailed, UsageError, ServiceUnavailable)}
"""The exit codes by which the process says what it raised; its message is the last line on standard error."""

# Time-outs, a lost connection, an overloaded or failing service: what another try may mend.
_S3_UNAVAILABLE = re.compile("NETWORK|TIMEOUT|INTERNAL_FAILURE|UNAVAILABLE|SLOW_DOWN|THROTTLING")


@dataclass(frozen=True)
class Limits:
    """What a source may take at most."""

    connect_s: float = 10
    idle_s: float = 30
    """How long nothing at all may come once connected."""
    total_s: float = 600
    """From the first connection to the last byte, retries included."""
    largest_bytes: int = 2 * 2**30
    retries: int = 3


def is_remote(place: str) -> bool:
    """Say whether a place is an address rather than a path."""
    return re.match("[A-Za-z][A-Za-z0-9+.-]*://", place) is not None


def shown_name(place: str) -> str:
    """Return an address without what may be secret in it: user, password, query (a signature) and fragment.

    Raises:
        ValueError: it is not an address, or it cannot be told apart which of it is secret.
    """
    parts = urlsplit(place)
    host = parts.netloc.rpartition("@")[2]
    # The rest of a password with an unescaped '/', '?' or '#' would be taken for what follows the host. White space, of
    # which urlsplit removes some, is in no address.
    if not host or re.search(r"\s", place) or "@" in place.partition(parts.netloc)[2]:
        raise ValueError
    parts.port  # noqa: B018  raises ValueError where it is no number
    return f"{parts.scheme}://{host}{parts.path}"


def fetch(kind: str, place: str, limits: Limits) -> tuple[str, bytes, datetime | None]:
    """Fetch what an ``http://``, ``https://`` or ``s3://bucket/key`` address holds.

    HTTP follows the proxy and CA settings of the environment (HTTPS_PROXY, REQUESTS_CA_BUNDLE, ...) and a few
    redirects. S3 takes its credentials by AWS's standard means, and ``?endpoint_override=``, ``scheme=`` and
    ``region=`` from the address. Connection errors and answers 429 and 5xx are retried. A body shorter than the server
    announced is refused; one that was announced neither by length nor in chunks ends where the connection does.

    Returns:
        The address as it may be shown and recorded, the file, and when it was last changed as far as the source says.

    Raises:
        UsageError: the address is wrong, nothing is there, or access is refused.
        ServiceUnavailable: the source cannot be reached, fails, cuts the file off, or is not done in time.
        CheckFailed: the file is too large.
    """
    try:
        name = shown_name(place)
    except ValueError:
        scheme = place.partition("://")[0]
        raise UsageError(
            f"{kind} '{scheme}://...': it is not a valid address. Correct --from; write '@', '/', '?' and '#' in a "
            "password, and '@' behind the host, as %40, %2F, %3F and %23."
        ) from None
    what = f"{kind} '{name}'"
    if urlsplit(place).scheme not in _READERS:
        raise UsageError(f"{what}: its scheme is not http, https or s3. Name one of these or a path with --from.")
    # By standard input, since anyone on the machine can read the arguments of a process.
    request = json.dumps({"what": what, "place": place, "limits": asdict(limits)}).encode()
    with tempfile.TemporaryFile() as answer:
        process = subprocess.run(
            [sys.executable, "-P", "-m", "paystream.loader.fetch"], input=request, stdout=answer, stderr=subprocess.PIPE
        )
        if process.returncode == -signal.SIGALRM:
            raise ServiceUnavailable(
                f"{what}: it was not complete after {limits.total_s:g} s. Nothing was changed; run it again later."
            )
        if process.returncode:
            said = process.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
            if error := _ERRORS.get(process.returncode):
                raise error(said[-1])
            raise ServiceUnavailable(
                f"{what}: the process that fetches it died with code {process.returncode}: {said[-1]}. Run it again."
            )
        answer.seek(0)
        modified_at = json.loads(answer.readline())["modified_at"]
        return name, answer.read(), datetime.fromisoformat(modified_at) if modified_at else None


def _main() -> None:
    request = json.load(sys.stdin)
    what, limits = request["what"], Limits(**request["limits"])
    # Ends the process at once, even inside a library call: nothing here needs tidying up.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, limits.total_s)
    try:
        read = _READERS[urlsplit(request["place"]).scheme]
        modified_at, chunks = read(what, request["place"], limits)
        out = sys.stdout.buffer
        out.write(json.dumps({"modified_at": modified_at and modified_at.isoformat()}).encode() + b"\n")
        size = 0
        for chunk in chunks:
            size += len(chunk)
            _check_size(what, size, limits)
            out.write(chunk)
        out.flush()
    except PaystreamError as error:
        _leave(10 + error.exit_code, str(error))
    except OSError as error:
        cause = (error.strerror or str(error)).lower()
        folder = tempfile.gettempdir()
        _leave(10 + UsageError.exit_code, f"{what}: it cannot be kept in '{folder}': {cause}. Set TMPDIR to another.")
    _leave(0)


def _leave(code: int, message: str = "") -> NoReturn:
    print(message, file=sys.stderr, flush=True)
    # Not sys.exit: the S3 library would wait for its calls.
    os._exit(code)


def _check_size(what: str, size: int, limits: Limits) -> None:
    if size > limits.largest_bytes:
        raise CheckFailed(
            f"{what}: it is larger than {limits.largest_bytes:,} bytes. Nothing was changed. Check the address."
        )


def _read_http(what: str, place: str, limits: Limits) -> tuple[datetime | None, Iterator[bytes]]:
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3 import Retry

    session = requests.Session()
    session.max_redirects = MAX_REDIRECTS
    retry = Retry(
        total=limits.retries,
        status_forcelist=[429, 500, 502, 503, 504],
        backoff_factor=BACKOFF_S,
        raise_on_status=False,
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    try:
        response = session.get(
            place,
            stream=True,
            timeout=(limits.connect_s, limits.idle_s),
            # The file as it is: a length that can be checked, and no small answer that unpacks to gigabytes.
            headers={"Accept-Encoding": "identity"},
        )
    except requests.TooManyRedirects:
        raise UsageError(f"{what}: more than {MAX_REDIRECTS} redirects. Name the last address with --from.") from None
    except ValueError:
        # Not the error's own words: they repeat the address and its secrets. So do those below.
        raise UsageError(f"{what}: it, or where it redirects to, is not a valid address. Correct --from.") from None
    except requests.RequestException as error:
        raise ServiceUnavailable(
            f"{what}: {_http_cause(error, limits)}. Run it again when it can be reached."
        ) from None
    _check_answer(what, response.status_code, response.headers.get("Content-Encoding", "identity"))
    announced = response.headers.get("Content-Length", "")
    if announced.isdigit():
        _check_size(what, int(announced), limits)

    def chunks() -> Iterator[bytes]:
        size = 0
        try:
            for chunk in response.iter_content(CHUNK_BYTES):
                size += len(chunk)
                yield chunk
        except requests.RequestException as error:
            raise ServiceUnavailable(
                f"{what}: cut off before its end{f' ({announced} bytes)' if announced else ''}: "
                f"{_http_cause(error, limits)}. Nothing was changed; run it again."
            ) from None

    return _http_date(response.headers.get("Last-Modified")), chunks()


def _check_answer(what: str, status: int, encoding: str) -> None:
    phrase = f"HTTP {status} {responses.get(status, '')}".rstrip()
    match status:
        case 200:
            pass
        case 404 | 410:
            raise UsageError(f"{what}: there is no such file ({phrase}). Name one that exists with --from.")
        case 401 | 403 | 407:
            raise UsageError(f"{what}: access is refused ({phrase}). Check the address and its credentials.")
        case _ if status in (408, 429) or status >= 500:
            raise ServiceUnavailable(f"{what}: it answers {phrase}. Nothing was changed; run it again later.")
        case _:
            raise UsageError(f"{what}: it answers {phrase} instead of 200 OK and the file. Check the address.")
    if encoding.lower() != "identity":
        raise UsageError(f"{what}: it comes compressed (Content-Encoding: {encoding}). Serve it as it is.")


def _http_cause(error: BaseException, limits: Limits) -> str:
    """Return the cause of an error, in words that do not repeat the address."""
    import urllib3.exceptions

    chain = []
    cause: BaseException | None = error
    while cause:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    # Not isinstance: a refused connection counts as one of these.
    if any(type(link) is urllib3.exceptions.ConnectTimeoutError for link in chain):
        return f"no connection within {limits.connect_s:g} s"
    if any(isinstance(link, urllib3.exceptions.ReadTimeoutError) for link in chain):
        return f"nothing came for {limits.idle_s:g} s"
    via = "its proxy: " if any(isinstance(link, urllib3.exceptions.ProxyError) for link in chain) else ""
    for link in reversed(chain):
        if isinstance(link, OSError) and isinstance(link.strerror, str):
            return via + link.strerror.lower()
    return f"{via}the connection was closed ({type(chain[-1]).__name__})"


def _http_date(text: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(text or "").astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _read_s3(what: str, place: str, limits: Limits) -> tuple[datetime | None, Iterator[bytes]]:
    # Slow to import and large.
    from pyarrow import fs

    parts = urlsplit(place, allow_fragments=False)
    path = parts.netloc + unquote(parts.path)
    options = dict(parse_qsl(parts.query))
    if "@" in parts.netloc:
        raise UsageError(f"{what}: credentials are in the address. Give them by AWS's means, as AWS_PROFILE does.")
    if unknown := options.keys() - {"endpoint_override", "scheme", "region"}:
        raise UsageError(
            f"{what}: unknown option{'s' * (len(unknown) > 1)} {', '.join(sorted(unknown))}. "
            "Use endpoint_override, scheme and region only."
        )
    try:
        if not options.keys() & {"region", "endpoint_override"}:
            options["region"] = fs.resolve_s3_region(parts.netloc)
        s3 = fs.S3FileSystem(
            connect_timeout=limits.connect_s,
            request_timeout=limits.idle_s,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1 + limits.retries),
            **options,
        )
        info = s3.get_file_info(path)
        if info.type != fs.FileType.File:
            raise UsageError(f"{what}: there is no such object. Name one that exists with --from.")
        _check_size(what, info.size, limits)
        stream = s3.open_input_stream(path)
    except (OSError, ValueError) as error:
        raise _s3_error(what, error) from None

    def chunks() -> Iterator[bytes]:
        size = 0
        try:
            while chunk := stream.read(CHUNK_BYTES):
                size += len(chunk)
                yield chunk
            # It comes in several requests, each of which may meet another object.
            after = s3.get_file_info(path)
        except OSError as error:
            raise _s3_error(what, error) from None
        if (size, info.mtime) != (after.size, after.mtime):
            raise ServiceUnavailable(f"{what}: it changed while it was read. Nothing was changed; run it again.")

    return info.mtime.astimezone(UTC), chunks()


def _s3_error(what: str, error: Exception) -> PaystreamError:
    # "When getting information for key ...: AWS Error ACCESS_DENIED during HeadObject operation: ..."
    cause = " ".join(str(error).split())
    cause = cause[max(cause.find("AWS Error"), 0) :][:200].rstrip(".")
    if isinstance(error, OSError) and _S3_UNAVAILABLE.search(cause):
        return ServiceUnavailable(f"{what}: {cause}. Nothing was changed; run it again when it can be reached.")
    return UsageError(f"{what}: {cause}. Check the address, its region and the credentials.")


_READERS = {"http": _read_http, "https": _read_http, "s3": _read_s3}


if __name__ == "__main__":
    _main()
