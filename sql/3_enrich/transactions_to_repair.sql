-- One row: one transaction that would be enriched otherwise today: the row to write in its place, and what stands there.
-- Made from: transactions. Read by: `paystream dims repair`; filter by toDate(created_at) to read little.
-- Parameter: restate_merchants, whether a known merchant's changed attributes are taken over into old rows.
-- Guarantee: enriches as transactions_mv does (a test holds them together); empty once what it gives is written. It never
-- takes away: where the dictionaries have no merchant or no rate any more, a row keeps what it was stored with, and so does
-- one in another reporting currency. Each row's version is one above the stored one, so a redelivered message loses.
CREATE VIEW transactions_to_repair AS
WITH
    dictGetOrNull('merchants_dict', ('merchant_name', 'country', 'category_code', 'snapshot_id'), t.merchant_id) AS merchant,
    dictGetOrNull('fx_rates_dict', ('rate', 'rate_date', 'is_latest', 'reporting_currency', 'snapshot_id'), tuple(t.currency), toDate(t.created_at)) AS fx,

    isNotNull(merchant.4) AND (
        t.merchant_snapshot_id = 0
        OR ({restate_merchants:Bool} AND (t.merchant_name, t.merchant_country, t.merchant_category_code) != (assumeNotNull(merchant.1), assumeNotNull(merchant.2), assumeNotNull(merchant.3)))
    ) AS takes_merchant,

    isNotNull(fx.1) AND t.reporting_currency IN ('', assumeNotNull(fx.4)) AS has_rate,
    has_rate AND (isNull(t.fx_rate) OR (assumeNotNull(t.fx_rate), assumeNotNull(t.fx_rate_date)) != (assumeNotNull(fx.1), assumeNotNull(fx.2))) AS takes_rate,

    multiIf(
        t.merchant_snapshot_id = 0 AND NOT takes_merchant, 'merchant_pending',
        isNull(t.fx_rate) AND NOT takes_rate, 'fx_pending',
        -- Without a rate to compare with, a row that waited for its merchant does not say whether its rate is final.
        if(has_rate, fx.3 AND fx.2 < toDate(t.created_at), t.enrichment_status = 'fx_provisional' OR (t.enrichment_status = 'merchant_pending' AND t.fx_rate_date < toDate(t.created_at))), 'fx_provisional',
        'ok'
    ) AS status_now
SELECT
    t.transaction_id AS transaction_id,
    t.created_at AS created_at,
    t.merchant_id AS merchant_id,
    t.amount AS amount,
    t.currency AS currency,
    t.status AS status,
    t.updated_at AS updated_at,

    if(takes_merchant, assumeNotNull(merchant.1), t.merchant_name) AS merchant_name,
    if(takes_merchant, assumeNotNull(merchant.2), t.merchant_country) AS merchant_country,
    if(takes_merchant, assumeNotNull(merchant.3), t.merchant_category_code) AS merchant_category_code,
    if(takes_merchant, assumeNotNull(merchant.4), t.merchant_snapshot_id) AS merchant_snapshot_id,

    if(takes_rate, fx.1, t.fx_rate) AS fx_rate,
    if(takes_rate, fx.2, t.fx_rate_date) AS fx_rate_date,
    if(takes_rate, CAST(round(t.amount * fx.1, 4), 'Nullable(Decimal(38, 4))'), t.amount_reporting) AS amount_reporting,
    if(takes_rate, assumeNotNull(fx.4), t.reporting_currency) AS reporting_currency,
    -- Also where only its being provisional has changed: the snapshot that made it final.
    if(has_rate, assumeNotNull(fx.5), t.fx_snapshot_id) AS fx_snapshot_id,

    status_now AS enrichment_status,
    t.enrichment_revision + 1 AS enrichment_revision,

    t.kafka_topic AS kafka_topic,
    t.kafka_partition AS kafka_partition,
    t.kafka_offset AS kafka_offset,
    t.kafka_timestamp AS kafka_timestamp,
    t.ingested_at AS ingested_at,
    now64(3) AS enriched_at,

    t.enrichment_status AS stored_enrichment_status,
    t.amount_reporting AS stored_amount_reporting
FROM transactions AS t FINAL
WHERE (takes_merchant OR takes_rate OR status_now != t.enrichment_status)
    -- The version has room for no more.
    AND t.enrichment_revision < 4095
SETTINGS do_not_merge_across_partitions_select_final = 1
