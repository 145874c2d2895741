"""Statements that ClickHouse takes and sqlglot does not understand: what users met, by what is new in each."""

_ORDER = "ENGINE = MergeTree ORDER BY x"

NEWER_THAN_THE_PARSER = {
    "statistics of a column": f"CREATE TABLE extra (x UInt32 STATISTICS(tdigest), y UInt8) {_ORDER}",
    "settings of a column": f"CREATE TABLE extra (x UInt32, y String SETTINGS (max_compress_block_size = 9)) {_ORDER}",
    "settings of a projection": "CREATE TABLE extra (x UInt32, PROJECTION p (SELECT x ORDER BY x)"
    f" WITH SETTINGS (index_granularity = 128)) {_ORDER}",
    "expression of a dictionary": "CREATE DICTIONARY extra (id UInt64, name String EXPRESSION upper(name))"
    " PRIMARY KEY id SOURCE(NULL()) LAYOUT(HASHED()) LIFETIME(0)",
    "time of day": f"CREATE TABLE extra (x UInt32, at Time64(3)) {_ORDER}",
    "comment of a view": "CREATE VIEW extra AS SELECT 1 AS x COMMENT 'the number'",
}
