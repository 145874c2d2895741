"""`paystream migrate new`, `plan`, `check` and `lock` on the real engine: what they write, explain, find and refuse."""

import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from checkouts import Checkout, following
from databases import drop_database
from newer_sql import NEWER_THAN_THE_PARSER

from paystream.clickhouse import connect
from paystream.errors import CheckFailed, UsageError
from paystream.migrations import named_collection, runner
from paystream.migrations.check import check_database, check_files
from paystream.migrations.freeze import freeze
from paystream.migrations.history import read_history
from paystream.migrations.lineage import Lineage
from paystream.migrations.lint import lint_files
from paystream.migrations.plan import Step
from paystream.migrations.schema_graph import read_graph
from paystream.project import CHECKOUT
from paystream.settings import Settings


@pytest.fixture
def database(clickhouse_server: Settings, tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Settings]:
    """A database of the test's own with the newest version, dropped after it."""
    name = f"drafts_{uuid.uuid4().hex[:12]}"
    changes = {"home": tmp_path / "home", "clickhouse_database": name, "kafka_brokers": f"127.0.0.1:{free_port()}"}
    settings = clickhouse_server.model_copy(update=changes | {"kafka_group": name})
    runner.up(settings)
    yield settings
    drop_database(settings)


def beginnings(statements: tuple[str, ...]) -> list[str]:
    """Return the first line of each statement that is no comment."""
    return [
        next(line for line in text.splitlines() if line and not line.startswith(("--", "/*"))) for text in statements
    ]


def test_files_that_say_the_same_give_no_version(checkout: Checkout, engine: Settings) -> None:
    assert check_files(checkout.root) == []
    checkout.edit("transactions_queue", ("kafka_flush_interval_ms = 100,  ", "kafka_flush_interval_ms=100, -- soon"))
    checkout.edit("audits", ("unchecked   UInt64", "unchecked   BIGINT UNSIGNED"))
    before = sorted(checkout.versions.iterdir())
    assert check_files(checkout.root, engine) == []
    assert checkout.new("nothing", engine).version is None
    assert sorted(checkout.versions.iterdir()) == before
    with pytest.raises(UsageError, match="Name 'Bad-name' cannot be a version's"):
        checkout.new("Bad-name", engine)


def test_windows_line_ends_are_no_edit_and_give_the_same_schema(checkout: Checkout, engine: Settings) -> None:
    """A checkout with ``core.autocrlf=true``."""
    for path in filter(Path.is_file, checkout.root.rglob("*")):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    theirs = [version.statements for version in read_history(checkout.versions)]
    assert theirs == [version.statements for version in read_history()]
    assert check_files(checkout.root, engine) == []


def test_a_column_on_its_way_from_the_topic_to_the_report(checkout: Checkout, engine: Settings) -> None:
    checkout.add_channel()
    differences = {difference.name: difference for difference in check_files(checkout.root, engine)}
    changed = ["merchant_slots", "merchant_slots_mv", "report_channels_by_day", "transactions", "transactions_current"]
    changed += ["transactions_mv", "transactions_parsed", "transactions_parsed_mv", "transactions_to_repair"]
    assert sorted(differences) == changed
    assert differences["transactions"].diff == ("+     `channel` LowCardinality(String),",)

    draft = checkout.new("add_channel", engine)
    assert (draft.version, draft.unwritten) == (following("add_channel"), 0)
    assert beginnings(draft.statements) == [
        "CREATE OR REPLACE VIEW transactions_current AS",
        "ALTER TABLE merchant_slots",
        "ALTER TABLE transactions",
        "ALTER TABLE transactions_parsed",
        "CREATE VIEW report_channels_by_day AS",
        "CREATE OR REPLACE VIEW transactions_current AS",
        "CREATE OR REPLACE VIEW transactions_to_repair AS",
        "ALTER TABLE merchant_slots_mv MODIFY QUERY",
        "ALTER TABLE transactions_mv MODIFY QUERY",
        "ALTER TABLE transactions_parsed_mv MODIFY QUERY",
    ]
    assert "ADD COLUMN channel LowCardinality(String) AFTER status" in draft.statements[2]
    assert check_files(checkout.root) == []
    assert read_history(checkout.versions)[-1].irreversible() == []


