"""What a statement means, by the rows that are there."""

import pytest

from paystream.migrations.plan import Live, meaning

LIVE = {
    "rows": {"payments": 1_234_567, "one": 1},
    "kafka": {"queue"},
    "readers": {"queue_mv"},
    "views": {"queue_mv", "report", "hourly"},
    "refreshed": {"hourly"},
    "types": {("payments", "amount"): "Decimal(18, 4)", ("payments", "at"): "DateTime64(3, 'UTC')"}
    | {("payments", "n"): "UInt8", ("payments", "kind"): "Enum8('a' = 1)", ("payments", "maybe"): "Nullable(UInt8)"},
}

# ruff: noqa: E501  a statement and what it means read best side by side


@pytest.mark.parametrize(
    ("statement", "means", "is_destructive"),
    [
        ("ALTER TABLE queue_mv MODIFY QUERY SELECT 1", "replaces the view queue_mv; ingest goes on, a block under way is written as before", False),
        ("CREATE OR REPLACE VIEW report AS SELECT 1", "replaces report at once; ingest goes on", False),
        ("-- why\nDROP TABLE IF EXISTS queue SYNC", "pauses ingest, for about 7 s where queue is created again; no message is lost", False),
        ("DROP VIEW IF EXISTS queue_mv SYNC", "pauses ingest until it is created again; no message is lost", False),
        ("CREATE MATERIALIZED VIEW m TO t AS SELECT 1 FROM queue", "creates m: ingest from queue starts", False),
        ("CREATE MATERIALIZED VIEW m TO t AS SELECT 1 FROM other", "creates m: it sees rows from now on", False),
        ("CREATE MATERIALIZED VIEW m\nREFRESH EVERY 40 SECOND DEPENDS ON n APPEND TO t AS SELECT 1 FROM queue", "creates m: every 40 second it adds to what is in t", False),
        ("CREATE MATERIALIZED VIEW m REFRESH AFTER 1 HOUR 30 MINUTE TO t AS SELECT 1", "creates m: after 1 hour 30 minute it replaces what is in t", False),
        ("ALTER TABLE hourly MODIFY QUERY SELECT 1", "replaces the query of hourly, from its next refresh on", False),
        ("ALTER TABLE hourly MODIFY REFRESH EVERY 1 MINUTE DEPENDS ON n APPEND", "changes when hourly is refreshed", False),
        ("DROP VIEW IF EXISTS hourly SYNC", "drops hourly: it is not refreshed any more, what it wrote stays", False),
        ("TRUNCATE TABLE payments", "empties payments: 1,234,567 rows gone for good", True),
        ("ALTER TABLE payments ADD INDEX i d TYPE minmax, MODIFY TTL d + INTERVAL 1 DAY", "payments: adds index i, changes how long rows are kept: rows that are too old then of 1,234,567 rows gone for good", True),
        ("DROP TABLE IF EXISTS one SYNC", "drops one: 1 row gone for good", True),
        ("DROP TABLE IF EXISTS empty SYNC", "drops empty", False),
        ("TRUNCATE TABLE IF EXISTS payments", "empties payments: 1,234,567 rows gone for good", True),
        ("ALTER TABLE payments ADD COLUMN c String DEFAULT 'DROP COLUMN x'", "payments: adds column c; rewrites no rows", False),
        ("ALTER TABLE payments DROP COLUMN IF EXISTS c", "payments: drops column c: values of 1,234,567 rows gone for good", True),
        ("ALTER TABLE empty DROP COLUMN c", "empty: drops column c; rewrites no rows", False),
        ("ALTER TABLE payments MODIFY COLUMN amount Decimal(38, 4)", "payments: changes the type of amount: rewrites 1,234,567 rows", False),
        ("ALTER TABLE payments MODIFY COLUMN amount Decimal(18, 4) CODEC(ZSTD(1))", "payments: changes column amount; rewrites no rows", False),
        ("ALTER TABLE payments MODIFY COLUMN at DateTime64(3, 'UTC') DEFAULT now()", "payments: changes column at; rewrites no rows", False),
        ("ALTER TABLE payments MATERIALIZE INDEX i", "payments: writes index i for 1,234,567 rows in the background", False),
        ("ALTER TABLE payments DELETE WHERE 1", "payments: deletes rows of payments: 1,234,567 rows gone for good", True),
        ("ALTER TABLE payments UPDATE a = 1 WHERE 1", "payments: rewrites columns of 1,234,567 rows in the background", True),
        ("ALTER TABLE payments MODIFY TTL d + toIntervalDay(1)", "payments: changes how long rows are kept: rows that are too old then of 1,234,567 rows gone for good", True),
        ("ALTER TABLE payments MODIFY SETTING a = 1", "payments: changes setting a; rewrites no rows", False),
        ("CREATE OR REPLACE TABLE payments (x UInt8) ENGINE = Null", "replaces payments by an empty table: 1,234,567 rows gone for good", True),
        ("DROP TABLE empty, `one`", "drops empty, drops one: 1 row gone for good", True),
        ("DROP TABLE IF EXISTS db.one SYNC", "drops one: 1 row gone for good", True),
        ("DROP DATABASE db", "empties a database: 1,234,568 rows gone for good", True),
        ("TRUNCATE TABLE `one` SETTINGS lock_acquire_timeout = 1", "empties one: 1 row gone for good", True),
        ("TRUNCATE ALL TABLES FROM db", "empties a database: 1,234,568 rows gone for good", True),
        ("DELETE FROM `one` WHERE 1", "deletes rows: 1 row gone for good", True),
        ("UPDATE one SET a = 1 WHERE 1", "overwrites: values of 1 row gone for good", True),
        ("ALTER TABLE db.one DROP COLUMN c", "one: drops column c: values of 1 row gone for good", True),
        ("ALTER TABLE one REPLACE PARTITION 1 FROM other", "one: replaces a partition: 1 row gone for good", True),
        ("ALTER TABLE payments MODIFY COLUMN amount Decimal(18,2) CODEC(ZSTD(1))", "payments: changes the type of amount: rewrites 1,234,567 rows, and what Decimal(18, 2) cannot hold is gone for good", True),
        ("ALTER TABLE payments MODIFY COLUMN amount Decimal(18, 4) TTL at + toIntervalDay(1)", "payments: changes how long values of amount are kept: values that are too old then of 1,234,567 rows gone for good", True),
        ("ALTER TABLE payments MODIFY COLUMN amount REMOVE TTL", "payments: changes column amount; rewrites no rows", False),
        ("ALTER TABLE payments MODIFY COLUMN n Int16", "payments: changes the type of n: rewrites 1,234,567 rows", False),
        ("ALTER TABLE payments MODIFY COLUMN kind Enum8('b' = 1)", "payments: changes the type of kind: rewrites 1,234,567 rows, and what Enum8('b' = 1) cannot hold is gone for good", True),
        ("ALTER TABLE payments MODIFY COLUMN kind Enum8('a' = 1) COMMENT 'now, DROP COLUMN x'", "payments: changes column kind; rewrites no rows", False),
        ("ALTER TABLE payments MODIFY COLUMN maybe String", "payments: changes the type of maybe: rewrites 1,234,567 rows, and what String cannot hold is gone for good", True),
        ("ALTER TABLE payments MODIFY TTL d + INTERVAL 1 DAY DELETE", "payments: changes how long rows are kept: rows that are too old then of 1,234,567 rows gone for good", True),
        ("ALTER TABLE payments MODIFY SETTING a = 1, b = 2, RESET SETTING c, d", "payments: changes setting a, resets setting c; rewrites no rows", False),
        ("ALTER TABLE payments ADD INDEX i (a, b) TYPE minmax, FORGET PARTITION 1", "payments: is not known to this tool, which takes it for one that loses rows: read it", True),
        ("ALTER TABLE payments RENAME COLUMN `a b` TO c", "payments: renames column a b; rewrites no rows", False),
        ("OPTIMIZE TABLE payments FINAL", "merges parts of payments in the background", False),
        ("OPTIMIZE TABLE payments FINAL DEDUPLICATE BY a", "leaves one of equal rows in payments: all but one of equal rows of 1,234,567 rows gone for good", True),
        ("EXCHANGE TABLES payments AND one", "swaps two objects at once; their rows go with them", False),
        ("RENAME TABLE payments TO other", "renames; rows stay", False),
        ("SYSTEM STOP MERGES payments", "tells the server something; rows stay", False),
        ("ALTER TABLE payments DETACH PARTITION 202611", "payments: sets a partition aside: not read until it is attached again; rewrites no rows", False),
        ("ALTER TABLE payments MOVE PARTITION 202611 TO TABLE one", "payments: moves a partition to another table or disk; rewrites no rows", False),
        ("ALTER TABLE payments FORGET PARTITION 202611", "payments: is not known to this tool, which takes it for one that loses rows: read it", True),
        ("KILL MUTATION WHERE 1", "is not known to this tool, which takes it for one that loses rows: read it", True),
    ],
)  # fmt: skip
def test_each_statement_is_explained(statement: str, means: str, is_destructive: bool) -> None:
    live = Live(**{name: value.copy() for name, value in LIVE.items()})
    assert meaning(statement, live) == (means, is_destructive)
