"""What columns are made of, by the project's own files and by small ones."""

import json
import re
from collections.abc import Callable
from fnmatch import fnmatch
from itertools import takewhile
from pathlib import Path

import pytest
from sqlglot import exp
from typer.main import get_command

from paystream import cli
from paystream.errors import UsageError
from paystream.migrations.lineage import Lineage, picture, picture_of
from paystream.migrations.schema_graph import Graph, SchemaObject, dictionary_call, read_graph
from paystream.project import CHECKOUT
from paystream.settings import Settings

FIELDS = ["transaction_id", "merchant_id", "amount", "currency", "status", "created_at", "updated_at"]


@pytest.fixture(scope="module")
def ours() -> Lineage:
    return Lineage(read_graph())


@pytest.fixture
def lineage_of(tmp_path: Path) -> Callable[..., Lineage]:
    """A function that reads a schema, given as name = statement."""

    def read(**files: str) -> Lineage:
        for name, text in files.items():
            (tmp_path / "sql").mkdir(exist_ok=True)
            (tmp_path / "sql" / f"{name}.sql").write_text(text)
        graph = read_graph(tmp_path)
        assert graph.unreadable == ()
        return Lineage(graph)

    return read


def test_from_the_topic_s_field_to_the_report_s_column(ours):
    steps = ours.before(["report_merchant_by_day.amount_reporting"])
    columns = [step.column for step in steps]
    way = [
        "topic.amount",
        "transactions_parsed.amount",
        "transactions.amount_reporting",
        "merchant_slots.payments.amount_reporting",
        "merchant_days.payments.amount_reporting",
        "report_merchant_by_day.amount_reporting",
    ]
    assert [column for column in columns if column in way] == way
    rate = ["fx_rates.rate", "fx_rate_periods.rate", "fx_rates_dict.rate", "transactions.amount_reporting"]
    assert [column for column in columns if column in rate] == rate
    [made] = [step for step in steps if step.column == "transactions.amount_reporting"]
    assert made.by == "transactions_mv" and "round(amount * fx.1, 4)" in made.expression
    assert made.of == ("transactions_parsed.amount", "fx_rates_dict.rate")
    assert made.found_by == ("transactions_parsed.currency", "transactions_parsed.created_at")
    assert {"topic.currency", "topic.created_at"} < set(columns)
    # Each element of `payments` goes its own way, and how far the refreshes are is another column's matter.
    parts = {column.rpartition(".")[2] for column in columns if ".payments" in column}
    assert parts == {"amount_reporting", "reporting_currency"}
    assert not [column for column in columns if column.startswith("rollup_") or "complete_until" in column]


def test_every_step_comes_after_those_it_is_made_of(ours):
    seen = set()
    in_circles = set()
    for step in ours.before(ours.steps):
        for part in {*step.of, *step.found_by} - seen - {step.column}:
            assert step.column in {earlier.column for earlier in ours.before([part])}, f"{part} comes after {step}"
            in_circles.add(step.column.rpartition(".")[2])
        seen.add(step.column)
    assert in_circles <= {"began_at", "complete_until", "view"}
    assert not [step for step in ours.before(ours.steps) if "?" in step.column], "a name that no source has"


def test_every_field_of_the_contract_reaches_the_report_or_the_table(ours):
    fields = {column.removeprefix("topic.") for column in ours.steps if column.startswith("topic.")}
    assert {field for field in fields if field[0] != "("} == set(FIELDS)
    for field in FIELDS:
        assert f"transactions.{field}" in ours.after([f"topic.{field}"])


