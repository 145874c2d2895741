"""The connection to ClickHouse: one code path, whether the other end is the local stack or a server."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC
from ipaddress import ip_address

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError, OperationalError
from clickhouse_connect.driver.httputil import check_env_proxy, default_pool_manager

from paystream.errors import PaystreamError, ServiceUnavailable, UsageError
from paystream.settings import Settings

# The driver warns of each failed connection on stderr, beside our one line.
logging.getLogger("clickhouse_connect").addHandler(logging.NullHandler())
logging.getLogger("urllib3").addHandler(logging.NullHandler())

ACCESS_DENIED = 497
_LOGIN = (ACCESS_DENIED, 192, 193, 194, 516)
"""Codes of a user or a password that is wrong, or may not come from here."""
CANNOT_READ_ALL_DATA = 33
CORRUPTED_DATA = 246
UNKNOWN_IDENTIFIER = 47
UNKNOWN_DATABASE = 81
UNKNOWN_TABLE = 60
TABLE_ALREADY_EXISTS = 57
NODE_LOST = (209, 210, 279)
"""Codes of a node that another one could not reach, or whose answer stopped coming."""


@contextmanager
def connect(settings: Settings, *, database: str | None = None, timeout_s: float = 300) -> Iterator[Client]:
    """Open a client on the configured database and close it after use.

    Args:
        settings: where the server is.
        database: another database than the configured one; ``""`` selects none, for use before it exists.
        timeout_s: seconds one request may take.

    Raises:
        ServiceUnavailable: nothing answers at the address, or it refuses the credentials.
        UsageError: the database does not exist yet.
    """
    address = f"{settings.clickhouse_host}:{settings.clickhouse_port}"
    wanted = settings.clickhouse_database if database is None else database
    try:
        client = clickhouse_connect.get_client(
            # An IPv6 address needs brackets in a URL.
            host=f"[{settings.clickhouse_host}]" if ":" in settings.clickhouse_host else settings.clickhouse_host,
            port=settings.clickhouse_port,
            username=settings.clickhouse_user,
            password=settings.clickhouse_password.get_secret_value(),
            secure=settings.clickhouse_secure,
            database=wanted or "__default__",
            connect_timeout=5,
            send_receive_timeout=timeout_s,
            autogenerate_session_id=False,  # sessions serialise queries and pin a connection; nothing here needs one
            # Else the driver would take the environment's proxy, which has no way to this machine's loopback.
            pool_mgr=default_pool_manager() if _is_loopback(settings) else None,
        )
    except OperationalError as error:
        raise ServiceUnavailable(
            f"ClickHouse '{address}' cannot be reached{_by_proxy(settings)}: {cause_of(error)}. "
            "Start the local stack with `paystream up`, or correct PAYSTREAM_CLICKHOUSE_HOST and _PORT."
        ) from error
    except DatabaseError as error:
        if is_code(error, UNKNOWN_DATABASE):
            raise UsageError(
                f"Database '{wanted}' does not exist. Create the schema with `paystream migrate up`."
            ) from error
        is_login = any(is_code(error, code) for code in _LOGIN)
        advice = (
            "Check PAYSTREAM_CLICKHOUSE_USER and _PASSWORD." if is_login else "Run it again once the cause is gone."
        )
        raise ServiceUnavailable(
            f"ClickHouse '{address}' refused the connection: {cause_of(error)}. {advice}"
        ) from error
    try:
        _keep_meaning(client)
        yield client
    finally:
        client.close()


_MEANING = {
    "aggregate_functions_null_for_empty": "0",
    "async_insert": "0",
    "group_by_use_nulls": "0",
    "join_use_nulls": "0",
    "session_timezone": "UTC",
    "transform_null_in": "0",
}


def _keep_meaning(client: Client) -> None:
    """Give the settings that change what a query means their own values, where the user's profile says otherwise."""
    wanted = dict(_MEANING)
    if str(client.server_tz) == "UTC":
        del wanted["session_timezone"]
    for name, value in wanted.items():
        setting = client.server_settings.get(name)
        # A user who may only read cannot change settings.
        if setting and setting.value != value and not setting.readonly:
            client.set_client_setting(name, value)
            if name == "session_timezone":
                client.server_tz = UTC


@contextmanager
def answering(what: str, state: str = "") -> Iterator[None]:
    """Turn what goes wrong in ClickHouse meanwhile into errors that a user can act upon.

    Args:
        what: what is being done, and to what, such as ``Audit of topic 'transactions'``.
        state: a sentence on how things stand after a refused statement, where that is not plain.

    Raises:
        ServiceUnavailable: ClickHouse was lost on the way.
        UsageError: a table does not exist.
        PaystreamError: ClickHouse refused a statement.
    """
    try:
        yield
    except OperationalError as error:
        raise ServiceUnavailable(
            f"{what}: ClickHouse was lost on the way: {cause_of(error)}. Run it again when ClickHouse is back."
        ) from error
    except ClickHouseError as error:
        if any(is_code(error, code) for code in NODE_LOST):
            raise ServiceUnavailable(
                f"{what}: a node of the cluster does not answer: {cause_of(error)}. Start it, then run this again."
            ) from error
        if is_code(error, UNKNOWN_TABLE):
            raise UsageError(
                f"{what}: its tables do not exist. Create the schema with `paystream migrate up`."
            ) from error
        raise PaystreamError(
            f"{what}: ClickHouse refused a statement: {cause_of(error)}. "
            f"{state}{' ' if state else ''}Correct the cause, then run it again."
        ) from error


def is_code(error: ClickHouseError, code: int) -> bool:
    """Return whether the engine gave this error code."""
    return f"Code: {code}." in str(error)


def _is_loopback(settings: Settings) -> bool:
    host = settings.clickhouse_host
    with suppress(ValueError):
        return not settings.clickhouse_secure and (host == "localhost" or ip_address(host).is_loopback)
    return False


def _by_proxy(settings: Settings) -> str:
    scheme = "https" if settings.clickhouse_secure else "http"
    proxy = check_env_proxy(scheme, settings.clickhouse_host, settings.clickhouse_port)
    if not proxy or _is_loopback(settings):
        return ""
    # Without the user and password that it may name.
    shown = re.sub(r"//[^/]*@", "//", proxy)
    return f" by the proxy {shown} of {scheme}_proxy (no_proxy={settings.clickhouse_host} goes without it)"


def in_short(text: str) -> str:
    """Return what the engine wrote down of an error without its stack, in one line; ``""`` stays that."""
    return " ".join(re.split(r",?\s*Stack trace|\s+0\. \S", text)[0].split())


def cause_of(error: BaseException) -> str:
    """Return in one line why ClickHouse failed: its own words without address and version, or what the network said."""
    root = error
    while isinstance(error, OperationalError) and root.__cause__:
        root = root.__cause__
    text = " ".join(str(getattr(root, "strerror", None) or root).split()) or type(root).__name__
    match = re.search(r"DB::Exception: (.*?)(?: \(version [^()]*(?:\([^()]*\))?\)|$)", text)
    return (match[1] if match else text)[:500].rstrip(". ")
