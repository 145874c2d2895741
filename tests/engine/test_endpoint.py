"""The local ClickHouse answers an unmodified clickhouse-connect as a server would."""

import gzip
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
import xml.etree.ElementTree as ElementTree
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlencode

import clickhouse_connect
import lz4.frame
import psutil
import pytest
import zstandard
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, StreamFailureError
from clickhouse_connect.driver.external import ExternalData
from server_process import Server

from paystream.clickhouse import connect
from paystream.errors import UsageError
from paystream.settings import REPOSITORY, Settings

DATABASE = "endpoint"
CONFIG = REPOSITORY / "devstack" / "clickhouse" / "config.d" / "paystream.xml"
PROFILE = REPOSITORY / "devstack" / "clickhouse" / "users.d" / "paystream.xml"

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "lz4": lz4.frame.compress,
    "zstd": zstandard.compress,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
}
UNPACKERS: dict[str, Callable[[bytes], bytes]] = {
    "lz4": lz4.frame.decompress,
    "zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
}


def new_client(server: Settings, **options: object) -> Client:
    options = {"autogenerate_session_id": False, "database": DATABASE, **options}
    return clickhouse_connect.get_client(host=server.clickhouse_host, port=server.clickhouse_port, **options)


def http_request(
    settings: Settings, method: str, target: str, body: object = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(settings.clickhouse_host, settings.clickhouse_port, timeout=60)
    try:
        connection.request(method, target, body, headers or {})
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def wait_until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def database(clickhouse_server: Settings) -> Iterator[None]:
    with connect(clickhouse_server, database="") as client:
        client.command(f"CREATE DATABASE {DATABASE}")
        yield
        client.command(f"DROP DATABASE {DATABASE}")


@pytest.fixture
def client(clickhouse_server: Settings, database: None) -> Iterator[Client]:
    client = new_client(clickhouse_server)
    yield client
    client.close()


@pytest.fixture
def table(client: Client) -> Iterator[str]:
    name = f"t_{uuid.uuid4().hex}"
    client.command(f"CREATE TABLE {name} (id UInt64, name String) ENGINE = MergeTree ORDER BY id")
    yield name
    client.command(f"DROP TABLE IF EXISTS {name} SYNC")


# Inserts


@pytest.mark.parametrize("compress", ["lz4", "zstd", "gzip", False])
def test_every_block_of_an_insert_arrives(clickhouse_server: Settings, table: str, compress: str | bool) -> None:
    rows = 100_000
    client = new_client(clickhouse_server, compress=compress)
    context = client.create_insert_context(table, ["id", "name"], data=[[n, f"n{n}"] for n in range(rows)])
    context.block_row_count = 1000  # a hundred blocks, each its own frame where LZ4 packs them
    summary = client.insert(context=context)
    assert summary.written_rows == rows
    assert client.query(f"SELECT count(), sum(id), uniqExact(name) FROM {table}").result_rows == [
        (rows, rows * (rows - 1) // 2, rows)
    ]
    client.close()


@pytest.mark.parametrize("encoding", list(PACKERS))
def test_frames_after_the_first_are_read(client: Client, table: str, encoding: str) -> None:
    frames = [PACKERS[encoding](f"{n},row {n}\n".encode() * 3) for n in range(4)]
    client.raw_insert(table, ["id", "name"], b"".join(frames), fmt="CSV", compression=encoding)
    assert client.query(f"SELECT id, count() FROM {table} GROUP BY id ORDER BY id").result_rows == [
        (0, 3),
        (1, 3),
        (2, 3),
        (3, 3),
    ]


@pytest.mark.parametrize("encoding", list(PACKERS))
def test_a_truncated_body_inserts_nothing(client: Client, table: str, encoding: str) -> None:
    whole = PACKERS[encoding](b"1,a\n" * 1000) + PACKERS[encoding](b"2,b\n" * 1000)
    with pytest.raises(DatabaseError, match="ends inside"):
        client.raw_insert(table, ["id", "name"], whole[:-3], fmt="CSV", compression=encoding)
    assert client.command(f"SELECT count() FROM {table}") == 0


@pytest.mark.parametrize("encoding", [*PACKERS, "br"])
def test_a_body_that_is_not_what_its_encoding_says_is_refused(client: Client, table: str, encoding: str) -> None:
    with pytest.raises(DatabaseError):
        client.raw_insert(table, ["id", "name"], b"no such frame" * 100, fmt="CSV", compression=encoding)
    assert client.command(f"SELECT count() FROM {table}") == 0


def test_raw_inserts_in_other_formats(client: Client, table: str) -> None:
    client.raw_insert(table, ["id", "name"], b'1,"a,b"\n2,"c\nd"\n', fmt="CSV")
    # A blank line ends the data where the engine reads it inline.
    client.raw_insert(table, None, '{"id": 3, "name": "e\\tf"}\n\n{"name": "ü", "id": "4"}\n', fmt="JSONEachRow")
    native = client.raw_query("SELECT toUInt64(number + 5) AS id, 'x' AS name FROM numbers(2)", fmt="Native")
    client.raw_insert(table, ["id", "name"], native + native, fmt="Native")
    client.raw_insert(table, ["id", "name"], (line for line in [b"7\tg\n", b"8\th\n"]), fmt="TabSeparated")
    assert client.query(f"SELECT * FROM {table} ORDER BY id").result_rows == [
        (1, "a,b"),
        (2, "c\nd"),
        (3, "e\tf"),
        (4, "ü"),
        (5, "x"),
        (5, "x"),
        (6, "x"),
        (6, "x"),
        (7, "g"),
        (8, "h"),
    ]


@pytest.mark.parametrize(
    "statement",
    [
        "\n\n      INSERT INTO {table} (id, name) VALUES (1, 'a;b'), (2, 'c')",
        "/* INSERT INTO x FORMAT CSV */ -- ; first\n INSERT INTO {table}\n\t(id, name)\n VALUES (1, 'a;b'), (2, 'c');",
        "\ufeff\u00a0INSERT\u2003INTO {table} (id, name) VALUES (1, 'a;b'), (2, 'c') -- done",
        "insert into `{table}` (`id`, name) settings async_insert = 0 format CSV\n1,a;b\n2,c\n",
        "INSERT INTO {table} -- where to\n FORMAT JSONEachRow\n\n" + '{{"id":1,"name":"a;b"}}\n\n{{"id":2,"name":"c"}}',
        "INSERT INTO {table} SELECT * FROM values('id UInt64, name String', (1, 'a;b'), (2, 'c'))",
        "INSERT INTO {table} (SELECT 1, 'a;b' UNION ALL SELECT 2, 'c')",
    ],
)
def test_an_insert_is_recognised_however_it_is_written(client: Client, table: str, statement: str) -> None:
    client.command(statement.format(table=table))
    assert client.query(f"SELECT * FROM {table} ORDER BY id").result_rows == [(1, "a;b"), (2, "c")]


def test_the_data_of_a_command_may_come_apart_from_it(client: Client, table: str) -> None:
    client.command(f"INSERT INTO {table} FORMAT CSV", data="1,a\n2,b\n")
    assert client.command(f"SELECT count() FROM {table}") == 2


def test_an_insert_that_a_view_or_a_constraint_refuses_fails(client: Client, table: str) -> None:
    client.command(f"CREATE TABLE {table}_in (id UInt64, CONSTRAINT small CHECK id < 100) ENGINE = Null")
    client.command(
        f"CREATE MATERIALIZED VIEW {table}_mv TO {table} AS "
        f"SELECT id, toString(throwIf(id = 5, 'no fives')) AS name FROM {table}_in"
    )
    with pytest.raises(DatabaseError, match="no fives"):
        client.insert(f"{table}_in", [[5]], column_names=["id"])
    with pytest.raises(DatabaseError, match="small") as caught:
        client.insert(f"{table}_in", [[500]], column_names=["id"])
    assert caught.value.code == 469
    client.insert(f"{table}_in", [[6]], column_names=["id"])
    assert client.query(f"SELECT id FROM {table}").result_rows == [(6,)]


def test_an_insert_of_fifty_megabytes(client: Client, table: str) -> None:
    line = b"%d," + b"x" * 990 + b"\n"
    rows = 50_000

    def lines() -> Iterator[bytes]:
        for start in range(0, rows, 1000):
            yield b"".join(line % n for n in range(start, start + 1000))

    assert client.raw_insert(table, ["id", "name"], lines(), fmt="CSV").written_rows == rows
    assert client.query(f"SELECT count(), sum(id), sum(length(name)) FROM {table}").result_rows == [
        (rows, rows * (rows - 1) // 2, rows * 990)
    ]


def test_types_survive_the_round_trip(client: Client, table: str) -> None:
    columns = {
        "d": "Decimal(38, 4)",
        "u": "UUID",
        "t": "DateTime64(3, 'UTC')",
        "n": "Nullable(Int32)",
        "l": "LowCardinality(Nullable(String))",
        "a": "Array(Array(Nullable(String)))",
        "f": "FixedString(3)",
        "e": "Enum8('x' = 1, 'y' = 2)",
        "m": "Map(String, UInt8)",
        "p": "Tuple(UInt8, String)",
        "b": "Bool",
        "day": "Date32",
        "i": "Int256",
        "v": "IPv4",
    }
    definition = ", ".join(f"{name} {kind}" for name, kind in columns.items())
    client.command(f"CREATE TABLE {table}_types ({definition}) ENGINE = Memory")
    key = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")
    moment = datetime(2026, 2, 28, 23, 59, 59, 999000, tzinfo=UTC)
    rows = [
        [
            Decimal("-12345678901234.5678"), key, moment, None, None, [["a", None], []], b"ab\xff", "y",
            {"k": 1}, (1, "é"), True, date(1931, 1, 2), -(2**200), "127.0.0.1",
        ],
        [
            Decimal("0.0001"), uuid.UUID(int=0), moment, -1, "low", [], b"abc", "x",
            {}, (0, ""), False, date(2100, 1, 1), 2**200, "255.0.0.1",
        ],
    ]  # fmt: skip
    client.insert(f"{table}_types", rows, column_names=list(columns))
    read = client.query(f"SELECT * FROM {table}_types", column_formats={"v": "string"})
    expected = [tuple(row) for row in rows]
    assert [(*row[:2], row[2].astimezone(UTC), *row[3:]) for row in read.result_rows] == expected
    client.command(f"DROP TABLE {table}_types")


def test_bytes_that_are_no_text_survive(client: Client, table: str) -> None:
    garbage = bytes(range(256))
    client.insert(table, [[1, garbage]], column_names=["id", "name"], column_type_names=["UInt64", "String"])
    read = client.query(f"SELECT name FROM {table}", query_formats={"String": "bytes"})
    assert read.result_rows == [(garbage,)]
    with pytest.raises(DatabaseError, match="Cannot parse") as caught:  # its message quotes the bytes
        client.query(f"SELECT toUInt8(name) FROM {table}")
    assert caught.value.code == 6


# Results


def test_an_empty_result_keeps_its_columns(client: Client, table: str) -> None:
    result = client.query(f"SELECT id, name FROM {table} WHERE 0 LIMIT 0")
    assert (result.result_rows, result.column_names) == ([], ("id", "name"))
    assert client.query(f"SELECT id FROM {table}").result_rows == []
    assert client.command(f"SELECT name FROM {table}") == ""
    assert client.raw_query(f"SELECT id FROM {table}", fmt="CSVWithNames") == b'"id"\n'


def test_results_as_numpy_pandas_and_arrow(client: Client) -> None:
    query = "SELECT number, toString(number) AS text FROM numbers(5000)"
    assert client.query_np(query)[-1].tolist() == (4999, "4999")
    frame = client.query_df(query)
    assert (list(frame.columns), int(frame["number"].sum())) == (["number", "text"], 4999 * 2500)
    arrow = client.query_arrow(query)
    assert (arrow.num_rows, arrow.column("number").to_pylist()[-1]) == (5000, 4999)
    with client.query_arrow_stream(query) as stream:
        assert sum(batch.num_rows for batch in stream) == 5000


@pytest.mark.parametrize("compress", ["lz4", "zstd", "gzip", False])
def test_a_result_of_millions_of_rows_is_streamed(
    clickhouse_process: Server, database: None, compress: str | bool
) -> None:
    client = new_client(clickhouse_process.settings, compress=compress)
    process = psutil.Process(clickhouse_process.process.pid)
    rows, width = 3_000_000, 200
    before = process.memory_info().rss
    highest = total = count = 0
    with client.query_column_block_stream(f"SELECT number, repeat('x', {width}) FROM numbers({rows})") as stream:
        for numbers, _ in stream:
            count += len(numbers)
            total += sum(numbers)
            highest = max(highest, process.memory_info().rss)
    assert (count, total) == (rows, rows * (rows - 1) // 2)
    assert highest - before < rows * width / 2, "the server held much of the result in memory"
    client.close()


@pytest.mark.parametrize("encoding", list(UNPACKERS))
@pytest.mark.parametrize("rows", [5000, 500_000])
def test_responses_are_packed_as_asked(clickhouse_server: Settings, encoding: str, rows: int) -> None:
    target = "/?" + urlencode({"query": f"SELECT number FROM numbers({rows}) FORMAT CSV"})
    status, headers, body = http_request(clickhouse_server, "GET", target, headers={"Accept-Encoding": encoding})
    assert (status, headers["Content-Encoding"]) == (200, encoding)
    assert UNPACKERS[encoding](body) == b"".join(b"%d\n" % n for n in range(rows))


def test_a_result_is_plain_unless_asked_otherwise(clickhouse_server: Settings) -> None:
    target = "/?" + urlencode({"query": "SELECT number FROM numbers(5000) FORMAT CSV"})
    for accepted in ({}, {"Accept-Encoding": "br"}, {"Accept-Encoding": "gzip;q=0"}):
        _, headers, body = http_request(clickhouse_server, "GET", target, headers=accepted)
        assert "Content-Encoding" not in headers
        assert body.count(b"\n") == 5000


@pytest.mark.parametrize("output_format", ["JSON", "Parquet"])
def test_formats_with_a_frame_come_whole(client: Client, output_format: str) -> None:
    body = client.raw_query("SELECT number FROM numbers(200000)", fmt=output_format)
    if output_format == "JSON":
        assert json.loads(body)["rows"] == 200_000
    else:
        assert (body[:4], body[-4:]) == (b"PAR1", b"PAR1")


@pytest.mark.parametrize("waits", [0, 1])
@pytest.mark.parametrize("rows", [3, 500_000])
def test_names_come_once(client: Client, waits: int, rows: int) -> None:
    body = client.raw_query(
        f"SELECT number FROM numbers({rows})", fmt="CSVWithNames", settings={"wait_end_of_query": waits}
    )
    assert body == b'"number"\n' + b"".join(b"%d\n" % n for n in range(rows))


def test_an_answer_that_was_waited_for_has_a_status_of_its_own(clickhouse_server: Settings) -> None:
    """A million rows are there before the query fails: asked to wait, the server has sent none of them."""
    query = "SELECT throwIf(number = 1000000) FROM numbers(1000001) FORMAT CSVWithNames SETTINGS max_threads = 1"
    found = {}
    for waits in (0, 1):
        target = "/?" + urlencode({"query": query, "wait_end_of_query": waits})
        found[waits], _, body = http_request(clickhouse_server, "GET", target)
        assert b"throwIf" in body
    assert found == {0: 200, 1: 500}


def test_totals_come_once_and_last(client: Client) -> None:
    query = "SELECT number AS k, count() AS c FROM numbers(200000) GROUP BY k WITH TOTALS ORDER BY k"
    lines = client.raw_query(query, fmt="CSV").splitlines()
    assert (len(lines), lines[-2:]) == (200_002, [b"", b"0,200000"])


def test_a_reader_that_leaves_ends_its_query(client: Client, clickhouse_server: Settings) -> None:
    mark = f"marked {uuid.uuid4()}"
    connection = http.client.HTTPConnection(clickhouse_server.clickhouse_host, clickhouse_server.clickhouse_port)
    connection.request("POST", "/", f"SELECT '{mark}', number FROM system.numbers FORMAT CSV")
    response = connection.getresponse()
    assert response.read(1000)
    running = f"SELECT count() FROM system.processes WHERE query LIKE '%{mark}%' AND query NOT LIKE '%processes%'"
    assert client.command(running) == 1
    response.close()
    connection.close()
    wait_until(lambda: client.command(running) == 0)


# Parameters, settings, databases


def test_parameters_are_bound_on_the_server(client: Client) -> None:
    awkward = "quote ' double \" backslash \\ tab \t line \n return \r null \\N zero \0 é 漢 🎉 ; -- {x:Int8} %s"
    key = uuid.uuid4()
    values = {
        "text": awkward,
        "number": -(2**63),
        "money": Decimal("12.3400"),
        "key": key,
        "moment_64": datetime(2026, 3, 29, 1, 2, 3, 456000, tzinfo=UTC),
        "day": date(2026, 3, 29),
        "texts": ["a'b", "c\td", "e\\f", ""],
        "nothing": None,
        "table": "one",
        "database": "system",
    }
    query = """
        SELECT {text:String}, {number:Int64}, {money:Decimal(18, 4)}, {key:UUID}, {moment:DateTime64(3, 'UTC')},
            {day:Date}, {texts:Array(String)}, {nothing:Nullable(String)}
        FROM {database:Identifier}.{table:Identifier}"""
    [row] = client.query(query, parameters=values).result_rows
    assert row[:4] == (awkward, -(2**63), Decimal("12.3400"), key)
    assert row[4].astimezone(UTC) == values["moment_64"]
    assert row[5:] == (values["day"], values["texts"], None)


def test_a_parameter_too_long_for_the_url(client: Client) -> None:
    long = "é\t'\n" * 20_000
    [row] = client.query("SELECT {a:String}, {b:UInt8}", parameters={"a": long, "b": 7}).result_rows
    assert row == (long, 7)


def test_parameters_of_an_insert(client: Client, table: str) -> None:
    client.command(
        "INSERT INTO {table:Identifier} (id, name) VALUES ({id:UInt64}, upper({name:String}))",
        parameters={"table": table, "id": 3, "name": "it's\ta"},
    )
    assert client.query(f"SELECT * FROM {table}").result_rows == [(3, "IT'S\tA")]


def test_a_missing_parameter_is_named(client: Client) -> None:
    client.query("SELECT {known:String}", parameters={"known": "x"})
    with pytest.raises(DatabaseError, match="known") as caught:
        client.query("SELECT {known:String}")
    assert caught.value.code == 456


def test_settings_do_not_leak_into_the_next_request(client: Client) -> None:
    probe = "SELECT getSetting('max_block_size'), getSetting('log_comment')"
    [default] = client.query(probe).result_rows
    for turn in range(5):
        comment = f"it's turn\\{turn}"
        [seen] = client.query(probe, settings={"max_block_size": 100 + turn, "log_comment": comment}).result_rows
        assert seen == (100 + turn, comment)
        assert client.query(probe).result_rows == [default]
    client.command("SET max_block_size = 77")
    assert client.query(probe).result_rows == [default]


def test_settings_do_not_leak_between_threads(clickhouse_server: Settings, database: None) -> None:
    def ask(number: int) -> list[int]:
        client = new_client(clickhouse_server, settings={"max_block_size": number})
        seen = [client.command("SELECT getSetting('max_block_size')") for _ in range(20)]
        client.close()
        return seen

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(101, 109))) == [[number] * 20 for number in range(101, 109)]


def test_an_unknown_setting_is_refused(client: Client, clickhouse_server: Settings) -> None:
    target = "/?" + urlencode({"query": "SELECT 1", "no_such_setting": "1"})
    status, headers, body = http_request(clickhouse_server, "GET", target)
    assert (status, headers["X-ClickHouse-Exception-Code"]) == (404, "115")
    assert b"no_such_setting" in body
    assert client.command("SELECT 1") == 1


def test_each_request_names_its_database(client: Client, clickhouse_server: Settings) -> None:
    assert client.command("SELECT currentDatabase()") == DATABASE
    assert client.command("SELECT currentDatabase()", use_database=False) == "default"
    client.command("USE system")
    assert client.command("SELECT currentDatabase()") == DATABASE


def test_an_unknown_database_is_refused_even_after_it_was_known(clickhouse_server: Settings, client: Client) -> None:
    with pytest.raises(DatabaseError) as caught:
        new_client(clickhouse_server, database="no_such_database")
    assert caught.value.code == 81
    client.command("CREATE DATABASE `short ``lived`")
    short_lived = new_client(clickhouse_server, database="short `lived")
    assert short_lived.command("SELECT currentDatabase()") == "short `lived"
    client.command("DROP DATABASE `short ``lived`")
    with pytest.raises(DatabaseError) as caught:
        short_lived.command("SELECT 1")
    assert caught.value.code == 81
    with pytest.raises(UsageError, match="migrate up"), connect(clickhouse_server, database="no_such_database"):
        pass


def test_tables_sent_along_with_a_query(client: Client, clickhouse_server: Settings) -> None:
    external = ExternalData(
        file_name="wanted", fmt="CSV", structure=["id UInt64", "label String"], data=b'1,one\n3,"th\r\nree"\n'
    )
    query = "SELECT number, label FROM numbers(5) AS n JOIN wanted ON number = id ORDER BY number"
    assert client.query(query, external_data=external).result_rows == [(1, "one"), (3, "th\r\nree")]
    with pytest.raises(DatabaseError):
        client.query(query)


# Sessions


def test_a_session_keeps_its_tables_settings_and_database(clickhouse_server: Settings, client: Client) -> None:
    first = new_client(clickhouse_server, session_id=f"first {uuid.uuid4()}", database=None)
    second = new_client(clickhouse_server, session_id=f"second {uuid.uuid4()}", database=None)
    first.command("CREATE TEMPORARY TABLE mine (id UInt8)")
    first.insert("mine", [[1], [2]], column_names=["id"], column_type_names=["UInt8"])
    first.command("SET max_block_size = 123")
    first.command(f"USE {DATABASE}")
    for _ in range(3):
        assert first.query("SELECT sum(id), getSetting('max_block_size'), currentDatabase() FROM mine").result_rows == [
            (3, 123, DATABASE)
        ]
        assert second.query("SELECT getSetting('max_block_size') != 123, currentDatabase()").result_rows == [
            (True, "default")
        ]
        with pytest.raises(DatabaseError, match="mine"):
            second.query("SELECT * FROM mine")
    first.close()
    second.close()


def test_a_request_in_a_session_overrides_its_settings_only_for_itself(
    clickhouse_server: Settings, client: Client
) -> None:
    session = new_client(clickhouse_server, session_id=str(uuid.uuid4()))
    session.command("SET max_block_size = 123")
    query = "SELECT getSetting('max_block_size'), getSetting('log_comment')"
    for value in (5, 6):
        assert session.query(query, settings={"max_block_size": value, "log_comment": "x"}).result_rows == [
            (value, "x")
        ]
    assert session.query(query).result_rows == [(123, "")]
    session.command("SET max_block_size = 124", settings={"max_block_size": 7})
    assert session.query(query).result_rows == [(124, "")]
    session.close()


def test_a_session_in_use_is_locked(clickhouse_server: Settings, client: Client) -> None:
    name = str(uuid.uuid4())
    session, other = (new_client(clickhouse_server, session_id=name) for _ in range(2))
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(session.command, f"SELECT sleepEachRow(3) -- {name}")
        running = f"SELECT count() FROM system.processes WHERE query LIKE '%-- {name}' AND query LIKE '%EachRow%'"
        wait_until(lambda: client.command(running) == 1)
        with pytest.raises(DatabaseError, match="locked") as caught:
            other.command("SELECT 1")
        assert caught.value.code == 373
        slow.result(timeout=30)
    assert other.command("SELECT 1") == 1


def test_an_idle_session_ends(clickhouse_server: Settings, client: Client) -> None:
    options = {"session_id": str(uuid.uuid4()), "session_timeout": "1"}
    target = "/?" + urlencode(options)
    assert http_request(clickhouse_server, "POST", target, "CREATE TEMPORARY TABLE mine (id UInt8)")[0] == 200
    checked = "/?" + urlencode(options | {"session_check": "1"})
    assert http_request(clickhouse_server, "POST", checked, "SELECT count() FROM mine")[2] == b"0\n"
    for pause_s in (2, 4, 8, 16):  # asking renews the session, so leave it alone for ever longer
        time.sleep(pause_s)
        status, headers, _ = http_request(clickhouse_server, "POST", checked, "SELECT count() FROM mine")
        if status != 200:
            break
    assert headers["X-ClickHouse-Exception-Code"] == "372"
    assert http_request(clickhouse_server, "POST", target, "SELECT count() FROM mine")[0] == 404


def test_many_sessions_cost_nothing_and_those_with_a_state_are_bounded(clickhouse_server: Settings) -> None:
    base = uuid.uuid4()

    def ask(number: int, statement: str) -> int:
        target = "/?" + urlencode({"session_id": f"{base} {number}", "session_timeout": "0"})
        return http_request(clickhouse_server, "POST", target, statement)[0]

    assert {ask(number, "SELECT 1") for number in range(200)} == {200}
    refused = 503 in (ask(number, "SET max_threads = 1") for number in range(200))
    assert refused
    wait_until(lambda: ask(-1, "SET max_threads = 1") == 200)


# Errors


@pytest.mark.parametrize(
    ("statement", "code", "said"),
    [
        ("SELECT * FROM no_such_table", 60, "no_such_table"),
        ("SELEC 1", 62, "Syntax error"),
        ("selecx", 62, "Syntax error"),
        ("SELECT no_such_column", 47, "no_such_column"),
        ("SELECT toUInt8('x')", 6, "Cannot parse"),
        ("SELECT intDiv(1, 0)", 153, "Division by zero"),
        ("DROP TABLE no_such_table", 60, "no_such_table"),
        ("INSERT INTO no_such_table VALUES (1)", 60, "no_such_table"),
        ("INSERT INTO", 62, "Syntax error"),
        ("SELECT 'unclosed", 62, "Syntax error"),
        ("   ", 62, "empty"),
        ("-- nothing but a comment", 62, "empty"),
        ("\x00SELECT 1", 62, "unrecognized"),
        ("éSELECT 1", 62, "unrecognized"),
        ("INSERT INTO t SELECT a FROM input('a Int8') FORMAT CSV\n1", 48, "input"),
    ],
)
def test_errors_carry_the_engines_code_and_message(client: Client, statement: str, code: int, said: str) -> None:
    with pytest.raises(DatabaseError, match=said) as caught:
        client.command(statement)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1; DROP TABLE {table}",
        "DROP TABLE {table}; garbage",
        "INSERT INTO {table} VALUES (1, 'a'); DROP TABLE {table}",
        "SELECT ';' /* ; */; -- ;\n DROP TABLE {table}",
    ],
)
def test_several_statements_in_one_request_are_refused(client: Client, table: str, statement: str) -> None:
    with pytest.raises(DatabaseError, match="Multi-statements") as caught:
        client.command(statement.format(table=table))
    assert caught.value.code == 62
    assert client.command(f"SELECT count() FROM {table}") == 0


