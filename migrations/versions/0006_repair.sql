-- Snapshots of the dimensions are kept, and rows that were enriched too early are written again.
-- depends: 0005_quarantine_replays

ALTER TABLE dimension_snapshots
    ADD COLUMN source_modified_at Nullable(DateTime64(3, 'UTC')),
    ADD COLUMN forced_gates Array(LowCardinality(String));

-- One row: one merchant, as one snapshot had it. Compare and join by snapshot_id, as transactions carry it.
-- Written by: `paystream dims refresh merchants`, before the snapshot goes live. Read by: `paystream dims compare` and
-- `rollback`, and whoever asks which record a transaction was enriched with (merchant_snapshot_id).
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
ORDER BY merchant_id;

-- One row: the rate that one currency was quoted at on one day, as one snapshot had it.
-- Written by: `paystream dims refresh fx`, before the snapshot goes live. Read by: `paystream dims compare` and
-- `rollback`, and whoever asks which rate a transaction was converted with (fx_snapshot_id, fx_rate_date).
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
ORDER BY (currency, rate_date);

-- Changes nothing: its rollback makes the view anew once the column is gone.
CREATE OR REPLACE VIEW transactions_current AS
SELECT *
FROM transactions FINAL
-- Parts of two partitions never hold the same key, since created_at is part of it; so each can be merged by itself.
SETTINGS do_not_merge_across_partitions_select_final = 1;

ALTER TABLE transactions
    ADD COLUMN enriched_at DateTime64(3, 'UTC') DEFAULT ingested_at CODEC(Delta, ZSTD(1)),
    ADD INDEX pending enrichment_status TYPE set(4) GRANULARITY 1;

-- For what is stored already; writes the index alone, not the rows.
ALTER TABLE transactions MATERIALIZE INDEX pending;

-- A view's columns are those at its creation: made anew, it has enriched_at too.
CREATE OR REPLACE VIEW transactions_current AS
SELECT *
FROM transactions FINAL
-- Parts of two partitions never hold the same key, since created_at is part of it; so each can be merged by itself.
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- One row: one day of payments (by created_at) as a repair left it, once deduplicated (FINAL).
-- Written by: `paystream dims repair`, once all of a day's rows agree with the dictionaries. Read by: the next repair,
-- which looks only at days whose rates or merchants have changed since.
-- Guarantee: none that anything else relies on. Without a row a day is looked at again, which changes nothing it need not.
CREATE TABLE repaired_days
(
    day                   Date,
    rates_hash            UInt64,                -- of the rates that hold on the day, in fx_rates_dict
    fx_snapshot_id        UInt32,                -- of fx_rates_dict; a later one that came and went may have left rates
    merchants_snapshot_id UInt32,                -- late merchants up to this snapshot have been filled in
    restated_snapshot_id  UInt32,                -- changed merchants up to this one have been restated; 0: never
    repaired_at           DateTime64(3, 'UTC')   -- when the repair began
)
ENGINE = ReplacingMergeTree(repaired_at)
ORDER BY day;

-- One row: one transaction that would be enriched otherwise today: the row to write in its place, and what stands there.
-- Written by: nobody (a view). Read by: `paystream dims repair`; filter by toDate(created_at) to read little.
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
SETTINGS do_not_merge_across_partitions_select_final = 1;
