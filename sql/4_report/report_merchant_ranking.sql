-- One row: one merchant and reporting currency, over the days (UTC) from first_day to last_day.
-- Made from: merchant_days_by_currency. Read by: analytics. Parameters: first_day and last_day, both included.
-- Guarantee: as report_merchant_by_day; merchants of equal net share a place. Payments without a
-- rate are in no place: report_pending_by_day has them.
CREATE VIEW report_merchant_ranking AS
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
        argMaxIf(d.merchant_name, day, d.merchant_name != '') AS merchant_name,
        reporting_currency,
        sum(d.transactions) AS transactions,
        sum(d.net_reporting) AS net_reporting,
        (SELECT any(complete_until) FROM report_freshness WHERE report = 'report_merchant_ranking') AS complete_until
    FROM merchant_days_by_currency AS d
    WHERE day BETWEEN {first_day:Date} AND {last_day:Date} AND reporting_currency != ''
    GROUP BY merchant_id, reporting_currency
)
ORDER BY reporting_currency, place, merchant_id
