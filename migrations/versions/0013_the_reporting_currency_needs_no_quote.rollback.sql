SELECT 'a reload leaves nothing to take back';
CREATE OR REPLACE VIEW fx_rate_periods AS
SELECT
    currency,
    rate_date AS valid_from,
    multiIf(next_rate_date > rate_date, least(next_rate_date - 1, rate_date + 10), (rate_date + 10) >= newest_rate_date, toDate('2149-06-06'), rate_date + 10) AS valid_to,
    rate,
    rate_date,
    (next_rate_date <= rate_date) AND ((rate_date + 10) >= newest_rate_date) AND (currency != reporting_currency) AS is_latest,
    reporting_currency,
    snapshot_id
FROM
(
    SELECT
        *,
        leadInFrame(rate_date) OVER (PARTITION BY currency ORDER BY rate_date ASC ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS next_rate_date,
        max(rate_date) OVER () AS newest_rate_date
    FROM fx_rates
);
CREATE OR REPLACE VIEW fx_rate_periods AS
SELECT
    currency,
    rate_date AS valid_from,
    multiIf(next_rate_date > rate_date, least(next_rate_date - 1, rate_date + 10), (rate_date + 10) >= newest_rate_date, toDate('2149-06-06'), rate_date + 10) AS valid_to,
    rate,
    rate_date,
    (next_rate_date <= rate_date) AND ((rate_date + 10) >= newest_rate_date) AND (currency != reporting_currency) AS is_latest,
    reporting_currency,
    snapshot_id
FROM
(
    SELECT
        *,
        leadInFrame(rate_date) OVER (PARTITION BY currency ORDER BY rate_date ASC ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS next_rate_date,
        max(rate_date) OVER () AS newest_rate_date
    FROM fx_rates
);
SYSTEM RELOAD DICTIONARY fx_rates_dict;
