-- One row: the rate that one currency was quoted at on one day: units of reporting_currency for one unit of currency.
-- Written by: `paystream dims refresh fx`, which replaces the whole table at once; before the first file,
-- `paystream migrate up` writes the rate of the reporting currency, 1. Read by: fx_rate_periods, `paystream status`.
-- Guarantee: one snapshot, never a mix of two; no row for a day without a quote.
CREATE TABLE fx_rates
(
    currency           LowCardinality(String),  -- ISO 4217
    rate_date          Date,
    rate               Decimal(38, 12),
    reporting_currency LowCardinality(String),
    snapshot_id        UInt32
)
ENGINE = MergeTree
ORDER BY (currency, rate_date)
