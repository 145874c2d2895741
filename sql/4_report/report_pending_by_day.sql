-- One row: one day (UTC, by created_at), one thing that is waited for (merchant_pending, fx_pending, fx_provisional), one
-- currency and one reporting currency ('' where no rate is known yet).
-- Made from: volume_hours. Read by: finance and operators, for what a repair has still to complete; filter by day.
-- Guarantee: each transaction counts once, in its newest state; equal to a recomputation of everything read until complete_until.
CREATE VIEW report_pending_by_day AS
WITH (SELECT any(complete_until) FROM report_freshness WHERE report = 'report_pending_by_day') AS reached
SELECT
    toDate(hour) AS day,
    p.enrichment_status AS enrichment_status,
    p.currency AS currency,
    p.reporting_currency AS reporting_currency,
    sum(p.transactions) AS transactions,
    sum(p.amount) AS amount,
    -- At the rate of an earlier day where it is provisional.
    if(reporting_currency = '', NULL, sum(p.amount_reporting)) AS amount_reporting,
    assumeNotNull(reached) AS complete_until
FROM volume_hours FINAL
ARRAY JOIN payments AS p
WHERE enrichment_status != 'ok'
GROUP BY day, enrichment_status, currency, reporting_currency
SETTINGS do_not_merge_across_partitions_select_final = 1
