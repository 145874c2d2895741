"""What Paystream relies on of ClickHouse's HTTP interface, and the process that serves it."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import uuid
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path

import clickhouse_connect
import psutil
import pytest
import waiting
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, StreamFailureError
from server_process import Server, running_server

from paystream.clickhouse import connect
from paystream.devstack.clickhouse_server import CONFIGURATION, Instance, running
from paystream.errors import PaystreamError, ServiceUnavailable, UsageError
from paystream.project import CHECKOUT
from paystream.settings import Settings

DATABASE = "served"
STOP_S = 15


def new_client(server: Settings, **options: object) -> Client:
    options = {"autogenerate_session_id": False, "database": DATABASE, **options}
    return clickhouse_connect.get_client(host=server.clickhouse_host, port=server.clickhouse_port, **options)


wait_until = partial(waiting.wait_until, seconds=30)


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


@pytest.mark.parametrize("compress", ["lz4", False])
def test_every_block_of_an_insert_arrives(clickhouse_server: Settings, table: str, compress: str | bool) -> None:
    rows = 100_000
    client = new_client(clickhouse_server, compress=compress)
    context = client.create_insert_context(table, ["id", "name"], data=[[n, f"n{n}"] for n in range(rows)])
    context.block_row_count = 1000  # a hundred blocks, each its own frame where LZ4 packs them
    assert client.insert(context=context).written_rows == rows
    assert client.query(f"SELECT count(), sum(id), uniqExact(name) FROM {table}").result_rows == [
        (rows, rows * (rows - 1) // 2, rows)
    ]
    client.close()


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


def test_an_insert_of_forty_megabytes_may_come_as_data_or_as_a_statement(client: Client, table: str) -> None:
    rows = 40_000

    def lines() -> Iterator[bytes]:
        for start in range(0, rows, 1000):
            yield b"".join(b"%d," % n + b"x" * 990 + b"\n" for n in range(start, start + 1000))

    assert client.raw_insert(table, ["id", "name"], lines(), fmt="CSV").written_rows == rows
    values = ", ".join(f"({n}, '{'y' * 990}')" for n in range(rows))
    assert client.command(f"INSERT INTO {table} VALUES {values}").written_rows == rows
    assert client.query(f"SELECT count(), sum(id), sum(length(name)), uniqExact(name) FROM {table}").result_rows == [
        (2 * rows, rows * (rows - 1), 2 * rows * 990, 2)
    ]


def test_an_upload_that_breaks_off_inserts_nothing(client: Client, clickhouse_server: Settings, table: str) -> None:
    address = (clickhouse_server.clickhouse_host, clickhouse_server.clickhouse_port)
    statement = f"INSERT INTO {table} FORMAT CSV\n".encode()
    rows = b"1,a\n" * 100
    for head, body in {
        "Content-Length: 1000000": statement + rows,
        "Transfer-Encoding: chunked": b"%x\r\n%s\r\n" % (len(statement + rows), statement + rows),
    }.items():
        with socket.create_connection(address, timeout=30) as connection:
            connection.sendall(f"POST /?database={DATABASE} HTTP/1.1\r\n{head}\r\n\r\n".encode() + body)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        assert client.command(f"SELECT count() FROM {table}") == 0, head


def test_types_survive_the_round_trip(client: Client, table: str) -> None:
    columns = {
        "money": "Decimal(38, 4)",
        "id": "UUID",
        "at": "DateTime64(3, 'UTC')",
        "number": "Nullable(Int32)",
        "word": "LowCardinality(Nullable(String))",
        "day": "Date32",
        "bytes": "String",
    }
    definition = ", ".join(f"{name} {kind}" for name, kind in columns.items())
    client.command(f"CREATE TABLE {table}_types ({definition}) ENGINE = Memory")
    moment = datetime(2026, 2, 28, 23, 59, 59, 999000, tzinfo=UTC)
    rows = [
        [Decimal("-12345678901234.5678"), uuid.uuid4(), moment, None, None, date(1931, 1, 2), bytes(range(256))],
        [Decimal("0.0001"), uuid.UUID(int=0), moment, -1, "low", date(2100, 1, 1), b""],
    ]
    types = list(columns.values())
    client.insert(f"{table}_types", rows, column_names=list(columns), column_type_names=types)
    read = client.query(f"SELECT * FROM {table}_types", query_formats={"String": "bytes"}, tz_mode="aware")
    assert [
        [*row[:2], row[2].astimezone(UTC), row[3], row[4] and row[4].decode(), *row[5:]] for row in read.result_rows
    ] == rows


# Results


@pytest.mark.parametrize("wait_end_of_query", [0, 1])
def test_a_result_of_any_length_takes_bounded_memory(
    clickhouse_process: Server, database: None, wait_end_of_query: int
) -> None:
    """As exports ask for theirs: the whole answer, kept on the disk, before the first byte."""
    client = new_client(clickhouse_process.settings)
    process = psutil.Process(clickhouse_process.process.pid)
    rows, width = 3_000_000, 200
    before = highest = process.memory_info().rss
    size = 0
    query = f"SELECT number, repeat('x', {width}) FROM numbers({rows})"
    with client.raw_stream(query, fmt="CSV", settings={"wait_end_of_query": wait_end_of_query}) as stream:
        while piece := stream.read(1 << 20):
            size += len(piece)
            highest = max(highest, process.memory_info().rss)
    assert size == rows * (width + 4) + sum(len(str(n)) for n in range(rows))
    assert highest - before < rows * width / 2, "the server held much of the result in memory"
    client.close()


def test_an_error_in_the_middle_of_a_result_is_raised(client: Client) -> None:
    query = "SELECT number, throwIf(number = 2900000, 'too far') FROM numbers(3000000) SETTINGS max_threads = 1"
    with (
        pytest.raises((StreamFailureError, DatabaseError), match="too far"),
        client.query_row_block_stream(query) as stream,
    ):
        for _ in stream:
            pass
    # Waited for, it comes before the first byte, so that no reader can take half an answer for a whole one.
    with (
        pytest.raises(DatabaseError, match="too far"),
        client.raw_stream(query, fmt="CSVWithNames", settings={"wait_end_of_query": 1}) as stream,
    ):
        pytest.fail("the stream was opened")
    assert client.command("SELECT 1") == 1


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


# Parameters, settings, sessions


def test_parameters_are_bound_on_the_server(client: Client) -> None:
    awkward = "quote ' double \" backslash \\ tab \t line \n return \r null \\N zero \0 é 漢 🎉 ; -- {x:Int8} %s"
    values = {
        "text": awkward,
        "money": Decimal("12.3400"),
        "moment_64": datetime(2026, 3, 29, 1, 2, 3, 456000, tzinfo=UTC),
        "texts": ["a'b", "c\td", "e\\f", ""],
        "nothing": None,
        "long": "é\t'\n" * 8_000,  # too long for a URL
        "table": "one",
        "database": "system",
    }
    query = """
        SELECT {text:String}, {money:Decimal(18, 4)}, {moment:DateTime64(3, 'UTC')}, {texts:Array(String)},
            {nothing:Nullable(String)}, {long:String}
        FROM {database:Identifier}.{table:Identifier}"""
    [row] = client.query(query, parameters=values).result_rows
    assert row[:2] == (awkward, Decimal("12.3400"))
    assert row[2].astimezone(UTC) == values["moment_64"]
    assert row[3:] == (values["texts"], None, values["long"])


def test_settings_do_not_leak_into_the_next_request(client: Client, clickhouse_server: Settings) -> None:
    probe = "SELECT getSetting('max_block_size'), getSetting('log_comment')"
    [default] = client.query(probe).result_rows
    for turn in range(5):
        comment = f"it's turn\\{turn}"
        [seen] = client.query(probe, settings={"max_block_size": 100 + turn, "log_comment": comment}).result_rows
        assert seen == (100 + turn, comment)
        assert client.query(probe).result_rows == [default]
    client.command("SET max_block_size = 77")
    assert client.query(probe).result_rows == [default]

    def ask(number: int) -> list[int]:
        own = new_client(clickhouse_server, settings={"max_block_size": number})
        seen = [own.command("SELECT getSetting('max_block_size')") for _ in range(20)]
        own.close()
        return seen

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(101, 109))) == [[number] * 20 for number in range(101, 109)]


def test_a_session_keeps_its_tables_settings_and_database(clickhouse_server: Settings, database: None) -> None:
    """Nothing here needs one; the clients of others do."""
    first = new_client(clickhouse_server, session_id=f"first {uuid.uuid4()}", database=None)
    second = new_client(clickhouse_server, session_id=f"second {uuid.uuid4()}", database=None)
    first.command("CREATE TEMPORARY TABLE mine (id UInt8)")
    first.insert("mine", [[1], [2]], column_names=["id"], column_type_names=["UInt8"])
    first.command("SET max_block_size = 123")
    first.command(f"USE {DATABASE}")
    for _ in range(3):
        mine = first.query("SELECT sum(id), getSetting('max_block_size'), currentDatabase() FROM mine")
        assert mine.result_rows == [(3, 123, DATABASE)]
        others = second.query("SELECT getSetting('max_block_size') != 123, currentDatabase()")
        assert others.result_rows == [(True, "default")]
        with pytest.raises(DatabaseError, match="mine"):
            second.query("SELECT * FROM mine")
    first.close()
    second.close()


# Errors


@pytest.mark.parametrize(
    ("statement", "code", "said"),
    [
        ("SELECT * FROM no_such_table", 60, "no_such_table"),
        ("SELECT 1 FROM no_such_database.t", 81, "no_such_database"),
        ("SELECT no_such_column", 47, "no_such_column"),
        ("CREATE TABLE {table} (a UInt8) ENGINE = Memory", 57, "already exists"),
        ("SELECT {known:String}", 456, "known"),
        ("SELECT toUInt8('\xff')", 6, "Cannot parse"),
        ("SELECT 1 SETTINGS no_such_setting = 1", 115, "no_such_setting"),
        ("SELECT length(groupArray(number)) FROM numbers(400000000)", 241, "memory"),
        ("selecx", 62, "Syntax error"),
        ("-- nothing but a comment", 62, "Empty query"),
        ("SELECT 1; DROP TABLE {table}", 62, "Multi-statements"),
        ("DROP TABLE {table}; garbage", 62, "Multi-statements"),
    ],
)
def test_errors_carry_their_code(client: Client, table: str, statement: str, code: int, said: str) -> None:
    with pytest.raises(DatabaseError, match=said) as caught:
        client.command(statement.replace("{table}", table))
    assert caught.value.code == code
    assert client.command(f"SELECT count() FROM {table}") == 0


def test_a_database_that_does_not_exist_says_how_to_make_it(clickhouse_server: Settings) -> None:
    with pytest.raises(UsageError, match="migrate up"), connect(clickhouse_server, database="no_such_database"):
        pass


# Configuration


def test_every_setting_is_honoured(client: Client) -> None:
    settings = dict(client.query("SELECT name, value FROM system.server_settings").result_rows)
    of_tables = dict(client.query("SELECT name, value FROM system.merge_tree_settings").result_rows)
    checked = 0
    for element in ElementTree.parse(CONFIGURATION / "config.d" / "paystream.xml").getroot():
        if element.tag == "merge_tree":
            assert {part.tag: of_tables[part.tag] for part in element} == {part.tag: part.text for part in element}
        elif element.tag in ("query_log", "part_log"):
            client.command(f"SYSTEM FLUSH LOGS {element.tag}")
            made = client.command(f"SHOW CREATE TABLE system.{element.tag}")
            assert "TTL event_date + toIntervalDay(3)" in made, "as it says: INTERVAL 3 DAY"
        elif element.tag == "query_condition_cache_size":
            assert settings[element.tag] == "0", "what the local ClickHouse is said not to have"
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
    for path in sorted((CONFIGURATION / "users.d").glob("*.xml")):
        profile = ElementTree.parse(path).getroot().find("profiles/default")
        assert {part.tag: of_queries[part.tag] for part in profile} == {part.tag: part.text for part in profile} != {}
    assert client.command("SELECT timezone()") == "UTC"


def test_no_configuration_but_its_own_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program that it is would read those of whoever started it."""
    for folder in (tmp_path / ".clickhouse-local", tmp_path / "clickhouse-local"):
        folder.mkdir()
        (folder / "config.xml").write_text("<clickhouse><mark_cache_size>1</mark_cache_size></clickhouse>")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with running_server(tmp_path / "server") as server, connect(server.settings, database="") as client:
        size = "SELECT value FROM system.server_settings WHERE name = 'mark_cache_size'"
        assert int(client.command(size)) == 64 << 20


