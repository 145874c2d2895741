-- One row: one merchant, one day (UTC, by created_at), one currency and one reporting currency ('' where no rate is known
-- yet): how many of its payments are in each status, and what they come to.
-- Made from: merchant_days and merchant_slots. Read by: report_settlement_by_day, report_merchant_ranking.
-- Guarantee: as merchant_days_current, shards added up. `net` is captured and settled; `…_reporting` is in the reporting
-- currency, 0 without a rate.
CREATE VIEW merchant_days_by_currency AS
WITH
    (SELECT (min(began_at), count()) FROM rollup_state WHERE view = 'merchant_days_mv') AS days_state,
    -- Some minutes after midnight, when the day before is surely to be seen in merchant_days: in each shard's, on a cluster.
    toDate(greatest(days_state.1, toDateTime(600, 'UTC')) - INTERVAL 10 MINUTE) AS first_open_day,
    -- Each has its own row of a merchant's day. Where there is one, rows stand as they are: adding up takes twice the time.
    days_state.2 AS shards
SELECT
    day,
    merchant_id,
    merchant_name,
    b.currency AS currency,
    b.reporting_currency AS reporting_currency,
    b.transactions AS transactions,
    b.authorized AS authorized,
    b.captured AS captured,
    b.settled AS settled,
    b.refunded AS refunded,
    b.charged_back AS charged_back,
    b.failed AS failed,
    b.provisional AS provisional,
    b.authorized_amount AS authorized_amount,
    b.net AS net,
    b.refunds AS refunds,
    b.charge_backs AS charge_backs,
    b.net_reporting AS net_reporting,
    b.refunds_reporting AS refunds_reporting,
    b.charge_backs_reporting AS charge_backs_reporting
FROM merchant_days FINAL
ARRAY JOIN by_currency AS b
WHERE day < first_open_day AND shards <= 1
UNION ALL
SELECT
    day,
    merchant_id,
    -- The same for all of a merchant's day.
    argMax(argMax(merchant_name, merchant_snapshot_id), max(merchant_snapshot_id)) OVER (PARTITION BY day, merchant_id) AS merchant_name,
    b.currency AS currency,
    b.reporting_currency AS reporting_currency,
    sum(b.transactions) AS transactions,
    sum(b.authorized) AS authorized,
    sum(b.captured) AS captured,
    sum(b.settled) AS settled,
    sum(b.refunded) AS refunded,
    sum(b.charged_back) AS charged_back,
    sum(b.failed) AS failed,
    sum(b.provisional) AS provisional,
    sum(b.authorized_amount) AS authorized_amount,
    sum(b.net) AS net,
    sum(b.refunds) AS refunds,
    sum(b.charge_backs) AS charge_backs,
    sum(b.net_reporting) AS net_reporting,
    sum(b.refunds_reporting) AS refunds_reporting,
    sum(b.charge_backs_reporting) AS charge_backs_reporting
FROM merchant_days FINAL
ARRAY JOIN by_currency AS b
WHERE day < first_open_day AND shards > 1
GROUP BY day, merchant_id, currency, reporting_currency
UNION ALL
SELECT
    toDate(slot) AS day,
    merchant_id,
    -- The same for all of a merchant's day.
    argMax(argMax(merchant_name, merchant_snapshot_id), max(merchant_snapshot_id)) OVER (PARTITION BY day, merchant_id) AS merchant_name,
    p.currency AS currency,
    p.reporting_currency AS reporting_currency,
    sum(p.transactions) AS transactions,
    sumIf(p.transactions, p.status = 'authorized') AS authorized,
    sumIf(p.transactions, p.status = 'captured') AS captured,
    sumIf(p.transactions, p.status = 'settled') AS settled,
    sumIf(p.transactions, p.status = 'refunded') AS refunded,
    sumIf(p.transactions, p.status = 'charged_back') AS charged_back,
    sumIf(p.transactions, p.status = 'failed') AS failed,
    sumIf(p.transactions, p.enrichment_status = 'fx_provisional') AS provisional,
    sumIf(p.amount, p.status = 'authorized') AS authorized_amount,
    sumIf(p.amount, p.status IN ('captured', 'settled')) AS net,
    sumIf(p.amount, p.status = 'refunded') AS refunds,
    sumIf(p.amount, p.status = 'charged_back') AS charge_backs,
    sumIf(p.amount_reporting, p.status IN ('captured', 'settled')) AS net_reporting,
    sumIf(p.amount_reporting, p.status = 'refunded') AS refunds_reporting,
    sumIf(p.amount_reporting, p.status = 'charged_back') AS charge_backs_reporting
FROM merchant_slots FINAL
ARRAY JOIN payments AS p
WHERE toDate(slot) >= first_open_day
GROUP BY day, merchant_id, currency, reporting_currency
SETTINGS do_not_merge_across_partitions_select_final = 1
