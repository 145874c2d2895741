-- One row: one merchant, as one snapshot had it. Compare and join by snapshot_id, as transactions carry it.
-- Written by: `paystream dims refresh merchants`, before the snapshot goes live. Read by: `paystream dims compare`,
-- `paystream dims rollback`, `paystream dims repair`, and whoever asks which record a transaction was enriched with
-- (merchant_snapshot_id).
-- Guarantee: complete for every snapshot that is kept (`paystream dims history`); older ones are dropped as partitions.
CREATE TABLE merchants_history
(
    merchant_id   UInt32,
    merchant_name String,
    country       LowCardinality(String),
    category_code LowCardinality(String),
    snapshot_id   UInt32
)
ENGINE = MergeTree
PARTITION BY snapshot_id
ORDER BY merchant_id
