"""The schema's statements for a cluster: what becomes of each kind, and of all versions."""

import dataclasses
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from paystream.errors import UsageError
from paystream.migrations.cluster import Cluster, cluster_of, render, rendered
from paystream.migrations.history import read_history
from paystream.migrations.schema_graph import read_graph
from paystream.migrations.sharding import Key, Sharding
from paystream.project import CHECKOUT

GOLDEN = Path(__file__).with_name("cluster_of_all_versions.sql")
CLUSTER = Cluster(
    "c",
    "c_set",
    "d",
    False,
    Sharding(2),
    keys={"payments": Key("cityHash64(transaction_id)", "created_at")},
    split={"sums", "state", "blocks"},
    refreshing={"sums_mv"},
)
READS = "ENGINE = Distributed('c', 'd', '{}_local')"
WRITES = "ENGINE = Distributed('c_set', 'd', 'payments_local', cityHash64(transaction_id) % 2)"


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (
            "-- Why; and how.\nCREATE TABLE payments\n(\n    a UInt8 -- ENGINE = Log\n)\n"
            "ENGINE = ReplacingMergeTree(a)\nORDER BY a;",
            [
                "-- Why; and how.\nCREATE TABLE payments_local\n(\n    a UInt8 -- ENGINE = Log\n)\n"
                "ENGINE = ReplacingMergeTree(a)\nORDER BY a",
                f"CREATE TABLE payments AS payments_local\n{READS.format('payments')}",
                f"CREATE TABLE payments_to_shards AS payments_local\n{WRITES}",
            ],
        ),
        (
            "CREATE TABLE IF NOT EXISTS blocks (a UInt8) ENGINE = MergeTree ORDER BY a",
            [
                "CREATE TABLE IF NOT EXISTS blocks_local (a UInt8) ENGINE = MergeTree ORDER BY a",
                f"CREATE TABLE IF NOT EXISTS blocks AS blocks_local\n{READS.format('blocks')}",
            ],
        ),
        (
            "CREATE TABLE merchants (a UInt8) ENGINE = MergeTree() ORDER BY a",
            ["CREATE TABLE merchants (a UInt8) ENGINE = MergeTree() ORDER BY a"],
        ),
        ("CREATE TABLE n (a UInt8) ENGINE = Null", ["CREATE TABLE n (a UInt8) ENGINE = Null"]),
        (
            "CREATE TABLE q (a String) ENGINE = Kafka(k) SETTINGS kafka_format = 'RawBLOB'",
            ["CREATE TABLE q (a String) ENGINE = Kafka(k) SETTINGS kafka_format = 'RawBLOB'"],
        ),
        # A view of ingest: what replaces each other meets on its shard, what is only counted stays on the node.
        (
            "CREATE MATERIALIZED VIEW mv TO payments AS SELECT a FROM q",
            ["CREATE MATERIALIZED VIEW mv TO payments_to_shards AS SELECT a FROM q"],
        ),
        (
            "CREATE MATERIALIZED VIEW mv TO blocks AS SELECT a FROM q",
            ["CREATE MATERIALIZED VIEW mv TO blocks_local AS SELECT a FROM q"],
        ),
        (
            "CREATE MATERIALIZED VIEW mv TO merchants AS SELECT a FROM q",
            ["CREATE MATERIALIZED VIEW mv TO merchants AS SELECT a FROM q"],
        ),
        # A refreshable view, and what it reads, of the node's own share; a column is no table of that name.
        (
            "CREATE MATERIALIZED VIEW sums_mv\nREFRESH EVERY 40 SECOND APPEND TO sums AS WITH (SELECT max(a) FROM"
            " state) AS since SELECT count() AS payments FROM payments FINAL -- FROM payments\nWHERE a > since",
            [
                "CREATE MATERIALIZED VIEW sums_mv\nREFRESH EVERY 40 SECOND APPEND TO sums_local AS WITH (SELECT max(a)"
                " FROM state_local) AS since SELECT count() AS payments FROM payments_local FINAL -- FROM payments\n"
                "WHERE a > since"
            ],
        ),
        (
            "ALTER TABLE sums_mv MODIFY QUERY SELECT a FROM payments WHERE a IN (SELECT a FROM merchants)",
            ["ALTER TABLE sums_mv MODIFY QUERY SELECT a FROM payments_local WHERE a IN (SELECT a FROM merchants)"],
        ),
        (
            "CREATE VIEW state AS SELECT a FROM sums WHERE d = currentDatabase()",
            [
                "CREATE VIEW state_local AS SELECT a FROM sums_local WHERE d = 'd'",
                f"CREATE TABLE state_shards AS state_local\n{READS.format('state')}",
                "CREATE VIEW state AS SELECT * FROM state_shards SETTINGS prefer_localhost_replica = 0",
            ],
        ),
        (
            "CREATE OR REPLACE VIEW state AS SELECT a FROM sums",
            [
                "CREATE OR REPLACE VIEW state_local AS SELECT a FROM sums_local",
                f"CREATE OR REPLACE TABLE state_shards AS state_local\n{READS.format('state')}",
                "CREATE OR REPLACE VIEW state AS SELECT * FROM state_shards SETTINGS prefer_localhost_replica = 0",
            ],
        ),
        (
            "DROP VIEW IF EXISTS state SYNC",
            [
                "DROP VIEW IF EXISTS state SYNC",
                "DROP TABLE IF EXISTS state_shards SYNC",
                "DROP VIEW IF EXISTS state_local SYNC",
            ],
        ),
        # Any other view reads all shards.
        ("CREATE OR REPLACE VIEW v AS SELECT a FROM payments", ["CREATE OR REPLACE VIEW v AS SELECT a FROM payments"]),
        ("DROP VIEW IF EXISTS v SYNC", ["DROP VIEW IF EXISTS v SYNC"]),
        (
            "ALTER TABLE payments MODIFY TTL a + INTERVAL 1 DAY",
            ["ALTER TABLE payments_local MODIFY TTL a + INTERVAL 1 DAY"],
        ),
        (
            "DROP TABLE IF EXISTS payments SYNC",
            [
                "DROP TABLE IF EXISTS payments SYNC",
                "DROP TABLE IF EXISTS payments_to_shards SYNC",
                "DROP TABLE IF EXISTS payments_local SYNC",
            ],
        ),
        (
            "ALTER TABLE payments ADD COLUMN x Decimal(9, 2) DEFAULT 0 AFTER a, ADD INDEX i x TYPE minmax",
            [
                "ALTER TABLE payments_local ADD COLUMN x Decimal(9, 2) DEFAULT 0 AFTER a, ADD INDEX i x TYPE minmax",
                "ALTER TABLE payments\n    ADD COLUMN x Decimal(9, 2) DEFAULT 0 AFTER a",
                "ALTER TABLE payments_to_shards\n    ADD COLUMN x Decimal(9, 2) DEFAULT 0 AFTER a",
            ],
        ),
        (
            "ALTER TABLE blocks DROP COLUMN x",
            ["ALTER TABLE blocks\n    DROP COLUMN x", "ALTER TABLE blocks_local DROP COLUMN x"],
        ),
        ("ALTER TABLE payments MATERIALIZE COLUMN x", ["ALTER TABLE payments_local MATERIALIZE COLUMN x"]),
        ("ALTER TABLE mv MODIFY QUERY SELECT a, b FROM q", ["ALTER TABLE mv MODIFY QUERY SELECT a, b FROM q"]),
        ("ALTER TABLE merchants ADD COLUMN x UInt8", ["ALTER TABLE merchants ADD COLUMN x UInt8"]),
        ("TRUNCATE TABLE payments", ["TRUNCATE TABLE payments_local"]),
        ("OPTIMIZE TABLE payments FINAL", ["OPTIMIZE TABLE payments_local FINAL"]),
        ("SYSTEM RELOAD DICTIONARY m;", ["SYSTEM RELOAD DICTIONARY m"]),
        ("EXCHANGE TABLES m AND n -- at once", ["EXCHANGE TABLES m AND n -- at once"]),
        ("INSERT INTO merchants SELECT 1", ["INSERT INTO merchants SELECT 1"]),
        ("SELECT 'nothing to take back'", ["SELECT 'nothing to take back'"]),
    ],
)
def test_what_becomes_of_a_statement(statement, expected):
    assert render(statement, CLUSTER) == expected


