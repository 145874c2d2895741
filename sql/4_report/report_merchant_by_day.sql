-- One row: one merchant, one day (UTC, by created_at), one currency, one status and one reporting currency ('' where no
-- rate is known yet): the nightly batch's successor.
-- Written by: nobody (a view). Read by: finance and analytics; filter by day, and by merchant_id to read little.
-- Guarantee: each transaction counts once, in its newest state; equal to a recomputation of everything read until
-- complete_until. Days that are over come from merchant_days, the others from their half hours.
CREATE VIEW report_merchant_by_day AS
WITH
    (SELECT toDate(max(began_at)) FROM rollup_state WHERE view = 'merchant_days_mv') AS first_open_day,
    (SELECT any(complete_until) FROM report_freshness WHERE report = 'report_merchant_by_day') AS reached
SELECT
    day,
    merchant_id,
    argMax(merchant_name, merchant_snapshot_id) AS merchant_name,
    p.currency AS currency,
    p.status AS status,
    p.reporting_currency AS reporting_currency,
    sum(p.transactions) AS transactions,
    sum(p.amount) AS amount,
    -- Amounts whose rate is not known yet are left out of the sum and counted here.
    if(reporting_currency = '', NULL, sum(p.amount_reporting)) AS amount_reporting,
    sumIf(p.transactions, p.reporting_currency = '') AS transactions_without_rate,
    sumIf(p.transactions, p.enrichment_status = 'fx_provisional') AS transactions_with_provisional_rate,
    assumeNotNull(reached) AS complete_until
FROM
(
    SELECT day, merchant_id, merchant_name, merchant_snapshot_id, payments
    FROM merchant_days FINAL
    WHERE day < first_open_day
    UNION ALL
    SELECT toDate(slot), merchant_id, merchant_name, merchant_snapshot_id, payments
    FROM merchant_slots FINAL
    WHERE toDate(slot) >= first_open_day
)
ARRAY JOIN payments AS p
GROUP BY day, merchant_id, currency, status, reporting_currency
SETTINGS do_not_merge_across_partitions_select_final = 1
