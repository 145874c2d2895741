-- One row: one merchant, one day (UTC, by created_at), one currency and one reporting currency ('' where no rate is known
-- yet): how many of its payments are in each status, and what they come to.
-- Made from: merchant_days and merchant_slots. Read by: report_settlement_by_day, report_merchant_ranking.
-- Guarantee: as merchant_days_current. `net` is captured and settled; `…_reporting` is in the reporting currency, 0 without a rate.
CREATE VIEW merchant_days_by_currency AS
WITH
    -- Some minutes after midnight, when the day before is surely to be seen in merchant_days.
    (SELECT toDate(max(began_at) - INTERVAL 10 MINUTE) FROM rollup_state WHERE view = 'merchant_days_mv') AS first_open_day
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
WHERE day < first_open_day
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