def test_a_shard_of_several_nodes_is_replicated_and_what_is_whole_is_not():
    cluster = dataclasses.replace(CLUSTER, is_replicated=True)
    place = "'/clickhouse/tables/{database}/{table}/{set}-{shard}', '{replica}'"
    split, *_ = render("CREATE TABLE payments (a UInt8) ENGINE = ReplacingMergeTree(a) ORDER BY a", cluster)
    assert (
        split == f"CREATE TABLE payments_local (a UInt8) ENGINE = ReplicatedReplacingMergeTree({place}, a) ORDER BY a"
    )
    split, *_ = render("CREATE TABLE blocks (a UInt8) ENGINE = MergeTree ORDER BY a", cluster)
    assert split == f"CREATE TABLE blocks_local (a UInt8) ENGINE = ReplicatedMergeTree({place}) ORDER BY a"
    whole = "CREATE TABLE merchants (a UInt8) ENGINE = MergeTree() ORDER BY a"
    assert render(whole, cluster) == [whole]


def test_a_payment_keeps_its_shard_when_there_are_more():
    key = Key("cityHash64(transaction_id)", "created_at")
    grown = Sharding(2).grown(3, datetime(2026, 12, 1, tzinfo=UTC)).grown(5, datetime(2027, 3, 1, 12, tzinfo=UTC))
    assert grown.expression(key) == (
        "multiIf(created_at < toDateTime64('2026-12-01 00:00:00', 3, 'UTC'), cityHash64(transaction_id) % 2,"
        " created_at < toDateTime64('2027-03-01 12:00:00', 3, 'UTC'), cityHash64(transaction_id) % 3,"
        " cityHash64(transaction_id) % 5)"
    )
    for sharding in (Sharding(2), grown):
        engine = f"Distributed('c_set', 'd', 'payments_local', {sharding.expression(key)})"
        assert Sharding.parsed(engine) == sharding
    assert Sharding.parsed("Distributed('c', 'd', 'payments_local')") is None


