-- What readers ask: each transaction once, and the report by merchant and day.
-- depends: 0003_ingest

-- One row: one transaction in its newest state.
-- Written by: nobody (a view). Read by: everyone; every report is built on it.
-- Guarantee: deduplicated at the moment of reading, before and after merges.
CREATE VIEW transactions_current AS
SELECT *
FROM transactions FINAL
-- Parts of two partitions never hold the same key, since created_at is part of it; so each can be merged by itself.
SETTINGS do_not_merge_across_partitions_select_final = 1;

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
GROUP BY day, merchant_id, currency, status, reporting_currency;
