-- One row: one merchant, one day (UTC, by created_at), one currency and one reporting currency ('' where no rate is known yet).
-- Written by: nobody (a view). Read by: finance, to settle with merchants; filter by day, and by merchant_id to read little.
-- Guarantee: as report_merchant_by_day, of which it is the sum. `gross` is what was taken, also where it went back later:
-- captured, settled, refunded and charged back; `net` is what is left: gross - refunds - charge_backs. Authorized payments
-- are not taken yet, failed ones never. `…_reporting`: in the reporting currency, NULL without a rate.
CREATE VIEW report_settlement_by_day AS
SELECT
    day,
    merchant_id,
    max(r.merchant_name) AS merchant_name,
    currency,
    reporting_currency,

    sum(r.transactions) AS transactions,
    sumIf(r.transactions, status = 'authorized') AS authorized,
    sumIf(r.transactions, status = 'captured') AS captured,
    sumIf(r.transactions, status = 'settled') AS settled,
    sumIf(r.transactions, status = 'refunded') AS refunded,
    sumIf(r.transactions, status = 'charged_back') AS charged_back,
    sumIf(r.transactions, status = 'failed') AS failed,

    sumIf(r.amount, status = 'authorized') AS authorized_amount,
    sumIf(r.amount, status IN ('captured', 'settled', 'refunded', 'charged_back')) AS gross,
    sumIf(r.amount, status = 'refunded') AS refunds,
    sumIf(r.amount, status = 'charged_back') AS charge_backs,
    gross - refunds - charge_backs AS net,

    if(reporting_currency = '', NULL, sumIf(ifNull(r.amount_reporting, 0), status IN ('captured', 'settled', 'refunded', 'charged_back'))) AS gross_reporting,
    if(reporting_currency = '', NULL, sumIf(ifNull(r.amount_reporting, 0), status = 'refunded')) AS refunds_reporting,
    if(reporting_currency = '', NULL, sumIf(ifNull(r.amount_reporting, 0), status = 'charged_back')) AS charge_backs_reporting,
    gross_reporting - refunds_reporting - charge_backs_reporting AS net_reporting,

    sum(r.transactions_with_provisional_rate) AS transactions_with_provisional_rate,
    any(r.complete_until) AS complete_until
FROM report_merchant_by_day AS r
GROUP BY day, merchant_id, currency, reporting_currency
