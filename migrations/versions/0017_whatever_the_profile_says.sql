-- Whatever the profile says.
-- depends: 0016_rejected_dimension_rows

ALTER TABLE latency_minutes_mv MODIFY QUERY
WITH (SELECT toStartOfMinute(least(max(settled_until), now64(3) - INTERVAL 1 MINUTE)) FROM rollup_state WHERE view = 'latency_minutes_mv') AS since
SELECT
    toDateTime(toStartOfMinute(read_at)) AS minute,
    kafka_topic,
    sum(messages) AS messages,
    sum(timed) AS timed,
    sum(late) AS late,
    sumForEach(latency_histogram) AS latency_histogram,
    now64(3) AS refreshed_at
FROM ingest_ledger
WHERE read_at >= since
GROUP BY minute, kafka_topic
SETTINGS
    aggregate_functions_null_for_empty = 0,   -- whatever the profile says, which a refresh runs under
    max_threads = 1,
    os_threads_nice_value_query = 15;

ALTER TABLE merchant_days_mv MODIFY QUERY
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
;

ALTER TABLE merchant_slots_mv MODIFY QUERY
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
;

ALTER TABLE volume_hours_mv MODIFY QUERY
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
;
