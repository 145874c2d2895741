-- One row: one refused message, once deduplicated (FINAL): a redelivered message is the same row again.
-- Written by: quarantine_mv. Read by: operators, `paystream quarantine`, `paystream status`.
-- Guarantee: a message is either in transactions or here, with all its bytes; kept for 90 days.
CREATE TABLE quarantine
(
    reason          LowCardinality(String),
    raw_message     String CODEC(ZSTD(3)),
    kafka_key       String,
    kafka_topic     LowCardinality(String),
    kafka_partition UInt32,
    kafka_offset    UInt64,
    kafka_timestamp DateTime64(3, 'UTC'),
    quarantined_at  DateTime64(3, 'UTC'),

    -- What was refused lately is in a few granules of a long table.
    INDEX lately quarantined_at TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(quarantined_at)
-- The timestamp, since a topic that is deleted and made again begins anew at offset 0.
ORDER BY (kafka_topic, kafka_partition, kafka_offset, kafka_timestamp)
TTL toDateTime(quarantined_at) + INTERVAL 90 DAY
