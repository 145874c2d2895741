-- Rollups give way.
-- depends: 0010_settlement_sums

-- One row: one merchant, one day (UTC, by created_at), one currency and one reporting currency ('' where no rate is known
-- yet): how many of its payments are in each status, and what they come to.
-- Written by: nobody (a view). Read by: report_settlement_by_day, report_merchant_ranking.
-- Guarantee: as merchant_days_current. `net` is captured and settled; `…_reporting` is in the reporting currency, 0 without a rate.
CREATE OR REPLACE VIEW merchant_days_by_currency AS
WITH
    -- Some minutes after midnight, when the day before is surely to be seen in merchant_days.
    (SELECT toDate(max(began_at) - INTERVAL 10 MINUTE) FROM rollup_state WHERE view = 'merchant_days_mv') AS first_open_day
SELECT
    day,
    merchant_id,
    merchant_name,
    b.currency AS currency,
    b.reporting_currency AS reporting_currency,
    b.transactions AS transactions,
    b.authorized AS authorized,
    b.captured AS captured,
    b.settled AS settled,
    b.refunded AS refunded,
    b.charged_back AS charged_back,
    b.failed AS failed,
    b.provisional AS provisional,
    b.authorized_amount AS authorized_amount,
    b.net AS net,
    b.refunds AS refunds,
    b.charge_backs AS charge_backs,
    b.net_reporting AS net_reporting,
    b.refunds_reporting AS refunds_reporting,
    b.charge_backs_reporting AS charge_backs_reporting
FROM merchant_days FINAL
ARRAY JOIN by_currency AS b
WHERE day < first_open_day
UNION ALL
SELECT
    toDate(slot) AS day,
    merchant_id,
    -- The same for all of a merchant's day.
    argMax(argMax(merchant_name, merchant_snapshot_id), max(merchant_snapshot_id)) OVER (PARTITION BY day, merchant_id) AS merchant_name,
    p.currency AS currency,
    p.reporting_currency AS reporting_currency,
    sum(p.transactions) AS transactions,
    sumIf(p.transactions, p.status = 'authorized') AS authorized,
    sumIf(p.transactions, p.status = 'captured') AS captured,
    sumIf(p.transactions, p.status = 'settled') AS settled,
    sumIf(p.transactions, p.status = 'refunded') AS refunded,
    sumIf(p.transactions, p.status = 'charged_back') AS charged_back,
    sumIf(p.transactions, p.status = 'failed') AS failed,
    sumIf(p.transactions, p.enrichment_status = 'fx_provisional') AS provisional,
    sumIf(p.amount, p.status = 'authorized') AS authorized_amount,
    sumIf(p.amount, p.status IN ('captured', 'settled')) AS net,
    sumIf(p.amount, p.status = 'refunded') AS refunds,
    sumIf(p.amount, p.status = 'charged_back') AS charge_backs,
    sumIf(p.amount_reporting, p.status IN ('captured', 'settled')) AS net_reporting,
    sumIf(p.amount_reporting, p.status = 'refunded') AS refunds_reporting,
    sumIf(p.amount_reporting, p.status = 'charged_back') AS charge_backs_reporting
FROM merchant_slots FINAL
ARRAY JOIN payments AS p
WHERE toDate(slot) >= first_open_day
GROUP BY day, merchant_id, currency, reporting_currency
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- One row: one merchant and reporting currency, over the days (UTC) from first_day to last_day.
-- Written by: nobody (a view). Read by: analytics. Parameters: first_day and last_day, both included.
-- Guarantee: as report_merchant_by_day; merchants of equal net share a place. Payments without a
-- rate are in no place: report_pending_by_day has them.
CREATE OR REPLACE VIEW report_merchant_ranking AS
SELECT
    rank() OVER (PARTITION BY reporting_currency ORDER BY net_reporting DESC) AS place,
    merchant_id,
    merchant_name,
    reporting_currency,
    transactions,
    net_reporting,
    assumeNotNull(complete_until) AS complete_until
FROM
(
    SELECT
        merchant_id,
        argMaxIf(d.merchant_name, day, d.merchant_name != '') AS merchant_name,
        reporting_currency,
        sum(d.transactions) AS transactions,
        sum(d.net_reporting) AS net_reporting,
        (SELECT any(complete_until) FROM report_freshness WHERE report = 'report_merchant_ranking') AS complete_until
    FROM merchant_days_by_currency AS d
    WHERE day BETWEEN {first_day:Date} AND {last_day:Date} AND reporting_currency != ''
    GROUP BY merchant_id, reporting_currency
)
ORDER BY reporting_currency, place, merchant_id;

-- One row: one merchant's payments of one day (UTC, by created_at), as in merchant_days.
-- Written by: nobody (a view). Read by: report_merchant_by_day.
-- Guarantee: each bucket once: days that are over come from merchant_days as they stand there, the others from their half hours.
CREATE OR REPLACE VIEW merchant_days_current AS
WITH
    -- Some minutes after midnight, when the day before is surely to be seen in merchant_days.
    (SELECT toDate(max(began_at) - INTERVAL 10 MINUTE) FROM rollup_state WHERE view = 'merchant_days_mv') AS first_open_day
SELECT day, merchant_id, merchant_name, payments
FROM merchant_days FINAL
WHERE day < first_open_day
UNION ALL
SELECT
    day,
    merchant_id,
    argMax(name, snapshot_id) AS merchant_name,
    CAST(
        groupArray((currency, status, reporting_currency, transactions_sum, provisional_sum, amount_sum, amount_reporting_sum)),
        'Array(Tuple(currency LowCardinality(String), status LowCardinality(String), reporting_currency LowCardinality(String), transactions UInt64, provisional UInt64, amount Decimal(38, 4), amount_reporting Decimal(38, 4)))'
    ) AS payments
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
    FROM merchant_slots FINAL
    ARRAY JOIN payments AS p
    WHERE toDate(slot) >= first_open_day
    GROUP BY day, merchant_id, currency, status, reporting_currency
)
GROUP BY day, merchant_id
SETTINGS do_not_merge_across_partitions_select_final = 1;

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
SETTINGS max_threads = 1, os_threads_nice_value_query = 15;

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
    do_not_merge_across_partitions_select_final = 1,
    optimize_move_to_prewhere_if_final = 1,   -- of conditions on the sorting key
    max_threads = 1,
    os_threads_nice_value_query = 15   -- ingest goes first; without CAP_SYS_NICE it does nothing
;
