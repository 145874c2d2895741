-- One row: one state of a transaction as enriched at one time; one row per transaction_id once deduplicated (FINAL).
-- Written by: transactions_mv, and `paystream dims repair` with a higher enrichment_revision. Read by:
-- transactions_current, merchant_slots_mv, transactions_to_repair, `paystream audit`.
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
    ingested_at            DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    enriched_at            DateTime64(3, 'UTC') DEFAULT ingested_at CODEC(Delta, ZSTD(1)),  -- later than ingested_at: repaired then

    -- A repair looks for rows that are pending or provisional: a few granules of the whole table.
    INDEX pending enrichment_status TYPE set(4) GRANULARITY 1,
    -- A roll-up looks for what was written lately, repairs included.
    INDEX changed enriched_at TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(created_at)
-- The day first, since reports ask for days; then the merchant, so that one merchant's day is a granule or two.
PRIMARY KEY (toDate(created_at), merchant_id)
ORDER BY (toDate(created_at), merchant_id, transaction_id)
