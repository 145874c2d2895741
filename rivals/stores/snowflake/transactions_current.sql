-- One row: one transaction in its newest state, with its merchant and rate as they are known at the moment of reading.
-- Made from: transaction_states, merchants, fx_rate_periods. Read by: analysts and the reports; filter by created_on.
-- Guarantee: the highest updated_at wins, in whatever order the states arrive and however often. An unknown merchant or
-- rate gives a pending row with NULL amounts, never a zero and never a loss. Nothing is repaired: a corrected rate changes
-- past days at once.
-- Mended: FINAL is QUALIFY ROW_NUMBER(); dictGetOrNull is a LEFT JOIN and an ASOF JOIN.
CREATE VIEW transactions_current AS
WITH
    newest AS
    (
        SELECT *, created_at::DATE AS created_on
        FROM transaction_states
        -- The key that `transactions` has. The day is in it, though it adds nothing, so that a filter by created_on can be
        -- applied before the window. Of states with one updated_at the last one sent wins: every reading says the same.
        QUALIFY ROW_NUMBER() OVER (
            PARTITION BY created_at::DATE, merchant_id, transaction_id
            ORDER BY updated_at DESC, kafka_timestamp DESC, kafka_offset DESC, ingested_at DESC
        ) = 1
    ),
    priced AS
    (
        SELECT
            t.*,
            -- The last quote up to the payment's day, whether or not it holds that long.
            t.created_on <= r.valid_to AS has_rate,
            r.rate,
            r.rate_date,
            r.is_latest,
            r.reporting_currency AS quoted_in,
            r.snapshot_id AS rates_snapshot_id
        FROM newest AS t
        ASOF JOIN fx_rate_periods AS r
            MATCH_CONDITION (t.created_on >= r.valid_from)
            ON t.currency = r.currency
    )
SELECT
    p.transaction_id,
    p.created_at,
    p.created_on,
    p.merchant_id,
    p.amount,
    p.currency,
    p.status,
    p.updated_at,

    COALESCE(m.merchant_name, '') AS merchant_name,
    COALESCE(m.country, '') AS merchant_country,
    COALESCE(m.category_code, '') AS merchant_category_code,
    COALESCE(m.snapshot_id, 0) AS merchant_snapshot_id,

    IFF(p.has_rate, p.rate, NULL) AS fx_rate,
    IFF(p.has_rate, p.rate_date, NULL) AS fx_rate_date,
    -- A product has no more decimals than 12 or its factors: of 4 and 12 decimals it would be rounded to 12, and then, wrongly,
    -- again to 4. With 16 it is exact. ROUND is half away from zero.
    IFF(p.has_rate, ROUND(p.amount * p.rate::NUMBER(38, 16), 4)::NUMBER(38, 4), NULL) AS amount_reporting,
    IFF(p.has_rate, p.quoted_in, '') AS reporting_currency,
    IFF(p.has_rate, p.rates_snapshot_id, 0) AS fx_snapshot_id,

    CASE
        WHEN m.merchant_id IS NULL THEN 'merchant_pending'
        WHEN p.has_rate IS NULL OR NOT p.has_rate THEN 'fx_pending'
        WHEN p.is_latest AND p.rate_date < p.created_on THEN 'fx_provisional'
        ELSE 'ok'
    END AS enrichment_status,

    p.kafka_topic,
    p.kafka_partition,
    p.kafka_offset,
    p.kafka_timestamp,
    p.ingested_at
FROM priced AS p
LEFT JOIN merchants AS m ON m.merchant_id = p.merchant_id