@pytest.mark.parametrize(
    ("column", "fields", "dictionaries", "found_by"),
    [
        ("report_merchant_by_day.day", ["created_at"], [], []),
        ("report_merchant_by_day.amount", ["(whole message)", "amount"], [], []),
        ("report_volume_by_hour.category_code", [], ["merchants_dict.category_code"], ["merchant_id"]),
        (
            "report_merchant_by_day.merchant_name",
            [],
            ["merchants_dict.merchant_name", "merchants_dict.snapshot_id"],  # the newest of a day is taken
            ["merchant_id"],
        ),
        ("transactions.fx_rate", [], ["fx_rates_dict.rate"], ["created_at", "currency"]),
        ("quarantine.raw_message", ["(whole message)"], [], []),
        ("quarantine.kafka_offset", ["(offset)"], [], []),
        ("transactions.version", ["updated_at"], [], []),
    ],
)
def test_what_a_column_comes_from(ours, column, fields, dictionaries, found_by):
    summary = ours.summary(column)
    assert sorted(summary.fields) == [f"topic.{field}" for field in fields]
    assert sorted(summary.dictionaries) == dictionaries
    assert sorted(summary.found_by) == [f"topic.{field}" for field in found_by]


def test_clocks_and_tables_are_named(ours):
    assert ours.summary("transactions.ingested_at").clocks == ("now64()",)
    assert ours.summary("transactions.enriched_at").clocks == ("now64()",)
    assert set(ours.summary("report_merchant_by_day.merchant_name").tables) == {
        "merchants.merchant_name",
        "merchants.snapshot_id",
    }
    # How far it is: by the engine's own word of its refreshes, and by the clock.
    far = ours.summary("report_merchant_by_day.complete_until")
    assert (far.fields, far.tables, far.clocks) == ((), ("view_refreshes.last_success_time",), ("now64()",))


def test_the_ways_of_clickhouse_to_name_things(lineage_of):
    lineage = lineage_of(
        queue="CREATE TABLE queue (a UInt8, b UInt8, t Tuple(x UInt8, y UInt8)) ENGINE = Kafka(c)"
        " SETTINGS kafka_format = 'JSONEachRow', kafka_handle_error_mode = 'stream'",
        stored="CREATE TABLE stored (a UInt8, b UInt8, c UInt8, d UInt8, e UInt8, f UInt8) ENGINE = Null",
        stored_mv="CREATE MATERIALIZED VIEW stored_mv TO stored AS"
        " WITH a + 1 AS b, inner_one AS (SELECT b AS x FROM queue)"
        " SELECT b AS a, q.b AS b, c + 1 AS d, q.a AS c, t.x AS e, (SELECT max(x) FROM inner_one) AS f FROM queue AS q",
        both="CREATE VIEW both AS SELECT a, b FROM stored UNION ALL SELECT c, d FROM stored",
        starred="CREATE VIEW starred AS SELECT * EXCEPT (a) FROM (SELECT s.*, a * 2 AS twice FROM stored AS s)",
    )

    def made_of(column: str) -> set[str]:
        return {part for step in lineage.steps[column] for part in step.of}

    assert made_of("stored.a") == {"queue.a"}  # the WITH's b, not the column
    assert made_of("stored.b") == {"queue.b"}  # the column, since it is qualified
    assert made_of("stored.d") == {"queue.a"}  # an alias of the same SELECT
    assert made_of("stored.e") == {"queue.t.x"}
    assert made_of("stored.f") == {"queue.b"}
    assert made_of("queue.t.x") == {"topic.t.x"}
    assert made_of("both.a") == {
        "stored.a",
        "stored.c",
    }  # columns of a UNION go by place and have the first one's names
    assert not [column for column in lineage.steps if column in ("both.c", "both.d")]
    assert list(column for column in lineage.steps if column.startswith("starred.")) == [
        *(f"starred.{name}" for name in "bcdef"),
        "starred.twice",
    ]
    assert made_of("starred.twice") == {"stored.a"}


