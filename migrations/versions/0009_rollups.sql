-- Reports that stay fast: roll-ups, computed inside ClickHouse from deduplicated transactions, and the reports made of them.
-- depends: 0008_flush_interval

-- One row: what was read of one topic in one minute (UTC, by read_at), once deduplicated (FINAL), and how long it had taken.
-- Written by: latency_minutes_mv. Read by: report_latency_by_minute.
-- Guarantee: a row is the sum of the minute's blocks in ingest_ledger and replaces the one before it as a whole.
CREATE TABLE latency_minutes
(
    minute            DateTime('UTC'),
    kafka_topic       LowCardinality(String),
    messages          UInt64,
    timed             UInt64,
    late              UInt64,
    latency_histogram Array(UInt64) CODEC(ZSTD(1)),   -- as in ingest_ledger
    refreshed_at      DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(refreshed_at)
PARTITION BY toYYYYMM(minute)
ORDER BY (minute, kafka_topic);

-- One row: one merchant's payments of one day (UTC, by created_at) that is over, once deduplicated (FINAL): an element of
-- `payments` for each currency, status and reporting currency; `provisional` counts those at a rate that will be replaced.
-- Written by: merchant_days_mv. Read by: merchant_days_current.
-- Guarantee: a row is the sum of its half hours and replaces the one before it as a whole. Rows of 1970 without payments only say
-- that a refresh was complete, since most have nothing to write.
CREATE TABLE merchant_days
(
    day                  Date,
    merchant_id          UInt32,
    merchant_name        String CODEC(ZSTD(1)),
    merchant_snapshot_id UInt32,
    payments             Array(Tuple(
        currency           LowCardinality(String),
        status             LowCardinality(String),
        reporting_currency LowCardinality(String),
        transactions       UInt64,
        provisional        UInt64,
        amount             Decimal(38, 4),
        amount_reporting   Decimal(38, 4))),
    refreshed_at         DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    complete_until       DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),

    INDEX lately (refreshed_at, complete_until) TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(refreshed_at)
PARTITION BY toYYYYMM(day)
ORDER BY (day, merchant_id)
TTL toDateTime(refreshed_at) + INTERVAL 1 DAY DELETE WHERE day = toDate(0);

-- One row: one merchant's payments of one half hour (UTC, by created_at), once deduplicated (FINAL): an element of
-- `payments` for each combination of currency, status and so on that they are in now. Where no rate is known yet,
-- reporting_currency is '' and amount_reporting 0.
-- Written by: merchant_slots_mv. Read by: merchant_days_mv, volume_hours_mv, report_merchant_by_day.
-- Guarantee: a row is the whole of its bucket, computed from deduplicated transactions, and replaces the one before it as a
-- whole. So nothing counts twice however often it is computed, and a state that nothing is in any more leaves nothing behind.
CREATE TABLE merchant_slots
(
    slot                 DateTime('UTC'),
    merchant_id          UInt32,
    merchant_name        String CODEC(ZSTD(1)),   -- of the newest snapshot that its payments have
    merchant_snapshot_id UInt32,
    payments             Array(Tuple(
        currency           LowCardinality(String),
        status             LowCardinality(String),
        reporting_currency LowCardinality(String),
        enrichment_status  LowCardinality(String),
        country            LowCardinality(String),
        category_code      LowCardinality(String),
        transactions       UInt64,
        amount             Decimal(38, 4),
        amount_reporting   Decimal(38, 4))),
    refreshed_at         DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),   -- when its computation began
    complete_until       DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),   -- it has all that was read until then

    -- The next step looks for what was computed lately.
    INDEX lately (refreshed_at, complete_until) TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(refreshed_at)
PARTITION BY toYYYYMM(slot)
-- A merchant's day is in one place, since that is what is added up next.
ORDER BY (toDate(slot), merchant_id, slot);