def test_what_a_failed_query_had_written_is_not_in_the_next_result(clickhouse_server: Settings, client: Client) -> None:
    session = new_client(clickhouse_server, session_id=str(uuid.uuid4()))
    session.command("SET max_threads = 1")
    for asking in (client, session):
        for _ in range(2):
            with pytest.raises(DatabaseError, match="non-zero"):
                asking.raw_query("SELECT throwIf(number = 3000000) FROM numbers(4000000)", fmt="JSONCompact")
            assert asking.raw_query("SELECT 1", fmt="CSV") == b"1\n"
    session.close()


def test_an_error_in_the_middle_of_a_stream_is_raised(client: Client) -> None:
    query = "SELECT number, throwIf(number = 2900000, 'too far') FROM numbers(3000000)"
    with (
        pytest.raises((StreamFailureError, DatabaseError), match="too far"),
        client.query_row_block_stream(query, settings={"max_threads": 1}) as stream,
    ):
        for _ in stream:
            pass
    assert client.command("SELECT 1") == 1


def test_a_statement_that_needs_too_much_memory_fails_alone(client: Client) -> None:
    with pytest.raises(DatabaseError) as caught:
        client.command("SELECT length(groupArray(number)) FROM numbers(400000000)")
    assert caught.value.code == 241
    with pytest.raises(DatabaseError) as caught:
        client.raw_query("SELECT repeat(toString(number), 100) FROM numbers(1000000)", fmt="JSON")
    assert caught.value.code == 396
    assert client.command("SELECT 1") == 1


