-- Three roles, each with the grants that its work needs and no more. Run this file as a user who may grant, after
-- `paystream migrate up`, with the name of your database (here paystream), and again after each version that adds objects:
-- it changes nothing else. Then create users and give each one role:
--     CREATE USER paystream_cron IDENTIFIED BY '…' DEFAULT ROLE paystream_loader; GRANT paystream_loader TO paystream_cron;
-- Tables that end in _local or _shards are those of a cluster, on each of whose nodes this file has to be run.
-- The local stack has a user for each role, writer, loader and reader: PAYSTREAM_CLICKHOUSE_USER=reader paystream report.

-- Writer: `paystream migrate`, `paystream loadtest`, `paystream quarantine replay`. Owns the schema.
CREATE ROLE IF NOT EXISTS paystream_writer;
GRANT ALL ON paystream.* TO paystream_writer WITH GRANT OPTION;
GRANT CREATE DATABASE ON paystream.* TO paystream_writer;
GRANT CREATE NAMED COLLECTION, DROP NAMED COLLECTION, ALTER NAMED COLLECTION, SHOW NAMED COLLECTIONS, NAMED COLLECTION ON paystream_kafka TO paystream_writer;
GRANT CREATE NAMED COLLECTION, DROP NAMED COLLECTION, ALTER NAMED COLLECTION, SHOW NAMED COLLECTIONS, NAMED COLLECTION ON paystream_dictionaries TO paystream_writer;
GRANT TABLE ENGINE ON MergeTree, TABLE ENGINE ON ReplacingMergeTree, TABLE ENGINE ON Null, TABLE ENGINE ON Memory, TABLE ENGINE ON Kafka, TABLE ENGINE ON Distributed TO paystream_writer;
GRANT SYSTEM RELOAD DICTIONARY ON *.* TO paystream_writer;
GRANT SELECT ON system.* TO paystream_writer;

-- Loader: `paystream dims` from cron, and what an operator runs: `status`, `metrics`, `dashboard`, `audit`, `quarantine list` and
-- `rollup rebuild`. It reads everything that is stored, and writes dimensions, repaired transactions and roll-ups. Its staging
-- and lock tables come and go beside them. It can't read the queue: that would take messages from ingest.
CREATE ROLE IF NOT EXISTS paystream_loader;
GRANT SELECT, dictGet ON paystream.* TO paystream_loader;
REVOKE SELECT ON paystream.transactions_queue FROM paystream_loader;
GRANT SHOW TABLES ON paystream.transactions_queue TO paystream_loader;
GRANT INSERT ON paystream.transactions TO paystream_loader;
GRANT INSERT ON paystream.transactions_to_shards TO paystream_loader;
GRANT INSERT ON paystream.transactions_local TO paystream_loader;
GRANT INSERT ON paystream.audits TO paystream_loader;
GRANT INSERT ON paystream.repaired_days TO paystream_loader;
GRANT INSERT ON paystream.merchant_slots TO paystream_loader;
GRANT INSERT ON paystream.merchant_slots_local TO paystream_loader;
GRANT INSERT ON paystream.merchant_days TO paystream_loader;
GRANT INSERT ON paystream.merchant_days_local TO paystream_loader;
GRANT INSERT ON paystream.volume_hours TO paystream_loader;
GRANT INSERT ON paystream.volume_hours_local TO paystream_loader;
GRANT INSERT ON paystream.rollup_progress TO paystream_loader;
GRANT INSERT ON paystream.rollup_progress_local TO paystream_loader;
GRANT INSERT, ALTER DELETE, TRUNCATE ON paystream.dimension_snapshots TO paystream_loader;
GRANT INSERT ON paystream.dimension_checks TO paystream_loader;
GRANT INSERT, CREATE TABLE, DROP TABLE ON paystream.merchants* TO paystream_loader;
GRANT INSERT, CREATE TABLE, DROP TABLE ON paystream.fx_rates* TO paystream_loader;
GRANT ALTER DELETE ON paystream.merchants_history TO paystream_loader;
GRANT ALTER DELETE ON paystream.fx_rates_history TO paystream_loader;
GRANT INSERT, CREATE TABLE, DROP TABLE ON paystream.dims_* TO paystream_loader;
GRANT INSERT, CREATE TABLE, DROP TABLE, ALTER MODIFY COMMENT ON paystream.transactions_repair* TO paystream_loader;
GRANT TABLE ENGINE ON MergeTree, TABLE ENGINE ON ReplacingMergeTree TO paystream_loader;
GRANT SYSTEM RELOAD DICTIONARY ON *.* TO paystream_loader;
GRANT SELECT ON system.* TO paystream_loader;

-- Reader: finance and analytics, `paystream report`. It reads the reports, the payments in their newest state and, since a view
-- runs with its reader's rights, the tables beneath them. It sees no queue and no refused message, and writes nothing.
CREATE ROLE IF NOT EXISTS paystream_reader;
GRANT SELECT ON paystream.report_* TO paystream_reader;
GRANT SELECT ON paystream.transactions_current TO paystream_reader;
GRANT SELECT ON paystream.transactions TO paystream_reader;
GRANT SELECT ON paystream.transactions_local TO paystream_reader;
GRANT SELECT ON paystream.merchants TO paystream_reader;
GRANT SELECT ON paystream.rollup_state TO paystream_reader;
GRANT SELECT ON paystream.rollup_state_local TO paystream_reader;
GRANT SELECT ON paystream.rollup_state_shards TO paystream_reader;
GRANT SELECT ON paystream.rollup_progress TO paystream_reader;
GRANT SELECT ON paystream.rollup_progress_local TO paystream_reader;
GRANT SELECT ON paystream.merchant_slots TO paystream_reader;
GRANT SELECT ON paystream.merchant_slots_local TO paystream_reader;
GRANT SELECT ON paystream.merchant_days TO paystream_reader;
GRANT SELECT ON paystream.merchant_days_local TO paystream_reader;
GRANT SELECT ON paystream.merchant_days_current TO paystream_reader;
GRANT SELECT ON paystream.merchant_days_by_currency TO paystream_reader;
GRANT SELECT ON paystream.volume_hours TO paystream_reader;
GRANT SELECT ON paystream.volume_hours_local TO paystream_reader;
GRANT SELECT ON paystream.latency_minutes TO paystream_reader;
GRANT SELECT ON paystream.latency_minutes_local TO paystream_reader;
GRANT SELECT ON system.view_refreshes TO paystream_reader;
GRANT SELECT ON system.tables TO paystream_reader;
GRANT SELECT ON system.macros TO paystream_reader;
GRANT SELECT ON system.clusters TO paystream_reader;
