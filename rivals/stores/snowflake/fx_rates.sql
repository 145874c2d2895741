-- One row: the rate that one currency was quoted at on one day: units of reporting_currency for one unit of currency.
-- Written by: INSERT OVERWRITE, which replaces the whole table in one transaction. Read by: fx_rate_periods.
-- Guarantee: one snapshot, never a mix of two; no row for a day without a quote; the loader sees to one row a currency and
-- day.
-- Mended: LowCardinality, ENGINE and ORDER BY are gone.
CREATE TABLE fx_rates
(
    currency           VARCHAR(3)     NOT NULL,  -- ISO 4217
    rate_date          DATE           NOT NULL,
    rate               NUMBER(38, 12) NOT NULL,
    reporting_currency VARCHAR(3)     NOT NULL,
    snapshot_id        NUMBER(10, 0)  NOT NULL
)
