-- One row: one merchant, one day (UTC, by created_at), one currency and one reporting currency ('' where no rate is known
-- yet).
-- Made from: transactions_current. Read by: finance, to settle with each merchant; filter by day, and by merchant_id to
-- read little.
-- Guarantee: each transaction counts once, in its newest state, and everything counts that could be seen when the query
-- began.
-- Columns as in sql/4_report/report_settlement_by_day.sql, without complete_until.
-- Mended: sqlglot's translation, with the roll-up merchant_days_by_currency (FINAL, ARRAY JOIN: refused) written out as a
-- GROUP BY.
CREATE VIEW paystream.report_settlement_by_day AS
SELECT
    created_on AS day,
    merchant_id,
    merchant_name,
    currency,
    reporting_currency,

    COUNT(*) AS transactions,
    COUNTIF(status = 'authorized') AS authorized,
    COUNTIF(status = 'captured') AS captured,
    COUNTIF(status = 'settled') AS settled,
    COUNTIF(status = 'refunded') AS refunded,
    COUNTIF(status = 'charged_back') AS charged_back,
    COUNTIF(status = 'failed') AS failed,

    SUM(IF(status = 'authorized', amount, 0)) AS authorized_amount,
    SUM(IF(status IN ('captured', 'settled', 'refunded', 'charged_back'), amount, 0)) AS gross,
    SUM(IF(status = 'refunded', amount, 0)) AS refunds,
    SUM(IF(status = 'charged_back', amount, 0)) AS charge_backs,
    SUM(IF(status IN ('captured', 'settled'), amount, 0)) AS net,

    IF(reporting_currency = '', NULL, SUM(IF(status IN ('captured', 'settled', 'refunded', 'charged_back'), amount_reporting, 0))) AS gross_reporting,
    IF(reporting_currency = '', NULL, SUM(IF(status = 'refunded', amount_reporting, 0))) AS refunds_reporting,
    IF(reporting_currency = '', NULL, SUM(IF(status = 'charged_back', amount_reporting, 0))) AS charge_backs_reporting,
    IF(reporting_currency = '', NULL, SUM(IF(status IN ('captured', 'settled'), amount_reporting, 0))) AS net_reporting,

    COUNTIF(enrichment_status = 'fx_provisional') AS transactions_with_provisional_rate
FROM paystream.transactions_current
GROUP BY created_on, merchant_id, merchant_name, currency, reporting_currency
