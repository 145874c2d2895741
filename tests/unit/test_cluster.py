"""The schema's statements for a cluster: what becomes of each kind, and of all versions."""

import json
import re
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest

from paystream.errors import UsageError
from paystream.migrations import named_collection, runner
from paystream.migrations.cluster import Cluster, cluster_of, render, rendered
from paystream.migrations.history import read_history
from paystream.migrations.schema_graph import read_graph
from paystream.project import CHECKOUT
from paystream.settings import Settings

GOLDEN = Path(__file__).with_name("cluster_of_all_versions.sql")
CLUSTER = Cluster(
    "c", "d", {"payments": "cityHash64(transaction_id)"}, {"sums": "SummingMergeTree", "latest": "ReplacingMergeTree"}
)
SHARDED = "'/clickhouse/tables/{uuid}/{shard}', '{replica}'"
WHOLE = "'/clickhouse/tables/{uuid}/all', '{shard}-{replica}'"
DISTRIBUTED = "ENGINE = Distributed('c', 'd', 'payments_local', cityHash64(transaction_id))"


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (
            "-- Why; and how.\nCREATE TABLE payments\n(\n    a UInt8 -- ENGINE = Log\n)\n"
            "ENGINE = ReplacingMergeTree(a)\nORDER BY a;",
            [
                "-- Why; and how.\nCREATE TABLE payments_local ON CLUSTER c\n(\n    a UInt8 -- ENGINE = Log\n)\n"
                f"ENGINE = ReplicatedReplacingMergeTree({SHARDED}, a)\nORDER BY a",
                f"CREATE TABLE payments ON CLUSTER c AS payments_local\n{DISTRIBUTED}",
            ],
        ),
        (
            "CREATE TABLE IF NOT EXISTS payments (a UInt8) ENGINE = MergeTree ORDER BY a",
            [
                "CREATE TABLE IF NOT EXISTS payments_local ON CLUSTER c (a UInt8)"
                f" ENGINE = ReplicatedMergeTree({SHARDED}) ORDER BY a",
                f"CREATE TABLE IF NOT EXISTS payments ON CLUSTER c AS payments_local\n{DISTRIBUTED}",
            ],
        ),
        (
            "CREATE TABLE merchants (a UInt8) ENGINE = MergeTree() ORDER BY a",
            [f"CREATE TABLE merchants ON CLUSTER c (a UInt8) ENGINE = ReplicatedMergeTree({WHOLE}) ORDER BY a"],
        ),
        ("CREATE TABLE n (a UInt8) ENGINE = Null", ["CREATE TABLE n ON CLUSTER c (a UInt8) ENGINE = Null"]),
        (
            "CREATE TABLE q (a String) ENGINE = Kafka(k) SETTINGS kafka_format = 'RawBLOB'",
            ["CREATE TABLE q ON CLUSTER c (a String) ENGINE = Kafka(k) SETTINGS kafka_format = 'RawBLOB'"],
        ),
        (
            "CREATE MATERIALIZED VIEW mv TO payments AS SELECT a FROM q",
            ["CREATE MATERIALIZED VIEW mv ON CLUSTER c TO payments AS SELECT a FROM q"],
        ),
        (
            "CREATE MATERIALIZED VIEW mv\nREFRESH EVERY 40 SECOND DEPENDS ON other APPEND TO latest AS SELECT 1 AS a",
            [
                "CREATE MATERIALIZED VIEW mv ON CLUSTER c\nREFRESH EVERY 40 SECOND DEPENDS ON other APPEND TO latest"
                " AS SELECT 1 AS a"
            ],
        ),
        (
            "CREATE MATERIALIZED VIEW mv REFRESH AFTER 1 HOUR APPEND TO gone AS SELECT 1 AS a",  # in no file any more
            ["CREATE MATERIALIZED VIEW mv ON CLUSTER c REFRESH AFTER 1 HOUR APPEND TO gone AS SELECT 1 AS a"],
        ),
        (
            "ALTER TABLE mv MODIFY REFRESH EVERY 1 MINUTE DEPENDS ON other APPEND",
            ["ALTER TABLE mv ON CLUSTER c MODIFY REFRESH EVERY 1 MINUTE DEPENDS ON other APPEND"],
        ),
        (
            "ALTER TABLE payments MODIFY TTL a + INTERVAL 1 DAY",
            ["ALTER TABLE payments_local ON CLUSTER c MODIFY TTL a + INTERVAL 1 DAY"],
        ),
        (
            "CREATE TABLE latest (a Nested(b UInt8, c String), d Array(Tuple(e UInt8, f String)), g Date,"
            " INDEX i g TYPE minmax) ENGINE = ReplacingMergeTree(g) ORDER BY g TTL g + INTERVAL 1 DAY",
            [
                "CREATE TABLE latest ON CLUSTER c (a Nested(b UInt8, c String), d Array(Tuple(e UInt8, f String)),"
                f" g Date, INDEX i g TYPE minmax) ENGINE = ReplicatedReplacingMergeTree({WHOLE}, g) ORDER BY g"
                " TTL g + INTERVAL 1 DAY"
            ],
        ),
        ("CREATE OR REPLACE VIEW v AS SELECT 1", ["CREATE OR REPLACE VIEW v ON CLUSTER c AS SELECT 1"]),
        ("DROP VIEW IF EXISTS v SYNC", ["DROP VIEW IF EXISTS v ON CLUSTER c SYNC"]),
        (
            "DROP TABLE IF EXISTS payments SYNC",
            [
                "DROP TABLE IF EXISTS payments ON CLUSTER c SYNC",
                "DROP TABLE IF EXISTS payments_local ON CLUSTER c SYNC",
            ],
        ),
        (
            "ALTER TABLE payments ADD COLUMN x Decimal(9, 2) DEFAULT 0 AFTER a, ADD INDEX i x TYPE minmax",
            [
                "ALTER TABLE payments_local ON CLUSTER c ADD COLUMN x Decimal(9, 2) DEFAULT 0 AFTER a,"
                " ADD INDEX i x TYPE minmax",
                "ALTER TABLE payments ON CLUSTER c\n    ADD COLUMN x Decimal(9, 2) DEFAULT 0 AFTER a",
            ],
        ),
        (
            "ALTER TABLE payments DROP COLUMN x",
            [
                "ALTER TABLE payments ON CLUSTER c\n    DROP COLUMN x",
                "ALTER TABLE payments_local ON CLUSTER c DROP COLUMN x",
            ],
        ),
        (
            "ALTER TABLE payments MATERIALIZE COLUMN x",
            ["ALTER TABLE payments_local ON CLUSTER c MATERIALIZE COLUMN x"],
        ),
        (
            "ALTER TABLE mv MODIFY QUERY SELECT a, b FROM q",
            ["ALTER TABLE mv ON CLUSTER c MODIFY QUERY SELECT a, b FROM q"],
        ),
        ("ALTER TABLE merchants ADD COLUMN x UInt8", ["ALTER TABLE merchants ON CLUSTER c ADD COLUMN x UInt8"]),
        ("TRUNCATE TABLE payments", ["TRUNCATE TABLE payments_local ON CLUSTER c"]),
        ("OPTIMIZE TABLE payments FINAL", ["OPTIMIZE TABLE payments_local ON CLUSTER c FINAL"]),
        ("SYSTEM RELOAD DICTIONARY m;", ["SYSTEM RELOAD DICTIONARY ON CLUSTER c m"]),
        ("EXCHANGE TABLES m AND n -- at once", ["EXCHANGE TABLES m AND n ON CLUSTER c -- at once"]),
        ("INSERT INTO payments SELECT 1", ["INSERT INTO payments SELECT 1"]),
        ("SELECT 'nothing to take back'", ["SELECT 'nothing to take back'"]),
    ],
)
def test_what_becomes_of_a_statement(statement, expected):
    assert render(statement, CLUSTER) == expected


