-- One row: all payments of one hour (UTC, by created_at), once deduplicated (FINAL): an element of `payments` for each
-- combination of country, category, currency, status and so on.
-- Written by: volume_hours_mv, and `paystream rollup rebuild`. Read by: report_volume_by_hour,
-- report_currency_exposure_by_day, report_pending_by_day, rollup_state, `paystream audit`.
-- Guarantee: a row is the sum of its merchants' half hours and replaces the one before it as a whole. Rows of 1970 without
-- payments only say that a refresh was complete, also when it had nothing to write.
CREATE TABLE volume_hours
(
    hour           DateTime('UTC'),
    payments       Array(Tuple(
        currency           LowCardinality(String),
        status             LowCardinality(String),
        reporting_currency LowCardinality(String),
        enrichment_status  LowCardinality(String),
        country            LowCardinality(String),
        category_code      LowCardinality(String),
        transactions       UInt64,
        amount             Decimal(38, 4),
        amount_reporting   Decimal(38, 4))),
    refreshed_at   DateTime64(3, 'UTC'),
    complete_until DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(refreshed_at)
PARTITION BY toYYYYMM(hour)
ORDER BY hour
TTL toDateTime(refreshed_at) + INTERVAL 1 DAY DELETE WHERE hour < toDateTime('1971-01-01 00:00:00', 'UTC')
-- An hour has thousands of elements, and a report of one reads that one.
SETTINGS index_granularity = 8
