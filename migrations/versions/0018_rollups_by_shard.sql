-- Rollups by shard.
-- depends: 0017_whatever_the_profile_says

-- One row: one roll-up: up to which time of reading (ingested_at, or enriched_at of what was repaired) it is complete; 1970
-- before its first refresh. On a cluster one roll-up and shard: each shard computes those of its own payments.
-- Made from: rollup_progress, and from what merchant_slots, merchant_days and volume_hours hold. Read by:
-- merchant_slots_mv, merchant_days_mv, volume_hours_mv and latency_minutes_mv, for what has changed since;
-- rollup_progress_mv; merchant_days_current, merchant_days_by_currency; report_freshness.
-- Guarantee: never later than the truth. What the engine says of its refreshes is gone at a restart; rollup_progress is not.
-- Rows that say they are complete until 1970 are `paystream rollup rebuild`'s and tell nothing of a refresh.
CREATE OR REPLACE VIEW rollup_state AS
WITH
    refreshes AS
    (
        SELECT view AS name, toDateTime(assumeNotNull(last_success_time), 'UTC') AS began
        FROM system.view_refreshes
        WHERE database = currentDatabase() AND isNotNull(last_success_time)
    ),
    ifNull((SELECT max(began) FROM refreshes WHERE name = 'merchant_slots_mv'), toDateTime(0, 'UTC')) AS slots_began,
    ifNull((SELECT max(began) FROM refreshes WHERE name = 'merchant_days_mv'), toDateTime(0, 'UTC')) AS days_began,
    ifNull((SELECT max(began) FROM refreshes WHERE name = 'volume_hours_mv'), toDateTime(0, 'UTC')) AS hours_began,
    ifNull((SELECT max(began) FROM refreshes WHERE name = 'latency_minutes_mv'), toDateTime(0, 'UTC')) AS minutes_began
SELECT
    view,
    max(began) AS began_at,
    max(reached) AS complete_until,
    -- A block that was under way when a refresh began shows within a minute: the next one looks back to here.
    max(least(reached, began - INTERVAL 1 MINUTE)) AS settled_until
FROM
(
    SELECT view, began_at AS began, complete_until AS reached
    FROM rollup_progress
    UNION ALL
    -- A refresh with a great deal to do does a part of it, and its rows say how far it came.
    SELECT
        'merchant_slots_mv',
        slots_began,
        least(toDateTime64(slots_began, 3, 'UTC') - INTERVAL 5 SECOND, ifNull((SELECT minOrNull(complete_until) FROM merchant_slots WHERE refreshed_at >= slots_began AND complete_until > toDateTime64(0, 3, 'UTC')), toDateTime64(slots_began, 3, 'UTC')))
    UNION ALL
    -- These add up what merchant_slots held when they began, and their rows say up to when that was complete. Later rows are of
    -- a refresh that is not done yet.
    SELECT
        'merchant_days_mv',
        days_began,
        ifNull((SELECT minOrNull(complete_until) FROM merchant_days WHERE refreshed_at >= days_began AND complete_until > toDateTime64(0, 3, 'UTC')), toDateTime64(0, 3, 'UTC'))
    UNION ALL
    SELECT
        'volume_hours_mv',
        hours_began,
        ifNull((SELECT minOrNull(complete_until) FROM volume_hours WHERE refreshed_at >= hours_began AND complete_until > toDateTime64(0, 3, 'UTC')), toDateTime64(0, 3, 'UTC'))
    UNION ALL
    SELECT 'latency_minutes_mv', minutes_began, toDateTime64(minutes_began, 3, 'UTC') - INTERVAL 5 SECOND
    UNION ALL
    -- A roll-up that was never refreshed has a row too: without it, a shard that has nothing yet would not hold the others back.
    SELECT arrayJoin(['merchant_slots_mv', 'merchant_days_mv', 'volume_hours_mv', 'latency_minutes_mv']), toDateTime(0, 'UTC'), toDateTime64(0, 3, 'UTC')
)
WHERE began > toDateTime(0, 'UTC') OR reached = toDateTime64(0, 3, 'UTC')
GROUP BY view;