@pytest.mark.parametrize(
    "message",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: many\r\n\r\nSELECT 1",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nSELECT 1\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: pigeon\r\n\r\nSELECT 1",
        b"POST / HTTP/1.1\r\nContent-Type: multipart/form-data\r\nContent-Length: 8\r\n\r\nSELECT 1",
        b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\n\xff\xfe\x00\x01",
        b"GET /?query=SELECT+1&session_id=x&session_timeout=forever HTTP/1.1\r\n\r\n",
        b"GET /?query=SELECT+%7Ba:String%7D&param_a=%ff HTTP/1.1\r\n\r\n",
        b"GET /?query=SELECT+1&decompress=1 HTTP/1.1\r\n\r\n",
        b"GET /no/such/page HTTP/1.1\r\n\r\n",
        b"BREW / HTTP/1.1\r\n\r\n",
    ],
)
def test_nonsense_gets_an_error_and_the_server_lives_on(
    client: Client, clickhouse_server: Settings, message: bytes
) -> None:
    address = (clickhouse_server.clickhouse_host, clickhouse_server.clickhouse_port)
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(message)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    status = answer[:200].decode("latin-1")
    # A first line that cannot be HTTP/1 is answered as HTTP/0.9 does: with the bare page.
    assert status.startswith(("HTTP/1.1 4", "HTTP/1.1 5")) or "Error" in status
    assert client.command("SELECT 1") == 1


