-- One row: one valid message, enriched with the merchant and the exchange rate known at this moment.
-- Made from: transactions_parsed, each block as it passes. Read by: the table transactions.
-- Guarantee: a merchant or rate that is not known gives a pending row with NULL amounts, never a zero and never a loss.
CREATE MATERIALIZED VIEW transactions_mv TO transactions AS
WITH
    dictGetOrNull('merchants_dict', ('merchant_name', 'country', 'category_code', 'snapshot_id'), merchant_id) AS merchant,
    dictGetOrNull('fx_rates_dict', ('rate', 'rate_date', 'is_latest', 'reporting_currency', 'snapshot_id'), tuple(currency), toDate(created_at)) AS fx
SELECT
    transaction_id,
    created_at,
    merchant_id,
    amount,
    currency,
    status,
    updated_at,

    ifNull(merchant.1, '') AS merchant_name,
    ifNull(merchant.2, '') AS merchant_country,
    ifNull(merchant.3, '') AS merchant_category_code,
    ifNull(merchant.4, 0) AS merchant_snapshot_id,

    fx.1 AS fx_rate,
    fx.2 AS fx_rate_date,
    -- Rounded here and in transactions_to_repair only: the product is exact, then half away from zero to 4 decimals.
    CAST(round(amount * fx.1, 4), 'Nullable(Decimal(38, 4))') AS amount_reporting,
    ifNull(fx.4, '') AS reporting_currency,
    ifNull(fx.5, 0) AS fx_snapshot_id,

    multiIf(
        isNull(merchant.4), 'merchant_pending',
        isNull(fx.1), 'fx_pending',
        fx.3 AND fx.2 < toDate(created_at), 'fx_provisional',
        'ok'
    ) AS enrichment_status,

    kafka_topic,
    kafka_partition,
    kafka_offset,
    kafka_timestamp,
    now64(3) AS ingested_at
FROM transactions_parsed
WHERE fault = ''
