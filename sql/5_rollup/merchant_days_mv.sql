-- One row: one merchant and day that is over, of which a half hour has been computed since the last refresh.
-- Made from: merchant_slots, after each refresh of it. Read by: the table merchant_days.
-- Guarantee: computed anew from all half hours of the day; a refresh that fails or is lost is made up for by the next.
CREATE MATERIALIZED VIEW merchant_days_mv
REFRESH EVERY 40 SECOND DEPENDS ON merchant_slots_mv APPEND TO merchant_days AS
WITH
    (SELECT max(complete_until) FROM rollup_state WHERE view = 'merchant_days_mv') AS since,
    -- The days before it are in merchant_days already; after midnight a whole one is added.
    (SELECT toDate(max(began_at)) FROM rollup_state WHERE view = 'merchant_days_mv') AS first_open_day,
    (SELECT max(complete_until) FROM rollup_state WHERE view = 'merchant_slots_mv') AS until,
    changed AS
    (
        SELECT *
        FROM merchant_slots FINAL
        WHERE toDate(slot) < toDate(now('UTC'))
            AND (toDate(slot), merchant_id) IN
            (
                SELECT toDate(slot), merchant_id
                FROM merchant_slots
                WHERE toDate(slot) < toDate(now('UTC')) AND (complete_until > since OR toDate(slot) >= first_open_day)
            )
    )
SELECT
    day,
    merchant_id,
    argMax(name, snapshot_id) AS merchant_name,
    max(snapshot_id) AS merchant_snapshot_id,
    groupArrayIf((currency, status, reporting_currency, transactions_sum, provisional_sum, amount_sum, amount_reporting_sum), transactions_sum > 0) AS payments,
    now64(3) AS refreshed_at,
    assumeNotNull(until) AS complete_until
FROM
(
    SELECT
        toDate(slot) AS day,
        merchant_id,
        p.currency AS currency,
        p.status AS status,
        p.reporting_currency AS reporting_currency,
        argMax(merchant_name, merchant_snapshot_id) AS name,
        max(merchant_snapshot_id) AS snapshot_id,
        sum(p.transactions) AS transactions_sum,
        sumIf(p.transactions, p.enrichment_status = 'fx_provisional') AS provisional_sum,
        sum(p.amount) AS amount_sum,
        sum(p.amount_reporting) AS amount_reporting_sum
    FROM changed
    ARRAY JOIN payments AS p
    GROUP BY day, merchant_id, currency, status, reporting_currency
    UNION ALL
    -- Says that this refresh was complete, also when there was nothing to do.
    SELECT toDate(0), toUInt32(now()), '', '', '', '', 0, 0, 0, 0, 0
)
GROUP BY day, merchant_id
SETTINGS
    aggregate_functions_null_for_empty = 0,   -- whatever the profile says, which a refresh runs under
    do_not_merge_across_partitions_select_final = 1,
    max_threads = 1,
    os_threads_nice_value_query = 15   -- ingest goes first; without CAP_SYS_NICE it does nothing
