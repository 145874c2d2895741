"""ClickHouse over HTTP, with the connection kept open. One instance a thread."""

import http.client
from collections.abc import Mapping
from urllib.parse import urlencode, urlsplit

import pyarrow as pa

TIMEOUT_S = 30


class Refused(Exception):
    """ClickHouse answered with an error."""


class ClickHouse:
    """Speaks Arrow both ways: columns need no text in between, and decimals stay exact."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = urlsplit(environment["RIVAL_CLICKHOUSE_URL"])
        self._database = environment["RIVAL_CLICKHOUSE_DATABASE"]
        self._headers = {
            "X-ClickHouse-User": environment["RIVAL_CLICKHOUSE_USER"],
            "X-ClickHouse-Key": environment.get("RIVAL_CLICKHOUSE_PASSWORD", ""),
        }
        self._connection: http.client.HTTPConnection | None = None

    def read(self, query: str) -> pa.Table:
        """Return the rows of a query.

        Raises:
            OSError, http.client.HTTPException: ClickHouse is away.
            Refused: it cannot answer.
        """
        answer = self._send(f"{query} FORMAT ArrowStream", b"", output_format_arrow_string_as_string=1)
        return pa.ipc.open_stream(answer).read_all()

    def insert(self, table: str, rows: pa.Table) -> None:
        """Store rows; returns once they are. Raises as ``read`` does: then they may be stored all the same."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as stream:
            stream.write_table(rows.combine_chunks())
        self._send(f"INSERT INTO {table} ({', '.join(rows.column_names)}) FORMAT ArrowStream", sink.getvalue())

    def _send(self, query: str, body: pa.Buffer | bytes, **settings: object) -> bytes:
        parameters = urlencode(
            {"database": self._database, "query": query, "wait_end_of_query": 1, "async_insert": 0} | settings
        )
        idle = self._connection is not None
        if self._connection is None:
            kind = http.client.HTTPSConnection if self._address.scheme == "https" else http.client.HTTPConnection
            self._connection = kind(self._address.hostname, self._address.port, timeout=TIMEOUT_S)
        try:
            self._connection.request("POST", f"/?{parameters}", memoryview(body), self._headers)
            response = self._connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            self._connection = None
            # ClickHouse closes a connection that was idle for some seconds.
            if idle and isinstance(error, ConnectionError):
                return self._send(query, body, **settings)
            raise
        if response.status != 200:
            raise Refused(answer.decode(errors="replace")[:500])
        return answer
