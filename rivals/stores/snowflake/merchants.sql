-- One row: one merchant, as of the newest snapshot.
-- Written by: INSERT OVERWRITE, which replaces the whole table in one transaction. Read by: transactions_current.
-- Guarantee: one snapshot, never a mix of two. The loader must see to one row a merchant: neither store enforces a key, and
-- where a dictionary keeps one of two rows, a join counts the merchant's payments twice.
-- Mended: LowCardinality, ENGINE and ORDER BY are gone. NOT NULL, which ClickHouse's types imply, is said.
CREATE TABLE merchants
(
    merchant_id   NUMBER(10, 0) NOT NULL,
    merchant_name VARCHAR       NOT NULL,
    country       VARCHAR       NOT NULL,  -- ISO 3166-1 alpha-2
    category_code VARCHAR       NOT NULL,  -- ISO 18245, four digits
    snapshot_id   NUMBER(10, 0) NOT NULL
)