-- One row: one refresh of a roll-up that succeeded, when it began, and up to which time of reading it is complete.
-- Written by: rollup_progress_mv, and `paystream rollup rebuild`. Read by: rollup_state.
-- Guarantee: never says more than was done. Where rows are missing, more is computed again than need be.
CREATE TABLE rollup_progress
(
    view           LowCardinality(String),
    began_at       DateTime('UTC'),
    complete_until DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree
ORDER BY (view, began_at)
TTL toDateTime(began_at) + INTERVAL 30 DAY;

ALTER TABLE transactions
    ADD INDEX changed enriched_at TYPE minmax GRANULARITY 1;

-- For what is stored already; writes it alone, not the rows.
ALTER TABLE transactions MATERIALIZE INDEX changed;

-- One row: all payments of one hour (UTC, by created_at), once deduplicated (FINAL): an element of `payments` for each
-- combination of country, category, currency, status and so on.
-- Written by: volume_hours_mv. Read by: the reports of volume, of currency exposure and of what is pending.
-- Guarantee: a row is the sum of its merchants' half hours and replaces the one before it as a whole. Rows of 1970 without
-- payments only say that a refresh was complete, also when it had nothing to write.
CREATE TABLE volume_hours
(
    hour           DateTime('UTC'),
    payments       Array(Tuple(
        currency           LowCardinality(String),
        status             LowCardinality(String),
        reporting_currency LowCardinality(String),
        enrichment_status  LowCardinality(String),
        country            LowCardinality(String),
        category_code      LowCardinality(String),
        transactions       UInt64,
        amount             Decimal(38, 4),
        amount_reporting   Decimal(38, 4))),
    refreshed_at   DateTime64(3, 'UTC'),
    complete_until DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(refreshed_at)
PARTITION BY toYYYYMM(hour)
ORDER BY hour
TTL toDateTime(refreshed_at) + INTERVAL 1 DAY DELETE WHERE hour < toDateTime('1971-01-01 00:00:00', 'UTC')
-- An hour has thousands of elements, and a report of one reads that one.
SETTINGS index_granularity = 8;

-- One row: one roll-up: up to which time of reading (ingested_at, or enriched_at of what was repaired) it is complete.
-- Written by: nobody (a view). Read by: the refreshes, for what has changed since; the reports, which say it to their readers.
-- Guarantee: never later than the truth. What the engine says of its refreshes is gone at a restart; rollup_progress is not.
-- Rows that say they are complete until 1970 are `paystream rollup rebuild`'s and tell nothing of a refresh.
CREATE VIEW rollup_state AS
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
)
WHERE began > toDateTime(0, 'UTC')
GROUP BY view;

-- One row: one merchant's payments of one day (UTC, by created_at), as in merchant_days.
-- Written by: nobody (a view). Read by: report_merchant_by_day, report_settlement_by_day, report_merchant_ranking.
-- Guarantee: each bucket once: days that are over come from merchant_days as they stand there, the others from their half hours.
CREATE VIEW merchant_days_current AS
WITH (SELECT toDate(max(began_at)) FROM rollup_state WHERE view = 'merchant_days_mv') AS first_open_day
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

-- One row: one report: up to which time of reading it is complete. What was read later is in it soon, usually within a minute.
-- Written by: nobody (a view). Read by: whoever reads reports; `paystream report` and `paystream status`.
-- Guarantee: never later than the truth; 1970 before the first refresh.
CREATE VIEW report_freshness AS
WITH
    ifNull((SELECT min(complete_until) FROM rollup_state WHERE view IN ('merchant_slots_mv', 'merchant_days_mv') HAVING count() = 2), toDateTime64(0, 3, 'UTC')) AS merchants,
    ifNull((SELECT max(complete_until) FROM rollup_state WHERE view = 'volume_hours_mv'), toDateTime64(0, 3, 'UTC')) AS hours,
    ifNull((SELECT max(complete_until) FROM rollup_state WHERE view = 'latency_minutes_mv'), toDateTime64(0, 3, 'UTC')) AS minutes
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

-- One row: one minute (UTC, by when ClickHouse read the messages) and one topic.
-- Written by: nobody (a view). Read by: operators and the head of data; filter by minute, a DateTime, or by day.
-- Guarantee: as ingest_ledger: what was delivered again counts again. p50_s and so on: seconds from a payment's Kafka timestamp
-- until ClickHouse read it, to within 9 %; NULL when no payment was timed. Kept for as long as nobody deletes it.
CREATE VIEW report_latency_by_minute AS
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
FROM latency_minutes FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- One row: one merchant, one day (UTC, by created_at), one currency, one status and one reporting currency ('' where no
-- rate is known yet): the nightly batch's successor.
-- Written by: nobody (a view). Read by: finance and analytics; filter by day, and by merchant_id to read little.
-- Guarantee: each transaction counts once, in its newest state; equal to a recomputation of everything read until complete_until.
CREATE OR REPLACE VIEW report_merchant_by_day AS
WITH (SELECT any(complete_until) FROM report_freshness WHERE report = 'report_merchant_by_day') AS reached
SELECT
    day,
    merchant_id,
    merchant_name,
    p.currency AS currency,
    p.status AS status,
    p.reporting_currency AS reporting_currency,
    p.transactions AS transactions,
    p.amount AS amount,
    -- Amounts whose rate is not known yet are left out of the sum and counted here.
    if(reporting_currency = '', NULL, p.amount_reporting) AS amount_reporting,
    if(reporting_currency = '', p.transactions, 0) AS transactions_without_rate,
    p.provisional AS transactions_with_provisional_rate,
    assumeNotNull(reached) AS complete_until
FROM merchant_days_current
ARRAY JOIN payments AS p;

-- One row: one day (UTC, by created_at), one thing that is waited for (merchant_pending, fx_pending, fx_provisional), one
-- currency and one reporting currency ('' where no rate is known yet).
-- Written by: nobody (a view). Read by: finance and operators, for what a repair has still to complete; filter by day.
-- Guarantee: each transaction counts once, in its newest state; equal to a recomputation of everything read until complete_until.
CREATE VIEW report_pending_by_day AS
WITH (SELECT any(complete_until) FROM report_freshness WHERE report = 'report_pending_by_day') AS reached
SELECT
    toDate(hour) AS day,
    p.enrichment_status AS enrichment_status,
    p.currency AS currency,
    p.reporting_currency AS reporting_currency,
    sum(p.transactions) AS transactions,
    sum(p.amount) AS amount,
    -- At the rate of an earlier day where it is provisional.
    if(reporting_currency = '', NULL, sum(p.amount_reporting)) AS amount_reporting,
    assumeNotNull(reached) AS complete_until
FROM volume_hours FINAL
ARRAY JOIN payments AS p
WHERE enrichment_status != 'ok'
GROUP BY day, enrichment_status, currency, reporting_currency
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- One row: one merchant, one day (UTC, by created_at), one currency and one reporting currency ('' where no rate is known yet).
-- Written by: nobody (a view). Read by: finance, to settle with merchants; filter by day, and by merchant_id to read little.
-- Guarantee: as report_merchant_by_day, of which it is the sum. `gross` is what was taken, also where it went back later:
-- captured, settled, refunded and charged back; `net` is what is left: gross - refunds - charge_backs. Authorized payments
-- are not taken yet, failed ones never. `…_reporting`: in the reporting currency, NULL without a rate.
CREATE VIEW report_settlement_by_day AS
WITH
    (SELECT any(complete_until) FROM report_freshness WHERE report = 'report_settlement_by_day') AS reached,
    arrayFilter(p -> p.currency = pair.1 AND p.reporting_currency = pair.2, payments) AS own
SELECT
    day,
    merchant_id,
    merchant_name,
    pair.1 AS currency,
    pair.2 AS reporting_currency,

    arraySum(own.transactions) AS transactions,
    arraySum(p -> if(p.status = 'authorized', p.transactions, 0), own) AS authorized,
    arraySum(p -> if(p.status = 'captured', p.transactions, 0), own) AS captured,
    arraySum(p -> if(p.status = 'settled', p.transactions, 0), own) AS settled,
    arraySum(p -> if(p.status = 'refunded', p.transactions, 0), own) AS refunded,
    arraySum(p -> if(p.status = 'charged_back', p.transactions, 0), own) AS charged_back,
    arraySum(p -> if(p.status = 'failed', p.transactions, 0), own) AS failed,

    arraySum(p -> if(p.status = 'authorized', p.amount, 0), own) AS authorized_amount,
    arraySum(p -> if(p.status IN ('captured', 'settled', 'refunded', 'charged_back'), p.amount, 0), own) AS gross,
    arraySum(p -> if(p.status = 'refunded', p.amount, 0), own) AS refunds,
    arraySum(p -> if(p.status = 'charged_back', p.amount, 0), own) AS charge_backs,
    gross - refunds - charge_backs AS net,

    if(reporting_currency = '', NULL, arraySum(p -> if(p.status IN ('captured', 'settled', 'refunded', 'charged_back'), p.amount_reporting, 0), own)) AS gross_reporting,
    if(reporting_currency = '', NULL, arraySum(p -> if(p.status = 'refunded', p.amount_reporting, 0), own)) AS refunds_reporting,
    if(reporting_currency = '', NULL, arraySum(p -> if(p.status = 'charged_back', p.amount_reporting, 0), own)) AS charge_backs_reporting,
    gross_reporting - refunds_reporting - charge_backs_reporting AS net_reporting,

    arraySum(own.provisional) AS transactions_with_provisional_rate,
    assumeNotNull(reached) AS complete_until
FROM merchant_days_current
ARRAY JOIN arrayDistinct(arrayMap(p -> (p.currency, p.reporting_currency), payments)) AS pair;

-- One row: one hour (UTC, by created_at), one country and category of merchants ('' while the merchant is not known), one
-- reporting currency ('' where no rate is known yet).
-- Written by: nobody (a view). Read by: analytics; filter by hour, a DateTime, or by day.
-- Guarantee: each transaction counts once, in its newest state; equal to a recomputation of everything read until complete_until.
CREATE VIEW report_volume_by_hour AS
WITH (SELECT any(complete_until) FROM report_freshness WHERE report = 'report_volume_by_hour') AS reached
SELECT
    toDate(hour) AS day,
    hour,
    p.country AS country,
    p.category_code AS category_code,
    p.reporting_currency AS reporting_currency,
    sum(p.transactions) AS transactions,
    sumIf(p.transactions, p.status = 'failed') AS failed,
    -- As in report_settlement_by_day.
    if(reporting_currency = '', NULL, sumIf(p.amount_reporting, p.status IN ('captured', 'settled', 'refunded', 'charged_back'))) AS gross_reporting,
    if(reporting_currency = '', NULL, sumIf(p.amount_reporting, p.status IN ('captured', 'settled'))) AS net_reporting,
    assumeNotNull(reached) AS complete_until
FROM volume_hours FINAL
ARRAY JOIN payments AS p
GROUP BY hour, country, category_code, reporting_currency
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- One row: one day (UTC, by created_at), one currency and one reporting currency ('' where no rate is known yet).
-- Written by: nobody (a view). Read by: finance, for what is held in foreign currencies; filter by day.
-- Guarantee: each transaction counts once, in its newest state; equal to a recomputation of everything read until
-- complete_until. `gross` and `net` as in report_settlement_by_day.
CREATE VIEW report_currency_exposure_by_day AS
WITH (SELECT any(complete_until) FROM report_freshness WHERE report = 'report_currency_exposure_by_day') AS reached
SELECT
    toDate(hour) AS day,
    p.currency AS currency,
    p.reporting_currency AS reporting_currency,
    sum(p.transactions) AS transactions,
    sumIf(p.amount, p.status = 'authorized') AS authorized_amount,
    sumIf(p.amount, p.status IN ('captured', 'settled', 'refunded', 'charged_back')) AS gross,
    sumIf(p.amount, p.status IN ('captured', 'settled')) AS net,
    if(reporting_currency = '', NULL, sumIf(p.amount_reporting, p.status IN ('captured', 'settled'))) AS net_reporting,
    -- Of net_reporting, what is at a rate that the day's own will replace.
    if(reporting_currency = '', NULL, sumIf(p.amount_reporting, p.status IN ('captured', 'settled') AND p.enrichment_status = 'fx_provisional')) AS net_reporting_provisional,
    assumeNotNull(reached) AS complete_until
FROM volume_hours FINAL
ARRAY JOIN payments AS p
GROUP BY day, currency, reporting_currency
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- One row: one minute in which blocks have been read since the last refresh.
-- Written by: its schedule. Read by: the table latency_minutes.
-- Guarantee: computed anew from the ledger; a refresh that fails or is lost is made up for by the next.
CREATE MATERIALIZED VIEW latency_minutes_mv
REFRESH EVERY 40 SECOND APPEND TO latency_minutes AS
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
SETTINGS max_threads = 1;

-- One row: one merchant and day that is over, of which a half hour has been computed since the last refresh.
-- Written by: its schedule, after merchant_slots_mv. Read by: the table merchant_days.
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
SETTINGS do_not_merge_across_partitions_select_final = 1, max_threads = 1;

-- One row: one merchant and half hour of which a transaction came in, changed its state or was repaired since the last refresh.
-- Written by: its schedule. Read by: the table merchant_slots.
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
    do_not_merge_across_partitions_select_final = 1,
    optimize_move_to_prewhere_if_final = 1,   -- of conditions on what a transaction never changes, so no older state shows
    max_threads = 1;

-- One row: how far one roll-up has come.
-- Written by: its schedule. Read by: the table rollup_progress.
-- Guarantee: as rollup_state; it is there so that the restart of a server does not cost a computation of everything.
CREATE MATERIALIZED VIEW rollup_progress_mv
REFRESH EVERY 40 SECOND OFFSET 20 SECOND APPEND TO rollup_progress AS
SELECT view, began_at, complete_until
FROM rollup_state
WHERE (view, began_at) NOT IN (SELECT view, began_at FROM rollup_progress);

-- One row: one hour of which a merchant's half hour has been computed since the last refresh.
-- Written by: its schedule, after merchant_slots_mv. Read by: the table volume_hours.
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
    do_not_merge_across_partitions_select_final = 1,
    optimize_move_to_prewhere_if_final = 1,   -- of conditions on the sorting key
    max_threads = 1;

-- One row: one merchant and reporting currency, over the days (UTC) from first_day to last_day.
-- Written by: nobody (a view). Read by: analytics. Parameters: first_day and last_day, both included.
-- Guarantee: as report_merchant_by_day; merchants of equal net share a place. Payments without a
-- rate are in no place: report_pending_by_day has them.
CREATE VIEW report_merchant_ranking AS
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
        argMax(merchant_name, day) AS merchant_name,
        p.reporting_currency AS reporting_currency,
        sum(p.transactions) AS transactions,
        sumIf(p.amount_reporting, p.status IN ('captured', 'settled')) AS net_reporting,
        (SELECT any(complete_until) FROM report_freshness WHERE report = 'report_merchant_ranking') AS complete_until
    FROM merchant_days_current
    ARRAY JOIN payments AS p
    WHERE day BETWEEN {first_day:Date} AND {last_day:Date} AND p.reporting_currency != ''
    GROUP BY merchant_id, reporting_currency
)
ORDER BY reporting_currency, place, merchant_id;
