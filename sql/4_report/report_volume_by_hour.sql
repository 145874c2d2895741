-- One row: one hour (UTC, by created_at), one country and category of merchants ('' while the merchant is not known), one
-- reporting currency ('' where no rate is known yet).
-- Made from: volume_hours. Read by: analytics; filter by hour, a DateTime, or by day.
-- Guarantee: each transaction counts once, in its newest state; equal to a recomputation of everything read until complete_until.
CREATE VIEW report_volume_by_hour AS
WITH (SELECT any(complete_until) FROM report_freshness WHERE report = 'report_volume_by_hour') AS reached
SELECT
    toDate(hour) AS day,
    hour,
    p.country AS country,
    p.category_code AS category_code,
    p.reporting_currency AS reporting_currency,
    sum(p.transactions) AS transactions,
    sumIf(p.transactions, p.status = 'failed') AS failed,
    -- As in report_settlement_by_day.
    if(reporting_currency = '', NULL, sumIf(p.amount_reporting, p.status IN ('captured', 'settled', 'refunded', 'charged_back'))) AS gross_reporting,
    if(reporting_currency = '', NULL, sumIf(p.amount_reporting, p.status IN ('captured', 'settled'))) AS net_reporting,
    assumeNotNull(reached) AS complete_until
FROM volume_hours FINAL
ARRAY JOIN payments AS p
GROUP BY hour, country, category_code, reporting_currency
SETTINGS do_not_merge_across_partitions_select_final = 1
