-- One row: what one block read from one partition.
-- Made from: transactions_parsed, each block as it passes. Read by: the table ingest_ledger.
-- Guarantee: counts every message read, good or refused, redelivered ones again.
-- lint: waive summing-target because the ledger is of blocks as they were read: one that comes again is a row again.
-- lint: waive unstable-key because nothing is deduplicated here, and the month of reading is what expires.
CREATE MATERIALIZED VIEW ledger_mv TO ingest_ledger AS
WITH
    now64(3) AS stored_at,
    -- A message without a time has 1970's, and one whose producer counts in seconds has a day of January 1970.
    fault = '' AND kafka_timestamp > stored_at - INTERVAL 1 YEAR AS is_timed,
    -- Clocks that are apart may say that a message was stored before it was sent.
    greatest(0, toUnixTimestamp64Milli(stored_at) - toUnixTimestamp64Milli(kafka_timestamp)) AS latency_ms
SELECT
    kafka_topic,
    kafka_partition,
    min(kafka_offset) AS first_offset,
    max(kafka_offset) AS last_offset,
    count() AS messages,
    countIf(fault != '') AS refused,
    max(kafka_timestamp) AS last_kafka_timestamp,
    stored_at AS read_at,
    countIf(is_timed) AS timed,
    countIf(is_timed AND latency_ms > 300000) AS late,
    CAST(countResampleIf(0, 176, 1)(toUInt8(least(175, floor(8 * log2(latency_ms + 1)))), is_timed), 'Array(UInt32)') AS latency_histogram
FROM transactions_parsed
GROUP BY kafka_topic, kafka_partition
