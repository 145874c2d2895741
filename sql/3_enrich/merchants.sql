-- One row: one merchant, as of the newest snapshot.
-- Written by: `paystream dims refresh merchants`, which replaces the whole table at once. Read by: merchants_dict, and
-- `paystream report`, which looks a merchant up.
-- Guarantee: one snapshot, never a mix of two.
CREATE TABLE merchants
(
    merchant_id   UInt32,
    merchant_name String,
    country       LowCardinality(String),  -- ISO 3166-1 alpha-2
    category_code LowCardinality(String),  -- ISO 18245, four digits
    snapshot_id   UInt32
)
ENGINE = MergeTree
ORDER BY merchant_id