@pytest.mark.parametrize(
    ("statement", "cause"),
    [
        ("CREATE MATERIALIZED VIEW mv REFRESH EVERY 1 DAY TO latest AS SELECT 1", "exchange its own table for the one"),
        (
            "CREATE MATERIALIZED VIEW mv REFRESH EVERY 1 DAY APPEND TO sums AS SELECT 1",
            "would be in sums once for each",
        ),
        ("CREATE MATERIALIZED VIEW mv REFRESH EVERY 1 DAY ENGINE = Log AS SELECT 1", "give it one with TO"),
        ("CREATE MATERIALIZED VIEW mv ENGINE = MergeTree ORDER BY a AS SELECT 1 AS a", "give it one with TO"),
        ("CREATE TABLE t (a UInt8)", "it has no ENGINE"),
        ("CREATE TABLE other.payments (a UInt8) ENGINE = Null", "in a database that it names"),
        ("EXCHANGE TABLES payments AND p", "split over the shards"),
        ("RENAME TABLE payments TO p", "split over the shards"),
        ("SYSTEM RELOAD CONFIG", "names no dictionary"),
        ("DROP TABLE payments, merchants", "about several objects"),
        ("DETACH TABLE payments", "DETACH TABLE has no counterpart"),
        ("CREATE TABLE", "it names no object"),
        ("CREATE TABLE t (a String DEFAULT 'x) ENGINE = Null", "it cannot be read"),
    ],
)
def test_what_has_no_counterpart(statement, cause):
    with pytest.raises(UsageError) as caught:
        render(statement, CLUSTER)
    message = str(caught.value)
    assert cause in message and "\n" not in message
    assert message.startswith("Statement '") and message.endswith("Write it by hand for the cluster.")


def test_the_tables_that_messages_end_up_in_are_split_and_duplicates_meet():
    graph = read_graph()
    cluster = cluster_of("payments", "paystream", graph)
    assert set(cluster.sharding) == {"transactions", "quarantine", "ingest_ledger"}
    assert cluster.sharding["transactions"] == "cityHash64(transaction_id)"
    for table, expression in cluster.sharding.items():
        # Rows that deduplicate each other have the sorting key in common; if the shard follows from it, they meet.
        [order] = re.findall(r"^ORDER BY \((.*)\)$", graph.objects[table].text, re.MULTILINE)
        columns = re.fullmatch(r"cityHash64\((.*)\)", expression)[1].split(", ")
        assert set(columns) <= set(re.findall(r"\w+", order)), table


