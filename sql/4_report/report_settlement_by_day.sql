-- One row: one merchant, one day (UTC, by created_at), one currency and one reporting currency ('' where no rate is known yet).
-- Written by: nobody (a view). Read by: finance, to settle with merchants; filter by day, and by merchant_id to read little.
-- Guarantee: as report_merchant_by_day, of which it is the sum. `gross` is what was taken, also where it went back later:
-- captured, settled, refunded and charged back; `net` is what is left: gross - refunds - charge_backs. Authorized payments
-- are not taken yet, failed ones never. `…_reporting`: in the reporting currency, NULL without a rate.
CREATE VIEW report_settlement_by_day AS
WITH
    (SELECT any(complete_until) FROM report_freshness WHERE report = 'report_settlement_by_day') AS reached,
    arrayFilter(p -> p.currency = pair.1 AND p.reporting_currency = pair.2, payments) AS own
SELECT
    day,
    merchant_id,
    merchant_name,
    pair.1 AS currency,
    pair.2 AS reporting_currency,

    arraySum(own.transactions) AS transactions,
    arraySum(p -> if(p.status = 'authorized', p.transactions, 0), own) AS authorized,
    arraySum(p -> if(p.status = 'captured', p.transactions, 0), own) AS captured,
    arraySum(p -> if(p.status = 'settled', p.transactions, 0), own) AS settled,
    arraySum(p -> if(p.status = 'refunded', p.transactions, 0), own) AS refunded,
    arraySum(p -> if(p.status = 'charged_back', p.transactions, 0), own) AS charged_back,
    arraySum(p -> if(p.status = 'failed', p.transactions, 0), own) AS failed,

    arraySum(p -> if(p.status = 'authorized', p.amount, 0), own) AS authorized_amount,
    arraySum(p -> if(p.status IN ('captured', 'settled', 'refunded', 'charged_back'), p.amount, 0), own) AS gross,
    arraySum(p -> if(p.status = 'refunded', p.amount, 0), own) AS refunds,
    arraySum(p -> if(p.status = 'charged_back', p.amount, 0), own) AS charge_backs,
    gross - refunds - charge_backs AS net,

    if(reporting_currency = '', NULL, arraySum(p -> if(p.status IN ('captured', 'settled', 'refunded', 'charged_back'), p.amount_reporting, 0), own)) AS gross_reporting,
    if(reporting_currency = '', NULL, arraySum(p -> if(p.status = 'refunded', p.amount_reporting, 0), own)) AS refunds_reporting,
    if(reporting_currency = '', NULL, arraySum(p -> if(p.status = 'charged_back', p.amount_reporting, 0), own)) AS charge_backs_reporting,
    gross_reporting - refunds_reporting - charge_backs_reporting AS net_reporting,

    arraySum(own.provisional) AS transactions_with_provisional_rate,
    assumeNotNull(reached) AS complete_until
FROM merchant_days_current
ARRAY JOIN arrayDistinct(arrayMap(p -> (p.currency, p.reporting_currency), payments)) AS pair