def test_an_upload_that_breaks_off_inserts_nothing(client: Client, clickhouse_server: Settings, table: str) -> None:
    address = (clickhouse_server.clickhouse_host, clickhouse_server.clickhouse_port)
    with socket.create_connection(address, timeout=30) as connection:
        head = f"POST /?database={DATABASE} HTTP/1.1\r\nContent-Length: 1000000\r\n\r\nINSERT INTO {table} FORMAT CSV\n"
        connection.sendall(head.encode() + b"1,a\n" * 100)
        connection.shutdown(socket.SHUT_WR)
        assert b"210" in connection.recv(65536)
    assert client.command(f"SELECT count() FROM {table}") == 0


# The interface itself


def test_ping_get_and_headers(clickhouse_server: Settings, client: Client, table: str) -> None:
    assert client.ping()
    assert http_request(clickhouse_server, "GET", "/ping")[::2] == (200, b"Ok.\n")
    assert http_request(clickhouse_server, "GET", "/")[::2] == (200, b"Ok.\n")
    options = {"query": "SELECT 1 AS x", "default_format": "JSONEachRow", "query_id": "my own\nid"}
    status, headers, body = http_request(clickhouse_server, "GET", "/?" + urlencode(options))
    assert (status, body) == (200, b'{"x":1}\n')
    assert headers["X-ClickHouse-Format"] == "JSONEachRow"
    assert headers["X-ClickHouse-Query-Id"] == "my own?id"
    assert headers["X-ClickHouse-Timezone"] == "UTC"
    assert json.loads(headers["X-ClickHouse-Summary"])["read_rows"] == "1"