def test_elements_of_tuples_are_followed_each_by_itself(lineage_of):
    lineage = lineage_of(
        source="CREATE TABLE source (a UInt8, b UInt8, c UInt8) ENGINE = Null",
        pairs="CREATE TABLE pairs (k UInt8, p Array(Tuple(first UInt8, second UInt8)), one Tuple(UInt8, UInt8))"
        " ENGINE = MergeTree ORDER BY k",
        pairs_mv="CREATE MATERIALIZED VIEW pairs_mv TO pairs AS"
        " SELECT c AS k, groupArrayIf((a + 1, sum_b), c > 0) AS p, (a, b) AS one"
        " FROM (SELECT a, c, sum(b) AS sum_b, b FROM source GROUP BY a, b, c)",
        copied="CREATE TABLE copied (p Array(Tuple(x UInt8, y UInt8)), q Array(Tuple(x UInt8, y UInt8))) ENGINE = Null",
        copied_mv="CREATE MATERIALIZED VIEW copied_mv TO copied AS SELECT p, arraySort(p) AS q FROM pairs",
        joined="CREATE VIEW joined AS SELECT e.second AS named, e.1 AS numbered, p.first AS inner, one.1 AS unnamed,"
        " said.2 AS unfolded FROM (SELECT *, arrayJoin([(1, k), (2, 3)]) AS said FROM pairs) ARRAY JOIN p AS e",
    )

    def made_of(column: str) -> set[str]:
        return {part for step in lineage.steps[column] for part in step.of}

    assert made_of("pairs.p.first") == {"source.a"}
    assert made_of("pairs.p.second") == {"source.b"}
    assert [step.expression for step in lineage.steps["pairs.p.first"]] == ["a + 1"]
    assert made_of("pairs.one") == {"source.a", "source.b"}
    assert made_of("copied.p.y") == {"pairs.p.second"}  # by place, as the engine writes it
    assert made_of("copied.q.y") == {"pairs.p"}  # what a function makes of it is not known
    assert made_of("pairs.p") == {"source.a", "source.b", "source.c"}
    assert made_of("joined.named") == {"pairs.p.second"}
    assert made_of("joined.numbered") == made_of("joined.inner") == {"pairs.p.first"}
    assert made_of("joined.unnamed") == {"pairs.one"}
    assert made_of("joined.unfolded") == {"pairs.k"}
    assert lineage.columns_named("pairs.p") == ["pairs.p"]
    assert lineage.columns_named("copied.p") == ["copied.p.x", "copied.p.y"]


def test_a_column_that_is_made_of_itself_is_said_once(lineage_of):
    lineage = lineage_of(
        source="CREATE TABLE source (a UInt8, at DateTime) ENGINE = Null",
        state="CREATE VIEW state AS WITH (SELECT max(at) FROM system.asynchronous_loader) AS at"
        " SELECT greatest(max(until), at) AS until FROM summed",
        summed="CREATE TABLE summed (a UInt8, until DateTime) ENGINE = MergeTree ORDER BY a",
        summed_mv="CREATE MATERIALIZED VIEW summed_mv REFRESH EVERY 1 MINUTE APPEND TO summed AS"
        " WITH (SELECT max(until) FROM state) AS since, (SELECT max(at) FROM source WHERE at > since) AS until"
        " SELECT sum(a) AS a, greatest(since, until) AS until FROM source WHERE at > since AND at <= until",
    )
    steps = lineage.before(["summed.until"])
    made = {step.column: step.of for step in steps}
    assert len(steps) == len(made)
    assert made == {
        "asynchronous_loader.at": (),
        "source.at": (),
        "state.until": ("summed.until", "asynchronous_loader.at"),
        "summed.until": ("state.until", "source.at"),
    }
    assert lineage.after(["summed.until"]) == ["state.until"]
    assert set(lineage.summary("summed.until").tables) == {"source.at", "asynchronous_loader.at"}
    assert [step.column for step in lineage.before(["summed.a"])] == ["source.a", "summed.a"]


