-- One row: one quote of one currency and the days it holds for, from its own day until the day before the next quote.
-- Written by: nobody (a view). Read by: fx_rates_dict, which holds it in memory.
-- Guarantee: the periods of a currency never overlap. The last quote of a currency still quoted holds without end
-- and is marked is_latest; a gap or a withdrawal ends a quote after 10 days (the longest gap of the European Central
-- Bank's calendar is 5, over Easter or Christmas), so that no rate is silently years old.
CREATE VIEW fx_rate_periods AS
SELECT
    currency,
    rate_date AS valid_from,
    multiIf(
        next_rate_date > rate_date, least(next_rate_date - 1, rate_date + 10),
        rate_date + 10 >= newest_rate_date, toDate('2149-06-06'),
        rate_date + 10
    ) AS valid_to,
    rate,
    rate_date,
    -- The reporting currency in itself is 1 on every day: nothing about it is provisional.
    next_rate_date <= rate_date AND rate_date + 10 >= newest_rate_date AND currency != reporting_currency AS is_latest,
    reporting_currency,
    snapshot_id
FROM
(
    SELECT
        *,
        leadInFrame(rate_date) OVER (PARTITION BY currency ORDER BY rate_date ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS next_rate_date,
        max(rate_date) OVER () AS newest_rate_date
    FROM fx_rates
)
