-- One row: one valid message, as it would be stored if nothing were looked up for it; NEVER for real payments.
-- Written by: transactions_parsed_mv. Read by: the table transactions, in the scratch database of
-- `paystream loadtest drain --compare`, which measures there what sql/1_ingest/transactions_mv.sql adds to this.
-- Guarantee: the payment's own columns are the same as those of the real view; the comparison checks that.
CREATE MATERIALIZED VIEW transactions_mv TO transactions AS
SELECT
    transaction_id,
    created_at,
    merchant_id,
    amount,
    currency,
    status,
    updated_at,

    '' AS merchant_name,
    '' AS merchant_country,
    '' AS merchant_category_code,
    toUInt32(0) AS merchant_snapshot_id,

    CAST(NULL, 'Nullable(Decimal(38, 12))') AS fx_rate,
    CAST(NULL, 'Nullable(Date)') AS fx_rate_date,
    CAST(NULL, 'Nullable(Decimal(38, 4))') AS amount_reporting,
    '' AS reporting_currency,
    toUInt32(0) AS fx_snapshot_id,

    'merchant_pending' AS enrichment_status,

    kafka_topic,
    kafka_partition,
    kafka_offset,
    kafka_timestamp,
    now64(3) AS ingested_at
FROM transactions_parsed
WHERE fault = ''
