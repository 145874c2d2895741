-- One row: one transaction in its newest state, with its merchant and rate as they are known at the moment of reading.
-- Made from: transaction_states, merchants, fx_rate_days. Read by: analysts and the reports; filter by created_on.
-- Guarantee: the highest updated_at wins, in whatever order the states arrive and however often. An unknown merchant or
-- rate gives a pending row with NULL amounts, never a zero and never a loss. Nothing is repaired: a corrected rate changes
-- past days at once.
-- Mended: FINAL is QUALIFY ROW_NUMBER(); dictGetOrNull is a LEFT JOIN, of the rates with a row for each day.
CREATE VIEW paystream.transactions_current AS
WITH
    newest AS
    (
        SELECT *, DATE(created_at) AS created_on
        FROM paystream.transaction_states
        -- BigQuery used to want a WHERE beside QUALIFY.
        WHERE TRUE
        -- The key that `transactions` has. The day is in it, though it adds nothing, so that a filter by created_on can be
        -- applied before the window. Of states with one updated_at the last one sent wins: every reading says the same.
        QUALIFY ROW_NUMBER() OVER (
            PARTITION BY DATE(created_at), merchant_id, transaction_id
            ORDER BY updated_at DESC, kafka_timestamp DESC, kafka_offset DESC, ingested_at DESC
        ) = 1
    )
SELECT
    t.transaction_id,
    t.created_at,
    t.created_on,
    t.merchant_id,
    t.amount,
    t.currency,
    t.status,
    t.updated_at,

    COALESCE(m.merchant_name, '') AS merchant_name,
    COALESCE(m.country, '') AS merchant_country,
    COALESCE(m.category_code, '') AS merchant_category_code,
    COALESCE(m.snapshot_id, 0) AS merchant_snapshot_id,

    r.rate AS fx_rate,
    r.rate_date AS fx_rate_date,
    -- BIGNUMERIC holds 38 decimals, so the product is exact. ROUND is half away from zero.
    ROUND(t.amount * r.rate, 4) AS amount_reporting,
    COALESCE(r.reporting_currency, '') AS reporting_currency,
    COALESCE(r.snapshot_id, 0) AS fx_snapshot_id,

    CASE
        WHEN m.merchant_id IS NULL THEN 'merchant_pending'
        WHEN r.rate IS NULL THEN 'fx_pending'
        WHEN r.is_latest AND r.rate_date < t.created_on THEN 'fx_provisional'
        ELSE 'ok'
    END AS enrichment_status,

    t.kafka_topic,
    t.kafka_partition,
    t.kafka_offset,
    t.kafka_timestamp,
    t.ingested_at
FROM newest AS t
LEFT JOIN paystream.merchants AS m ON m.merchant_id = t.merchant_id
LEFT JOIN paystream.fx_rate_days AS r ON r.currency = t.currency AND r.day = t.created_on
