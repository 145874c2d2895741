-- What is kept: the transactions, the refused messages, and what was read of the topic.
-- depends:

-- One row: one state of a transaction as enriched at one time; one row per transaction_id once deduplicated (FINAL).
-- Written by: transactions_mv, and by repairs with a higher enrichment_revision. Read by: transactions_current.
-- Guarantee: the highest version wins, in whatever order the states arrive and however often. Holds because the
-- sorting key and the partition are made of fields that a transaction never changes.
CREATE TABLE transactions
(
    -- key
    transaction_id         UUID,
    created_at             DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    merchant_id            UInt32,

    -- payment
    amount                 Decimal(18, 4),
    currency               LowCardinality(String),
    status                 LowCardinality(String),
    updated_at             DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),

    -- merchant, as of merchant_snapshot_id (0: not known yet)
    merchant_name          String CODEC(ZSTD(1)),
    merchant_country       LowCardinality(String),
    merchant_category_code LowCardinality(String),
    merchant_snapshot_id   UInt32,

    -- money, as of fx_snapshot_id (0: no rate yet, amount_reporting is NULL)
    fx_rate                Nullable(Decimal(38, 12)),
    fx_rate_date           Nullable(Date),
    amount_reporting       Nullable(Decimal(38, 4)),
    reporting_currency     LowCardinality(String),
    fx_snapshot_id         UInt32,

    -- enrichment: ok, merchant_pending, fx_pending, fx_provisional
    enrichment_status      LowCardinality(String),
    enrichment_revision    UInt16 DEFAULT 0,

    -- A later state beats an earlier one; for the same state, a later repair beats an earlier one. 12 bits hold 4,095
    -- repairs of one state; the microseconds above them fit until the year 2112.
    version                UInt64 MATERIALIZED bitOr(bitShiftLeft(toUInt64(toUnixTimestamp64Micro(updated_at)), 12), enrichment_revision) CODEC(Delta, ZSTD(1)),

    -- provenance
    kafka_topic            LowCardinality(String),
    kafka_partition        UInt32,
    kafka_offset           UInt64 CODEC(Delta, ZSTD(1)),
    kafka_timestamp        DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    ingested_at            DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(created_at)
-- The day first, since reports ask for days; then the merchant, so that one merchant's day is a granule or two.
PRIMARY KEY (toDate(created_at), merchant_id)
ORDER BY (toDate(created_at), merchant_id, transaction_id);

-- One row: one refused message, once deduplicated (FINAL): a redelivered message is the same row again.
-- Written by: quarantine_mv. Read by: operators, `paystream quarantine`.
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
    quarantined_at  DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(quarantined_at)
-- The timestamp, since a topic that is deleted and made again begins anew at offset 0.
ORDER BY (kafka_topic, kafka_partition, kafka_offset, kafka_timestamp)
TTL toDateTime(quarantined_at) + INTERVAL 90 DAY;

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
SETTINGS ttl_only_drop_parts = 1;
