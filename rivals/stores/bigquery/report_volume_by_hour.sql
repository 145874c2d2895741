-- One row: one hour (UTC, by created_at), one country and category of merchants ('' while the merchant is not known), one
-- reporting currency ('' where no rate is known yet).
-- Made from: transactions_current. Read by: analytics; filter by day.
-- Guarantee: as report_settlement_by_day.
-- Mended: sqlglot refuses FINAL; the roll-up volume_hours and its ARRAY JOIN are a GROUP BY. sumIf and countIf are
-- SUM(IF(…)) and COUNTIF.
CREATE VIEW paystream.report_volume_by_hour AS
SELECT
    created_on AS day,
    TIMESTAMP_TRUNC(created_at, HOUR) AS hour,
    merchant_country AS country,
    merchant_category_code AS category_code,
    reporting_currency,
    COUNT(*) AS transactions,
    COUNTIF(status = 'failed') AS failed,
    IF(reporting_currency = '', NULL, SUM(IF(status IN ('captured', 'settled', 'refunded', 'charged_back'), amount_reporting, 0))) AS gross_reporting,
    IF(reporting_currency = '', NULL, SUM(IF(status IN ('captured', 'settled'), amount_reporting, 0))) AS net_reporting
FROM paystream.transactions_current
GROUP BY created_on, TIMESTAMP_TRUNC(created_at, HOUR), merchant_country, merchant_category_code, reporting_currency