@pytest.mark.parametrize(
    ("statement", "cause"),
    [
        ("CREATE MATERIALIZED VIEW mv REFRESH EVERY 1 DAY ENGINE = Log AS SELECT 1", "give it one with TO"),
        ("CREATE MATERIALIZED VIEW mv ENGINE = MergeTree ORDER BY a AS SELECT 1 AS a", "give it one with TO"),
        ("CREATE TABLE t (a UInt8)", "it has no ENGINE"),
        ("CREATE TABLE other.payments (a UInt8) ENGINE = Null", "in a database that it names"),
        ("EXCHANGE TABLES payments AND p", "split over the shards"),
        ("RENAME TABLE payments TO p", "split over the shards"),
        ("INSERT INTO payments SELECT 1", "belong to one shard"),
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


def test_what_is_split_and_that_duplicates_meet():
    graph = read_graph()
    cluster = cluster_of("payments", "payments", "paystream", Sharding(2), graph=graph)
    assert cluster.keys["transactions"] == Key("cityHash64(transaction_id)", "created_at")
    assert cluster.keys["quarantine"].since == "kafka_timestamp"
    assert set(cluster.keys) == {"transactions", "quarantine"}
    roll_ups = {"merchant_slots", "merchant_days", "volume_hours", "latency_minutes"}
    assert set(cluster.split) == roll_ups | {"ingest_ledger", "rollup_progress", "rollup_state"}
    for table, key in cluster.keys.items():
        # Rows that deduplicate each other have the sorting key in common; if the shard follows from it, they meet.
        [order] = re.findall(r"^ORDER BY \((.*)\)$", graph.objects[table].text, re.MULTILINE)
        columns = re.fullmatch(r"cityHash64\((.*)\)", key.hash)[1].split(", ")
        assert {*columns, key.since} <= set(re.findall(r"\w+", order)), table


@pytest.mark.parametrize(("name", "database"), [("pay-ments", "d"), ("c", "d'"), ("", "d"), ("c; DROP", "d")])
def test_a_name_that_is_none(name, database):
    with pytest.raises(UsageError, match="its name is no identifier"):
        cluster_of(name, name, database, Sharding(2))


def test_the_statements_of_all_versions():
    cluster = cluster_of("payments", "payments", "paystream", Sharding(2))
    written = ""
    for version in read_history():
        statements = rendered(version, cluster).statements
        written += f"-- version {version.id}\n\n" + "".join(f"{statement}\n;\n\n" for statement in statements)
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
        ("CREATE TABLE payments_to_shards", "DROP TABLE IF"),
        # One statement, three that take it back: all do once it may have run, the Distributed tables' first.
        (nothing, "ALTER TABLE payments_local"),
        (nothing, "ALTER TABLE payments_to_shards"),
        ("SELECT 'changes nothing'", "ALTER TABLE payments"),
        # Three statements, one that takes them back: it does once the first of the three may have run.
        ("ALTER TABLE payments_local", "ALTER TABLE payments_local"),
        ("ALTER TABLE payments", nothing),
        ("ALTER TABLE payments_to_shards", nothing),
    ]
    assert on_cluster.irreversible() == ["the x"]
    assert on_cluster.tables_dropped_by_rollback() == ["payments_local", "payments_to_shards", "payments"]
    assert [(step._apply, step._rollback) for step in on_cluster.migration.steps] == list(
        zip(on_cluster.statements, on_cluster.rollbacks, strict=True)
    )
    assert read_history(tmp_path, finished=False)[0].migration.steps is not on_cluster.migration.steps


def test_sqlglot_is_not_loaded_for_one_server(tmp_path):
    code = "import sys; from paystream.cli import main\ntry: main()\nfinally: print('sqlglot' in sys.modules)"
    command = [sys.executable, "-c", code, f"--project={CHECKOUT}", "migrate", "plan", "--all"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.splitlines()[-1] == "False"
