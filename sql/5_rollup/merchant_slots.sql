-- One row: one merchant's payments of one half hour (UTC, by created_at), once deduplicated (FINAL): an element of
-- `payments` for each combination of currency, status and so on that they are in now. Where no rate is known yet,
-- reporting_currency is '' and amount_reporting 0.
-- Written by: merchant_slots_mv, and `paystream rollup rebuild`. Read by: merchant_days_mv, volume_hours_mv,
-- merchant_days_current, merchant_days_by_currency, rollup_state, `paystream audit`.
-- Guarantee: a row is the whole of its bucket, computed from deduplicated transactions, and replaces the one before it as a
-- whole. So nothing counts twice however often it is computed, and a state that nothing is in any more leaves nothing behind.
CREATE TABLE merchant_slots
(
    slot                 DateTime('UTC'),
    merchant_id          UInt32,
    merchant_name        String CODEC(ZSTD(1)),   -- of the newest snapshot that its payments have
    merchant_snapshot_id UInt32,
    payments             Array(Tuple(
        currency           LowCardinality(String),
        status             LowCardinality(String),
        reporting_currency LowCardinality(String),
        enrichment_status  LowCardinality(String),
        country            LowCardinality(String),
        category_code      LowCardinality(String),
        transactions       UInt64,
        amount             Decimal(38, 4),
        amount_reporting   Decimal(38, 4))),
    refreshed_at         DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),   -- when its computation began
    complete_until       DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),   -- it has all that was read until then

    -- The next step looks for what was computed lately.
    INDEX lately (refreshed_at, complete_until) TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(refreshed_at)
PARTITION BY toYYYYMM(slot)
-- A merchant's day is in one place, since that is what is added up next.
ORDER BY (toDate(slot), merchant_id, slot)
