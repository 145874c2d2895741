-- One row: the rate that one currency was quoted at on one day: units of reporting_currency for one unit of currency.
-- Written by: a load job with WRITE_TRUNCATE, which replaces the whole table at once. Read by: fx_rate_periods.
-- Guarantee: one snapshot, never a mix of two; no row for a day without a quote; the loader sees to one row a currency and
-- day.
-- Mended: LowCardinality, ENGINE and ORDER BY are gone. Decimal(38, 12), which sqlglot makes NUMERIC(38, 12), is
-- BIGNUMERIC.
CREATE TABLE paystream.fx_rates
(
    currency           STRING             NOT NULL,  -- ISO 4217
    rate_date          DATE               NOT NULL,
    rate               BIGNUMERIC(38, 12) NOT NULL,  -- NUMERIC ends at 9 decimals
    reporting_currency STRING             NOT NULL,
    snapshot_id        INT64              NOT NULL
)