def test_query_ids_and_summaries(client: Client, table: str) -> None:
    result = client.query("SELECT number FROM numbers(1000)", settings={"query_id": "chosen"})
    assert result.query_id == "chosen"
    assert (result.summary["read_rows"], result.summary["result_rows"]) == ("1000", "1000")
    generated = {client.query("SELECT 1", settings={"query_id": ""}).query_id for _ in range(2)}
    assert len(generated) == 2
    written = client.command(f"INSERT INTO {table} SELECT number, '' FROM numbers(10)")
    assert written.written_rows == 10


def test_the_time_zone_of_a_request(client: Client) -> None:
    query = "SELECT toDateTime('2026-07-01 12:00:00', 'UTC') AS t, timezone()"
    assert client.query(query).result_rows[0][1] == "UTC"
    [(_, zone)] = client.query(query, settings={"session_timezone": "Asia/Tokyo"}).result_rows
    assert zone == "Asia/Tokyo"


def test_statements_without_rows_are_told_from_empty_results(client: Client, table: str) -> None:
    assert client.command(f"SELECT id FROM {table}") == ""
    assert not isinstance(client.command(f"OPTIMIZE TABLE {table}"), str)
    assert client.command(f"EXISTS TABLE {table}") == 1
    assert table in client.command(f"SHOW CREATE TABLE {table}")


