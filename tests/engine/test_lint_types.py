"""The linter asks the engine for the types of columns, and needs nothing of the schema to be there."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client
from newer_sql import NEWER_THAN_THE_PARSER

from paystream.clickhouse import connect
from paystream.migrations.lint import Finding, lint_files
from paystream.migrations.schema_graph import read_graph
from paystream.project import CHECKOUT
from paystream.settings import Settings


@pytest.fixture(scope="module")
def client(clickhouse_server: Settings) -> Iterator[Client]:
    with connect(clickhouse_server, database="") as client:
        yield client


@pytest.fixture
def lint(tmp_path: Path, client: Client) -> Callable[[str, str], list[Finding]]:
    """A function that checks one view's expression for a column of a type."""

    def check(expression: str, kind: str) -> list[Finding]:
        files = {
            "sql/queue": "CREATE TABLE queue (message String, `odd name` UInt16) ENGINE = Kafka(c)"
            " SETTINGS kafka_format = 'JSONEachRow', kafka_handle_error_mode = 'stream'",
            "sql/source": "CREATE VIEW source AS SELECT 'a' AS text, CAST(1, 'Nullable(UInt8)') AS small",
            "sql/stored": f"CREATE TABLE stored (x {kind}) ENGINE = MergeTree ORDER BY tuple()",
            "sql/stored_mv": f"CREATE MATERIALIZED VIEW stored_mv TO stored AS SELECT {expression} AS x"
            " FROM queue WHERE length(_error) = 0",
            "dictionaries/d": "CREATE DICTIONARY d (id UInt32, name String, rate Decimal(9, 2)) PRIMARY KEY id"
            " SOURCE(CLICKHOUSE(TABLE 'source')) LAYOUT(HASHED()) LIFETIME(0)",
        }
        for name, text in files.items():
            path = tmp_path / f"{name}.sql"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return lint_files(tmp_path, client)

    return check


def test_the_project_itself_is_clean_by_the_engine(client: Client) -> None:
    assert [str(finding) for finding in lint_files(CHECKOUT, client)] == []


@pytest.mark.parametrize(
    ("expression", "kind"),
    [
        ("length(message) + 1", "UInt64"),
        ("dictGetOrNull('d', ('name', 'rate'), 1).2", "Nullable(Decimal(18, 4))"),
        ("dictGetOrDefault('d', 'name', toUInt64(`odd name`), '')", "LowCardinality(String)"),
        ("now64(3)", "DateTime64(3, 'UTC')"),
        ("_headers.name", "Array(String)"),
        ("[toDateOrNull(message)]", "Array(Nullable(Date))"),
        ("`odd name`", "UInt32"),
    ],
)
def test_a_type_that_fits(lint, expression: str, kind: str) -> None:
    assert [str(finding) for finding in lint(expression, kind)] == []


@pytest.mark.parametrize(
    ("expression", "kind", "said"),
    [
        ("length(message) + 1", "UInt32", "its x is UInt64 and that of stored UInt32: values are changed"),
        ("dictGetOrNull('d', ('name', 'rate'), 1).2", "Decimal(9, 2)", "Nullable(Decimal(9, 2)) and that of stored"),
        ("toDateOrNull(message)", "Date", "its x is Nullable(Date) and that of stored Date: a NULL stops all"),
        ("toFloat64OrZero(message)", "Decimal(9, 2)", "its x is Float64"),
        ("no_such_function(message)", "String", "the engine refuses its SELECT: Function with name"),
        ("no_such_column", "String", "the engine refuses its SELECT: Unknown expression identifier"),
    ],
)
def test_a_type_that_does_not(lint, expression: str, kind: str, said: str) -> None:
    [finding] = lint(expression, kind)
    assert (finding.rule, finding.path) == ("view-types", "sql/stored_mv.sql")
    assert said in finding.cause
    assert "\n" not in str(finding)


def test_a_waiver_that_only_the_engine_sees_the_use_of(lint, tmp_path: Path, client: Client) -> None:
    lint("length(message)", "UInt32")
    path = tmp_path / "sql" / "stored_mv.sql"
    path.write_text(f"-- lint: waive view-types because no message is that long\n{path.read_text()}")
    assert lint_files(tmp_path, client) == lint_files(tmp_path) == []
    path.write_text(path.read_text().replace("length(message)", "toUInt32(length(message))"))
    [finding] = lint_files(tmp_path, client)
    assert (finding.rule, finding.cause) == ("waiver", "nothing here breaks view-types any more")


@pytest.mark.parametrize("name", NEWER_THAN_THE_PARSER)
def test_what_the_linter_cannot_read_the_engine_can(lint, tmp_path: Path, client: Client, name: str) -> None:
    lint("message", "String")
    (tmp_path / "sql" / "extra.sql").write_text(NEWER_THAN_THE_PARSER[name])
    [finding] = lint_files(tmp_path, client)
    assert (finding.rule, finding.cause) == ("unread", "ClickHouse reads it, and the linter does not")


def test_what_neither_can_read_cannot_be_waived(lint, tmp_path: Path, client: Client) -> None:
    lint("message", "String")
    text = "-- lint: waive unread because the server surely has this\nCREATE TABLE extra (x UInt32 STATISTIC(tdigest)"
    (tmp_path / "sql" / "extra.sql").write_text(text)
    [finding] = lint_files(tmp_path, client)
    assert finding.rule == "file" and finding.cause.startswith("the engine refuses it: Syntax error")


def test_what_the_engine_is_asked_needs_nothing_to_be_there_and_leaves_nothing(client: Client) -> None:
    databases = "SELECT name FROM system.databases ORDER BY name"
    tables = "SELECT database, name FROM system.tables WHERE database NOT IN ('system', 'INFORMATION_SCHEMA')"
    before = client.query(databases).result_rows, set(client.query(tables).result_rows)
    lint_files(CHECKOUT, client)
    assert (client.query(databases).result_rows, set(client.query(tables).result_rows)) == before


def test_the_command_asks_the_server_that_answers(
    clickhouse_server: Settings, tmp_path: Path, paystream_here: Callable[..., tuple[int, str, list[str]]]
) -> None:
    settings = clickhouse_server.model_copy(update={"home": tmp_path / "home", "clickhouse_database": "not_there"})
    assert paystream_here(settings, "migrate", "lint") == (0, 'migrate_lint findings=0 types="by engine"\n', [])


def one_line(text: str) -> str:
    return " ".join(text.split()).replace("( ", "(")


def test_the_types_of_the_files_are_the_engine_s(client: Client) -> None:
    graph = read_graph()
    for name, table in graph.objects.items():
        if table.kind != "table":
            continue
        structure = ", ".join(f"{column} {kind}" for column, kind in table.types.items())
        described = client.query("DESCRIBE TABLE null({structure:String})", parameters={"structure": structure})
        # The types as the file spells them, without what sqlglot makes of them.
        for column, kind, *_ in described.result_rows:
            assert one_line(f"{column} {kind}") in one_line(table.text), (name, column, kind)