def test_a_bare_name_means_every_column_that_has_it(ours):
    assert ours.columns_named("amount") == [column for column in ours.steps if column.rsplit(".", 1)[1] == "amount"]
    assert "merchant_slots.payments.amount" in ours.columns_named("amount")
    assert "merchant_slots.payments.amount" in ours.columns_named("merchant_slots.payments")
    assert ours.columns_named("transactions.amount") == ["transactions.amount"]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("transactions.amont", "transactions.amount"),
        ("amout", "amount"),
        ("merchants_dic.country", "merchants_dict.country"),
        ("transactions", "transactions"),
        ("§§", "List all with `paystream migrate lineage`"),
    ],
)
def test_a_column_that_is_not_there(ours, name, near):
    if name == "transactions":  # a column of reports, not the table
        assert "report_merchant_by_day.transactions" in ours.columns_named(name)
        assert all(column.endswith(".transactions") for column in ours.columns_named(name))
        return
    with pytest.raises(UsageError) as caught:
        ours.columns_named(name)
    assert str(caught.value).startswith(f"Column '{name}' is in no file") and near in str(caught.value)


def test_the_picture_in_the_documentation_is_the_command_s(tmp_path, paystream_here):
    settings = Settings(_env_file=None, home=tmp_path / "home")
    code, out, err = paystream_here(settings, "migrate", "lineage", "--format", "mermaid")
    assert (code, err) == (0, [])
    [block] = re.findall(r"```mermaid\n(.*?)```", (CHECKOUT / "docs/data-flow.md").read_text(), re.DOTALL)
    assert block == out, "write it again with `paystream migrate lineage --format mermaid`"


def test_pictures_declare_what_they_connect(ours):
    for drawn in (picture(ours.graph), picture_of(ours, ["report_merchant_by_day.amount_reporting"])):
        lines = [line.strip() for line in drawn.splitlines()]
        assert lines[0] in ("flowchart TB", "flowchart LR")
        edges = [re.fullmatch(r"(\w+) (?:-->|-\. \w+ \.->) (\w+)", line) for line in lines[1:]]
        declared = {re.match(r"\w+", line)[0] for line, edge in zip(lines[1:], edges, strict=True) if not edge}
        assert any(edges)
        for edge in filter(None, edges):
            assert {edge[1], edge[2]} <= declared, edge[0]
    for name in ours.graph.ingest_views:
        assert f"--> {name}" in picture(ours.graph)
    # Every report is in a box, and none of what only says how far the roll-ups have come.
    reports = [name for name in ours.graph.objects if name.startswith("report_") and name != "report_freshness"]
    assert [name for name in reports if not re.search(rf'["<>/]{name}<br/>', picture(ours.graph))] == []
    assert not re.search(r"rollup_|freshness|view_refreshes", picture(ours.graph))


def test_the_command(tmp_path, paystream_here):
    settings = Settings(_env_file=None, home=tmp_path / "home")

    code, out, err = paystream_here(settings, "migrate", "lineage", "merchant_days_current.day")
    assert (code, err) == (0, [])
    assert out.splitlines()[0].startswith("migrate_lineage_step column=topic.created_at ")
    assert out.splitlines()[-1] == "migrate_lineage_use column=report_merchant_by_day.day"
    made = [line for line in out.splitlines() if " column=merchant_days_current.day " in line]
    assert made == [
        "migrate_lineage_step column=merchant_days_current.day by=merchant_days_current expression=day"
        f" of={source} found_by=none clocks=none"
        for source in ("merchant_days.day", "merchant_slots.slot,merchant_days.day")
    ]

    code, out, err = paystream_here(settings, "migrate", "lineage", "topic.status", "--json")
    document = json.loads(out)
    assert (code, err, document["columns"]) == (0, [], ["topic.status"])
    assert "report_merchant_by_day.status" in document["goes_into"]

    code, out, err = paystream_here(settings, "migrate", "lineage")
    assert (code, err) == (0, [])
    assert "migrate_lineage column=report_settlement_by_day.day fields=topic.created_at dictionaries=none" in out

    for arguments, message in [
        (["nothing_such"], "error: Column 'nothing_such' is in no file"),
        (["--format", "png"], "error: Format 'png' does not exist. Choose one of text, mermaid."),
        (["--format", "mermaid", "--json"], "error: Options '--json' and '--format mermaid' cannot be used together"),
        (["--folder", str(tmp_path)], f"error: Folder '{tmp_path}' cannot be followed"),
    ]:
        code, out, err = paystream_here(settings, "migrate", "lineage", *arguments)
        assert (code, out, len(err)) == (2, "", 1) and err[0].startswith(message)

    (tmp_path / "sql").mkdir()
    (tmp_path / "sql" / "half.sql").write_text("CREATE TABLE half (")
    code, out, err = paystream_here(settings, "migrate", "lineage", "--folder", str(tmp_path))
    assert (code, out, len(err)) == (2, "", 1) and err[0].startswith("error: File 'sql/half.sql' cannot be followed")


