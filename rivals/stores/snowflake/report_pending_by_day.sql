-- One row: one day (UTC, by created_at), one thing that is waited for (merchant_pending, fx_pending, fx_provisional), one
-- currency and one reporting currency ('' where no rate is known yet).
-- Made from: transactions_current. Read by: finance and operators; filter by day.
-- Guarantee: as report_settlement_by_day. It empties by itself once the merchant or the rate is loaded; there is no repair
-- to wait for.
-- Mended: sqlglot refuses FINAL; the roll-up volume_hours and its ARRAY JOIN are a GROUP BY.
CREATE VIEW report_pending_by_day AS
SELECT
    created_on AS day,
    enrichment_status,
    currency,
    reporting_currency,
    COUNT(*) AS transactions,
    SUM(amount) AS amount,
    -- At the rate of an earlier day where it is provisional.
    IFF(reporting_currency = '', NULL, SUM(amount_reporting)) AS amount_reporting
FROM transactions_current
WHERE enrichment_status <> 'ok'
GROUP BY created_on, enrichment_status, currency, reporting_currency