-- One row: one merchant, one day (UTC, by created_at), one currency and one reporting currency ('' where no rate is known
-- yet): how many of its payments are in each status, and what they come to.
-- Made from: merchant_days and merchant_slots. Read by: report_settlement_by_day, report_merchant_ranking.
-- Guarantee: as merchant_days_current, shards added up. `net` is captured and settled; `…_reporting` is in the reporting
-- currency, 0 without a rate.
CREATE OR REPLACE VIEW merchant_days_by_currency AS
WITH
    (SELECT (min(began_at), count()) FROM rollup_state WHERE view = 'merchant_days_mv') AS days_state,
    -- Some minutes after midnight, when the day before is surely to be seen in merchant_days: in each shard's, on a cluster.
    toDate(greatest(days_state.1, toDateTime(600, 'UTC')) - INTERVAL 10 MINUTE) AS first_open_day,
    -- Each has its own row of a merchant's day. Where there is one, rows stand as they are: adding up takes twice the time.
    days_state.2 AS shards
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
WHERE day < first_open_day AND shards <= 1
UNION ALL
SELECT
    day,
    merchant_id,
    -- The same for all of a merchant's day.
    argMax(argMax(merchant_name, merchant_snapshot_id), max(merchant_snapshot_id)) OVER (PARTITION BY day, merchant_id) AS merchant_name,
    b.currency AS currency,
    b.reporting_currency AS reporting_currency,
    sum(b.transactions) AS transactions,
    sum(b.authorized) AS authorized,
    sum(b.captured) AS captured,
    sum(b.settled) AS settled,
    sum(b.refunded) AS refunded,
    sum(b.charged_back) AS charged_back,
    sum(b.failed) AS failed,
    sum(b.provisional) AS provisional,
    sum(b.authorized_amount) AS authorized_amount,
    sum(b.net) AS net,
    sum(b.refunds) AS refunds,
    sum(b.charge_backs) AS charge_backs,
    sum(b.net_reporting) AS net_reporting,
    sum(b.refunds_reporting) AS refunds_reporting,
    sum(b.charge_backs_reporting) AS charge_backs_reporting
FROM merchant_days FINAL
ARRAY JOIN by_currency AS b
WHERE day < first_open_day AND shards > 1
GROUP BY day, merchant_id, currency, reporting_currency
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

-- One row: one report: up to which time of reading it is complete. What was read later is in it soon, usually within a minute.
-- Made from: rollup_state. Read by: the other reports (report_*), `paystream report`, `paystream status`.
-- Guarantee: never later than the truth; 1970 before the first refresh. On a cluster that of the shard that is furthest behind.
CREATE OR REPLACE VIEW report_freshness AS
WITH
    (
        SELECT
            (
                minIf(complete_until, view IN ('merchant_slots_mv', 'merchant_days_mv')),
                minIf(complete_until, view = 'volume_hours_mv'),
                minIf(complete_until, view = 'latency_minutes_mv')
            )
        FROM rollup_state
    ) AS reached,
    assumeNotNull(reached.1) AS merchants,
    assumeNotNull(reached.2) AS hours,
    assumeNotNull(reached.3) AS minutes
SELECT
    said.1 AS report,
    said.2 AS complete_until
FROM
(
    SELECT arrayJoin(
    [
        ('report_merchant_by_day', merchants),
        ('report_settlement_by_day', merchants),
        ('report_merchant_ranking', merchants),
        ('report_volume_by_hour', hours),
        ('report_currency_exposure_by_day', hours),
        ('report_pending_by_day', hours),
        ('report_latency_by_minute', minutes)
    ]) AS said
);