_HEADINGS = "Made from|Loaded from|Written by|Read by|Parameters?|Guarantee"


def heads(schema_object: SchemaObject) -> dict[str, str]:
    """Return what the head of a file says, by heading."""
    lines = takewhile(lambda line: line.startswith("--"), schema_object.text.splitlines())
    text = " ".join(line.removeprefix("-- ") for line in lines)
    return dict(re.findall(rf"({_HEADINGS}): (.*?)(?= (?:{_HEADINGS}):|$)", text))


def objects_in(text: str, graph: Graph) -> set[str]:
    """Return the objects that a text names outside of commands; `report_*` names all that begin so."""
    words = re.findall(r"\w+\*?", re.sub("`.*?`", "", text))
    return {name for name in graph.objects for word in words if fnmatch(name, word)}


HEADINGS = {
    "table": {"Written by", "Read by"},
    "view": {"Made from", "Read by"},
    "materialized view": {"Made from", "Read by"},
    "dictionary": {"Loaded from", "Read by"},
}


@pytest.mark.parametrize("name", read_graph().objects)
def test_a_file_s_head_names_who_writes_and_reads_its_object(ours, name):
    graph = ours.graph
    schema_object = graph.objects[name]
    said = {heading: objects_in(text, graph) - {name} for heading, text in heads(schema_object).items()}
    assert set(said) - {"Guarantee", "Parameter", "Parameters"} == HEADINGS[schema_object.kind]
    asking = {
        view.name
        for view in graph.objects.values()
        for node in (view.query.walk() if view.query else ())
        if (called := dictionary_call(node)) and called[0] == name
    }
    reading = {reader for reader in graph.objects if name in graph.reads(reader)} | asking
    actual = {
        "Written by": set(graph.writers_of(name)),
        "Loaded from": {schema_object.dictionary_source},
        "Read by": {schema_object.target} if schema_object.kind == "materialized view" else reading,
    }
    for heading in HEADINGS[schema_object.kind] - {"Made from"}:
        assert said[heading] == actual[heading], heading
    if "Made from" in said:  # what it only asks, such as how far a roll-up is, need not be named
        assert set(graph.rows_of(name)) & set(graph.objects) <= said["Made from"] <= set(graph.reads(name))


def test_the_commands_that_heads_name_exist(ours):
    cli._assemble(None)
    named = {
        command
        for schema_object in ours.graph.objects.values()
        for text in heads(schema_object).values()
        for command in re.findall(r"`(paystream [a-z -]+)`", text)
    }
    assert "paystream dims refresh merchants" in named
    for line in named:
        command = get_command(cli.app)
        for word in line.split()[1:]:
            if children := getattr(command, "commands", None):  # what follows a command's own name is an argument
                assert word in children, line
                command = children[word]


def test_net_and_gross_mean_the_same_statuses_wherever_they_are_added_up(ours):
    """Each report spells them out: ClickHouse's functions belong to a server, not to a database."""
    lists = {
        tuple(status.name for status in node.expressions)
        for schema_object in ours.graph.objects.values()
        for node in schema_object.tree.find_all(exp.In)
        if node.this.sql() == "p.status"
    }
    net = ("captured", "settled")
    assert lists == {net, (*net, "refunded", "charged_back")}
