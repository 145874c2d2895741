"""Each rule of the linter: a file that breaks it, and one that does not. And how a file waives a rule."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from newer_sql import NEWER_THAN_THE_PARSER

from paystream.migrations.lint import FILE, REASONS, UNREAD, WAIVER, Finding, lint_files
from paystream.migrations.lint_rules import RULES
from paystream.project import CHECKOUT
from paystream.settings import Settings

QUEUE = "CREATE TABLE queue (message String) ENGINE = Kafka(c) SETTINGS kafka_format = 'RawBLOB'"
STREAM = (
    "CREATE TABLE queue (message String, n UInt32) ENGINE = Kafka(c)"
    " SETTINGS kafka_format = 'JSONEachRow', kafka_handle_error_mode = 'stream'"
)
PAYMENTS = (
    "CREATE TABLE payments (id UInt32, name String, at DateTime64(3, 'UTC')) ENGINE = ReplacingMergeTree ORDER BY id"
)
GOOD = "SELECT toUInt32OrZero(message) AS id, _key AS name, ifNull(_timestamp_ms, toDateTime64(0, 3)) AS at FROM queue"
MERCHANTS = "CREATE TABLE merchants (id UInt32, name String, rate Decimal(9, 2)) ENGINE = MergeTree ORDER BY id"
DICTIONARY = (
    "CREATE DICTIONARY merchants_dict (id UInt32, name String, rate Decimal(9, 2)) PRIMARY KEY id"
    " SOURCE(CLICKHOUSE(TABLE 'merchants')) LAYOUT(HASHED()) LIFETIME(0)"
)


def view(select: str, to: str = "payments") -> str:
    return f"CREATE MATERIALIZED VIEW payments_mv TO {to} AS {select}"


@pytest.fixture
def lint(tmp_path: Path) -> Callable[..., list[Finding]]:
    """A function that checks a schema, given as name = statement on top of a correct one."""

    def check(**files: str) -> list[Finding]:
        base = {"queue": QUEUE, "payments": PAYMENTS, "payments_mv": view(GOOD), "merchants": MERCHANTS}
        base["merchants_dict"] = DICTIONARY
        for name, text in (base | files).items():
            folder = tmp_path / ("dictionaries" if name.endswith("_dict") else "sql/1_ingest")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.sql").write_text(text)
        return lint_files(tmp_path)

    return check


def test_the_project_itself_is_clean():
    assert [str(finding) for finding in lint_files()] == []


def test_a_correct_schema_has_no_findings(lint):
    assert lint() == []


def selecting(**changed: str) -> str:
    parts = {"id": "toUInt32OrZero(message)", "name": "_key", "at": "ifNull(_timestamp_ms, toDateTime64(0, 3))"}
    source = changed.pop("source", "queue")
    return f"SELECT {', '.join(f'{value} AS {name}' for name, value in (parts | changed).items())} FROM {source}"


BREAKS = {
    "the format can fail and nothing filters": (
        "kafka-errors",
        {"queue": STREAM, "payments_mv": view(selecting(id="n"))},
        {"queue": STREAM, "payments_mv": view(selecting(id="n") + " WHERE length(_error) = 0")},
    ),
    "the format can fail and stops all": (
        "kafka-errors",
        {"queue": QUEUE.replace("RawBLOB", "CSV")},
        {"queue": QUEUE.replace("RawBLOB", "LineAsString")},
    ),
    "the format is not said": ("kafka-errors", {"queue": "CREATE TABLE queue (message String) ENGINE = Kafka(c)"}, {}),
    "toUInt32 of a text": ("throwing-conversion", {"payments_mv": view(selecting(id="toUInt32(message)"))}, {}),
    "toUInt32 of a text by another name": (
        "throwing-conversion",
        {"payments_mv": view("WITH upper(message) AS text " + selecting(id="toUInt32(text)"))},
        {"payments_mv": view("WITH length(message) AS size " + selecting(id="toUInt32(size)"))},
    ),
    "CAST of a JSON field": (
        "throwing-conversion",
        {"payments_mv": view(selecting(id="CAST(JSONExtractString(message, 'id') AS UInt32)"))},
        {"payments_mv": view(selecting(id="CAST(JSONExtractInt(message, 'id') AS UInt32)"))},
    ),
    "CAST to a type that is a text": (
        "throwing-conversion",
        {"payments_mv": view(selecting(id="CAST(JSONExtract(message, 'id', 'String'), 'UInt32')"))},
        {"payments_mv": view(selecting(id="CAST(JSONExtract(message, 'id', 'UInt16'), 'UInt32')"))},
    ),
    "parsing a time in the filter": (
        "throwing-conversion",
        {"payments_mv": view(GOOD + " WHERE parseDateTimeBestEffort(message) > now()")},
        {"payments_mv": view(GOOD + " WHERE parseDateTimeBestEffortOrNull(message) > now()")},
    ),
    "a field of a tuple": (
        "throwing-conversion",
        {
            "payments_mv": view(
                "WITH JSONExtract(message, 'Tuple(a String, b UInt8)') AS f " + selecting(id="toUInt32(f.a)")
            )
        },
        {
            "payments_mv": view(
                "WITH JSONExtract(message, 'Tuple(a String, b UInt8)') AS f " + selecting(id="toUInt32(f.b)")
            )
        },
    ),
    "behind a Null table": (
        "throwing-conversion",
        {
            "parsed": "CREATE TABLE parsed (text String, size UInt32) ENGINE = Null",
            "parsed_mv": "CREATE MATERIALIZED VIEW parsed_mv TO parsed AS"
            " SELECT message AS text, toUInt32(length(text)) AS size FROM queue",
            "payments_mv": view("SELECT toUInt32(text) AS id, text AS name, toDateTime64(0, 3) AS at FROM parsed"),
        },
        {"payments_mv": view("SELECT toUInt32(size) AS id, text AS name, toDateTime64(0, 3) AS at FROM parsed")},
    ),
    "throwIf": ("throwing-conversion", {"payments_mv": view(GOOD + " WHERE throwIf(message = '') = 0")}, {}),
    "no such dictionary": (
        "dictionary-unknown",
        {"payments_mv": view(selecting(name="ifNull(dictGetOrNull('merchant_dict', 'name', 1), '')"))},
        {"payments_mv": view(selecting(name="ifNull(dictGetOrNull('merchants_dict', 'name', 1), '')"))},
    ),
    "no such attribute": (
        "dictionary-unknown",
        {"payments_mv": view(selecting(name="ifNull(dictGetOrNull('merchants_dict', ('name', 'town'), 1).2, '')"))},
        {"payments_mv": view(selecting(name="ifNull(dictGetOrNull('merchants_dict', ('name', 'rate'), 1).1, '')"))},
    ),
    "dictGet": (
        "dictionary-silent-zero",
        {"payments_mv": view(selecting(name="dictGet('merchants_dict', 'name', 1)"))},
        {"payments_mv": view(selecting(name="dictGetOrDefault('merchants_dict', 'name', 1, 'unknown')"))},
    ),
    "dictGet in a view that is asked": (
        "dictionary-silent-zero",
        {"report": "CREATE VIEW report AS SELECT dictGetString('merchants_dict', 'name', id) AS name FROM payments"},
        {"report": "CREATE VIEW report AS SELECT dictHas('merchants_dict', id) AS is_known FROM payments"},
    ),
    "a join": (
        "ingest-join",
        {"payments_mv": view(selecting(source="queue LEFT JOIN merchants AS m ON m.id = 1"))},
        {"payments_mv": view(selecting(source="queue ARRAY JOIN [1, 2] AS n"))},
    ),
    "a table in the filter": (
        "ingest-join",
        {"payments_mv": view(GOOD + " WHERE message IN (SELECT name FROM merchants)")},
        {
            "payments_mv": view(GOOD + " WHERE message IN ('a', 'b')"),
            "report": "CREATE VIEW report AS SELECT p.id FROM payments AS p JOIN merchants AS m USING id",
        },
    ),
    "now() in the sorting key": (
        "unstable-key",
        {"payments": PAYMENTS.replace("ORDER BY id", "ORDER BY (id, toDate(now()))")},
        {},
    ),
    "a random in the partition": (
        "unstable-key",
        {"payments": PAYMENTS.replace("ORDER BY id", "PARTITION BY rand() % 4 ORDER BY id")},
        {"payments": PAYMENTS.replace("ORDER BY id", "PARTITION BY id % 4 ORDER BY id")},
    ),
    "a clock that a view feeds a key with": (
        "unstable-key",
        {
            "payments": PAYMENTS.replace("ORDER BY id", "PARTITION BY toYYYYMM(at) ORDER BY id"),
            "payments_mv": view("WITH now64(3) AS stored " + selecting(at="stored")),
        },
        {
            "payments": PAYMENTS,
            "payments_mv": view(selecting(at="now64(3)")),
            "totals": "CREATE TABLE totals (at DateTime, n UInt64) ENGINE = ReplacingMergeTree ORDER BY at",
            "totals_mv": "CREATE MATERIALIZED VIEW totals_mv REFRESH EVERY 1 HOUR APPEND TO totals AS"
            " SELECT now() AS at, count() AS n FROM payments",
        },
    ),
    "a clock by default": (
        "unstable-key",
        {
            "payments": "CREATE TABLE payments (id UInt32, name String, at DateTime64(3) DEFAULT now64(3))"
            " ENGINE = ReplacingMergeTree ORDER BY (id, at)",
            "payments_mv": view("SELECT toUInt32OrZero(message) AS id, _key AS name FROM queue"),
        },
        {
            "payments": "CREATE TABLE payments (id UInt32, name String, at DateTime64(3) DEFAULT now64(3))"
            " ENGINE = MergeTree ORDER BY (id, at)",
        },
    ),
    "a column that the table does not have": (
        "view-columns",
        {"payments_mv": view(GOOD.replace("AS name", "AS nmae, '' AS name"))},
        {},
    ),
    "a column that is left unsaid": ("view-columns", {"payments_mv": view(GOOD.replace("_key AS name, ", ""))}, {}),
    "a column that can't be written": (
        "view-columns",
        {"payments": PAYMENTS.replace("name String", "name String MATERIALIZED 'a'")},
        {
            "payments": PAYMENTS.replace("name String", "name String DEFAULT 'a'"),
            "payments_mv": view(GOOD.replace("_key AS name, ", "")),
        },
    ),
    "no such table": ("view-columns", {"payments_mv": view(GOOD, to="payment")}, {}),
    "a column that a repair would blank": (
        "repair-columns",
        {"payments_to_repair": "CREATE VIEW payments_to_repair AS SELECT p.id AS id, at FROM payments AS p FINAL"},
        {
            "payments_to_repair": "CREATE VIEW payments_to_repair AS SELECT p.*, 1 AS n FROM payments AS p FINAL",
            "orders_to_repair": "CREATE VIEW orders_to_repair AS SELECT id FROM payments",
        },
    ),
    "a column that repairs need not write": (
        "repair-columns",
        {"payments_to_repair": "CREATE VIEW payments_to_repair AS SELECT id, name FROM payments"},
        {
            "payments": PAYMENTS.replace("name String", "name String, size UInt64 MATERIALIZED length(name)"),
            "payments_to_repair": "CREATE VIEW payments_to_repair AS SELECT id, name, at FROM payments",
        },
    ),
    "a number that wraps": (
        "view-types",
        {"payments_mv": view(selecting(id="_offset"))},
        {"payments": PAYMENTS.replace("id UInt32", "id UInt64"), "payments_mv": view(selecting(id="_offset"))},
    ),
    "a NULL": (
        "view-types",
        {"payments_mv": view(selecting(at="_timestamp_ms"))},
        {"payments": PAYMENTS.replace("DateTime64(3, 'UTC')", "Nullable(DateTime64(3, 'UTC'))")},
    ),
    "SummingMergeTree": (
        "summing-target",
        {"payments": PAYMENTS.replace("Replacing", "Summing")},
        {"payments": PAYMENTS.replace("Replacing", "Aggregating")},
    ),
    "a sum in the view": (
        "summing-target",
        {
            "payments_mv": view(
                "SELECT toUInt32(count()) AS id, _key AS name, max(toDateTime64(0, 3)) AS at FROM queue GROUP BY _key"
            )
        },
        {
            "payments_mv": view(
                "SELECT max(toUInt32(_partition)) AS id, _key AS name, max(toDateTime64(0, 3)) AS at"
                " FROM queue GROUP BY name"
            )
        },
    ),
    "a sum in a view with an engine of its own": (
        "summing-target",
        {
            "totals_mv": "CREATE MATERIALIZED VIEW totals_mv ENGINE = AggregatingMergeTree ORDER BY name"
            " AS SELECT _key AS name, sumState(length(message)) AS size FROM queue GROUP BY name"
        },
        {
            "totals_mv": "CREATE MATERIALIZED VIEW totals_mv ENGINE = AggregatingMergeTree ORDER BY name"
            " AS SELECT _key AS name, maxState(length(message)) AS size FROM queue GROUP BY name"
        },
    ),
    "a view that is asked": (
        "queue-select",
        {"report": "CREATE VIEW report AS SELECT count() AS messages FROM queue"},
        {"report": "CREATE VIEW report AS SELECT count() AS messages FROM payments"},
    ),
    "a view that is refreshed": (
        "queue-select",
        {
            "report": "CREATE MATERIALIZED VIEW report REFRESH EVERY 1 MINUTE TO merchants AS"
            " SELECT toUInt32(1) AS id, message AS name, toDecimal32(0, 2) AS rate FROM queue"
        },
        {
            "report": "CREATE MATERIALIZED VIEW report REFRESH EVERY 1 MINUTE TO merchants AS"
            " SELECT id, name, toDecimal32(0, 2) AS rate FROM payments"
        },
    ),
    "a dictionary": ("queue-select", {"merchants_dict": DICTIONARY.replace("'merchants'", "'queue'")}, {}),
}


@pytest.mark.parametrize(("rule", "broken", "kept"), BREAKS.values(), ids=BREAKS)
def test_a_rule_finds_what_breaks_it_and_nothing_else(lint, rule, broken, kept):
    findings = lint(**broken)
    assert {finding.rule for finding in findings} == {rule}, [str(finding) for finding in findings]
    for finding in findings:
        assert (
            str(finding).startswith(f"{finding.path}:{finding.line}: {rule} '{finding.object}': ")
            and str(finding).count("\n") == 0
        )
        assert str(finding).endswith(".") and ".." not in str(finding)
    if kept:
        assert [str(finding) for finding in lint(**(broken | kept))] == []


def test_every_rule_is_broken_by_a_test_and_described():
    assert {rule.id for rule in RULES} == {rule for rule, _, _ in BREAKS.values()}
    page = (CHECKOUT / "docs/lint.md").read_text()
    for rule, reason in REASONS.items():
        assert f"## {rule}\n" in page, f"docs/lint.md has no {rule}"
        assert reason in " ".join(page.split()), f"docs/lint.md gives another reason for {rule}"


def test_a_finding_names_the_line(lint):
    select = GOOD.replace("toUInt32OrZero(message)", "\n-- why\ntoUInt32(message)")
    [finding] = lint(payments_mv=view(select))
    assert (finding.path, finding.line, finding.object) == ("sql/1_ingest/payments_mv.sql", 3, "payments_mv")
    assert "toUInt32(message)" in finding.cause and "toUInt32OrNull" in finding.what_next


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("-- lint: waive throwing-conversion because the producer is ours", []),
        ("-- lint: waive throwing-conversion: because it may stop", []),
        ("-- lint: waive throwing-conversion", [(WAIVER, "without a reason"), ("throwing-conversion", "throws")]),
        (
            "-- lint: waive throwing-conversion because …",
            [(WAIVER, "without a reason"), ("throwing-conversion", "throws")],
        ),
        ("-- lint: waive throwing because I say so", [(WAIVER, "no rule throwing"), ("throwing-conversion", "throws")]),
        ("-- lint: off", [(WAIVER, "says nothing"), ("throwing-conversion", "throws")]),
        (
            "-- lint: waive throwing-conversion because it may\n-- lint: waive ingest-join because it was small",
            [(WAIVER, "nothing here breaks ingest-join any more")],
        ),
    ],
)
def test_a_waiver(lint, comment, expected):
    findings = lint(payments_mv=f"{comment}\n{view(selecting(id='toUInt32(message)'))}")
    assert len(findings) == len(expected), findings
    for finding, (rule, words) in zip(findings, expected, strict=True):
        assert finding.rule == rule and words in finding.cause


def test_a_waiver_holds_for_its_file_alone(lint):
    findings = lint(
        payments="-- lint: waive throwing-conversion because not here\n" + PAYMENTS,
        payments_mv=view(selecting(id="toUInt32(message)")),
    )
    assert [(finding.rule, finding.object) for finding in findings] == [
        (WAIVER, "payments"),
        ("throwing-conversion", "payments_mv"),
    ]


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "no statement"),
        ("CREATE VIEW extra AS SELECT", "without columns"),
        ("CREATE VIEW extra AS", "has no SELECT"),
        ("CREATE TABLE extra (a UInt8)", "has no ENGINE"),
        ("CREATE TABLE extra (a UInt8) ENGINE = Null; CREATE TABLE b (a UInt8) ENGINE = Null", "2 statements"),
        ("CREATE TABLE other (a UInt8) ENGINE = Null", "its object is named other"),
        ("DROP TABLE extra", "no CREATE"),
    ],
)
def test_a_file_that_is_not_one_object(lint, text, cause):
    [finding] = lint(extra=text)
    assert (finding.rule, finding.path) == (FILE, "sql/1_ingest/extra.sql")
    assert cause in finding.cause and "\n" not in str(finding) and "\x1b" not in str(finding)


@pytest.mark.parametrize("text", ["CREATE TABLE extra (a UInt8", "CREATE TABLE extra (a UInt8) ENGINE = Null 'x"])
def test_a_file_that_the_linter_does_not_understand(lint, text):
    [finding] = lint(extra=text)
    assert (finding.rule, finding.path) == (UNREAD, "sql/1_ingest/extra.sql")
    assert "cannot be parsed" in finding.cause and "\n" not in str(finding) and "\x1b" not in str(finding)


@pytest.mark.parametrize("name", NEWER_THAN_THE_PARSER)
def test_what_is_newer_than_the_parser_can_be_waived(lint, name):
    text = NEWER_THAN_THE_PARSER[name]
    [finding] = lint(extra=text)
    assert (finding.rule, finding.what_next) == (
        UNREAD, "Correct it, or check it yourself and write `-- lint: waive unread because …`"
    )  # fmt: skip
    waived = f"-- lint: waive unread because the server has this and the linter not\n{text}"
    assert lint(extra=waived) == []
    # Waivers that its rules would need, if one could look, are none without a use.
    assert lint(extra=f"-- lint: waive unstable-key because nothing is deduplicated\n{waived}") == []
    [without_reason] = [finding for finding in lint(extra=f"-- lint: waive unread\n{text}") if finding.rule == WAIVER]
    assert without_reason.cause == "it waives unread without a reason"


def test_a_waiver_of_a_file_that_is_read_is_without_use(lint):
    [finding] = lint(payments=f"-- lint: waive unread because it was\n{PAYMENTS}")
    assert (finding.rule, finding.cause) == (WAIVER, "nothing here breaks unread any more")


def test_a_file_that_cannot_be_read_is_the_only_finding(lint):
    for name in ("payments", "merchants_dict", "queue"):
        named = "ifNull(dictGetOrNull('merchants_dict', 'name', 1), '')"
        [finding] = lint(payments_mv=view(selecting(name=named)), **{name: f"CREATE TABLE {name} ("})
        assert (finding.rule, finding.object) == (UNREAD, name)
        lint(**{name: {"payments": PAYMENTS, "merchants_dict": DICTIONARY, "queue": QUEUE}[name]})


def test_views_that_read_each_other(lint):
    findings = lint(
        a="CREATE VIEW a AS SELECT * FROM b", b="CREATE VIEW b AS SELECT * FROM a", c="CREATE VIEW c AS SELECT x FROM c"
    )
    assert [(finding.object, finding.cause) for finding in findings] == [(name, "it reads itself") for name in "abc"]


def test_the_command_without_a_server(tmp_path, lint, paystream_here, free_port):
    settings = Settings(
        _env_file=None, home=tmp_path / "home", clickhouse_host="127.0.0.1", clickhouse_port=free_port()
    )
    lint()
    folder = ["--folder", str(tmp_path)]
    code, out, err = paystream_here(settings, "migrate", "lint", *folder)
    assert (code, out) == (0, 'migrate_lint findings=0 types="by files"\n')
    assert len(err) == 1 and err[0].startswith(
        "note: types are compared only where the files say them: ClickHouse '127."
    )

    lint(payments_mv=view(selecting(id="toUInt32(message)")))
    code, out, err = paystream_here(settings, "migrate", "lint", "--offline", *folder)
    assert code == 1 and "migrate_finding rule=throwing-conversion path=sql/1_ingest/payments_mv.sql line=1 " in out
    assert len(err) == 1 and "1 finding. Correct each, or waive it" in err[0]

    code, out, err = paystream_here(settings, "migrate", "lint", "--offline", "--json", *folder)
    assert code == 1
    [finding] = json.loads(out)["findings"]
    assert finding["rule"] == "throwing-conversion" and finding["reason"] == REASONS["throwing-conversion"]

    code, out, err = paystream_here(settings, "migrate", "lint", "--folder", str(tmp_path / "nothing"))
    assert (code, out) == (2, "") and len(err) == 1 and "has no sql/ and no dictionaries/" in err[0]