def test_many_clients_at_once(clickhouse_server: Settings, client: Client, table: str) -> None:
    clients, turns = 8, 25

    def work(number: int) -> int:
        own = new_client(clickhouse_server)
        seen = 0
        for turn in range(turns):
            own.insert(table, [[number * turns + turn, f"{number}"]], column_names=["id", "name"])
            seen = own.query(f"SELECT count() FROM {table} WHERE name = {{n:String}}", {"n": f"{number}"}).result_rows[
                0
            ][0]
        own.close()
        return seen

    with ThreadPoolExecutor(clients) as pool:
        assert list(pool.map(work, range(clients))) == [turns] * clients
    assert client.query(f"SELECT count(), uniqExact(id) FROM {table}").result_rows == [(clients * turns,) * 2]


def test_every_setting_of_the_engine_is_honoured(client: Client) -> None:
    settings = dict(client.query("SELECT name, value FROM system.server_settings").result_rows)
    of_tables = dict(client.query("SELECT name, value FROM system.merge_tree_settings").result_rows)
    checked = 0
    for element in ElementTree.parse(CONFIG).getroot():
        if element.tag == "merge_tree":
            assert {part.tag: of_tables[part.tag] for part in element} == {part.tag: part.text for part in element}
        elif element.tag == "background_message_broker_schedule_pool_size":
            client.command(
                "CREATE TABLE any_queue (a String) ENGINE = Kafka SETTINGS kafka_broker_list = '127.0.0.1:1', "
                "kafka_topic_list = 'a', kafka_group_name = 'a', kafka_format = 'JSONEachRow'"
            )
            size = "SELECT value FROM system.metrics WHERE metric = 'BackgroundMessageBrokerSchedulePoolSize'"
            assert client.command(size) == int(element.text)  # the pool starts with the first such table
            client.command("DROP TABLE any_queue")
        else:
            assert settings[element.tag] == element.text, element.tag
        checked += 1
    assert checked > 10
    of_queries = dict(client.query("SELECT name, value FROM system.settings").result_rows)
    profile = ElementTree.parse(PROFILE).getroot().find("profiles/default")
    assert {part.tag: of_queries[part.tag] for part in profile} == {part.tag: part.text for part in profile} != {}


