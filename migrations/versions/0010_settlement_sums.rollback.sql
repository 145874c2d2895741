CREATE OR REPLACE VIEW report_settlement_by_day AS
WITH
    (
        SELECT any(complete_until)
        FROM report_freshness
        WHERE report = 'report_settlement_by_day'
    ) AS reached,
    arrayFilter(p -> ((p.currency = (pair.1)) AND (p.reporting_currency = (pair.2))), payments) AS own
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
    arraySum(p -> if((p.status IN ('captured', 'settled', 'refunded', 'charged_back')), p.amount, 0), own) AS gross,
    arraySum(p -> if(p.status = 'refunded', p.amount, 0), own) AS refunds,
    arraySum(p -> if(p.status = 'charged_back', p.amount, 0), own) AS charge_backs,
    (gross - refunds) - charge_backs AS net,
    if(reporting_currency = '', NULL, arraySum(p -> if((p.status IN ('captured', 'settled', 'refunded', 'charged_back')), p.amount_reporting, 0), own)) AS gross_reporting,
    if(reporting_currency = '', NULL, arraySum(p -> if(p.status = 'refunded', p.amount_reporting, 0), own)) AS refunds_reporting,
    if(reporting_currency = '', NULL, arraySum(p -> if(p.status = 'charged_back', p.amount_reporting, 0), own)) AS charge_backs_reporting,
    (gross_reporting - refunds_reporting) - charge_backs_reporting AS net_reporting,
    arraySum(own.provisional) AS transactions_with_provisional_rate,
    assumeNotNull(reached) AS complete_until
FROM merchant_days_current
ARRAY JOIN arrayDistinct(arrayMap(p -> (p.currency, p.reporting_currency), payments)) AS pair;
CREATE OR REPLACE VIEW report_merchant_ranking AS
SELECT
    rank() OVER (PARTITION BY reporting_currency ORDER BY net_reporting DESC) AS place,
    merchant_id,
    merchant_name,
    reporting_currency,
    transactions,
    net_reporting,
    assumeNotNull(complete_until) AS complete_until
FROM
(
    SELECT
        merchant_id,
        argMax(merchant_name, day) AS merchant_name,
        p.reporting_currency AS reporting_currency,
        sum(p.transactions) AS transactions,
        sumIf(p.amount_reporting, (p.status IN ('captured', 'settled'))) AS net_reporting,
        (
            SELECT any(complete_until)
            FROM report_freshness
            WHERE report = 'report_merchant_ranking'
        ) AS complete_until
    FROM merchant_days_current
    ARRAY JOIN payments AS p
    WHERE ((day >= {first_day:Date}) AND (day <= {last_day:Date})) AND (p.reporting_currency != '')
    GROUP BY
        merchant_id,
        reporting_currency
)
ORDER BY
    reporting_currency ASC,
    place ASC,
    merchant_id ASC;
DROP VIEW IF EXISTS merchant_days_by_currency SYNC;
SELECT 'the column goes next';
ALTER TABLE merchant_days DROP COLUMN IF EXISTS by_currency;
