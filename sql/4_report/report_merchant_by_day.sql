-- One row: one merchant, one day (UTC, by created_at), one currency, one status and one reporting currency ('' where no
-- rate is known yet): the nightly batch's successor.
-- Made from: merchant_days_current. Read by: finance and analytics; filter by day, and by merchant_id to read little.
-- Guarantee: each transaction counts once, in its newest state; equal to a recomputation of everything read until complete_until.
CREATE VIEW report_merchant_by_day AS
WITH (SELECT any(complete_until) FROM report_freshness WHERE report = 'report_merchant_by_day') AS reached
SELECT
    day,
    merchant_id,
    merchant_name,
    p.currency AS currency,
    p.status AS status,
    p.reporting_currency AS reporting_currency,
    p.transactions AS transactions,
    p.amount AS amount,
    -- Amounts whose rate is not known yet are left out of the sum and counted here.
    if(reporting_currency = '', NULL, p.amount_reporting) AS amount_reporting,
    if(reporting_currency = '', p.transactions, 0) AS transactions_without_rate,
    p.provisional AS transactions_with_provisional_rate,
    assumeNotNull(reached) AS complete_until
FROM merchant_days_current
ARRAY JOIN payments AS p