# The process


def kafka_table(name: str) -> str:
    return (
        f"CREATE TABLE {name} (a String) ENGINE = Kafka SETTINGS kafka_broker_list = '127.0.0.1:1', "
        "kafka_topic_list = 'a', kafka_group_name = 'g', kafka_format = 'JSONEachRow'"
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stopped_or_killed_server_serves_the_same_data_again(
    start_clickhouse: Callable[[Path], Server], tmp_path: Path, number: int
) -> None:
    folder = tmp_path / "with space & <sign>"
    server = start_clickhouse(folder)
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
    assert server.process.wait(STOP_S) == (0 if number != signal.SIGKILL else -number)
    again = start_clickhouse(folder)
    with connect(again.settings, database="kept") as client:
        assert client.query("SELECT a FROM rows ORDER BY a").result_rows == [("x",), ("y",)]
        assert client.query("SELECT name FROM system.tables WHERE database = 'kept' ORDER BY name").result_rows == [
            ("queue",),
            ("queue_mv",),
            ("rows",),
        ]
        client.command(kafka_table("other_queue"))
        client.command("DROP TABLE other_queue")


def test_views_over_system_tables_are_refreshed_after_a_restart(
    start_clickhouse: Callable[[Path], Server], tmp_path: Path
) -> None:
    views = [f"view_{number}" for number in range(8)]
    server = start_clickhouse(tmp_path / "server")
    with connect(server.settings, database="") as client:
        client.command("CREATE DATABASE kept")
        for view in views:
            client.command(f"CREATE TABLE kept.rows_of_{view} (n UInt64) ENGINE = MergeTree ORDER BY n")
            client.command(
                f"CREATE MATERIALIZED VIEW kept.{view} REFRESH EVERY 1 DAY APPEND TO kept.rows_of_{view} AS"
                " SELECT count() AS n FROM system.view_refreshes"
            )
    server.process.terminate()
    server.process.wait(STOP_S)
    again = start_clickhouse(tmp_path / "server")
    with connect(again.settings, database="kept") as client:
        done = "last_success_time IS NOT NULL AND exception = ''"
        query = f"SELECT view FROM system.view_refreshes WHERE {done} ORDER BY view"
        wait_until(lambda: [view for (view,) in client.query(query).result_rows] == views)


def test_a_stop_is_bounded_and_finishes_a_short_request(
    start_clickhouse: Callable[[Path], Server], tmp_path: Path
) -> None:
    server = start_clickhouse(tmp_path / "server")
    with (
        connect(server.settings, database="") as client,
        connect(server.settings, database="") as long,
        connect(server.settings, database="") as other,
        ThreadPoolExecutor(2) as pool,
    ):
        slow = pool.submit(client.command, "SELECT sleep(2), 'done'")
        endless = pool.submit(long.command, "SELECT 'endless' FROM system.numbers WHERE NOT ignore(number) FORMAT Null")
        running = "SELECT count() FROM system.processes WHERE query LIKE '%done%' OR query LIKE '%endless%'"
        wait_until(lambda: other.command(running) == 3)
        server.process.terminate()
        assert slow.result(timeout=30) == ["0", "done"]
        assert server.process.wait(STOP_S) == 0
        assert isinstance(endless.exception(timeout=30), Exception)


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
from paystream.devstack.clickhouse_server import Instance, running
with running(Instance.within(Path(sys.argv[1]))) as process:
    print(process.pid, flush=True)
    time.sleep(300)
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as starter:
        server = psutil.Process(int(starter.stdout.readline()))
        starter.kill()
    server.wait(STOP_S)


def refusal(folder: Path, **files: str) -> str:
    """Return why an instance does not start, in one line, and see that nothing of it is left."""
    instance = Instance.within(folder)
    with pytest.raises(PaystreamError) as caught, running(instance, files):
        pass
    assert isinstance(caught.value, ServiceUnavailable)
    assert not instance.answers()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("conf.d/zz.xml", "<clickhouse><a></clickhouse>", "Tag mismatch in './conf.d/zz.xml'"),
        ("users.d/zz.xml", "<clickhouse><a></clickhouse>", "Tag mismatch in './users.d/zz.xml'"),
        ("conf.d/zz.xml", "<clickhouse><mark_cache_size>many</mark_cache_size></clickhouse>", "'mark_cache_size'"),
        (
            "conf.d/zz.xml",
            "<clickhouse><merge_tree><ever>1</ever></merge_tree></clickhouse>",
            "Unknown setting 'ever'",
        ),
        (
            "users.d/zz.xml",
            "<clickhouse><profiles><default><ever>1</ever></default></profiles></clickhouse>",
            "Unknown setting 'ever'",
        ),
    ],
)
def test_a_configuration_that_it_refuses_is_told_in_its_own_words(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    assert said in refusal(tmp_path, **{name: text})


@pytest.mark.parametrize("port", ["http_port", "native_port"])
def test_a_port_in_use_is_told_in_its_own_words(tmp_path: Path, port: str) -> None:
    instance = Instance.within(tmp_path)
    with (
        socket.create_server((instance.host, getattr(instance, port))),
        pytest.raises(ServiceUnavailable, match=f"{getattr(instance, port)} failed: .* Address already in use"),
        running(instance),
    ):
        pass


def test_a_data_folder_in_use_is_told_in_its_own_words(clickhouse_process: Server, tmp_path: Path) -> None:
    own = Instance.within(tmp_path)
    data = clickhouse_process.instance.data
    instance = Instance(own.host, own.http_port, own.native_port, own.folder, data, own.log)
    with pytest.raises(ServiceUnavailable, match="Another server instance in same directory"), running(instance):
        pass
    assert clickhouse_process.instance.answers()
