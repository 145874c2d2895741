"""The schema's statements for a cluster: what becomes of each kind, and of all versions."""

import json
import re
from pathlib import Path

import pytest

from migrations.cluster import Cluster, cluster_of, render
from migrations.history import read_history
from migrations.schema_graph import read_graph
from paystream.errors import UsageError
from paystream.settings import Settings

GOLDEN = Path(__file__).with_name("cluster_of_all_versions.sql")
CLUSTER = Cluster("c", "d", {"payments": "cityHash64(transaction_id)"})
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
        ("CREATE MATERIALIZED VIEW mv REFRESH EVERY 1 DAY TO t AS SELECT 1", "each node would refresh it"),
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


def test_the_output_for_all_versions(tmp_path, paystream_here):
    settings = Settings(_env_file=None, home=tmp_path / "home")
    code, out, err = paystream_here(settings, "migrate", "cluster", "payments")
    assert (code, err) == (0, [])
    # Versions are never edited; a new one comes at the end.
    assert out.startswith(GOLDEN.read_text()), f"see `paystream migrate cluster payments | diff {GOLDEN.name} -`"


def test_the_command(tmp_path, paystream_here):
    settings = Settings(_env_file=None, home=tmp_path / "home", clickhouse_database="books")
    code, out, err = paystream_here(settings, "migrate", "cluster", "payments", "--json")
    assert (code, err) == (0, [])
    assert [one["version"] for one in json.loads(out)] == [version.id for version in read_history()]
    assert "Distributed('payments', 'books', 'transactions_local'" in json.loads(out)[0]["statements"][1]

    code, out, err = paystream_here(settings, "migrate", "cluster", "payments", "--rollback")
    assert (code, err) == (0, [])
    assert out.startswith(f"-- version {read_history()[-1].id}: rollback\n")
    assert out.rstrip().endswith("DROP TABLE IF EXISTS transactions_local ON CLUSTER payments SYNC\n;")

    code, out, err = paystream_here(settings, "migrate", "cluster", "pay ments")
    assert (code, out, len(err)) == (2, "", 1)
    assert err[0].startswith("error: Cluster 'pay ments' cannot be used: its name is no identifier.")