def test_what_sqlglot_does_not_parse_is_migrated(checkout: Checkout, engine: Settings) -> None:
    text = NEWER_THAN_THE_PARSER["statistics of a column"]
    (checkout.root / "sql/2_store/extra.sql").write_text(text)
    [difference] = check_files(checkout.root, engine)
    assert (difference.name, difference.how) == ("extra", "new")
    draft = checkout.new("extra", engine)
    assert (draft.statements, draft.unwritten) == ((f"{text};",), 0)
    assert check_files(checkout.root) == []


def test_a_view_that_the_server_refreshes(checkout: Checkout, engine: Settings) -> None:
    """Its table has what the linter, the lineage and the draft meet first in such tables, too."""
    folder = checkout.root / "sql/4_report"
    (folder / "merchant_hours.sql").write_text(
        "CREATE TABLE merchant_hours\n(\n    merchant_id UInt32,\n    hour DateTime('UTC'),\n"
        "    amount Decimal(38, 4),\n"
        "    parts Array(Tuple(status LowCardinality(String), transactions UInt64)),\n"
        "    rates Nested(currency String, rate Float64),\n    computed_at DateTime64(3) DEFAULT now64(3),\n"
        "    INDEX by_time computed_at TYPE minmax\n)\nENGINE = ReplacingMergeTree(computed_at)\n"
        "ORDER BY (merchant_id, hour)\nTTL hour + INTERVAL 400 DAY"
    )
    select = (
        "SELECT merchant_id, toStartOfHour(toDateTime(created_at, 'UTC')) AS hour,\n"
        "    toDecimal128(sum(transactions_current.amount), 4) AS amount,\n"
        "    [CAST(('all', count()), 'Tuple(status LowCardinality(String), transactions UInt64)')] AS parts,\n"
        "    groupArray(currency) AS `rates.currency`, groupArray(toFloat64(1)) AS `rates.rate`,\n"
        "    now64(3) AS computed_at\n"
        "FROM transactions_current GROUP BY merchant_id, hour"
    )
    for name, schedule in (
        ("merchant_hours_mv", "EVERY 40 SECOND"),
        ("late_mv", "EVERY 1 HOUR DEPENDS ON merchant_hours_mv"),
    ):
        (folder / f"{name}.sql").write_text(
            f"CREATE MATERIALIZED VIEW {name}\nREFRESH {schedule} APPEND TO merchant_hours AS\n{select}"
        )
    graph = read_graph(checkout.root)
    assert graph.unreadable == () and "merchant_hours_mv" not in graph.ingest_views
    with connect(engine, database="") as client:
        findings = [*lint_files(checkout.root), *lint_files(checkout.root, client)]
    assert [str(finding) for finding in findings if "merchant_hours" in finding.path or "late_mv" in finding.path] == []
    [amount] = [step for step in Lineage(graph).steps["merchant_hours.amount"] if step.by == "merchant_hours_mv"]
    assert amount.of == ("transactions_current.amount",)

    def statements(name: str) -> list[str]:
        draft = checkout.new(name, engine)
        assert draft.unwritten == 0, draft.statements
        return beginnings(draft.statements)

    assert statements("create") == [
        "CREATE TABLE merchant_hours",
        "CREATE MATERIALIZED VIEW late_mv",
        "CREATE MATERIALIZED VIEW merchant_hours_mv",
    ]
    checkout.edit(
        "merchant_hours_mv", ("EVERY 40 SECOND", "EVERY 50 SECOND OFFSET 10 SECOND SETTINGS refresh_retries = 3")
    )
    assert statements("schedule") == [
        "ALTER TABLE merchant_hours_mv"
        " MODIFY REFRESH EVERY 50 SECOND OFFSET 10 SECOND SETTINGS refresh_retries = 3 APPEND;"
    ]
    checkout.edit("merchant_hours_mv", ("count()", "count() + 1"))
    assert statements("query") == ["ALTER TABLE merchant_hours_mv MODIFY QUERY"]
    # Both at once, with a column that the table gets for it.
    checkout.edit(
        "late_mv",
        ("EVERY 1 HOUR", "EVERY 2 HOUR"),
        ("count()", "count() + 1"),
    )
    checkout.edit(
        "merchant_hours", ("400 DAY", "500 DAY"), ("    INDEX", "    day Date MATERIALIZED toDate(hour),\n    INDEX")
    )
    assert statements("both") == [
        "ALTER TABLE merchant_hours",
        "ALTER TABLE merchant_hours MATERIALIZE COLUMN day;",
        "ALTER TABLE merchant_hours MODIFY TTL hour + toIntervalDay(500);",
        "ALTER TABLE late_mv MODIFY REFRESH EVERY 2 HOUR DEPENDS ON merchant_hours_mv APPEND;",
        "ALTER TABLE late_mv MODIFY QUERY",
    ]
    # What no ALTER does. Ingest goes on: nothing passes through such a view.
    (folder / "other_hours.sql").write_text(
        checkout.path("merchant_hours").read_text().replace("merchant_hours", "other_hours")
    )
    checkout.edit("late_mv", ("TO merchant_hours", "TO other_hours"))
    assert statements("target") == [
        "CREATE TABLE other_hours",
        "DROP VIEW IF EXISTS late_mv SYNC;",
        "CREATE MATERIALIZED VIEW late_mv",
    ]
    checkout.edit("late_mv", ("APPEND TO", "TO"))
    assert statements("exchanged") == ["DROP VIEW IF EXISTS late_mv SYNC;", "CREATE MATERIALIZED VIEW late_mv"]
    for name in ("late_mv", "other_hours", "merchant_hours_mv", "merchant_hours"):
        checkout.path(name).unlink()
    assert statements("drop") == [
        "DROP VIEW IF EXISTS late_mv SYNC;",
        "DROP VIEW IF EXISTS merchant_hours_mv SYNC;",
        "DROP TABLE IF EXISTS merchant_hours SYNC;",
        "DROP TABLE IF EXISTS other_hours SYNC;",
    ]


