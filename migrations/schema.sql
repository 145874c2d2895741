-- What the versions up to 0018_rollups_by_shard give, as the engine spells it.
-- `paystream migrate check` compares databases with it.
-- Written by `paystream migrate new` and `lock`; do not edit.

-- object: audits; words of its file: 5de884c3622f2dd8fa48cd6bfd2895214d7b8d15501005be27f12b94f1a99a63
CREATE TABLE audits
(
    `audited_at` DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC'),
    `kafka_topic` LowCardinality(String),
    `since` DateTime64(3, 'UTC'),
    `is_deep` Bool,
    `verdict` LowCardinality(String),
    `lost` UInt64,
    `expired` UInt64,
    `unchecked` UInt64
)
ENGINE = MergeTree
ORDER BY audited_at
TTL toDateTime(audited_at) + toIntervalYear(1)
SETTINGS index_granularity = 8192
;

-- object: dimension_checks; words of its file: b325a41a951fe51d0571a9a80bf51cbed02932b579a0f796798ad82b98de0f80
CREATE TABLE dimension_checks
(
    `dimension` LowCardinality(String),
    `snapshot_id` UInt32,
    `checked_at` DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
)
ENGINE = MergeTree
ORDER BY (dimension, checked_at)
TTL toDateTime(checked_at) + toIntervalDay(90)
SETTINGS index_granularity = 8192
;

-- object: dimension_snapshots; words of its file: 171a5d4dc7c3333dd6475b8fefc3772166e3fca4ccf57504e5a16deca1bde632
CREATE TABLE dimension_snapshots
(
    `dimension` LowCardinality(String),
    `snapshot_id` UInt32,
    `source` String,
    `checksum` String,
    `row_count` UInt64,
    `loaded_at` DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC'),
    `loaded_by` String,
    `source_modified_at` Nullable(DateTime64(3, 'UTC')),
    `forced_gates` Array(LowCardinality(String)),
    `rejected` Array(Tuple(
        place String,
        key String,
        cause String))
)
ENGINE = MergeTree
ORDER BY (dimension, snapshot_id)
SETTINGS index_granularity = 8192
;

-- object: fx_rate_periods; words of its file: 6050a4a64aa2eebc86ee063c7fe544bb8281af2c8178466c2051b7291934d09a
CREATE VIEW fx_rate_periods
(
    `currency` String,
    `valid_from` Date,
    `valid_to` Date,
    `rate` Decimal(38, 12),
    `rate_date` Date,
    `is_latest` UInt8,
    `reporting_currency` String,
    `snapshot_id` UInt32
)
AS SELECT
    currency,
    rate_date AS valid_from,
    multiIf(is_itself AND (next_rate_date > rate_date), next_rate_date - 1, next_rate_date > rate_date, least(next_rate_date - 1, rate_date + 10), is_itself OR ((rate_date + 10) >= newest_rate_date), toDate('2149-06-06'), rate_date + 10) AS valid_to,
    rate,
    rate_date,
    (next_rate_date <= rate_date) AND ((rate_date + 10) >= newest_rate_date) AND (NOT is_itself) AS is_latest,
    reporting_currency,
    snapshot_id
