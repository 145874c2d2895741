-- One row: what was read of one topic in one minute (UTC, by read_at), once deduplicated (FINAL), and how long it had taken.
-- Written by: latency_minutes_mv. Read by: report_latency_by_minute.
-- Guarantee: a row is the sum of the minute's blocks in ingest_ledger and replaces the one before it as a whole.
CREATE TABLE latency_minutes
(
    minute            DateTime('UTC'),
    kafka_topic       LowCardinality(String),
    messages          UInt64,
    timed             UInt64,
    late              UInt64,
    latency_histogram Array(UInt64) CODEC(ZSTD(1)),   -- as in ingest_ledger
    refreshed_at      DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(refreshed_at)
PARTITION BY toYYYYMM(minute)
ORDER BY (minute, kafka_topic)