def test_each_kind_of_change_has_its_statement(checkout: Checkout, engine: Settings) -> None:
    checkout.edit(
        "quarantine", ("90 DAY", "30 DAY"), ("    kafka_key       String", "    kafka_key       String CODEC(ZSTD(1))")
    )
    checkout.path("quarantine").write_text(checkout.path("quarantine").read_text().rstrip() + "\nCOMMENT 'refused'\n")
    checkout.edit("ingest_ledger", ("ttl_only_drop_parts = 1", "ttl_only_drop_parts = 1, merge_with_ttl_timeout = 60"))
    checkout.edit(
        "fx_rates_history", ("    snapshot_id        UInt32", "    snapshot_id UInt64,\n    INDEX r rate TYPE minmax")
    )
    checkout.edit("transactions", ("TYPE set(4)", "TYPE set(8)"))  # the first of two
    checkout.edit("merchants", ("    merchant_name String,", "    merchant_name LowCardinality(String),"))
    checkout.edit("merchants_dict", ("HASHED()", "HASHED_ARRAY()"))
    checkout.edit("dimension_snapshots", ("    source      String,\n", ""))
    checkout.path("audits").unlink()
    (checkout.root / "sql/2_store/notes.sql").write_text("CREATE TABLE notes (x UInt8) ENGINE = MergeTree ORDER BY x")
    (checkout.root / "sql/4_report/a_report.sql").write_text("CREATE VIEW a_report AS SELECT x FROM notes -- all;")
    checkout.shorten_flush()
    draft = checkout.new("much", engine)
    assert beginnings(draft.statements) == [
        "DROP TABLE IF EXISTS transactions_queue SYNC;",
        "ALTER TABLE fx_rates_history",
        "ALTER TABLE fx_rates_history MATERIALIZE INDEX r;",
        "SELECT throwIf(1, 'WRITE THIS STEP');",
        "ALTER TABLE ingest_ledger MODIFY SETTING merge_with_ttl_timeout = 60;",
        "ALTER TABLE merchants MODIFY COLUMN merchant_name LowCardinality(String);",
        "CREATE TABLE notes (x UInt8) ENGINE = MergeTree ORDER BY x;",
        "SELECT 'changes nothing: its rollback removes what the next step adds';",
        "ALTER TABLE quarantine MODIFY COLUMN kafka_key String CODEC(ZSTD(1));",
        "ALTER TABLE quarantine MODIFY TTL toDateTime(quarantined_at) + toIntervalDay(30);",
        "ALTER TABLE quarantine MODIFY COMMENT 'refused';",
        "CREATE VIEW a_report AS SELECT x FROM notes -- all",
        "CREATE OR REPLACE DICTIONARY merchants_dict",
        "SYSTEM RELOAD DICTIONARY merchants_dict;",
        "ALTER TABLE dimension_snapshots DROP COLUMN IF EXISTS source;",
        "ALTER TABLE transactions DROP INDEX IF EXISTS pending;",
        "ALTER TABLE transactions ADD INDEX pending enrichment_status TYPE set(8) GRANULARITY 1 FIRST;",
        "ALTER TABLE transactions MATERIALIZE INDEX pending;",
        "DROP TABLE IF EXISTS audits SYNC;",
        "CREATE TABLE transactions_queue",
    ]
    # No ALTER changes the type of what a table is partitioned by: that is left to a person, and nothing is locked.
    assert draft.unwritten == 1
    assert "snapshot_id is UInt32 and becomes UInt64: a key is made of it" in draft.statements[3]
    with pytest.raises(UsageError, match=rf"'{following('much')}' is not in the lock file"):
        read_history(checkout.versions)
    assert {difference.name for difference in check_files(checkout.root, engine)} >= {
        following("much"),
        "audits",
        "notes",
    }
    with pytest.raises(UsageError, match=rf"'{following('much')}' is not finished: step 4 has the mark"):
        freeze(None, checkout.root, engine)

    # Somebody decides otherwise and takes the step out: then it can be frozen.
    checkout.edit("fx_rates_history", ("snapshot_id UInt64", "snapshot_id UInt32"))
    for suffix, mark in (
        (".sql", "SELECT throwIf(1, 'WRITE THIS STEP');"),
        (".rollback.sql", "SELECT 'WRITE THIS STEP: what takes it back';"),
    ):
        path = checkout.versions / f"{following('much')}{suffix}"
        assert mark in path.read_text()
        path.write_text(path.read_text().replace(mark, "SELECT 'nothing';"))
    assert freeze(None, checkout.root, engine).locked == (following("much"),)
    assert check_files(checkout.root) == []
    version = read_history(checkout.versions)[-1]
    assert version.irreversible() == [
        "the values of dimension_snapshots.source do not come back",
        "the rows of audits do not come back",
    ]