FROM
(
    SELECT
        *,
        currency = reporting_currency AS is_itself,
        leadInFrame(rate_date) OVER (PARTITION BY currency ORDER BY rate_date ASC ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS next_rate_date,
        max(rate_date) OVER () AS newest_rate_date
    FROM
    (
        SELECT
            currency,
            rate_date,
            rate,
            reporting_currency,
            snapshot_id
        FROM fx_rates
        UNION ALL
        SELECT
            any(reporting_currency),
            toDate(0),
            1,
            any(reporting_currency),
            max(snapshot_id)
        FROM fx_rates
        HAVING (count() > 0) AND (min(rate_date) > toDate(0))
    )
)
;

-- object: fx_rates; words of its file: b7ddb16008d82021f752016f9baea39fdae94f1a9f1bb8bbf45817806405e6ac
CREATE TABLE fx_rates
(
    `currency` LowCardinality(String),
    `rate_date` Date,
    `rate` Decimal(38, 12),
    `reporting_currency` LowCardinality(String),
    `snapshot_id` UInt32
)
ENGINE = MergeTree
ORDER BY (currency, rate_date)
SETTINGS index_granularity = 8192
;

-- object: fx_rates_dict; words of its file: af5b34a8f065ae3022554cd5d7c7c0cf1e2a5e6ba505a88622781aa79244aa9e
CREATE DICTIONARY fx_rates_dict
(
    `currency` String,
    `valid_from` Date,
    `valid_to` Date,
    `rate` Decimal(38, 12),
    `rate_date` Date,
    `is_latest` UInt8,
    `reporting_currency` String,
    `snapshot_id` UInt32
)
PRIMARY KEY currency
SOURCE(CLICKHOUSE(NAME paystream_dictionaries TABLE 'fx_rate_periods'))
LIFETIME(MIN 0 MAX 0)
LAYOUT(COMPLEX_KEY_RANGE_HASHED())
RANGE(MIN valid_from MAX valid_to)
;

-- object: fx_rates_history; words of its file: 09881af38c4f7c169163e5a9db043be742683a9745dbb01307bf907ebdaf9461
CREATE TABLE fx_rates_history
(
    `currency` LowCardinality(String),
    `rate_date` Date,
    `rate` Decimal(38, 12),
    `reporting_currency` LowCardinality(String),
    `snapshot_id` UInt32
)
ENGINE = MergeTree
PARTITION BY snapshot_id
ORDER BY (currency, rate_date)
SETTINGS index_granularity = 8192
;

-- object: ingest_ledger; words of its file: f86583d050a5184bdb0d2ba1888281ddb3b6827027d8f81c1f046e5049dd9b59
CREATE TABLE ingest_ledger
(
    `kafka_topic` LowCardinality(String),
    `kafka_partition` UInt32,
    `first_offset` UInt64,
    `last_offset` UInt64,
    `messages` UInt64,
    `refused` UInt64,
    `last_kafka_timestamp` DateTime64(3, 'UTC'),
    `read_at` DateTime64(3, 'UTC'),
    `timed` UInt64,
    `late` UInt64,
    `latency_histogram` Array(UInt32) CODEC(ZSTD(1)),
    INDEX lately (read_at, last_offset) TYPE minmax GRANULARITY 1,
    PROJECTION by_hour
    (
        SELECT
            kafka_topic,
            toStartOfHour(read_at),
            sum(messages),
            sum(timed),
            sum(late),
            max(last_kafka_timestamp),
            max(read_at)
        GROUP BY
            kafka_topic,
            toStartOfHour(read_at)
    )
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(read_at)
ORDER BY (kafka_topic, kafka_partition, first_offset)
TTL toDateTime(read_at) + toIntervalDay(90)
SETTINGS index_granularity = 8192, lightweight_mutation_projection_mode = 'rebuild', ttl_only_drop_parts = 1
;

-- object: latency_minutes; words of its file: 2547c465423432dbbc1f69d72df750450abe253277def52eddc20c3f20efc53e
CREATE TABLE latency_minutes
(
    `minute` DateTime('UTC'),
    `kafka_topic` LowCardinality(String),
    `messages` UInt64,
    `timed` UInt64,
    `late` UInt64,
    `latency_histogram` Array(UInt64) CODEC(ZSTD(1)),
    `refreshed_at` DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(refreshed_at)
PARTITION BY toYYYYMM(minute)
ORDER BY (minute, kafka_topic)
SETTINGS index_granularity = 8192
;

-- object: latency_minutes_mv; words of its file: f70810fe87d6fbd5c7b447a281907fbb0ef8fab4aeb636aedfeb591f84ea77e7
CREATE MATERIALIZED VIEW latency_minutes_mv
REFRESH EVERY 40 SECOND APPEND TO latency_minutes
(
    `minute` DateTime('UTC'),
    `kafka_topic` LowCardinality(String),
    `messages` UInt64,
    `timed` UInt64,
    `late` UInt64,
    `latency_histogram` Array(UInt64),
    `refreshed_at` DateTime64(3)
)
AS WITH
    (
        SELECT toStartOfMinute(least(max(settled_until), now64(3) - toIntervalMinute(1)))
        FROM rollup_state
        WHERE view = 'latency_minutes_mv'
    ) AS since
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
GROUP BY
    minute,
    kafka_topic
SETTINGS aggregate_functions_null_for_empty = 0, max_threads = 1, os_threads_nice_value_query = 15
;

-- object: ledger_mv; words of its file: 802c6f94599634a333819c49beb90fa8431787fa7d86dfad2a02ed846cba73c2
CREATE MATERIALIZED VIEW ledger_mv TO ingest_ledger
(
    `kafka_topic` LowCardinality(String),
    `kafka_partition` UInt32,
    `first_offset` UInt64,
    `last_offset` UInt64,
    `messages` UInt64,
    `refused` UInt64,
    `last_kafka_timestamp` DateTime64(3, 'UTC'),
    `read_at` DateTime64(3),
    `timed` UInt64,
    `late` UInt64,
    `latency_histogram` Array(UInt32)
)
AS WITH
    now64(3) AS stored_at,
    (fault = '') AND (kafka_timestamp > (stored_at - toIntervalYear(1))) AS is_timed,
    greatest(0, toUnixTimestamp64Milli(stored_at) - toUnixTimestamp64Milli(kafka_timestamp)) AS latency_ms
SELECT
    kafka_topic,
    kafka_partition,
    min(kafka_offset) AS first_offset,
    max(kafka_offset) AS last_offset,
    count() AS messages,
    countIf(fault != '') AS refused,
    max(kafka_timestamp) AS last_kafka_timestamp,
    stored_at AS read_at,
    countIf(is_timed) AS timed,
    countIf(is_timed AND (latency_ms > 300000)) AS late,
    CAST(countResampleIf(0, 176, 1)(toUInt8(least(175, floor(8 * log2(latency_ms + 1)))), is_timed), 'Array(UInt32)') AS latency_histogram
FROM transactions_parsed
GROUP BY
    kafka_topic,
    kafka_partition
;

-- object: merchant_days; words of its file: d525106acb9cf553d79f765892130dfd3db65d3ee6e4213f16275dbb874406b3
CREATE TABLE merchant_days
(
    `day` Date,
    `merchant_id` UInt32,
    `merchant_name` String CODEC(ZSTD(1)),
    `merchant_snapshot_id` UInt32,
    `payments` Array(Tuple(
        currency LowCardinality(String),
        status LowCardinality(String),
        reporting_currency LowCardinality(String),
        transactions UInt64,
        provisional UInt64,
        amount Decimal(38, 4),
        amount_reporting Decimal(38, 4))),
    `by_currency` Array(Tuple(
        currency LowCardinality(String),
        reporting_currency LowCardinality(String),
        transactions UInt64,
        authorized UInt64,
        captured UInt64,
        settled UInt64,
        refunded UInt64,
        charged_back UInt64,
        failed UInt64,
        provisional UInt64,
        authorized_amount Decimal(38, 4),
        net Decimal(38, 4),
        refunds Decimal(38, 4),
        charge_backs Decimal(38, 4),
        net_reporting Decimal(38, 4),
        refunds_reporting Decimal(38, 4),
        charge_backs_reporting Decimal(38, 4))) MATERIALIZED arrayMap(own -> (own.currency[1], own.reporting_currency[1], arraySum(own.transactions), arraySum(p -> if(p.status = 'authorized', p.transactions, 0), own), arraySum(p -> if(p.status = 'captured', p.transactions, 0), own), arraySum(p -> if(p.status = 'settled', p.transactions, 0), own), arraySum(p -> if(p.status = 'refunded', p.transactions, 0), own), arraySum(p -> if(p.status = 'charged_back', p.transactions, 0), own), arraySum(p -> if(p.status = 'failed', p.transactions, 0), own), arraySum(own.provisional), arraySum(p -> if(p.status = 'authorized', p.amount, 0), own), arraySum(p -> if((p.status IN ('captured', 'settled')), p.amount, 0), own), arraySum(p -> if(p.status = 'refunded', p.amount, 0), own), arraySum(p -> if(p.status = 'charged_back', p.amount, 0), own), arraySum(p -> if((p.status IN ('captured', 'settled')), p.amount_reporting, 0), own), arraySum(p -> if(p.status = 'refunded', p.amount_reporting, 0), own), arraySum(p -> if(p.status = 'charged_back', p.amount_reporting, 0), own)), arrayMap(pair -> arrayFilter(p -> ((p.currency = (pair.1)) AND (p.reporting_currency = (pair.2))), payments), arrayDistinct(arrayMap(p -> (p.currency, p.reporting_currency), payments)))),
    `refreshed_at` DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `complete_until` DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    INDEX lately (refreshed_at, complete_until) TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(refreshed_at)
PARTITION BY toYYYYMM(day)
ORDER BY (day, merchant_id)
TTL toDateTime(refreshed_at) + toIntervalDay(1) WHERE day = toDate(0)
SETTINGS index_granularity = 8192
;

-- object: merchant_days_by_currency; words of its file: 30ef5fae6e81b8f94ee10bb3d2c0c933556d83fecdc4b41704c07b35d4ca8f6c
CREATE VIEW merchant_days_by_currency
(
    `day` Date,
    `merchant_id` UInt32,
    `merchant_name` String,
    `currency` LowCardinality(String),
    `reporting_currency` LowCardinality(String),
    `transactions` UInt64,
    `authorized` UInt64,
    `captured` UInt64,
    `settled` UInt64,
    `refunded` UInt64,
    `charged_back` UInt64,
    `failed` UInt64,
    `provisional` UInt64,
    `authorized_amount` Decimal(38, 4),
    `net` Decimal(38, 4),
    `refunds` Decimal(38, 4),
    `charge_backs` Decimal(38, 4),
    `net_reporting` Decimal(38, 4),
    `refunds_reporting` Decimal(38, 4),
    `charge_backs_reporting` Decimal(38, 4)
)
AS WITH
    (
        SELECT (min(began_at), count())
        FROM rollup_state
        WHERE view = 'merchant_days_mv'
    ) AS days_state,
    toDate(greatest(days_state.1, toDateTime(600, 'UTC')) - toIntervalMinute(10)) AS first_open_day,
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
FROM merchant_days
FINAL
ARRAY JOIN by_currency AS b
WHERE (day < first_open_day) AND (shards <= 1)
UNION ALL
WITH
    (
        SELECT (min(began_at), count())
        FROM rollup_state
        WHERE view = 'merchant_days_mv'
    ) AS days_state,
    toDate(greatest(days_state.1, toDateTime(600, 'UTC')) - toIntervalMinute(10)) AS first_open_day,
    days_state.2 AS shards
SELECT
    day,
    merchant_id,
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
FROM merchant_days
FINAL
ARRAY JOIN by_currency AS b
WHERE (day < first_open_day) AND (shards > 1)
GROUP BY
    day,
    merchant_id,
    currency,
    reporting_currency
UNION ALL
WITH
    (
        SELECT (min(began_at), count())
        FROM rollup_state
        WHERE view = 'merchant_days_mv'
    ) AS days_state,
    toDate(greatest(days_state.1, toDateTime(600, 'UTC')) - toIntervalMinute(10)) AS first_open_day,
    days_state.2 AS shards
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
SETTINGS do_not_merge_across_partitions_select_final = 1
;

-- object: merchant_days_current; words of its file: cb8d4096c0809a6e35d2f5a85f7e735d38ce7c198027bd1746df505db72f8ff9
CREATE VIEW merchant_days_current
(
    `day` Date,
    `merchant_id` UInt32,
    `merchant_name` String,
    `payments` Array(Tuple(
        currency LowCardinality(String),
        status LowCardinality(String),
        reporting_currency LowCardinality(String),
        transactions UInt64,
        provisional UInt64,
        amount Decimal(38, 4),
        amount_reporting Decimal(38, 4)))
)
AS WITH
    (
        SELECT (min(began_at), count())
        FROM rollup_state
        WHERE view = 'merchant_days_mv'
    ) AS days_state,
    toDate(greatest(days_state.1, toDateTime(600, 'UTC')) - toIntervalMinute(10)) AS first_open_day,
    days_state.2 AS shards
SELECT
    day,
    merchant_id,
    merchant_name,
    payments
FROM merchant_days
FINAL
WHERE (day < first_open_day) AND (shards <= 1)
UNION ALL
WITH
    (
        SELECT (min(began_at), count())
        FROM rollup_state
        WHERE view = 'merchant_days_mv'
    ) AS days_state,
    toDate(greatest(days_state.1, toDateTime(600, 'UTC')) - toIntervalMinute(10)) AS first_open_day,
    days_state.2 AS shards
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
    FROM merchant_days
    FINAL
    ARRAY JOIN payments AS p
    WHERE (day < first_open_day) AND (shards > 1)
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
SETTINGS do_not_merge_across_partitions_select_final = 1
;

-- object: merchant_days_mv; words of its file: c7db4881db665738b6cd27f827de81634f29619bb3f5c9e6145c2854bd5a4be3
CREATE MATERIALIZED VIEW merchant_days_mv
REFRESH EVERY 40 SECOND DEPENDS ON merchant_slots_mv APPEND TO merchant_days
(
    `day` Date,
    `merchant_id` UInt32,
    `merchant_name` String,
    `merchant_snapshot_id` UInt32,
    `payments` Array(Tuple(
        String,
        String,
        String,
        UInt64,
        UInt64,
        Decimal(38, 4),
        Decimal(38, 4))),
    `refreshed_at` DateTime64(3),
    `complete_until` DateTime64(3, 'UTC')
)
AS WITH
    (
        SELECT max(complete_until)
        FROM rollup_state
        WHERE view = 'merchant_days_mv'
    ) AS since,
    (
        SELECT toDate(max(began_at))
        FROM rollup_state
        WHERE view = 'merchant_days_mv'
    ) AS first_open_day,
    (
        SELECT max(complete_until)
        FROM rollup_state
        WHERE view = 'merchant_slots_mv'
    ) AS until,
    changed AS
    (
        SELECT *
        FROM merchant_slots
        FINAL
        WHERE (toDate(slot) < toDate(now('UTC'))) AND ((toDate(slot), merchant_id) IN (
            SELECT
                toDate(slot),
                merchant_id
            FROM merchant_slots
            WHERE (toDate(slot) < toDate(now('UTC'))) AND ((complete_until > since) OR (toDate(slot) >= first_open_day))
        ))
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
    GROUP BY
        day,
        merchant_id,
        currency,
        status,
        reporting_currency
    UNION ALL
    SELECT
        toDate(0),
        toUInt32(now()),
        '',
        '',
        '',
        '',
        0,
        0,
        0,
        0,
        0
)
GROUP BY
    day,
    merchant_id
SETTINGS aggregate_functions_null_for_empty = 0, do_not_merge_across_partitions_select_final = 1, max_threads = 1, os_threads_nice_value_query = 15
;

-- object: merchant_slots; words of its file: c07239a0f660cb4aba59f13083956febe2feca88e0548cbac7c07ea30a86dd07
CREATE TABLE merchant_slots
(
    `slot` DateTime('UTC'),
    `merchant_id` UInt32,
    `merchant_name` String CODEC(ZSTD(1)),
    `merchant_snapshot_id` UInt32,
    `payments` Array(Tuple(
        currency LowCardinality(String),
        status LowCardinality(String),
        reporting_currency LowCardinality(String),
        enrichment_status LowCardinality(String),
        country LowCardinality(String),
        category_code LowCardinality(String),
        transactions UInt64,
        amount Decimal(38, 4),
        amount_reporting Decimal(38, 4))),
    `refreshed_at` DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `complete_until` DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    INDEX lately (refreshed_at, complete_until) TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(refreshed_at)
PARTITION BY toYYYYMM(slot)
ORDER BY (toDate(slot), merchant_id, slot)
SETTINGS index_granularity = 8192
;

-- object: merchant_slots_mv; words of its file: cf89d50c313817c05c1f2ea18390d67b44ba80e3e8015eebdc09df42ed76c9e4
CREATE MATERIALIZED VIEW merchant_slots_mv
REFRESH EVERY 40 SECOND APPEND TO merchant_slots
(
    `slot` DateTime('UTC'),
    `merchant_id` UInt32,
    `merchant_name` String,
    `merchant_snapshot_id` UInt32,
    `payments` Array(Tuple(
        String,
        String,
        String,
        String,
        String,
        String,
        UInt64,
        Decimal(38, 4),
        Decimal(38, 4))),
    `refreshed_at` DateTime64(3),
    `complete_until` DateTime64(3)
)
AS WITH
    (
        SELECT least(max(settled_until), now64(3) - toIntervalMinute(1))
        FROM rollup_state
        WHERE view = 'merchant_slots_mv'
    ) AS since,
    toStartOfInterval(now('UTC') - toIntervalMinute(30), toIntervalMinute(30)) AS current_from,
    (
        SELECT least(now64(3) - toIntervalSecond(5), ifNull(anyOrNull(enriched_at), now64(3)))
        FROM
        (
            SELECT enriched_at
            FROM transactions
            WHERE (enriched_at > since) AND (created_at < current_from)
            ORDER BY enriched_at ASC
            LIMIT 1000000, 1
        )
    ) AS until,
    current_slots AS
    (
        SELECT DISTINCT toStartOfInterval(created_at, toIntervalMinute(30))
        FROM transactions
        WHERE (enriched_at > since) AND (enriched_at <= until) AND (created_at >= current_from)
    ),
    older_slots AS
    (
        SELECT
            toDate(created_at),
            merchant_id,
            toStartOfInterval(created_at, toIntervalMinute(30))
        FROM transactions
        WHERE (enriched_at > since) AND (enriched_at <= until) AND (created_at < current_from)
    ),
    changed AS
    (
        SELECT *
        FROM transactions
        FINAL
        WHERE (created_at >= current_from) AND (toDate(created_at) >= toDate(current_from)) AND (toStartOfInterval(created_at, toIntervalMinute(30)) IN (current_slots))
        UNION ALL
        SELECT *
        FROM transactions
        FINAL
        WHERE (created_at < current_from) AND ((toDate(created_at), merchant_id, toStartOfInterval(created_at, toIntervalMinute(30))) IN (older_slots))
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
        toStartOfInterval(created_at, toIntervalMinute(30)) AS slot,
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
    GROUP BY
        slot,
        merchant_id,
        currency,
        status,
        reporting_currency,
        enrichment_status,
        merchant_country,
        merchant_category_code
)
GROUP BY
    slot,
    merchant_id
SETTINGS aggregate_functions_null_for_empty = 0, do_not_merge_across_partitions_select_final = 1, max_threads = 1, optimize_move_to_prewhere_if_final = 1, os_threads_nice_value_query = 15
;

-- object: merchants; words of its file: 7711d53c459942217f5313043fc050a6423d299601b9af01384f9f536f4406a5
CREATE TABLE merchants
(
    `merchant_id` UInt32,
    `merchant_name` String,
    `country` LowCardinality(String),
    `category_code` LowCardinality(String),
    `snapshot_id` UInt32
)
ENGINE = MergeTree
ORDER BY merchant_id
SETTINGS index_granularity = 8192
;

-- object: merchants_dict; words of its file: 70944fc351e7acc852add83d15c7e34ce873e200323a03a7688eeffd2c265f82
CREATE DICTIONARY merchants_dict
(
    `merchant_id` UInt32,
    `merchant_name` String,
    `country` String,
    `category_code` String,
    `snapshot_id` UInt32
)
PRIMARY KEY merchant_id
SOURCE(CLICKHOUSE(NAME paystream_dictionaries TABLE 'merchants'))
LIFETIME(MIN 0 MAX 0)
LAYOUT(HASHED())
;

-- object: merchants_history; words of its file: adf05a9e7d2b84491e5c748b4ccf1c7a1a757cb7f933dee069013bdae3ddcb1c
CREATE TABLE merchants_history
(
    `merchant_id` UInt32,
    `merchant_name` String,
    `country` LowCardinality(String),
    `category_code` LowCardinality(String),
    `snapshot_id` UInt32
)
ENGINE = MergeTree
PARTITION BY snapshot_id
ORDER BY merchant_id
SETTINGS index_granularity = 8192
;

-- object: quarantine; words of its file: f4ae4ab4420597aedddc06913f705eae6a4573e558927956998445a5b87a6e2c
CREATE TABLE quarantine
(
    `reason` LowCardinality(String),
    `raw_message` String CODEC(ZSTD(3)),
    `kafka_key` String,
    `kafka_topic` LowCardinality(String),
    `kafka_partition` UInt32,
    `kafka_offset` UInt64,
    `kafka_timestamp` DateTime64(3, 'UTC'),
    `quarantined_at` DateTime64(3, 'UTC'),
    INDEX lately quarantined_at TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(quarantined_at)
ORDER BY (kafka_topic, kafka_partition, kafka_offset, kafka_timestamp)
TTL toDateTime(quarantined_at) + toIntervalDay(90)
SETTINGS index_granularity = 8192
;

-- object: quarantine_mv; words of its file: 20ee03b95c6eb8cca735c760e34b9528bf64fb9fdda24e408cbf30a5e8ebf18b
CREATE MATERIALIZED VIEW quarantine_mv TO quarantine
(
    `reason` LowCardinality(String),
    `raw_message` String,
    `kafka_key` String,
    `kafka_topic` LowCardinality(String),
    `kafka_partition` UInt32,
    `kafka_offset` UInt64,
    `kafka_timestamp` DateTime64(3, 'UTC'),
    `quarantined_at` DateTime64(3)
)
AS SELECT
    fault AS reason,
    message AS raw_message,
    kafka_key,
    kafka_topic,
    kafka_partition,
    kafka_offset,
    kafka_timestamp,
    now64(3) AS quarantined_at
FROM transactions_parsed
WHERE fault != ''
;

-- object: quarantine_replays; words of its file: 949805888e040f618ca57baea87af9d4417d77de89ae05572e62708eb99e27dc
CREATE TABLE quarantine_replays
(
    `kafka_topic` LowCardinality(String),
    `kafka_partition` UInt32,
    `kafka_offset` UInt64,
    `kafka_timestamp` DateTime64(3, 'UTC'),
    `replay_id` UUID,
    `state` Enum8('sending' = 0, 'not_sent' = 1, 'sent' = 2),
    `state_version` UInt8 MATERIALIZED toUInt8(state),
    `replayed_at` DateTime64(3, 'UTC'),
    `replayed_by` String,
    `new_partition` UInt32,
    `new_offset` UInt64,
    `new_timestamp` DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(state_version)
ORDER BY (kafka_topic, kafka_partition, kafka_offset, kafka_timestamp, replay_id)
TTL toDateTime(replayed_at) + toIntervalYear(1)
SETTINGS index_granularity = 8192
;

-- object: repaired_days; words of its file: c815b497bdcd9121406c1ad9c65184205f50b5e78d56017c85fd2af9cc225e99
CREATE TABLE repaired_days
(
    `day` Date,
    `rates_hash` UInt64,
    `fx_snapshot_id` UInt32,
    `merchants_snapshot_id` UInt32,
    `restated_snapshot_id` UInt32,
    `repaired_at` DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(repaired_at)
ORDER BY day
SETTINGS index_granularity = 8192
;

-- object: report_currency_exposure_by_day; words of its file: af07624bcab4ecf4e997392b09393e887d679fcf9d63e38034763b5c7aa9b169
CREATE VIEW report_currency_exposure_by_day
(
    `day` Date,
    `currency` LowCardinality(String),
    `reporting_currency` LowCardinality(String),
    `transactions` UInt64,
    `authorized_amount` Decimal(38, 4),
    `gross` Decimal(38, 4),
    `net` Decimal(38, 4),
    `net_reporting` Nullable(Decimal(38, 4)),
    `net_reporting_provisional` Nullable(Decimal(38, 4)),
    `complete_until` DateTime64(3, 'UTC')
)
AS WITH
    (
        SELECT any(complete_until)
        FROM report_freshness
        WHERE report = 'report_currency_exposure_by_day'
    ) AS reached
SELECT
    toDate(hour) AS day,
    p.currency AS currency,
    p.reporting_currency AS reporting_currency,
    sum(p.transactions) AS transactions,
    sumIf(p.amount, p.status = 'authorized') AS authorized_amount,
    sumIf(p.amount, (p.status IN ('captured', 'settled', 'refunded', 'charged_back'))) AS gross,
    sumIf(p.amount, (p.status IN ('captured', 'settled'))) AS net,
    if(reporting_currency = '', NULL, sumIf(p.amount_reporting, (p.status IN ('captured', 'settled')))) AS net_reporting,
    if(reporting_currency = '', NULL, sumIf(p.amount_reporting, (p.status IN ('captured', 'settled')) AND (p.enrichment_status = 'fx_provisional'))) AS net_reporting_provisional,
    assumeNotNull(reached) AS complete_until
FROM volume_hours
FINAL
ARRAY JOIN payments AS p
GROUP BY
    day,
    currency,
    reporting_currency
SETTINGS do_not_merge_across_partitions_select_final = 1
;

-- object: report_freshness; words of its file: d734b7b7781360c2a0a353332a0a17e3b388eeedd1400ff1dae72e05f14412e4
CREATE VIEW report_freshness
(
    `report` String,
    `complete_until` DateTime64(3, 'UTC')
)
AS WITH
    (
        SELECT (minIf(complete_until, (view IN ('merchant_slots_mv', 'merchant_days_mv'))), minIf(complete_until, view = 'volume_hours_mv'), minIf(complete_until, view = 'latency_minutes_mv'))
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
    SELECT arrayJoin([('report_merchant_by_day', merchants), ('report_settlement_by_day', merchants), ('report_merchant_ranking', merchants), ('report_volume_by_hour', hours), ('report_currency_exposure_by_day', hours), ('report_pending_by_day', hours), ('report_latency_by_minute', minutes)]) AS said
)
;

-- object: report_latency_by_minute; words of its file: 7a881fc05ac1eeb25902b123ae3b01c1a98e223a3cbc600e85052fdc1f2a15d3
CREATE VIEW report_latency_by_minute
(
    `day` Date,
    `minute` DateTime('UTC'),
    `kafka_topic` LowCardinality(String),
    `messages` UInt64,
    `timed` UInt64,
    `late` UInt64,
    `p50_s` Nullable(Float64),
    `p95_s` Nullable(Float64),
    `p99_s` Nullable(Float64),
    `complete_until` DateTime64(3, 'UTC')
)
AS WITH
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
FROM
(
    SELECT
        minute,
        kafka_topic,
        sum(messages) AS messages,
        sum(timed) AS timed,
        sum(late) AS late,
        sumForEach(latency_histogram) AS latency_histogram
    FROM latency_minutes
    FINAL
    GROUP BY
        minute,
        kafka_topic
)
SETTINGS do_not_merge_across_partitions_select_final = 1
;

-- object: report_merchant_by_day; words of its file: e69caf1febf8ebb9bcb2ec17eb57690abc5816eead7a7d5782e84d86599fa3de
CREATE VIEW report_merchant_by_day
(
    `day` Date,
    `merchant_id` UInt32,
    `merchant_name` String,
    `currency` LowCardinality(String),
    `status` LowCardinality(String),
    `reporting_currency` LowCardinality(String),
    `transactions` UInt64,
    `amount` Decimal(38, 4),
    `amount_reporting` Nullable(Decimal(38, 4)),
    `transactions_without_rate` UInt64,
    `transactions_with_provisional_rate` UInt64,
    `complete_until` DateTime64(3, 'UTC')
)
AS WITH
    (
        SELECT any(complete_until)
        FROM report_freshness
        WHERE report = 'report_merchant_by_day'
    ) AS reached
SELECT
    day,
    merchant_id,
    merchant_name,
    p.currency AS currency,
    p.status AS status,
    p.reporting_currency AS reporting_currency,
    p.transactions AS transactions,
    p.amount AS amount,
    if(reporting_currency = '', NULL, p.amount_reporting) AS amount_reporting,
    if(reporting_currency = '', p.transactions, 0) AS transactions_without_rate,
    p.provisional AS transactions_with_provisional_rate,
    assumeNotNull(reached) AS complete_until
FROM merchant_days_current
ARRAY JOIN payments AS p
;

-- object: report_merchant_ranking; words of its file: a8d3c13f618386fea3bc132fdf449348738d9b336bc79aeeec19837c489396db
CREATE VIEW report_merchant_ranking
AS SELECT
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
        (
            SELECT any(complete_until)
            FROM report_freshness
            WHERE report = 'report_merchant_ranking'
        ) AS complete_until
    FROM merchant_days_by_currency AS d
    WHERE ((day >= {first_day:Date}) AND (day <= {last_day:Date})) AND (reporting_currency != '')
    GROUP BY
        merchant_id,
        reporting_currency
)
ORDER BY
    reporting_currency ASC,
    place ASC,
    merchant_id ASC
;

-- object: report_pending_by_day; words of its file: 581b84228a514ed9bc36274634ca7caf9d814c71776bcf91e9ca97f81ec14afd
CREATE VIEW report_pending_by_day
(
    `day` Date,
    `enrichment_status` LowCardinality(String),
    `currency` LowCardinality(String),
    `reporting_currency` LowCardinality(String),
    `transactions` UInt64,
    `amount` Decimal(38, 4),
    `amount_reporting` Nullable(Decimal(38, 4)),
    `complete_until` DateTime64(3, 'UTC')
)
AS WITH
    (
        SELECT any(complete_until)
        FROM report_freshness
        WHERE report = 'report_pending_by_day'
    ) AS reached
SELECT
    toDate(hour) AS day,
    p.enrichment_status AS enrichment_status,
    p.currency AS currency,
    p.reporting_currency AS reporting_currency,
    sum(p.transactions) AS transactions,
    sum(p.amount) AS amount,
    if(reporting_currency = '', NULL, sum(p.amount_reporting)) AS amount_reporting,
    assumeNotNull(reached) AS complete_until
FROM volume_hours
FINAL
ARRAY JOIN payments AS p
WHERE enrichment_status != 'ok'
GROUP BY
    day,
    enrichment_status,
    currency,
    reporting_currency
SETTINGS do_not_merge_across_partitions_select_final = 1
;

-- object: report_settlement_by_day; words of its file: a5c1ce8c742e20debfe6066dc75f6b267a7228c928abd4ed39988c98c5690031
CREATE VIEW report_settlement_by_day
(
    `day` Date,
    `merchant_id` UInt32,
    `merchant_name` String,
    `currency` LowCardinality(String),
    `reporting_currency` LowCardinality(String),
    `transactions` UInt64,
    `authorized` UInt64,
    `captured` UInt64,
    `settled` UInt64,
    `refunded` UInt64,
    `charged_back` UInt64,
    `failed` UInt64,
    `authorized_amount` Decimal(38, 4),
    `gross` Decimal(38, 4),
    `refunds` Decimal(38, 4),
    `charge_backs` Decimal(38, 4),
    `net` Decimal(38, 4),
    `gross_reporting` Nullable(Decimal(38, 4)),
    `refunds_reporting` Nullable(Decimal(38, 4)),
    `charge_backs_reporting` Nullable(Decimal(38, 4)),
    `net_reporting` Nullable(Decimal(38, 4)),
    `transactions_with_provisional_rate` UInt64,
    `complete_until` DateTime64(3, 'UTC')
)
AS WITH
    (
        SELECT any(complete_until)
        FROM report_freshness
        WHERE report = 'report_settlement_by_day'
    ) AS reached
SELECT
    day,
    merchant_id,
    merchant_name,
    currency,
    reporting_currency,
    transactions,
    authorized,
    captured,
    settled,
    refunded,
    charged_back,
    failed,
    authorized_amount,
    (net + refunds) + charge_backs AS gross,
    refunds,
    charge_backs,
    net,
    if(reporting_currency = '', NULL, (s.net_reporting + s.refunds_reporting) + s.charge_backs_reporting) AS gross_reporting,
    if(reporting_currency = '', NULL, s.refunds_reporting) AS refunds_reporting,
    if(reporting_currency = '', NULL, s.charge_backs_reporting) AS charge_backs_reporting,
    if(reporting_currency = '', NULL, s.net_reporting) AS net_reporting,
    provisional AS transactions_with_provisional_rate,
    assumeNotNull(reached) AS complete_until
FROM merchant_days_by_currency AS s
;

-- object: report_volume_by_hour; words of its file: d8f4b0b27dd87caaa916ea0bc3c43bc2f88fb55cc6d4fb282b0aff0fc24d4ff0
CREATE VIEW report_volume_by_hour
(
    `day` Date,
    `hour` DateTime('UTC'),
    `country` LowCardinality(String),
    `category_code` LowCardinality(String),
    `reporting_currency` LowCardinality(String),
    `transactions` UInt64,
    `failed` UInt64,
    `gross_reporting` Nullable(Decimal(38, 4)),
    `net_reporting` Nullable(Decimal(38, 4)),
    `complete_until` DateTime64(3, 'UTC')
)
AS WITH
    (
        SELECT any(complete_until)
        FROM report_freshness
        WHERE report = 'report_volume_by_hour'
    ) AS reached
SELECT
    toDate(hour) AS day,
    hour,
    p.country AS country,
    p.category_code AS category_code,
    p.reporting_currency AS reporting_currency,
    sum(p.transactions) AS transactions,
    sumIf(p.transactions, p.status = 'failed') AS failed,
    if(reporting_currency = '', NULL, sumIf(p.amount_reporting, (p.status IN ('captured', 'settled', 'refunded', 'charged_back')))) AS gross_reporting,
    if(reporting_currency = '', NULL, sumIf(p.amount_reporting, (p.status IN ('captured', 'settled')))) AS net_reporting,
    assumeNotNull(reached) AS complete_until
FROM volume_hours
FINAL
ARRAY JOIN payments AS p
GROUP BY
    hour,
    country,
    category_code,
    reporting_currency
SETTINGS do_not_merge_across_partitions_select_final = 1
;

-- object: rollup_progress; words of its file: 2595620a3328425f91c64560754e651e7f1d7b8154133027389b587c0d3fb4e4
CREATE TABLE rollup_progress
(
    `view` LowCardinality(String),
    `began_at` DateTime('UTC'),
    `complete_until` DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree
ORDER BY (view, began_at)
TTL toDateTime(began_at) + toIntervalDay(30)
SETTINGS index_granularity = 8192
;

-- object: rollup_progress_mv; words of its file: 881c80af15c59d7637ac2178a3f6cf7291432629b762abdfad8a0f1ce86c5bac
CREATE MATERIALIZED VIEW rollup_progress_mv
REFRESH EVERY 40 SECOND OFFSET 20 SECOND APPEND TO rollup_progress
(
    `view` String,
    `began_at` DateTime('UTC'),
    `complete_until` DateTime64(3, 'UTC')
)
AS SELECT
    view,
    began_at,
    complete_until
FROM rollup_state
WHERE (began_at > toDateTime(0, 'UTC')) AND ((view, began_at) NOT IN (
    SELECT
        view,
        began_at
    FROM rollup_progress
))
;

-- object: rollup_state; words of its file: 7e260d1253207993fbfa3c3e26a73a4fbe185d8e964b5fcff76f68632a1ee3e7
CREATE VIEW rollup_state
(
    `view` String,
    `began_at` DateTime('UTC'),
    `complete_until` DateTime64(3, 'UTC'),
    `settled_until` DateTime64(3, 'UTC')
)
AS WITH
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
    UNION ALL
    SELECT
        arrayJoin(['merchant_slots_mv', 'merchant_days_mv', 'volume_hours_mv', 'latency_minutes_mv']),
        toDateTime(0, 'UTC'),
        toDateTime64(0, 3, 'UTC')
)
WHERE (began > toDateTime(0, 'UTC')) OR (reached = toDateTime64(0, 3, 'UTC'))
GROUP BY view
;

-- object: transactions; words of its file: 439f6fae7a515801754db2a8c48ba4399d831c76288c30a96343d9f8a3095012
CREATE TABLE transactions
(
    `transaction_id` UUID,
    `created_at` DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `merchant_id` UInt32,
    `amount` Decimal(18, 4),
    `currency` LowCardinality(String),
    `status` LowCardinality(String),
    `updated_at` DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `merchant_name` String CODEC(ZSTD(1)),
    `merchant_country` LowCardinality(String),
    `merchant_category_code` LowCardinality(String),
    `merchant_snapshot_id` UInt32,
    `fx_rate` Nullable(Decimal(38, 12)),
    `fx_rate_date` Nullable(Date),
    `amount_reporting` Nullable(Decimal(38, 4)),
    `reporting_currency` LowCardinality(String),
    `fx_snapshot_id` UInt32,
    `enrichment_status` LowCardinality(String),
    `enrichment_revision` UInt16 DEFAULT 0,
    `version` UInt64 MATERIALIZED bitOr(bitShiftLeft(toUInt64(toUnixTimestamp64Micro(updated_at)), 12), enrichment_revision) CODEC(Delta(8), ZSTD(1)),
    `kafka_topic` LowCardinality(String),
    `kafka_partition` UInt32,
    `kafka_offset` UInt64 CODEC(Delta(8), ZSTD(1)),
    `kafka_timestamp` DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `ingested_at` DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `enriched_at` DateTime64(3, 'UTC') DEFAULT ingested_at CODEC(Delta(8), ZSTD(1)),
    INDEX pending enrichment_status TYPE set(4) GRANULARITY 1,
    INDEX changed enriched_at TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(created_at)
PRIMARY KEY (toDate(created_at), merchant_id)
ORDER BY (toDate(created_at), merchant_id, transaction_id)
SETTINGS index_granularity = 8192
;

-- object: transactions_current; words of its file: 3bb64f28dbeba95d99266795b5f7ca5c5cc42acb95c38b2422d05c59286ec03e
CREATE VIEW transactions_current
(
    `transaction_id` UUID,
    `created_at` DateTime64(6, 'UTC'),
    `merchant_id` UInt32,
    `amount` Decimal(18, 4),
    `currency` LowCardinality(String),
    `status` LowCardinality(String),
    `updated_at` DateTime64(6, 'UTC'),
    `merchant_name` String,
    `merchant_country` LowCardinality(String),
    `merchant_category_code` LowCardinality(String),
    `merchant_snapshot_id` UInt32,
    `fx_rate` Nullable(Decimal(38, 12)),
    `fx_rate_date` Nullable(Date),
    `amount_reporting` Nullable(Decimal(38, 4)),
    `reporting_currency` LowCardinality(String),
    `fx_snapshot_id` UInt32,
    `enrichment_status` LowCardinality(String),
    `enrichment_revision` UInt16,
    `kafka_topic` LowCardinality(String),
    `kafka_partition` UInt32,
    `kafka_offset` UInt64,
    `kafka_timestamp` DateTime64(3, 'UTC'),
    `ingested_at` DateTime64(3, 'UTC'),
    `enriched_at` DateTime64(3, 'UTC')
)
AS SELECT *
FROM transactions
FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1
;

-- object: transactions_mv; words of its file: 21deb0a31f23193e20d64036584cdc423a9fa820902997d9eeb18ddb4c031b3c
CREATE MATERIALIZED VIEW transactions_mv TO transactions
(
    `transaction_id` UUID,
    `created_at` DateTime64(6, 'UTC'),
    `merchant_id` UInt32,
    `amount` Decimal(18, 4),
    `currency` LowCardinality(String),
    `status` LowCardinality(String),
    `updated_at` DateTime64(6, 'UTC'),
    `merchant_name` String,
    `merchant_country` String,
    `merchant_category_code` String,
    `merchant_snapshot_id` UInt32,
    `fx_rate` Nullable(Decimal(38, 12)),
    `fx_rate_date` Nullable(Date),
    `amount_reporting` Nullable(Decimal(38, 4)),
    `reporting_currency` String,
    `fx_snapshot_id` UInt32,
    `enrichment_status` String,
    `kafka_topic` LowCardinality(String),
    `kafka_partition` UInt32,
    `kafka_offset` UInt64,
    `kafka_timestamp` DateTime64(3, 'UTC'),
    `ingested_at` DateTime64(3)
)
AS WITH
    dictGetOrNull('merchants_dict', ('merchant_name', 'country', 'category_code', 'snapshot_id'), merchant_id) AS merchant,
    dictGetOrNull('fx_rates_dict', ('rate', 'rate_date', 'is_latest', 'reporting_currency', 'snapshot_id'), tuple(currency), toDate(created_at)) AS fx
SELECT
    transaction_id,
    created_at,
    merchant_id,
    amount,
    currency,
    status,
    updated_at,
    ifNull(merchant.1, '') AS merchant_name,
    ifNull(merchant.2, '') AS merchant_country,
    ifNull(merchant.3, '') AS merchant_category_code,
    ifNull(merchant.4, 0) AS merchant_snapshot_id,
    fx.1 AS fx_rate,
    fx.2 AS fx_rate_date,
    CAST(round(amount * (fx.1), 4), 'Nullable(Decimal(38, 4))') AS amount_reporting,
    ifNull(fx.4, '') AS reporting_currency,
    ifNull(fx.5, 0) AS fx_snapshot_id,
    multiIf(isNull(merchant.4), 'merchant_pending', isNull(fx.1), 'fx_pending', (fx.3) AND ((fx.2) < toDate(created_at)), 'fx_provisional', 'ok') AS enrichment_status,
    kafka_topic,
    kafka_partition,
    kafka_offset,
    kafka_timestamp,
    now64(3) AS ingested_at
FROM transactions_parsed
WHERE fault = ''
;

-- object: transactions_parsed; words of its file: 4b8c094c2b976a401cd9784c2588445b78747daebda2722df6ff676274873867
CREATE TABLE transactions_parsed
(
    `fault` LowCardinality(String),
    `transaction_id` UUID,
    `merchant_id` UInt32,
    `amount` Decimal(18, 4),
    `currency` LowCardinality(String),
    `status` LowCardinality(String),
    `created_at` DateTime64(6, 'UTC'),
    `updated_at` DateTime64(6, 'UTC'),
    `message` String,
    `kafka_key` String,
    `kafka_topic` LowCardinality(String),
    `kafka_partition` UInt32,
    `kafka_offset` UInt64,
    `kafka_timestamp` DateTime64(3, 'UTC')
)
ENGINE = `Null`
;

-- object: transactions_parsed_mv; words of its file: 8edadb1f55717f54443c4606163c89ceb69e4ce74d11a68d1c38977160929c88
CREATE MATERIALIZED VIEW transactions_parsed_mv TO transactions_parsed
(
    `fault` String,
    `transaction_id` UUID,
    `merchant_id` UInt32,
    `amount` Decimal(18, 4),
    `currency` String,
    `status` String,
    `created_at` DateTime64(6, 'UTC'),
    `updated_at` DateTime64(6, 'UTC'),
    `message` String,
    `kafka_key` String,
    `kafka_topic` LowCardinality(String),
    `kafka_partition` UInt32,
    `kafka_offset` UInt64,
    `kafka_timestamp` DateTime64(3)
)
AS WITH
    JSONExtract(message, 'Tuple(transaction_id String, merchant_id String, amount String, currency String, status String, created_at String, updated_at String)') AS field,
    JSONExtractKeys(message) AS keys,
    arrayDistinct(extractAll(message, '"amount"\\s*:\\s*([0-9][0-9.eE+-]*)')) AS amount_literals,
    multiIf(JSONType(message, 'amount') = 'String', field.amount, (length(amount_literals) = 1) AND (toFloat64OrNull(amount_literals[1]) = toFloat64OrNull(field.amount)) AND (NOT match(message, '\\\\u[^"]*"\\s*:')), amount_literals[1], '') AS amount_text,
    '^[1-9][0-9]{3}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])[T ]([01][0-9]|2[0-3]):([0-5][0-9]:[0-5][0-9]|[25]9:60)([.][0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$' AS rfc3339,
    upper(field.created_at) AS created_at_text,
    upper(field.updated_at) AS updated_at_text,
    toUUIDOrNull(field.transaction_id) AS transaction_id_value,
    toUInt32OrNull(field.merchant_id) AS merchant_id_value,
    toDecimal64OrNull(amount_text, 4) AS amount_value,
    if(match(created_at_text, rfc3339), parseDateTime64BestEffortOrNull(created_at_text, 6, 'UTC'), NULL) AS created_at_value,
    if(match(updated_at_text, rfc3339), parseDateTime64BestEffortOrNull(updated_at_text, 6, 'UTC'), NULL) AS updated_at_value
SELECT
    multiIf(empty(keys), multiIf(NOT isValidJSON(message), 'not_json', JSONType(message) != 'Object', 'not_an_object', 'transaction_id_missing'), length(keys) != arrayUniq(keys), 'duplicate_field', empty(field.transaction_id), 'transaction_id_missing', (NOT match(field.transaction_id, '^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$')) OR isNull(transaction_id_value), 'transaction_id_malformed', empty(field.merchant_id), 'merchant_id_missing', (NOT match(field.merchant_id, '^[1-9][0-9]{0,9}$')) OR isNull(merchant_id_value) OR (JSONType(message, 'merchant_id') = 'Double'), 'merchant_id_malformed', empty(field.amount), 'amount_missing', (NOT match(amount_text, '^(0|[1-9][0-9]{0,13})([.][0-9]{1,4})?$')) OR isNull(amount_value), 'amount_malformed', amount_value = 0, 'amount_not_positive', empty(field.currency), 'currency_missing', (field.currency NOT IN ('AED', 'AFN', 'ALL', 'AMD', 'AOA', 'ARS', 'AUD', 'AWG', 'AZN', 'BAM', 'BBD', 'BDT', 'BHD', 'BIF', 'BMD', 'BND', 'BOB', 'BOV', 'BRL', 'BSD', 'BTN', 'BWP', 'BYN', 'BZD', 'CAD', 'CDF', 'CHE', 'CHF', 'CHW', 'CLF', 'CLP', 'CNY', 'COP', 'COU', 'CRC', 'CUP', 'CVE', 'CZK', 'DJF', 'DKK', 'DOP', 'DZD', 'EGP', 'ERN', 'ETB', 'EUR', 'FJD', 'FKP', 'GBP', 'GEL', 'GHS', 'GIP', 'GMD', 'GNF', 'GTQ', 'GYD', 'HKD', 'HNL', 'HTG', 'HUF', 'IDR', 'ILS', 'INR', 'IQD', 'IRR', 'ISK', 'JMD', 'JOD', 'JPY', 'KES', 'KGS', 'KHR', 'KMF', 'KPW', 'KRW', 'KWD', 'KYD', 'KZT', 'LAK', 'LBP', 'LKR', 'LRD', 'LSL', 'LYD', 'MAD', 'MDL', 'MGA', 'MKD', 'MMK', 'MNT', 'MOP', 'MRU', 'MUR', 'MVR', 'MWK', 'MXN', 'MXV', 'MYR', 'MZN', 'NAD', 'NGN', 'NIO', 'NOK', 'NPR', 'NZD', 'OMR', 'PAB', 'PEN', 'PGK', 'PHP', 'PKR', 'PLN', 'PYG', 'QAR', 'RON', 'RSD', 'RUB', 'RWF', 'SAR', 'SBD', 'SCR', 'SDG', 'SEK', 'SGD', 'SHP', 'SLE', 'SOS', 'SRD', 'SSP', 'STN', 'SVC', 'SYP', 'SZL', 'THB', 'TJS', 'TMT', 'TND', 'TOP', 'TRY', 'TTD', 'TWD', 'TZS', 'UAH', 'UGX', 'USD', 'USN', 'UYI', 'UYU', 'UYW', 'UZS', 'VED', 'VES', 'VND', 'VUV', 'WST', 'XAD', 'XAF', 'XAG', 'XAU', 'XBA', 'XBB', 'XBC', 'XBD', 'XCD', 'XCG', 'XDR', 'XOF', 'XPD', 'XPF', 'XPT', 'XSU', 'XTS', 'XUA', 'XXX', 'YER', 'ZAR', 'ZMW', 'ZWG', 'ANG', 'BGN', 'CUC', 'HRK', 'SLL', 'ZWL')), 'currency_unknown', empty(field.status), 'status_missing', (field.status NOT IN ('authorized', 'captured', 'settled', 'refunded', 'charged_back', 'failed')), 'status_unknown', empty(field.created_at), 'created_at_missing', isNull(created_at_value), 'created_at_malformed', created_at_value > (now() + toIntervalMinute(5)), 'created_at_in_future', created_at_value < (toStartOfMonth(now()) - toIntervalMonth(96)), 'created_at_too_old', empty(field.updated_at), 'updated_at_missing', isNull(updated_at_value), 'updated_at_malformed', updated_at_value > (now() + toIntervalMinute(5)), 'updated_at_in_future', updated_at_value < (toStartOfMonth(now()) - toIntervalMonth(96)), 'updated_at_too_old', '') AS fault,
    ifNull(transaction_id_value, toUUID('00000000-0000-0000-0000-000000000000')) AS transaction_id,
    ifNull(merchant_id_value, 0) AS merchant_id,
    ifNull(amount_value, 0) AS amount,
    field.currency AS currency,
    field.status AS status,
    ifNull(created_at_value, toDateTime64(0, 6, 'UTC')) AS created_at,
    ifNull(updated_at_value, toDateTime64(0, 6, 'UTC')) AS updated_at,
    message,
    _key AS kafka_key,
    _topic AS kafka_topic,
    toUInt32(_partition) AS kafka_partition,
    _offset AS kafka_offset,
    ifNull(_timestamp_ms, toDateTime64(0, 3, 'UTC')) AS kafka_timestamp
FROM transactions_queue
;

-- object: transactions_queue; words of its file: 252e5aef6565e3060c1c946c9cb45099eacafbdea57937e4dbdbe27f50fcecc1
CREATE TABLE transactions_queue
(
    `message` String
)
ENGINE = Kafka(paystream_kafka)
SETTINGS kafka_consumer_reschedule_ms = 10, kafka_flush_interval_ms = 100, kafka_format = 'RawBLOB', kafka_max_block_size = 262144, kafka_num_consumers = 2, kafka_poll_max_batch_size = 65536, kafka_poll_timeout_ms = 50, kafka_thread_per_consumer = 1
;

-- object: transactions_to_repair; words of its file: f314fe452c211ae5a47d3ea49c24b6af1adaaa62b46bd5bc30d6b3942e24a2d3
CREATE VIEW transactions_to_repair
AS WITH
    dictGetOrNull('merchants_dict', ('merchant_name', 'country', 'category_code', 'snapshot_id'), t.merchant_id) AS merchant,
    dictGetOrNull('fx_rates_dict', ('rate', 'rate_date', 'is_latest', 'reporting_currency', 'snapshot_id'), tuple(t.currency), toDate(t.created_at)) AS fx,
    isNotNull(merchant.4) AND ((t.merchant_snapshot_id = 0) OR ({restate_merchants:Bool} AND ((t.merchant_name, t.merchant_country, t.merchant_category_code) != (assumeNotNull(merchant.1), assumeNotNull(merchant.2), assumeNotNull(merchant.3))))) AS takes_merchant,
    isNotNull(fx.1) AND (t.reporting_currency IN ('', assumeNotNull(fx.4))) AS has_rate,
    has_rate AND (isNull(t.fx_rate) OR ((assumeNotNull(t.fx_rate), assumeNotNull(t.fx_rate_date)) != (assumeNotNull(fx.1), assumeNotNull(fx.2)))) AS takes_rate,
    multiIf((t.merchant_snapshot_id = 0) AND (NOT takes_merchant), 'merchant_pending', isNull(t.fx_rate) AND (NOT takes_rate), 'fx_pending', if(has_rate, (fx.3) AND ((fx.2) < toDate(t.created_at)), (t.enrichment_status = 'fx_provisional') OR ((t.enrichment_status = 'merchant_pending') AND (t.fx_rate_date < toDate(t.created_at)))), 'fx_provisional', 'ok') AS status_now
SELECT
    t.transaction_id AS transaction_id,
    t.created_at AS created_at,
    t.merchant_id AS merchant_id,
    t.amount AS amount,
    t.currency AS currency,
    t.status AS status,
    t.updated_at AS updated_at,
    if(takes_merchant, assumeNotNull(merchant.1), t.merchant_name) AS merchant_name,
    if(takes_merchant, assumeNotNull(merchant.2), t.merchant_country) AS merchant_country,
    if(takes_merchant, assumeNotNull(merchant.3), t.merchant_category_code) AS merchant_category_code,
    if(takes_merchant, assumeNotNull(merchant.4), t.merchant_snapshot_id) AS merchant_snapshot_id,
    if(takes_rate, fx.1, t.fx_rate) AS fx_rate,
    if(takes_rate, fx.2, t.fx_rate_date) AS fx_rate_date,
    if(takes_rate, CAST(round(t.amount * (fx.1), 4), 'Nullable(Decimal(38, 4))'), t.amount_reporting) AS amount_reporting,
    if(takes_rate, assumeNotNull(fx.4), t.reporting_currency) AS reporting_currency,
    if(has_rate, assumeNotNull(fx.5), t.fx_snapshot_id) AS fx_snapshot_id,
    status_now AS enrichment_status,
    t.enrichment_revision + 1 AS enrichment_revision,
    t.kafka_topic AS kafka_topic,
    t.kafka_partition AS kafka_partition,
    t.kafka_offset AS kafka_offset,
    t.kafka_timestamp AS kafka_timestamp,
    t.ingested_at AS ingested_at,
    now64(3) AS enriched_at,
    t.enrichment_status AS stored_enrichment_status,
    t.amount_reporting AS stored_amount_reporting
FROM transactions AS t
FINAL
WHERE (takes_merchant OR takes_rate OR (status_now != t.enrichment_status)) AND (t.enrichment_revision < 4095)
SETTINGS do_not_merge_across_partitions_select_final = 1
;

-- object: volume_hours; words of its file: 03bc5ae87de6803eb157227b12b05f71cc048a5dd41dbe62c1384aece369d7e6
CREATE TABLE volume_hours
(
    `hour` DateTime('UTC'),
    `payments` Array(Tuple(
        currency LowCardinality(String),
        status LowCardinality(String),
        reporting_currency LowCardinality(String),
        enrichment_status LowCardinality(String),
        country LowCardinality(String),
        category_code LowCardinality(String),
        transactions UInt64,
        amount Decimal(38, 4),
        amount_reporting Decimal(38, 4))),
    `refreshed_at` DateTime64(3, 'UTC'),
    `complete_until` DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(refreshed_at)
PARTITION BY toYYYYMM(hour)
ORDER BY hour
TTL toDateTime(refreshed_at) + toIntervalDay(1) WHERE hour < toDateTime('1971-01-01 00:00:00', 'UTC')
SETTINGS index_granularity = 8
;

-- object: volume_hours_mv; words of its file: d5e9777e64db10ee75401b303845f87b02777fa4e1f8f584887cbdeb1143de53
CREATE MATERIALIZED VIEW volume_hours_mv
REFRESH EVERY 40 SECOND DEPENDS ON merchant_slots_mv APPEND TO volume_hours
(
    `hour` DateTime('UTC'),
    `payments` Array(Tuple(
        String,
        String,
        String,
        String,
        String,
        String,
        UInt64,
        Decimal(38, 4),
        Decimal(38, 4))),
    `refreshed_at` DateTime64(3),
    `complete_until` DateTime64(3, 'UTC')
)
AS WITH
    (
        SELECT max(complete_until)
        FROM rollup_state
        WHERE view = 'volume_hours_mv'
    ) AS since,
    (
        SELECT max(complete_until)
        FROM rollup_state
        WHERE view = 'merchant_slots_mv'
    ) AS until,
    changed_hours AS
    (
        SELECT DISTINCT toStartOfHour(slot) AS changed_hour
        FROM merchant_slots
        WHERE complete_until > since
    ),
    changed AS
    (
        SELECT *
        FROM merchant_slots
        FINAL
        WHERE (toDate(slot) IN (
            SELECT toDate(changed_hour)
            FROM changed_hours
        )) AND (toStartOfHour(slot) IN (
            SELECT changed_hour
            FROM changed_hours
        ))
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
    GROUP BY
        hour,
        currency,
        status,
        reporting_currency,
        enrichment_status,
        country,
        category_code
    UNION ALL
    SELECT
        toDateTime(toUInt32(now()) % 31536000, 'UTC'),
        '',
        '',
        '',
        '',
        '',
        '',
        0,
        0,
        0
)
GROUP BY hour
SETTINGS aggregate_functions_null_for_empty = 0, do_not_merge_across_partitions_select_final = 1, max_threads = 1, optimize_move_to_prewhere_if_final = 1, os_threads_nice_value_query = 15
;