-- One row: one merchant's payments of one day (UTC, by created_at), as in merchant_days.
-- Made from: merchant_days and merchant_slots. Read by: report_merchant_by_day.
-- Guarantee: each bucket once: days that are over come from merchant_days as they stand there, on a cluster the sum of its
-- shards' rows; the others come from their half hours.
CREATE OR REPLACE VIEW merchant_days_current AS
WITH
    (SELECT (min(began_at), count()) FROM rollup_state WHERE view = 'merchant_days_mv') AS days_state,
    -- Some minutes after midnight, when the day before is surely to be seen in merchant_days: in each shard's, on a cluster.
    toDate(greatest(days_state.1, toDateTime(600, 'UTC')) - INTERVAL 10 MINUTE) AS first_open_day,
    -- Each has its own row of a merchant's day. Where there is one, rows stand as they are: adding up takes twice the time.
    days_state.2 AS shards
SELECT day, merchant_id, merchant_name, payments
FROM merchant_days FINAL
WHERE day < first_open_day AND shards <= 1
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
    UNION ALL
    SELECT
        day,
        merchant_id,
        p.currency AS currency,
        p.status AS status,
        p.reporting_currency AS reporting_currency,
        argMax(merchant_name, merchant_snapshot_id) AS name,
        max(merchant_snapshot_id) AS snapshot_id,
        sum(p.transactions) AS transactions_sum,
        sum(p.provisional) AS provisional_sum,
        sum(p.amount) AS amount_sum,
        sum(p.amount_reporting) AS amount_reporting_sum
    FROM merchant_days FINAL
    ARRAY JOIN payments AS p
    WHERE day < first_open_day AND shards > 1
    GROUP BY day, merchant_id, currency, status, reporting_currency
)
GROUP BY day, merchant_id
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- One row: one minute (UTC, by when ClickHouse read the messages) and one topic.
-- Made from: latency_minutes. Read by: operators and the head of data; filter by minute, a DateTime, or by day.
-- Guarantee: as ingest_ledger: what was delivered again counts again. p50_s and so on: seconds from a payment's Kafka timestamp
-- until ClickHouse read it, to within 9 %; NULL when no payment was timed. Kept for as long as nobody deletes it.
CREATE OR REPLACE VIEW report_latency_by_minute AS
WITH
    (SELECT any(complete_until) FROM report_freshness WHERE report = 'report_latency_by_minute') AS reached,
    -- Bucket i (from 1) holds latencies from 2^((i - 1) / 8) - 1 ms to 2^(i / 8) - 1 ms; within one they are taken to be spread evenly.
    arrayCumSum(latency_histogram) AS up_to,
    arrayMap(share -> arrayFirstIndex(n -> n > 0 AND n >= share * timed, up_to), [0.5, 0.95, 0.99]) AS places,
    arrayMap(
        (share, i) -> if(
            i = 0,
            NULL,
            (exp2((i - 1) / 8) - 1 + if(i = 176, 0, (share * timed - (up_to[i] - latency_histogram[i])) / latency_histogram[i] * (exp2(i / 8) - exp2((i - 1) / 8)))) / 1000),
        [0.5, 0.95, 0.99],
        places) AS quantiles
SELECT
    toDate(minute) AS day,
    minute,
    kafka_topic,
    messages,
    timed,
    late,   -- of those, after more than five minutes
    quantiles[1] AS p50_s,
    quantiles[2] AS p95_s,
    quantiles[3] AS p99_s,
    assumeNotNull(reached) AS complete_until
FROM
(
    -- On a cluster each shard has a row of what it read itself.
    SELECT
        minute,
        kafka_topic,
        sum(messages) AS messages,
        sum(timed) AS timed,
        sum(late) AS late,
        sumForEach(latency_histogram) AS latency_histogram
    FROM latency_minutes FINAL
    GROUP BY minute, kafka_topic
)
SETTINGS do_not_merge_across_partitions_select_final = 1;

ALTER TABLE rollup_progress_mv MODIFY QUERY
SELECT view, began_at, complete_until
FROM rollup_state
WHERE began_at > toDateTime(0, 'UTC') AND (view, began_at) NOT IN (SELECT view, began_at FROM rollup_progress);