def test_a_dictionary_is_loaded_again_when_its_source_view_changes(checkout: Checkout, engine: Settings) -> None:
    checkout.edit("fx_rate_periods", ("rate_date + 10", "rate_date + 11"))
    draft = checkout.new("longer", engine)
    assert draft.unwritten == 0
    assert beginnings(draft.statements)[-2:] == [
        "CREATE OR REPLACE VIEW fx_rate_periods AS",
        "SYSTEM RELOAD DICTIONARY fx_rates_dict;",
    ]
    # Taken back, it is loaded after the view is as it was.
    assert read_history(checkout.versions)[-1].rollbacks[0].strip() == "SYSTEM RELOAD DICTIONARY fx_rates_dict;"


def test_a_kafka_table_and_its_view_that_change_together(checkout: Checkout, engine: Settings) -> None:
    checkout.shorten_flush()
    checkout.edit("transactions_parsed_mv", ("AS kafka_timestamp", "AS kafka_time"))
    checkout.edit("transactions_parsed", ("    kafka_timestamp DateTime64", "    kafka_time DateTime64"))
    for name in ("quarantine_mv", "transactions_mv"):
        checkout.edit(name, ("    kafka_timestamp,", "    kafka_time AS kafka_timestamp,"))
    text = checkout.path("ledger_mv").read_text()
    checkout.path("ledger_mv").write_text(
        text.replace("kafka_timestamp)", "kafka_time)").replace("kafka_timestamp >", "kafka_time >")
    )
    draft = checkout.new("rename", engine)
    # Were rows to pass while one view writes the old name and the next reads the new one, their values would be lost.
    assert [line.split(" AS")[0].rstrip(";") for line in beginnings(draft.statements)] == [
        "DROP VIEW IF EXISTS transactions_parsed_mv SYNC",
        "DROP TABLE IF EXISTS transactions_queue SYNC",
        "ALTER TABLE transactions_parsed",
        "ALTER TABLE ledger_mv MODIFY QUERY",
        "ALTER TABLE quarantine_mv MODIFY QUERY",
        "ALTER TABLE transactions_mv MODIFY QUERY",
        "ALTER TABLE transactions_parsed DROP COLUMN IF EXISTS kafka_timestamp",
        "CREATE TABLE transactions_queue",
        "CREATE MATERIALIZED VIEW transactions_parsed_mv TO transactions_parsed",
    ]
    assert draft.unwritten == 0


