-- One row: what one block read from one partition of the topic. Redelivered blocks appear again, by design.
-- Written by: ledger_mv. Read by: latency_minutes_mv; `paystream audit`, for what was read and how often;
-- `paystream status`.
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

    -- Payments (good messages) by how long they took from their Kafka timestamp (by default the producer's clock) to
    -- read_at (ClickHouse's). A message without a timestamp is not timed.
    timed                UInt64,
    late                 UInt64,                         -- of those, after more than five minutes
    latency_histogram    Array(UInt32) CODEC(ZSTD(1)),   -- 176 counts, eight to each doubling: n milliseconds are at floor(8 * log2(n + 1))

    -- An audit asks for what was read lately, and for what reached furthest before it: a few granules of a long ledger.
    INDEX lately (read_at, last_offset) TYPE minmax GRANULARITY 1,

    -- What `paystream status` says of 30 days: a row an hour, however many blocks there were, and gone together with them.
    PROJECTION by_hour
    (
        SELECT kafka_topic, toStartOfHour(read_at), sum(messages), sum(timed), sum(late), max(last_kafka_timestamp), max(read_at)
        GROUP BY kafka_topic, toStartOfHour(read_at)
    )
)
ENGINE = MergeTree
-- By month, so that what has expired is dropped as whole parts and nothing is rewritten.
PARTITION BY toYYYYMM(read_at)
ORDER BY (kafka_topic, kafka_partition, first_offset)
TTL toDateTime(read_at) + INTERVAL 90 DAY
SETTINGS
    ttl_only_drop_parts = 1,
    index_granularity = 8192,                         -- the default, said here since the engine writes it before what came later
    lightweight_mutation_projection_mode = 'rebuild'  -- else the projection would forbid a DELETE, as after a test topic
