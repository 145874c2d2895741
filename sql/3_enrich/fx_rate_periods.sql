-- One row: one quote of one currency and the days it holds for, from its own day until the day before the next quote.
-- Made from: fx_rates. Read by: fx_rates_dict, which holds it in memory.
-- Guarantee: the periods of a currency never overlap. The last quote of a currency still quoted holds without end
-- and is marked is_latest; a gap or a withdrawal ends a quote after 10 days (the longest gap of the European Central
-- Bank's calendar is 5, over Easter or Christmas), so that no rate is silently years old. The reporting currency in itself
-- is 1 on every day there is, by a quote of 1970-01-01 where it has no other.
CREATE VIEW fx_rate_periods AS
SELECT
    currency,
    rate_date AS valid_from,
    multiIf(
        is_itself AND next_rate_date > rate_date, next_rate_date - 1,
        next_rate_date > rate_date, least(next_rate_date - 1, rate_date + 10),
        is_itself OR rate_date + 10 >= newest_rate_date, toDate('2149-06-06'),
        rate_date + 10
    ) AS valid_to,
    rate,
    rate_date,
    -- Nothing about the reporting currency is provisional.
    next_rate_date <= rate_date AND rate_date + 10 >= newest_rate_date AND NOT is_itself AS is_latest,
    reporting_currency,
    snapshot_id
FROM
(
    SELECT
        *,
        currency = reporting_currency AS is_itself,
        leadInFrame(rate_date) OVER (PARTITION BY currency ORDER BY rate_date ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS next_rate_date,
        max(rate_date) OVER () AS newest_rate_date
    FROM
    (
        SELECT currency, rate_date, rate, reporting_currency, snapshot_id
        FROM fx_rates
        UNION ALL
        -- So that there is one for the days before the first quote.
        SELECT any(reporting_currency), toDate(0), 1, any(reporting_currency), max(snapshot_id)
        FROM fx_rates
        HAVING count() > 0 AND min(rate_date) > toDate(0)
    )
)
