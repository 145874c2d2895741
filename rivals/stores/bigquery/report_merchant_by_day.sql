-- One row: one merchant, one day (UTC, by created_at), one currency, one status and one reporting currency ('' where no
-- rate is known yet): the nightly batch's successor.
-- Made from: transactions_current. Read by: finance and analytics; filter by day, and by merchant_id to read little.
-- Guarantee: as report_settlement_by_day.
-- Mended: the roll-up merchant_days_current and ARRAY JOIN, which sqlglot leaves standing, are a GROUP BY.
CREATE VIEW paystream.report_merchant_by_day AS
SELECT
    created_on AS day,
    merchant_id,
    merchant_name,
    currency,
    status,
    reporting_currency,
    COUNT(*) AS transactions,
    SUM(amount) AS amount,
    -- Amounts whose rate is not known yet are left out of the sum and counted here.
    IF(reporting_currency = '', NULL, SUM(amount_reporting)) AS amount_reporting,
    IF(reporting_currency = '', COUNT(*), 0) AS transactions_without_rate,
    COUNTIF(enrichment_status = 'fx_provisional') AS transactions_with_provisional_rate
FROM paystream.transactions_current
GROUP BY created_on, merchant_id, merchant_name, currency, status, reporting_currency
