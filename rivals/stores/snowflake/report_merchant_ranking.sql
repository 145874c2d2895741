-- One row: one merchant and reporting currency, over the days (UTC) from first_day to last_day.
-- Made from: transactions_current. Read by: analytics. Parameters: first_day and last_day, both included.
-- Guarantee: as report_settlement_by_day; merchants of equal net share a place. Payments without a rate are in no place:
-- report_pending_by_day has them. No order of rows: say ORDER BY reporting_currency, place, merchant_id where you read it.
-- Mended: a view's parameters, {first_day:Date}, are those of a table function. argMaxIf of the name is gone, since a
-- merchant has one.
CREATE FUNCTION report_merchant_ranking(first_day DATE, last_day DATE)
RETURNS TABLE
(
    place              NUMBER,
    merchant_id        NUMBER(10, 0),
    merchant_name      VARCHAR,
    reporting_currency VARCHAR,
    transactions       NUMBER,
    net_reporting      NUMBER(38, 4)
)
AS
$$
SELECT
    RANK() OVER (PARTITION BY reporting_currency ORDER BY net_reporting DESC) AS place,
    merchant_id,
    merchant_name,
    reporting_currency,
    transactions,
    net_reporting
FROM
(
    SELECT
        merchant_id,
        merchant_name,
        reporting_currency,
        COUNT(*) AS transactions,
        SUM(IFF(status IN ('captured', 'settled'), amount_reporting, 0)) AS net_reporting
    FROM transactions_current
    WHERE created_on BETWEEN first_day AND last_day AND reporting_currency <> ''
    GROUP BY merchant_id, merchant_name, reporting_currency
) AS merchants_of_days
$$
