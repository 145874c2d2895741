-- One row: one merchant, as of the newest snapshot.
-- Written by: a load job with WRITE_TRUNCATE, which replaces the whole table at once. Read by: transactions_current.
-- Guarantee: one snapshot, never a mix of two. The loader must see to one row a merchant: neither store enforces a key, and
-- where a dictionary keeps one of two rows, a join counts the merchant's payments twice.
-- Mended: LowCardinality, ENGINE and ORDER BY are gone. NOT NULL, which ClickHouse's types imply, is said.
CREATE TABLE paystream.merchants
(
    merchant_id   INT64  NOT NULL,
    merchant_name STRING NOT NULL,
    country       STRING NOT NULL,  -- ISO 3166-1 alpha-2
    category_code STRING NOT NULL,  -- ISO 18245, four digits
    snapshot_id   INT64  NOT NULL
)