# The process


def kafka_table(name: str) -> str:
    return (
        f"CREATE TABLE {name} (a String) ENGINE = Kafka SETTINGS kafka_broker_list = '127.0.0.1:1', "
        "kafka_topic_list = 'a', kafka_group_name = 'g', kafka_format = 'JSONEachRow'"
    )


def test_views_over_system_tables_are_refreshed_after_a_restart(
    start_clickhouse: Callable[[Path], Server], tmp_path: Path
) -> None:
    """The library refreshes before it has those tables, and would try the next time tomorrow."""
    views = [f"view_{number}" for number in range(8)]
    server = start_clickhouse(tmp_path / "data")
    with connect(server.settings, database="") as client:
        client.command("CREATE DATABASE kept")
        for view in views:
            client.command(f"CREATE TABLE kept.rows_of_{view} (n UInt64) ENGINE = MergeTree ORDER BY n")
            client.command(
                f"CREATE MATERIALIZED VIEW kept.{view} REFRESH EVERY 1 DAY APPEND TO kept.rows_of_{view} AS"
                " SELECT count() AS n FROM system.view_refreshes"
            )
    os.kill(server.process.pid, signal.SIGTERM)
    server.process.wait(timeout=15)
    again = start_clickhouse(tmp_path / "data")
    with connect(again.settings, database="kept") as client:
        done = "last_success_time IS NOT NULL AND exception = ''"
        query = f"SELECT view FROM system.view_refreshes WHERE {done} ORDER BY view"
        wait_until(lambda: [view for (view,) in client.query(query).result_rows] == views)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stopped_or_killed_server_serves_the_same_data_again(
    start_clickhouse: Callable[[Path], Server], tmp_path: Path, number: int
) -> None:
    data = tmp_path / "with space"
    server = start_clickhouse(data)
    with connect(server.settings, database="") as client:
        for statement in (
            "CREATE DATABASE kept",
            "CREATE TABLE kept.rows (a String) ENGINE = MergeTree ORDER BY a",
            kafka_table("kept.queue"),
            "CREATE MATERIALIZED VIEW kept.queue_mv TO kept.rows AS SELECT a FROM kept.queue",
        ):
            client.command(statement)
        client.insert("kept.rows", [["x"], ["y"]], column_names=["a"])
    os.kill(server.process.pid, number)
    assert server.process.wait(timeout=15) == (0 if number != signal.SIGKILL else -number)
    again = start_clickhouse(data)
    with connect(again.settings, database="kept") as client:
        assert client.query("SELECT a FROM rows ORDER BY a").result_rows == [("x",), ("y",)]
        assert client.query("SELECT name FROM system.tables WHERE database = 'kept' ORDER BY name").result_rows == [
            ("queue",),
            ("queue_mv",),
            ("rows",),
        ]
        client.command(kafka_table("other_queue"))
        client.command("DROP TABLE other_queue")


