-- Three roles, each with what its part of the work takes and no more. On a server, run it as a user who may grant, after
-- `paystream migrate up`, with the database as it is configured (here paystream); again after each new version that adds
-- objects, which changes nothing else. Then make users and give each one role:
--     CREATE USER paystream_cron IDENTIFIED BY '…' DEFAULT ROLE paystream_loader; GRANT paystream_loader TO paystream_cron;
-- The local stack has these roles for its users writer, loader and reader: PAYSTREAM_CLICKHOUSE_USER=reader paystream report.

-- Writer: `paystream migrate`, `paystream loadtest`, `paystream quarantine replay`. Owns the schema.
CREATE ROLE IF NOT EXISTS paystream_writer;
GRANT ALL ON paystream.* TO paystream_writer WITH GRANT OPTION;
GRANT CREATE DATABASE ON paystream.* TO paystream_writer;
GRANT CREATE NAMED COLLECTION, DROP NAMED COLLECTION, ALTER NAMED COLLECTION, SHOW NAMED COLLECTIONS, NAMED COLLECTION ON paystream_kafka TO paystream_writer;
GRANT CREATE NAMED COLLECTION, DROP NAMED COLLECTION, ALTER NAMED COLLECTION, SHOW NAMED COLLECTIONS, NAMED COLLECTION ON paystream_dictionaries TO paystream_writer;
GRANT TABLE ENGINE ON MergeTree, TABLE ENGINE ON ReplacingMergeTree, TABLE ENGINE ON Null, TABLE ENGINE ON Memory, TABLE ENGINE ON Kafka TO paystream_writer;
GRANT SYSTEM RELOAD DICTIONARY ON *.* TO paystream_writer;
GRANT SELECT ON system.* TO paystream_writer;

-- Loader: `paystream dims` from cron, and what an operator runs: `status`, `metrics`, `dashboard`, `audit`, `quarantine list` and
-- `rollup rebuild`. Reads everything that is stored, writes the dimensions, what a repair writes again and the sums; its staging
-- and lock tables come and go beside them. It can't read the queue, which would take messages from ingest.
CREATE ROLE IF NOT EXISTS paystream_loader;
GRANT SELECT, dictGet ON paystream.* TO paystream_loader;
REVOKE SELECT ON paystream.transactions_queue FROM paystream_loader;
GRANT SHOW TABLES ON paystream.transactions_queue TO paystream_loader;
GRANT INSERT ON paystream.transactions TO paystream_loader;
GRANT INSERT ON paystream.audits TO paystream_loader;
GRANT INSERT ON paystream.repaired_days TO paystream_loader;
GRANT INSERT ON paystream.merchant_slots TO paystream_loader;
GRANT INSERT ON paystream.merchant_days TO paystream_loader;
GRANT INSERT ON paystream.volume_hours TO paystream_loader;
GRANT INSERT ON paystream.rollup_progress TO paystream_loader;
GRANT INSERT, ALTER DELETE, TRUNCATE ON paystream.dimension_snapshots TO paystream_loader;
GRANT INSERT ON paystream.dimension_checks TO paystream_loader;
GRANT INSERT, CREATE TABLE, DROP TABLE ON paystream.merchants* TO paystream_loader;
GRANT INSERT, CREATE TABLE, DROP TABLE ON paystream.fx_rates* TO paystream_loader;
GRANT ALTER DELETE ON paystream.merchants_history TO paystream_loader;
GRANT ALTER DELETE ON paystream.fx_rates_history TO paystream_loader;
GRANT INSERT, CREATE TABLE, DROP TABLE ON paystream.dims_* TO paystream_loader;
GRANT INSERT, CREATE TABLE, DROP TABLE ON paystream.transactions_repair* TO paystream_loader;
GRANT TABLE ENGINE ON MergeTree, TABLE ENGINE ON ReplacingMergeTree TO paystream_loader;
GRANT SYSTEM RELOAD DICTIONARY ON *.* TO paystream_loader;
GRANT SELECT ON system.* TO paystream_loader;

-- Reader: finance and analytics, `paystream report`. The reports and the payments in their newest state, and, since a view is
-- read with its reader's rights, the tables beneath them; not the queue, not what was refused, nothing to write.
CREATE ROLE IF NOT EXISTS paystream_reader;
GRANT SELECT ON paystream.report_* TO paystream_reader;
GRANT SELECT ON paystream.transactions_current TO paystream_reader;
GRANT SELECT ON paystream.transactions TO paystream_reader;
GRANT SELECT ON paystream.merchants TO paystream_reader;
GRANT SELECT ON paystream.rollup_state TO paystream_reader;
GRANT SELECT ON paystream.rollup_progress TO paystream_reader;
GRANT SELECT ON paystream.merchant_slots TO paystream_reader;
GRANT SELECT ON paystream.merchant_days TO paystream_reader;
GRANT SELECT ON paystream.merchant_days_current TO paystream_reader;
GRANT SELECT ON paystream.merchant_days_by_currency TO paystream_reader;
GRANT SELECT ON paystream.volume_hours TO paystream_reader;
GRANT SELECT ON paystream.latency_minutes TO paystream_reader;
GRANT SELECT ON system.view_refreshes TO paystream_reader;
GRANT SELECT ON system.tables TO paystream_reader;
