-- One row: what one block read from one partition of the topic. Redelivered blocks appear again, by design.
-- Written by: ledger_mv. Read by: audits of what was read, and how often.
-- Guarantee: a row for every block whose offsets were committed; kept for 90 days, and until the last of its month is that old.
CREATE TABLE ingest_ledger
(
    kafka_topic          LowCardinality(String),
    kafka_partition      UInt32,
    first_offset         UInt64,
    last_offset          UInt64,
    messages             UInt64,
    refused              UInt64,
    last_kafka_timestamp DateTime64(3, 'UTC'),
    read_at              DateTime64(3, 'UTC'),

    -- An audit asks for what was read lately, and for what reached furthest before it: a few granules of a long ledger.
    INDEX lately (read_at, last_offset) TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
-- By month, so that what has expired is dropped as whole parts and nothing is rewritten.
PARTITION BY toYYYYMM(read_at)
ORDER BY (kafka_topic, kafka_partition, first_offset)
TTL toDateTime(read_at) + INTERVAL 90 DAY
SETTINGS ttl_only_drop_parts = 1
