-- One row: one quote of one currency and the days it holds for, from its own day until the day before the next quote.
-- Made from: fx_rates. Read by: transactions_current.
-- Guarantee: as sql/3_enrich/fx_rate_periods.sql: the periods of a currency never overlap; the last quote of a currency
-- still quoted holds without end and is marked is_latest; a gap or a withdrawal ends a quote after 10 days; the reporting
-- currency in itself is 1.
-- Mended: multiIf is CASE; leadInFrame, which says 1970 where no quote follows, is LEAD, which says NULL; the last day of
-- all is 9999-12-31, not Date's 2149-06-06.
CREATE VIEW fx_rate_periods AS
WITH
    quotes AS
    (
        SELECT currency, rate_date, rate, reporting_currency, snapshot_id
        FROM fx_rates
        UNION ALL
        -- So that there is one for the days before the first quote.
        SELECT MAX(reporting_currency), '1970-01-01'::DATE, 1, MAX(reporting_currency), MAX(snapshot_id)
        FROM fx_rates
        HAVING COUNT(*) > 0 AND MIN(rate_date) > '1970-01-01'::DATE
    ),
    followed AS
    (
        SELECT
            *,
            currency = reporting_currency AS is_itself,
            LEAD(rate_date) OVER (PARTITION BY currency ORDER BY rate_date) AS next_rate_date,
            MAX(rate_date) OVER () AS newest_rate_date
        FROM quotes
    )
SELECT
    currency,
    rate_date AS valid_from,
    CASE
        WHEN is_itself AND next_rate_date IS NOT NULL THEN next_rate_date - 1
        WHEN next_rate_date IS NOT NULL THEN LEAST(next_rate_date - 1, rate_date + 10)
        WHEN is_itself OR rate_date + 10 >= newest_rate_date THEN '9999-12-31'::DATE
        ELSE rate_date + 10
    END AS valid_to,
    rate,
    rate_date,
    -- Nothing about the reporting currency is provisional.
    next_rate_date IS NULL AND rate_date + 10 >= newest_rate_date AND NOT is_itself AS is_latest,
    reporting_currency,
    snapshot_id
FROM followed
