-- One row: the rate that one currency was quoted at on one day, as one snapshot had it.
-- Written by: `paystream dims refresh fx`, before the snapshot goes live. Read by: `paystream dims compare`,
-- `paystream dims rollback`, and whoever asks which rate a transaction was converted with (fx_snapshot_id, fx_rate_date).
-- Guarantee: complete for every snapshot that is kept (`paystream dims history`); older ones are dropped as partitions.
CREATE TABLE fx_rates_history
(
    currency           LowCardinality(String),
    rate_date          Date,
    rate               Decimal(38, 12),
    reporting_currency LowCardinality(String),
    snapshot_id        UInt32
)
ENGINE = MergeTree
PARTITION BY snapshot_id
ORDER BY (currency, rate_date)