def test_a_file_that_the_engine_refuses_is_named(checkout: Checkout, engine: Settings) -> None:
    checkout.edit("report_merchant_by_day", ("p.amount AS amount", "p.amuont AS amount"))
    with pytest.raises(
        UsageError, match=r"SQL file 'sql/4_report/report_merchant_by_day\.sql' cannot be used: .*amuont"
    ):
        checkout.new("typo", engine)
    assert len(list(checkout.versions.glob("*_typo*"))) == 0


def test_drift_of_a_database_is_found_and_named(
    database: Settings, paystream_here: Callable[..., tuple[int, str, list[str]]]
) -> None:
    assert paystream_here(database, "migrate", "check") == (0, "migrate_check status=ok differences=0\n", [])
    with connect(database) as client:
        client.command("ALTER TABLE quarantine ADD COLUMN extra UInt8 AFTER reason")
        client.command("ALTER TABLE quarantine MODIFY TTL toDateTime(quarantined_at) + INTERVAL 7 DAY")
        client.command("CREATE OR REPLACE VIEW transactions_current AS SELECT * FROM transactions")
        client.command("DROP VIEW report_merchant_by_day")
        client.command("CREATE TABLE mine (x UInt8) ENGINE = Null")
        client.command("DETACH TABLE transactions_queue SYNC")
        client.command("CREATE TABLE merchants_staging_0123456789ab AS merchants")  # a refresh that is under way
    differences = {difference.name: (difference.how, difference.diff) for difference in check_database(database)}
    assert differences == {
        "mine": ("unknown", ()),
        "quarantine": (
            "differs",
            (
                "+     `extra` UInt8,",
                "- TTL toDateTime(quarantined_at) + toIntervalDay(90)",
                "+ TTL toDateTime(quarantined_at) + toIntervalDay(7)",
            ),
        ),
        "report_merchant_by_day": ("missing", ()),
        "transactions_current": ("differs", differences["transactions_current"][1]),
        "transactions_queue": ("detached", ()),
    }
    assert "- SETTINGS do_not_merge_across_partitions_select_final = 1" in differences["transactions_current"][1]

    code, out, [error] = paystream_here(database, "migrate", "check", "--json")
    assert code == 1
    assert [difference["name"] for difference in json.loads(out)["differences"]] == sorted(differences)
    assert error.startswith("error: Schema of 'mine, quarantine, ") and error.endswith(".")
    assert paystream_here(database, "migrate", "check", "--offline")[0] == 0


def test_a_database_named_by_a_word_of_sql_has_not_drifted(database: Settings) -> None:
    settings = database.model_copy(update={"clickhouse_database": "select"})
    runner.up(settings)
    try:
        assert check_database(settings) == []
    finally:
        runner.down(settings, everything=True, allow_destructive=True)


def test_a_scratch_engine_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    program = (
        "from paystream.migrations.scratch import scratch_engine\n"
        "with scratch_engine() as engine:\n"
        "    print(engine.clickhouse_port, flush=True)\n"
        "    input()\n"
    )
    pipe = subprocess.PIPE
    command, env = [sys.executable, "-c", program], os.environ | {"TMPDIR": str(tmp_path)}  # its folder stays behind
    with subprocess.Popen(command, cwd=CHECKOUT, env=env, stdin=pipe, stdout=pipe) as process:
        port = int(process.stdout.readline())
        process.kill()
    deadline = time.monotonic() + 10
    while _listens(port):
        assert time.monotonic() < deadline, "the engine still runs"
        time.sleep(0.1)


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def test_a_plan_is_what_up_runs(
    database: Settings, checkout: Checkout, engine: Settings, paystream_here: Callable[..., tuple[int, str, list[str]]]
) -> None:
    nothing = 'migrate_plan status="nothing to do" statements=0 destructive=0\n'
    assert paystream_here(database, "migrate", "plan") == (0, nothing, [])
    assert paystream_here(database, "migrate", "up", "--dry-run") == (0, nothing, [])

    with connect(database) as client:
        client.command("INSERT INTO dimension_snapshots (source) VALUES ('a'), ('b'), ('c')")
    checkout.edit("dimension_snapshots", ("    source      String,\n", ""))
    checkout.edit("report_merchant_by_day", ("p.amount AS amount", "p.amount + 0 AS amount"))
    checkout.edit("quarantine_mv", ("message AS raw_message", "upper(message) AS raw_message"))
    checkout.new("drop_source", engine)
    steps = runner.plan(database, checkout.versions)
    assert [(step.number, step.means) for step in steps] == [
        (1, "replaces report_merchant_by_day at once; ingest goes on"),
        (2, "replaces the view quarantine_mv; ingest goes on, a block under way is written as before"),
        (3, "dimension_snapshots: drops column source: values of 3 rows gone for good; irreversible"),
    ]
    with pytest.raises(
        UsageError, match=rf"'{following('drop_source')}' would lose data in step 3: .*--allow-destructive"
    ):
        runner.up(database, checkout.versions)
    assert check_database(database) == []
    runner.up(database, checkout.versions, allow_destructive=True)
    assert check_database(database, checkout.versions) == []
    assert runner.plan(database, checkout.versions) == []
    with pytest.raises(
        UsageError, match=rf"'{following('drop_source')}' cannot be taken back as it was: the values of dimension"
    ):
        runner.down(database, checkout.versions)
    with pytest.raises(UsageError, match=rf"Version '{following('drop_source')}' is applied, but not among the files"):
        runner.up(database)
    runner.down(database, checkout.versions, allow_destructive=True)
    assert check_database(database) == []


