-- One row: one merchant's payments of one day (UTC, by created_at) that is over, once deduplicated (FINAL): an element of
-- `payments` for each currency, status and reporting currency; `provisional` counts those at a rate that will be replaced.
-- Written by: merchant_days_mv. Read by: merchant_days_current.
-- Guarantee: a row is the sum of its half hours and replaces the one before it as a whole. Rows of 1970 without payments only say
-- that a refresh was complete, since most have nothing to write.
CREATE TABLE merchant_days
(
    day                  Date,
    merchant_id          UInt32,
    merchant_name        String CODEC(ZSTD(1)),
    merchant_snapshot_id UInt32,
    payments             Array(Tuple(
        currency           LowCardinality(String),
        status             LowCardinality(String),
        reporting_currency LowCardinality(String),
        transactions       UInt64,
        provisional        UInt64,
        amount             Decimal(38, 4),
        amount_reporting   Decimal(38, 4))),
    refreshed_at         DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    complete_until       DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),

    INDEX lately (refreshed_at, complete_until) TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(refreshed_at)
PARTITION BY toYYYYMM(day)
ORDER BY (day, merchant_id)
TTL toDateTime(refreshed_at) + INTERVAL 1 DAY DELETE WHERE day = toDate(0)
