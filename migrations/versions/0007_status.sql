-- What `paystream status` needs to answer in a second however much is stored: latency in the ledger, by hour for 30 days.
-- depends: 0006_repair

-- One row: one audit that came to a verdict.
-- Written by: `paystream audit`. Read by: `paystream status`, which says what the last one found and when.
-- Guarantee: none that anything else relies on; an audit whose row could not be written says so, and its verdict stands.
CREATE TABLE audits
(
    audited_at  DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC'),
    kafka_topic LowCardinality(String),
    since       DateTime64(3, 'UTC'),    -- blocks read from then on were audited
    is_deep     Bool,
    verdict     LowCardinality(String),  -- complete, incomplete, recreated, loss
    lost        UInt64,
    expired     UInt64,
    unchecked   UInt64
)
ENGINE = MergeTree
ORDER BY audited_at
TTL toDateTime(audited_at) + INTERVAL 1 YEAR;

-- For what was refused before, too; writes the index alone.
ALTER TABLE quarantine ADD INDEX lately quarantined_at TYPE minmax GRANULARITY 1;
ALTER TABLE quarantine MATERIALIZE INDEX lately;

-- Blocks read before have no latencies and count for nothing in them.
ALTER TABLE ingest_ledger
    ADD COLUMN timed UInt64,
    ADD COLUMN late UInt64,
    ADD COLUMN latency_histogram Array(UInt32) CODEC(ZSTD(1));

-- Else the projection would forbid a DELETE.
ALTER TABLE ingest_ledger MODIFY SETTING lightweight_mutation_projection_mode = 'rebuild';

-- A row an hour.
ALTER TABLE ingest_ledger
    ADD PROJECTION by_hour
    (
        SELECT kafka_topic, toStartOfHour(read_at), sum(messages), sum(timed), sum(late), max(last_kafka_timestamp), max(read_at)
        GROUP BY kafka_topic, toStartOfHour(read_at)
    );
ALTER TABLE ingest_ledger MATERIALIZE PROJECTION by_hour;

-- Ingest goes on meanwhile; a block that is under way is written without latencies.
ALTER TABLE ledger_mv MODIFY QUERY
WITH
    now64(3) AS stored_at,
    fault = '' AND kafka_timestamp > toDateTime64(0, 3, 'UTC') AS is_timed,
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
GROUP BY kafka_topic, kafka_partition;
