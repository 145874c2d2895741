ALTER TABLE rollup_progress_mv MODIFY QUERY
SELECT
    view,
    began_at,
    complete_until
FROM rollup_state
WHERE (view, began_at) NOT IN (
    SELECT
        view,
        began_at
    FROM rollup_progress
);
CREATE OR REPLACE VIEW report_latency_by_minute AS
WITH
    (
        SELECT any(complete_until)
        FROM report_freshness
        WHERE report = 'report_latency_by_minute'
    ) AS reached,
    arrayCumSum(latency_histogram) AS up_to,
    arrayMap(share -> arrayFirstIndex(n -> ((n > 0) AND (n >= (share * timed))), up_to), [0.5, 0.95, 0.99]) AS places,
    arrayMap((share, i) -> if(i = 0, NULL, ((exp2((i - 1) / 8) - 1) + if(i = 176, 0, (((share * timed) - ((up_to[i]) - (latency_histogram[i]))) / (latency_histogram[i])) * (exp2(i / 8) - exp2((i - 1) / 8)))) / 1000), [0.5, 0.95, 0.99], places) AS quantiles
SELECT
    toDate(minute) AS day,
    minute,
    kafka_topic,
    messages,
    timed,
    late,
    quantiles[1] AS p50_s,
    quantiles[2] AS p95_s,
    quantiles[3] AS p99_s,
    assumeNotNull(reached) AS complete_until
FROM latency_minutes
FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1;
CREATE OR REPLACE VIEW merchant_days_current AS
WITH
    (
        SELECT toDate(max(began_at) - toIntervalMinute(10))
        FROM rollup_state
        WHERE view = 'merchant_days_mv'
    ) AS first_open_day
SELECT
    day,
    merchant_id,
    merchant_name,
    payments
FROM merchant_days
FINAL
WHERE day < first_open_day
UNION ALL
WITH
    (
        SELECT toDate(max(began_at) - toIntervalMinute(10))
        FROM rollup_state
        WHERE view = 'merchant_days_mv'
    ) AS first_open_day
SELECT
    day,
    merchant_id,
    argMax(name, snapshot_id) AS merchant_name,
    CAST(groupArray((currency, status, reporting_currency, transactions_sum, provisional_sum, amount_sum, amount_reporting_sum)), 'Array(Tuple(currency LowCardinality(String), status LowCardinality(String), reporting_currency LowCardinality(String), transactions UInt64, provisional UInt64, amount Decimal(38, 4), amount_reporting Decimal(38, 4)))') AS payments
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
    FROM merchant_slots
    FINAL
    ARRAY JOIN payments AS p
    WHERE toDate(slot) >= first_open_day
    GROUP BY
        day,
        merchant_id,
        currency,
        status,
        reporting_currency
)
GROUP BY
    day,
    merchant_id
SETTINGS do_not_merge_across_partitions_select_final = 1;
CREATE OR REPLACE VIEW report_freshness AS
WITH
    ifNull((
        SELECT min(complete_until)
        FROM rollup_state
        WHERE (view IN ('merchant_slots_mv', 'merchant_days_mv'))
        HAVING count() = 2
    ), toDateTime64(0, 3, 'UTC')) AS merchants,
    ifNull((
        SELECT max(complete_until)
        FROM rollup_state
        WHERE view = 'volume_hours_mv'
    ), toDateTime64(0, 3, 'UTC')) AS hours,
    ifNull((
        SELECT max(complete_until)
        FROM rollup_state
        WHERE view = 'latency_minutes_mv'
    ), toDateTime64(0, 3, 'UTC')) AS minutes
SELECT
    said.1 AS report,
    said.2 AS complete_until