def test_a_request_that_is_running_is_finished_before_the_stop(
    start_clickhouse: Callable[[Path], Server], tmp_path: Path
) -> None:
    server = start_clickhouse(tmp_path / "data")
    with (
        connect(server.settings, database="") as client,
        connect(server.settings, database="") as other,
        ThreadPoolExecutor(1) as pool,
    ):
        slow = pool.submit(client.command, "SELECT sleep(2), 'done'")
        running = "SELECT count() FROM system.processes WHERE query LIKE '%done%' AND query NOT LIKE '%processes%'"
        wait_until(lambda: other.command(running) == 1)
        os.kill(server.process.pid, signal.SIGTERM)
        assert slow.result(timeout=30) == ["0", "done"]
    assert server.process.wait(timeout=15) == 0


def run_server(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "devstack.clickhouse_server", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)


def test_a_port_in_use_is_said_in_one_line(clickhouse_server: Settings, tmp_path: Path) -> None:
    port = str(clickhouse_server.clickhouse_port)
    result = run_server("--port", port, "--data", str(tmp_path / "data"))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert port in result.stderr
    assert not (tmp_path / "data").exists()


def test_a_folder_in_use_is_said_in_one_line(clickhouse_process: Server, free_port: Callable[[], int]) -> None:
    port = free_port()
    result = run_server("--port", str(port), "--data", str(clickhouse_process.data))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert str(clickhouse_process.data) in result.stderr
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "0.0.0.0"], "loopback"),
        (["--host", "example.com"], "loopback"),
        (["--config", "no_such.xml"], "no_such.xml"),
        (["--config", "{folder}/file"], "file"),
        (["--port", "70000"], "70000"),
        (["--data", "{folder}/a?b"], "Choose another"),
        (["--data", "{folder}/file/data"], "--data"),
    ],
)
def test_wrong_use_is_said_in_one_line(
    tmp_path: Path, free_port: Callable[[], int], arguments: list[str], said: str
) -> None:
    (tmp_path / "file").touch()
    given = [argument.format(folder=tmp_path) for argument in arguments]
    result = run_server("--port", str(free_port()), "--data", str(tmp_path / "data"), *given)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert said in result.stderr


def test_the_ready_line_says_where(clickhouse_process: Server) -> None:
    assert clickhouse_process.ready_line.count("\n") == 1
    assert f"127.0.0.1:{clickhouse_process.settings.clickhouse_port}" in clickhouse_process.ready_line
