-- One row: one hour of which a merchant's half hour has been computed since the last refresh.
-- Made from: merchant_slots, after each refresh of it. Read by: the table volume_hours.
-- Guarantee: computed anew from all merchants of the hour; a refresh that fails or is lost is made up for by the next.
CREATE MATERIALIZED VIEW volume_hours_mv
REFRESH EVERY 40 SECOND DEPENDS ON merchant_slots_mv APPEND TO volume_hours AS
WITH
    (SELECT max(complete_until) FROM rollup_state WHERE view = 'volume_hours_mv') AS since,
    (SELECT max(complete_until) FROM rollup_state WHERE view = 'merchant_slots_mv') AS until,
    changed_hours AS (SELECT DISTINCT toStartOfHour(slot) AS changed_hour FROM merchant_slots WHERE complete_until > since),
    changed AS
    (
        SELECT *
        FROM merchant_slots FINAL
        WHERE toDate(slot) IN (SELECT toDate(changed_hour) FROM changed_hours)
            AND toStartOfHour(slot) IN (SELECT changed_hour FROM changed_hours)
    )
SELECT
    hour,
    groupArrayIf((currency, status, reporting_currency, enrichment_status, country, category_code, transactions_sum, amount_sum, amount_reporting_sum), transactions_sum > 0) AS payments,
    now64(3) AS refreshed_at,
    assumeNotNull(until) AS complete_until
FROM
(
    SELECT
        toStartOfHour(slot) AS hour,
        p.currency AS currency,
        p.status AS status,
        p.reporting_currency AS reporting_currency,
        p.enrichment_status AS enrichment_status,
        p.country AS country,
        p.category_code AS category_code,
        sum(p.transactions) AS transactions_sum,
        sum(p.amount) AS amount_sum,
        sum(p.amount_reporting) AS amount_reporting_sum
    FROM changed
    ARRAY JOIN payments AS p
    GROUP BY hour, currency, status, reporting_currency, enrichment_status, country, category_code
    UNION ALL
    -- Says that this refresh was complete, also when there was nothing to do.
    SELECT toDateTime(toUInt32(now()) % 31536000, 'UTC'), '', '', '', '', '', '', 0, 0, 0
)
GROUP BY hour
SETTINGS
    aggregate_functions_null_for_empty = 0,   -- whatever the profile says, which a refresh runs under
    do_not_merge_across_partitions_select_final = 1,
    optimize_move_to_prewhere_if_final = 1,   -- of conditions on the sorting key
    max_threads = 1,
    os_threads_nice_value_query = 15   -- ingest goes first; without CAP_SYS_NICE it does nothing
