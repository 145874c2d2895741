-- One row: one merchant and half hour of which a transaction came in, changed its state or was repaired since the last refresh.
-- Made from: transactions, every 40 seconds. Read by: the table merchant_slots.
-- Guarantee: computed anew from deduplicated transactions; a refresh that fails or is lost is made up for by the next. The work
-- is that of the current half hours and of those merchants' older ones that changed, however much is stored. Of older ones a
-- million changes are taken at a time; a restatement of more is behind for a while, and rollup_state says how far.
CREATE MATERIALIZED VIEW merchant_slots_mv
REFRESH EVERY 40 SECOND APPEND TO merchant_slots AS
WITH
    (SELECT least(max(settled_until), now64(3) - INTERVAL 1 MINUTE) FROM rollup_state WHERE view = 'merchant_slots_mv') AS since,
    -- Payments may be stamped five minutes ahead, so the current half hours can be three.
    toStartOfInterval(now('UTC') - INTERVAL 30 MINUTE, INTERVAL 30 MINUTE) AS current_from,
    (
        SELECT least(now64(3) - INTERVAL 5 SECOND, ifNull(anyOrNull(enriched_at), now64(3)))
        FROM (SELECT enriched_at FROM transactions WHERE enriched_at > since AND created_at < current_from ORDER BY enriched_at LIMIT 1 OFFSET 1000000)
    ) AS until,
    current_slots AS
    (
        SELECT DISTINCT toStartOfInterval(created_at, INTERVAL 30 MINUTE)
        FROM transactions
        WHERE enriched_at > since AND enriched_at <= until AND created_at >= current_from
    ),
    older_slots AS
    (
        SELECT toDate(created_at), merchant_id, toStartOfInterval(created_at, INTERVAL 30 MINUTE)
        FROM transactions
        WHERE enriched_at > since AND enriched_at <= until AND created_at < current_from
    ),
    changed AS
    (
        SELECT *
        FROM transactions FINAL
        WHERE created_at >= current_from AND toDate(created_at) >= toDate(current_from)
            AND toStartOfInterval(created_at, INTERVAL 30 MINUTE) IN (current_slots)
        UNION ALL
        SELECT *
        FROM transactions FINAL
        WHERE created_at < current_from
            AND (toDate(created_at), merchant_id, toStartOfInterval(created_at, INTERVAL 30 MINUTE)) IN (older_slots)
    )
SELECT
    slot,
    merchant_id,
    argMax(name, snapshot_id) AS merchant_name,
    max(snapshot_id) AS merchant_snapshot_id,
    groupArray((currency, status, reporting_currency, enrichment_status, merchant_country, merchant_category_code, transactions, amount_sum, amount_reporting_sum)) AS payments,
    now64(3) AS refreshed_at,
    assumeNotNull(until) AS complete_until
FROM
(
    SELECT
        toStartOfInterval(created_at, INTERVAL 30 MINUTE) AS slot,
        merchant_id,
        currency,
        status,
        reporting_currency,
        enrichment_status,
        merchant_country,
        merchant_category_code,
        argMax(merchant_name, merchant_snapshot_id) AS name,
        max(merchant_snapshot_id) AS snapshot_id,
        count() AS transactions,
        sum(amount) AS amount_sum,
        sum(ifNull(amount_reporting, 0)) AS amount_reporting_sum
    FROM changed
    GROUP BY slot, merchant_id, currency, status, reporting_currency, enrichment_status, merchant_country, merchant_category_code
)
GROUP BY slot, merchant_id
SETTINGS
    aggregate_functions_null_for_empty = 0,   -- whatever the profile says, which a refresh runs under
    do_not_merge_across_partitions_select_final = 1,
    optimize_move_to_prewhere_if_final = 1,   -- of conditions on what a transaction never changes, so no older state shows
    max_threads = 1,
    os_threads_nice_value_query = 15   -- ingest goes first; without CAP_SYS_NICE it does nothing
