-- One row: one hour (UTC, by created_at), one country and category of merchants ('' while the merchant is not known), one
-- reporting currency ('' where no rate is known yet).
-- Made from: transactions_current. Read by: analytics; filter by day.
-- Guarantee: as report_settlement_by_day.
-- Mended: sqlglot refuses FINAL; the roll-up volume_hours and its ARRAY JOIN are a GROUP BY. sumIf and countIf are
-- SUM(IFF(…)) and COUNT_IF.
CREATE VIEW report_volume_by_hour AS
SELECT
    created_on AS day,
    DATE_TRUNC('hour', created_at) AS hour,
    merchant_country AS country,
    merchant_category_code AS category_code,
    reporting_currency,
    COUNT(*) AS transactions,
    COUNT_IF(status = 'failed') AS failed,
    IFF(reporting_currency = '', NULL, SUM(IFF(status IN ('captured', 'settled', 'refunded', 'charged_back'), amount_reporting, 0))) AS gross_reporting,
    IFF(reporting_currency = '', NULL, SUM(IFF(status IN ('captured', 'settled'), amount_reporting, 0))) AS net_reporting
FROM transactions_current
GROUP BY created_on, DATE_TRUNC('hour', created_at), merchant_country, merchant_category_code, reporting_currency