def test_a_plan_before_there_is_a_database(clickhouse_server: Settings, tmp_path: Path) -> None:
    settings = clickhouse_server.model_copy(update={"clickhouse_database": f"none_{uuid.uuid4().hex[:12]}"})
    steps = runner.plan(settings)
    assert steps[0] == Step(
        "", 1, "apply", f"CREATE DATABASE IF NOT EXISTS `{settings.clickhouse_database}`", "creates the database"
    )
    assert [step.statement for step in steps if step.version] == [
        named_collection.own(text, settings.clickhouse_database)
        for version in read_history()
        for text in version.statements
    ]
    assert not any(step.destructive for step in steps)
    [missing] = check_database(settings)
    assert (missing.name, missing.how) == (settings.clickhouse_database, "missing")


def test_a_server_that_cannot_be_reached(
    clickhouse_server: Settings, paystream_here: Callable[..., tuple[int, str, list[str]]], tmp_path: Path, free_port
) -> None:
    settings = clickhouse_server.model_copy(update={"clickhouse_port": free_port(), "home": tmp_path / "home"})
    for command in ("plan", "check", "up", "status"):
        code, _, [error] = paystream_here(settings, "migrate", command)
        assert code == 3 and "cannot be reached" in error


def test_an_edited_version_stops_new_and_lock(checkout: Checkout, engine: Settings) -> None:
    path = checkout.versions / "0005_quarantine_replays.sql"
    path.write_text(path.read_text().replace("INTERVAL 1 YEAR", "INTERVAL 2 YEAR"))
    for run in (lambda: checkout.new("more", engine), lambda: freeze(None, checkout.root, engine)):
        with pytest.raises(UsageError, match="Version '0005_quarantine_replays' was edited"):
            run()
    # Frozen anew it would no longer give what the files say.
    with pytest.raises(CheckFailed, match="does not give what the files say: quarantine_replays"):
        freeze("0005_quarantine_replays", checkout.root, engine)


def test_new_on_the_command_line_has_nothing_to_write(
    clickhouse_server: Settings, paystream: Callable[..., subprocess.Popen], tmp_path: Path
) -> None:
    settings = clickhouse_server.model_copy(update={"home": tmp_path / "home"})
    process = paystream(settings, "migrate", "new", "nothing")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (
        0,
        'migrate_new status="nothing to do" version=none statements=0 unwritten=0\n',
        "",
    )


def test_a_change_of_many_lines_that_no_alter_does_is_a_marked_place(checkout: Checkout, engine: Settings) -> None:
    last = "        failed                 UInt64,\n"
    counted = "                arraySum(p -> if(p.status = 'failed', p.transactions, 0), own),\n"
    edits = [(last, last + last.replace("failed  ", "disputed")), (counted, counted + counted.replace("failed", "new"))]
    checkout.edit("merchant_days", *edits)
    draft = checkout.new("add_disputed", engine)
    assert draft.unwritten == 1
    # It can be read, though not applied: all of the mark's reason is a comment.
    assert read_history(checkout.versions, finished=False)[-1].unwritten_steps() == [1]
