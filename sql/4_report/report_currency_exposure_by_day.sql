-- One row: one day (UTC, by created_at), one currency and one reporting currency ('' where no rate is known yet).
-- Made from: volume_hours. Read by: finance, for what is held in foreign currencies; filter by day.
-- Guarantee: each transaction counts once, in its newest state; equal to a recomputation of everything read until
-- complete_until. `gross` and `net` as in report_settlement_by_day.
CREATE VIEW report_currency_exposure_by_day AS
WITH (SELECT any(complete_until) FROM report_freshness WHERE report = 'report_currency_exposure_by_day') AS reached
SELECT
    toDate(hour) AS day,
    p.currency AS currency,
    p.reporting_currency AS reporting_currency,
    sum(p.transactions) AS transactions,
    sumIf(p.amount, p.status = 'authorized') AS authorized_amount,
    sumIf(p.amount, p.status IN ('captured', 'settled', 'refunded', 'charged_back')) AS gross,
    sumIf(p.amount, p.status IN ('captured', 'settled')) AS net,
    if(reporting_currency = '', NULL, sumIf(p.amount_reporting, p.status IN ('captured', 'settled'))) AS net_reporting,
    -- Of net_reporting, what is at a rate that the day's own will replace.
    if(reporting_currency = '', NULL, sumIf(p.amount_reporting, p.status IN ('captured', 'settled') AND p.enrichment_status = 'fx_provisional')) AS net_reporting_provisional,
    assumeNotNull(reached) AS complete_until
FROM volume_hours FINAL
ARRAY JOIN payments AS p
GROUP BY day, currency, reporting_currency
SETTINGS do_not_merge_across_partitions_select_final = 1
