-- One row: one merchant's payments of one day (UTC, by created_at), as in merchant_days.
-- Made from: merchant_days and merchant_slots. Read by: report_merchant_by_day.
-- Guarantee: each bucket once: days that are over come from merchant_days as they stand there, on a cluster the sum of its
-- shards' rows; the others come from their half hours.
CREATE VIEW merchant_days_current AS
WITH
    (SELECT (min(began_at), count()) FROM rollup_state WHERE view = 'merchant_days_mv') AS days_state,
    -- Some minutes after midnight, when the day before is surely to be seen in merchant_days: in each shard's, on a cluster.
    toDate(greatest(days_state.1, toDateTime(600, 'UTC')) - INTERVAL 10 MINUTE) AS first_open_day,
    -- Each has its own row of a merchant's day. Where there is one, rows stand as they are: adding up takes twice the time.
    days_state.2 AS shards
SELECT day, merchant_id, merchant_name, payments
FROM merchant_days FINAL
WHERE day < first_open_day AND shards <= 1
UNION ALL
SELECT
    day,
    merchant_id,
    argMax(name, snapshot_id) AS merchant_name,
    CAST(
        groupArray((currency, status, reporting_currency, transactions_sum, provisional_sum, amount_sum, amount_reporting_sum)),
        'Array(Tuple(currency LowCardinality(String), status LowCardinality(String), reporting_currency LowCardinality(String), transactions UInt64, provisional UInt64, amount Decimal(38, 4), amount_reporting Decimal(38, 4)))'
    ) AS payments
FROM
(
    SELECT
        toDate(slot) AS day,
        merchant_id,
        p.currency AS currency,
        p.status AS status,
        p.reporting_currency AS reporting_currency,
        argMax(merchant_name, merchant_snapshot_id) AS name,
        max(merchant_snapshot_id) AS snapshot_id,
        sum(p.transactions) AS transactions_sum,
        sumIf(p.transactions, p.enrichment_status = 'fx_provisional') AS provisional_sum,
        sum(p.amount) AS amount_sum,
        sum(p.amount_reporting) AS amount_reporting_sum
    FROM merchant_slots FINAL
    ARRAY JOIN payments AS p
    WHERE toDate(slot) >= first_open_day
    GROUP BY day, merchant_id, currency, status, reporting_currency
    UNION ALL
    SELECT
        day,
        merchant_id,
        p.currency AS currency,
        p.status AS status,
        p.reporting_currency AS reporting_currency,
        argMax(merchant_name, merchant_snapshot_id) AS name,
        max(merchant_snapshot_id) AS snapshot_id,
        sum(p.transactions) AS transactions_sum,
        sum(p.provisional) AS provisional_sum,
        sum(p.amount) AS amount_sum,
        sum(p.amount_reporting) AS amount_reporting_sum
    FROM merchant_days FINAL
    ARRAY JOIN payments AS p
    WHERE day < first_open_day AND shards > 1
    GROUP BY day, merchant_id, currency, status, reporting_currency
)
GROUP BY day, merchant_id
SETTINGS do_not_merge_across_partitions_select_final = 1
