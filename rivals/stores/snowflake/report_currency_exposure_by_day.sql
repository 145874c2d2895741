-- One row: one day (UTC, by created_at), one currency and one reporting currency ('' where no rate is known yet).
-- Made from: transactions_current. Read by: finance, for what is held in foreign currencies; filter by day.
-- Guarantee: as report_settlement_by_day.
-- Mended: sqlglot refuses FINAL; the roll-up volume_hours and its ARRAY JOIN are a GROUP BY. sumIf and countIf are
-- SUM(IFF(…)) and COUNT_IF.
CREATE VIEW report_currency_exposure_by_day AS
SELECT
    created_on AS day,
    currency,
    reporting_currency,
    COUNT(*) AS transactions,
    SUM(IFF(status = 'authorized', amount, 0)) AS authorized_amount,
    SUM(IFF(status IN ('captured', 'settled', 'refunded', 'charged_back'), amount, 0)) AS gross,
    SUM(IFF(status IN ('captured', 'settled'), amount, 0)) AS net,
    IFF(reporting_currency = '', NULL, SUM(IFF(status IN ('captured', 'settled'), amount_reporting, 0))) AS net_reporting,
    -- Of net_reporting, what is at a rate that the day's own will replace.
    IFF(reporting_currency = '', NULL, SUM(IFF(status IN ('captured', 'settled') AND enrichment_status = 'fx_provisional', amount_reporting, 0))) AS net_reporting_provisional
FROM transactions_current
GROUP BY created_on, currency, reporting_currency
