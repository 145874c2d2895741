-- One row: one merchant, one day (UTC, by created_at), one currency, one status and one reporting currency ('' where no
-- rate is known yet): the nightly batch's successor.
-- Written by: nobody (a view). Read by: finance and analytics; filter by day and merchant_id to read little.
-- Guarantee: each transaction counts once, in its newest state; equal at any moment to a recomputation from scratch.
CREATE VIEW report_merchant_by_day AS
SELECT
    toDate(created_at) AS day,
    merchant_id,
    any(t.merchant_name) AS merchant_name,
    currency,
    status,
    reporting_currency,
    count() AS transactions,
    sum(t.amount) AS amount,
    -- Amounts whose rate is not known yet are left out of the sum and counted here.
    sum(t.amount_reporting) AS amount_reporting,
    countIf(isNull(t.amount_reporting)) AS transactions_without_rate,
    countIf(enrichment_status = 'fx_provisional') AS transactions_with_provisional_rate
FROM transactions_current AS t
GROUP BY day, merchant_id, currency, status, reporting_currency