@pytest.mark.parametrize(("name", "database"), [("pay-ments", "d"), ("c", "d'"), ("", "d"), ("c; DROP", "d")])
def test_a_name_that_is_none(name, database):
    with pytest.raises(UsageError, match="its name is no identifier"):
        cluster_of(name, database)


def test_the_statements_of_all_versions():
    steps = runner.plan_all(Settings(_env_file=None, clickhouse_cluster="payments"))
    written = ""
    for version, of_version in groupby((step for step in steps if step.version), key=lambda step: step.version):
        written += f"-- version {version}\n\n" + "".join(f"{step.statement}\n;\n\n" for step in of_version)
    # Versions are never edited; a new one comes at the end.
    assert written.startswith(GOLDEN.read_text())


def test_a_version_pairs_each_statement_with_what_takes_it_back(tmp_path):
    (tmp_path / "0001_a.sql").write_text(
        "CREATE TABLE payments (a UInt8) ENGINE = MergeTree ORDER BY a;\n"
        "SELECT 'changes nothing';\n"
        "ALTER TABLE payments ADD COLUMN x UInt8;\n"
    )
    (tmp_path / "0001_a.rollback.sql").write_text(
        "ALTER TABLE payments MATERIALIZE COLUMN a;\n"
        "/* irreversible: the x */ ALTER TABLE payments DROP COLUMN x;\n"
        "DROP TABLE IF EXISTS payments;\n"
    )
    [version] = read_history(tmp_path, finished=False)
    on_cluster = rendered(version, CLUSTER)
    beginnings = [
        tuple(" ".join(text.replace("/* irreversible: the x */", "").split()[:3]) for text in pair)
        for pair in zip(on_cluster.statements, on_cluster.rollbacks, strict=True)
    ]
    nothing = "SELECT 'nothing to"
    assert beginnings == [
        ("CREATE TABLE payments_local", "DROP TABLE IF"),
        ("CREATE TABLE payments", "DROP TABLE IF"),
        # One statement, two that take it back: both do once it may have run, the Distributed table's first.
        (nothing, "ALTER TABLE payments_local"),
        ("SELECT 'changes nothing'", "ALTER TABLE payments"),
        # Two statements, one that takes them back: it does once the first of the two may have run.
        ("ALTER TABLE payments_local", "ALTER TABLE payments_local"),
        ("ALTER TABLE payments", nothing),
    ]
    assert on_cluster.irreversible() == ["the x"]
    assert on_cluster.tables_dropped_by_rollback() == ["payments_local", "payments"]
    assert [(step._apply, step._rollback) for step in on_cluster.migration.steps] == list(
        zip(on_cluster.statements, on_cluster.rollbacks, strict=True)
    )
    assert read_history(tmp_path, finished=False)[0].migration.steps is not on_cluster.migration.steps


def test_plan_of_all_versions_asks_no_server(tmp_path, paystream_here):
    settings = Settings(_env_file=None, home=tmp_path / "home", clickhouse_database="books", clickhouse_port=1)
    code, out, err = paystream_here(settings, "migrate", "plan", "--all", "--cluster", "payments", "--json")
    assert (code, err) == (0, [])
    steps = json.loads(out)["steps"]
    assert list(dict.fromkeys(step["version"] for step in steps)) == ["", *(version.id for version in read_history())]
    assert steps[0]["statement"] == "CREATE DATABASE IF NOT EXISTS `books` ON CLUSTER payments"
    assert "Distributed('payments', 'books', 'transactions_local'" in steps[4]["statement"]
    assert (
        steps[4]["means"] == "creates transactions, through which transactions_local of all shards is read and written"
    )
    # The setting says the same, and the option beats it.
    named = {"PAYSTREAM_CLICKHOUSE_CLUSTER": "payments"}
    assert paystream_here(settings, "migrate", "plan", "--all", "--json", **named)[1] == out
    alone = json.loads(paystream_here(settings, "migrate", "plan", "--all", "--cluster", "", "--json", **named)[1])
    assert not any("ON CLUSTER" in step["statement"] for step in alone["steps"])
    assert [step["statement"] for step in alone["steps"] if step["version"]] == [
        named_collection.own(text, "books") for version in read_history() for text in version.statements
    ]

    for command in ("plan", "up", "down"):
        code, out, err = paystream_here(settings, "migrate", command, "--cluster", "pay ments")
        assert (code, out, len(err)) == (2, "", 1)
        assert err[0].startswith("error: Cluster 'pay ments' cannot be used: its name is no identifier.")


def test_sqlglot_is_loaded_for_a_cluster_alone(tmp_path):
    code = "import sys; from paystream.cli import main\ntry: main()\nfinally: print('sqlglot' in sys.modules)"
    for arguments, is_loaded in (([], "False"), (["--cluster", "payments"], "True")):
        command = [sys.executable, "-c", code, f"--project={CHECKOUT}", "migrate", "plan", "--all", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
        assert done.stdout.splitlines()[-1] == is_loaded
