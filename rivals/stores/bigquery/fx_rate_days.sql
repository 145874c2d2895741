-- One row: one currency and one day on which a quote of it holds.
-- Made from: fx_rate_periods. Read by: transactions_current.
-- Guarantee: at most one row for a currency and day; none after tomorrow (UTC), the latest that a payment may be stamped.
-- Written by hand; it stands for the RANGE of fx_rates_dict. BigQuery has no ASOF JOIN, and a join on currency and BETWEEN
-- would try each payment against thousands of periods; with a row a day it is a plain hash join.
CREATE VIEW paystream.fx_rate_days AS
SELECT currency, day, rate, rate_date, is_latest, reporting_currency, snapshot_id
FROM paystream.fx_rate_periods
CROSS JOIN UNNEST(GENERATE_DATE_ARRAY(valid_from, LEAST(valid_to, DATE_ADD(CURRENT_DATE('UTC'), INTERVAL 1 DAY)))) AS day