FROM
(
    SELECT arrayJoin([('report_merchant_by_day', merchants), ('report_settlement_by_day', merchants), ('report_merchant_ranking', merchants), ('report_volume_by_hour', hours), ('report_currency_exposure_by_day', hours), ('report_pending_by_day', hours), ('report_latency_by_minute', minutes)]) AS said
);
CREATE OR REPLACE VIEW merchant_days_by_currency AS
WITH
    (
        SELECT toDate(max(began_at) - toIntervalMinute(10))
        FROM rollup_state
        WHERE view = 'merchant_days_mv'
    ) AS first_open_day
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
FROM merchant_days
FINAL
ARRAY JOIN by_currency AS b
WHERE day < first_open_day
UNION ALL
WITH
    (
        SELECT toDate(max(began_at) - toIntervalMinute(10))
        FROM rollup_state
        WHERE view = 'merchant_days_mv'
    ) AS first_open_day
SELECT
    toDate(slot) AS day,
    merchant_id,
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
    sumIf(p.amount, (p.status IN ('captured', 'settled'))) AS net,
    sumIf(p.amount, p.status = 'refunded') AS refunds,
    sumIf(p.amount, p.status = 'charged_back') AS charge_backs,
    sumIf(p.amount_reporting, (p.status IN ('captured', 'settled'))) AS net_reporting,
    sumIf(p.amount_reporting, p.status = 'refunded') AS refunds_reporting,
    sumIf(p.amount_reporting, p.status = 'charged_back') AS charge_backs_reporting
FROM merchant_slots
FINAL
ARRAY JOIN payments AS p
WHERE toDate(slot) >= first_open_day
GROUP BY
    day,
    merchant_id,
    currency,
    reporting_currency
SETTINGS do_not_merge_across_partitions_select_final = 1;
CREATE OR REPLACE VIEW rollup_state AS
WITH
    refreshes AS
    (
        SELECT
            view AS name,
            toDateTime(assumeNotNull(last_success_time), 'UTC') AS began
        FROM system.view_refreshes
        WHERE (database = currentDatabase()) AND isNotNull(last_success_time)
    ),
    ifNull((
        SELECT max(began)
        FROM refreshes
        WHERE name = 'merchant_slots_mv'
    ), toDateTime(0, 'UTC')) AS slots_began,
    ifNull((
        SELECT max(began)
        FROM refreshes
        WHERE name = 'merchant_days_mv'
    ), toDateTime(0, 'UTC')) AS days_began,
    ifNull((
        SELECT max(began)
        FROM refreshes
        WHERE name = 'volume_hours_mv'
    ), toDateTime(0, 'UTC')) AS hours_began,
    ifNull((
        SELECT max(began)
        FROM refreshes
        WHERE name = 'latency_minutes_mv'
    ), toDateTime(0, 'UTC')) AS minutes_began
SELECT
    view,
    max(began) AS began_at,
    max(reached) AS complete_until,
    max(least(reached, began - toIntervalMinute(1))) AS settled_until
FROM
(
    SELECT
        view,
        began_at AS began,
        complete_until AS reached
    FROM rollup_progress
    UNION ALL
    SELECT
        'merchant_slots_mv',
        slots_began,
        least(toDateTime64(slots_began, 3, 'UTC') - toIntervalSecond(5), ifNull((
            SELECT minOrNull(complete_until)
            FROM merchant_slots
            WHERE (refreshed_at >= slots_began) AND (complete_until > toDateTime64(0, 3, 'UTC'))
        ), toDateTime64(slots_began, 3, 'UTC')))
    UNION ALL
    SELECT
        'merchant_days_mv',
        days_began,
        ifNull((
            SELECT minOrNull(complete_until)
            FROM merchant_days
            WHERE (refreshed_at >= days_began) AND (complete_until > toDateTime64(0, 3, 'UTC'))
        ), toDateTime64(0, 3, 'UTC'))
    UNION ALL
    SELECT
        'volume_hours_mv',
        hours_began,
        ifNull((
            SELECT minOrNull(complete_until)
            FROM volume_hours
            WHERE (refreshed_at >= hours_began) AND (complete_until > toDateTime64(0, 3, 'UTC'))
        ), toDateTime64(0, 3, 'UTC'))
    UNION ALL
    SELECT
        'latency_minutes_mv',
        minutes_began,
        toDateTime64(minutes_began, 3, 'UTC') - toIntervalSecond(5)
)
WHERE began > toDateTime(0, 'UTC')
GROUP BY view;
