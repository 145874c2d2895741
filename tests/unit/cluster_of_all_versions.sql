-- version 0001_store

CREATE TABLE transactions_local
(
    -- key
    transaction_id         UUID,
    created_at             DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    merchant_id            UInt32,

    -- payment
    amount                 Decimal(18, 4),
    currency               LowCardinality(String),
    status                 LowCardinality(String),
    updated_at             DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),

    -- merchant, as of merchant_snapshot_id (0: not known yet)
    merchant_name          String CODEC(ZSTD(1)),
    merchant_country       LowCardinality(String),
    merchant_category_code LowCardinality(String),
    merchant_snapshot_id   UInt32,

    -- money, as of fx_snapshot_id (0: no rate yet, amount_reporting is NULL)
    fx_rate                Nullable(Decimal(38, 12)),
    fx_rate_date           Nullable(Date),
    amount_reporting       Nullable(Decimal(38, 4)),
    reporting_currency     LowCardinality(String),
    fx_snapshot_id         UInt32,

    -- enrichment: ok, merchant_pending, fx_pending, fx_provisional
    enrichment_status      LowCardinality(String),
    enrichment_revision    UInt16 DEFAULT 0,

    -- A later state beats an earlier one; for the same state, a later repair beats an earlier one. 12 bits hold 4,095
    -- repairs of one state; the microseconds above them fit until the year 2112.
    version                UInt64 MATERIALIZED bitOr(bitShiftLeft(toUInt64(toUnixTimestamp64Micro(updated_at)), 12), enrichment_revision) CODEC(Delta, ZSTD(1)),

    -- provenance
    kafka_topic            LowCardinality(String),
    kafka_partition        UInt32,
    kafka_offset           UInt64 CODEC(Delta, ZSTD(1)),
    kafka_timestamp        DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    ingested_at            DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(created_at)
-- The day first, since reports ask for days; then the merchant, so that one merchant's day is a granule or two.
PRIMARY KEY (toDate(created_at), merchant_id)
ORDER BY (toDate(created_at), merchant_id, transaction_id)
;

CREATE TABLE transactions AS transactions_local
ENGINE = Distributed('payments', 'paystream', 'transactions_local')
;

CREATE TABLE transactions_to_shards AS transactions_local
ENGINE = Distributed('payments', 'paystream', 'transactions_local', cityHash64(transaction_id) % 2)
;

-- One row: one refused message, once deduplicated (FINAL): a redelivered message is the same row again.
-- Written by: quarantine_mv. Read by: operators, `paystream quarantine`.
-- Guarantee: a message is either in transactions or here, with all its bytes; kept for 90 days.
CREATE TABLE quarantine_local
(
    reason          LowCardinality(String),
    raw_message     String CODEC(ZSTD(3)),
    kafka_key       String,
    kafka_topic     LowCardinality(String),
    kafka_partition UInt32,
    kafka_offset    UInt64,
    kafka_timestamp DateTime64(3, 'UTC'),
    quarantined_at  DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(quarantined_at)
-- The timestamp, since a topic that is deleted and made again begins anew at offset 0.
ORDER BY (kafka_topic, kafka_partition, kafka_offset, kafka_timestamp)
TTL toDateTime(quarantined_at) + INTERVAL 90 DAY
;

CREATE TABLE quarantine AS quarantine_local
ENGINE = Distributed('payments', 'paystream', 'quarantine_local')
;

CREATE TABLE quarantine_to_shards AS quarantine_local
ENGINE = Distributed('payments', 'paystream', 'quarantine_local', cityHash64(kafka_topic, kafka_partition, kafka_offset, kafka_timestamp) % 2)
;

-- One row: what one block read from one partition of the topic. Redelivered blocks appear again, by design.
-- Written by: ledger_mv. Read by: audits of what was read, and how often.
-- Guarantee: a row for every block whose offsets were committed; kept for 90 days, and until the last of its month is that old.
CREATE TABLE ingest_ledger_local
(
    kafka_topic          LowCardinality(String),
    kafka_partition      UInt32,
    first_offset         UInt64,
    last_offset          UInt64,
    messages             UInt64,
    refused              UInt64,
    last_kafka_timestamp DateTime64(3, 'UTC'),
    read_at              DateTime64(3, 'UTC'),

    -- An audit asks for what was read lately, and for what reached furthest before it: a few granules of a long ledger.
    INDEX lately (read_at, last_offset) TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
-- By month, so that what has expired is dropped as whole parts and nothing is rewritten.
PARTITION BY toYYYYMM(read_at)
ORDER BY (kafka_topic, kafka_partition, first_offset)
TTL toDateTime(read_at) + INTERVAL 90 DAY
SETTINGS ttl_only_drop_parts = 1
;

CREATE TABLE ingest_ledger AS ingest_ledger_local
ENGINE = Distributed('payments', 'paystream', 'ingest_ledger_local')
;

-- version 0002_dimensions

CREATE TABLE merchants
(
    merchant_id   UInt32,
    merchant_name String,
    country       LowCardinality(String),  -- ISO 3166-1 alpha-2
    category_code LowCardinality(String),  -- ISO 18245, four digits
    snapshot_id   UInt32
)
ENGINE = MergeTree
ORDER BY merchant_id
;

-- One row: the rate that one currency was quoted at on one day: units of reporting_currency for one unit of currency.
-- Written by: `paystream dims refresh fx`, which replaces the whole table at once. Read by: fx_rates_dict.
-- Guarantee: one snapshot, never a mix of two; no row for a day without a quote.
CREATE TABLE fx_rates
(
    currency           LowCardinality(String),  -- ISO 4217
    rate_date          Date,
    rate               Decimal(38, 12),
    reporting_currency LowCardinality(String),
    snapshot_id        UInt32
)
ENGINE = MergeTree
ORDER BY (currency, rate_date)
;

-- One row: one refresh of a dimension that went live.
-- Written by: `paystream dims refresh`. Read by: whoever asks which snapshot a transaction was enriched with.
-- Guarantee: append only; snapshot_id rises within a dimension, and rows of the dimension carry it.
CREATE TABLE dimension_snapshots
(
    dimension   LowCardinality(String),
    snapshot_id UInt32,
    source      String,
    checksum    String,                    -- SHA-256 of the source's bytes, hexadecimal
    row_count   UInt64,
    loaded_at   DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC'),
    loaded_by   String
)
ENGINE = MergeTree
ORDER BY (dimension, snapshot_id)
;

-- One row: one quote of one currency and the days it holds for, from its own day until the day before the next quote.
-- Written by: nobody (a view). Read by: fx_rates_dict, which holds it in memory.
-- Guarantee: the periods of a currency never overlap. The last quote of a currency still quoted holds without end
-- and is marked is_latest; a gap or a withdrawal ends a quote after 10 days (the longest gap of the European Central
-- Bank's calendar is 5, over Easter or Christmas), so that no rate is silently years old.
CREATE VIEW fx_rate_periods AS
SELECT
    currency,
    rate_date AS valid_from,
    multiIf(
        next_rate_date > rate_date, least(next_rate_date - 1, rate_date + 10),
        rate_date + 10 >= newest_rate_date, toDate('2149-06-06'),
        rate_date + 10
    ) AS valid_to,
    rate,
    rate_date,
    -- The reporting currency in itself is 1 on every day: nothing about it is provisional.
    next_rate_date <= rate_date AND rate_date + 10 >= newest_rate_date AND currency != reporting_currency AS is_latest,
    reporting_currency,
    snapshot_id
FROM
(
    SELECT
        *,
        leadInFrame(rate_date) OVER (PARTITION BY currency ORDER BY rate_date ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS next_rate_date,
        max(rate_date) OVER () AS newest_rate_date
    FROM fx_rates
)
;

-- One entry: one merchant, by merchant_id.
-- Loaded from: merchants. Read by: transactions_mv.
-- Guarantee: changes only when `paystream dims refresh merchants` reloads it; an empty table loads as empty.
CREATE DICTIONARY merchants_dict
(
    merchant_id   UInt32,
    merchant_name String,
    country       String,
    category_code String,
    snapshot_id   UInt32
)
PRIMARY KEY merchant_id
-- The user that the tooling has, from a named collection that `paystream migrate up` keeps equal to the settings.
SOURCE(CLICKHOUSE(NAME paystream_dictionaries TABLE 'merchants'))
LAYOUT(HASHED())
LIFETIME(0)
;

-- One entry: one quote of one currency, found by any day it holds for.
-- Loaded from: fx_rate_periods. Read by: transactions_mv.
-- Guarantee: a day outside every period has no rate: NULL through dictGetOrNull (a plain dictGet would say zero).
-- Changes only when `paystream dims refresh fx` reloads it.
CREATE DICTIONARY fx_rates_dict
(
    currency           String,
    valid_from         Date,
    valid_to           Date,
    rate               Decimal(38, 12),
    rate_date          Date,
    is_latest          UInt8,
    reporting_currency String,
    snapshot_id        UInt32
)
PRIMARY KEY currency
-- The user that the tooling has, from a named collection that `paystream migrate up` keeps equal to the settings.
SOURCE(CLICKHOUSE(NAME paystream_dictionaries TABLE 'fx_rate_periods'))
LAYOUT(COMPLEX_KEY_RANGE_HASHED())
RANGE(MIN valid_from MAX valid_to)
LIFETIME(0)
;

-- A dictionary that never loaded makes dictGet throw, and that would stop ingest: load it now, empty as it is.
SYSTEM RELOAD DICTIONARY merchants_dict
;

SYSTEM RELOAD DICTIONARY fx_rates_dict
;

-- version 0003_ingest

CREATE TABLE transactions_parsed
(
    -- verdict
    fault           LowCardinality(String),
    -- the message's fields, meaningful only where fault = ''
    transaction_id  UUID,
    merchant_id     UInt32,
    amount          Decimal(18, 4),
    currency        LowCardinality(String),
    status          LowCardinality(String),
    created_at      DateTime64(6, 'UTC'),
    updated_at      DateTime64(6, 'UTC'),
    -- provenance
    message         String,
    kafka_key       String,
    kafka_topic     LowCardinality(String),
    kafka_partition UInt32,
    kafka_offset    UInt64,
    kafka_timestamp DateTime64(3, 'UTC')
)
ENGINE = Null
;

-- One row: one valid message, enriched with the merchant and the exchange rate known at this moment.
-- Written by: transactions_parsed_mv. Read by: the table transactions. The only place with dictGet.
-- Guarantee: a merchant or rate that is not known gives a pending row with NULL amounts, never a zero and never a loss.
CREATE MATERIALIZED VIEW transactions_mv TO transactions_to_shards AS
WITH
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
    -- Rounding, here and nowhere else: rate with 12 decimals, product exact, then half away from zero to 4 decimals.
    CAST(round(amount * fx.1, 4), 'Nullable(Decimal(38, 4))') AS amount_reporting,
    ifNull(fx.4, '') AS reporting_currency,
    ifNull(fx.5, 0) AS fx_snapshot_id,

    multiIf(
        isNull(merchant.4), 'merchant_pending',
        isNull(fx.1), 'fx_pending',
        fx.3 AND fx.2 < toDate(created_at), 'fx_provisional',
        'ok'
    ) AS enrichment_status,

    kafka_topic,
    kafka_partition,
    kafka_offset,
    kafka_timestamp,
    now64(3) AS ingested_at
FROM transactions_parsed
WHERE fault = ''
;

-- One row: one refused message with its reason and its bytes.
-- Written by: transactions_parsed_mv. Read by: the table quarantine.
-- Guarantee: exactly the messages that transactions_mv leaves out.
CREATE MATERIALIZED VIEW quarantine_mv TO quarantine_to_shards AS
SELECT
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

-- One row: what one block read from one partition.
-- Written by: transactions_parsed_mv. Read by: the table ingest_ledger.
-- Guarantee: counts every message read, good or refused, redelivered ones again.
CREATE MATERIALIZED VIEW ledger_mv TO ingest_ledger_local AS
SELECT
    kafka_topic,
    kafka_partition,
    min(kafka_offset) AS first_offset,
    max(kafka_offset) AS last_offset,
    count() AS messages,
    countIf(fault != '') AS refused,
    max(kafka_timestamp) AS last_kafka_timestamp,
    now64(3) AS read_at
FROM transactions_parsed
GROUP BY kafka_topic, kafka_partition
;

-- One row: one Kafka message, as raw bytes; rows exist only while a block passes through to the views.
-- Written by: producers of the topic. Read by: transactions_parsed_mv, and by nobody else (a SELECT would steal messages).
-- Guarantee: at least once. Rows are inserted first, offsets committed second; a crash in between delivers again.
CREATE TABLE transactions_queue
(
    message String
)
-- Broker addresses, credentials, topic, consumer group and librdkafka's own settings: the named collection that
-- `paystream migrate up` keeps equal to the settings, so that nothing of one deployment, and no secret, stands in a file.
ENGINE = Kafka(paystream_kafka)
SETTINGS
    kafka_format = 'RawBLOB',             -- one message is one row whatever its bytes: no parser in between that could stall, skip or coerce
    kafka_num_consumers = 2,              -- the topic has 4 partitions; more consumers than cores only makes smaller blocks
    kafka_thread_per_consumer = 1,        -- consumers parse and insert side by side; without it the catch-up rate is that of one core
    kafka_flush_interval_ms = 200,        -- the latency: a block closes after this long; a shorter one costs more parts
    kafka_poll_timeout_ms = 50,           -- how long one poll may wait; must be well under the flush interval
    kafka_consumer_reschedule_ms = 10,    -- pause between blocks; the default of 500 would be added to every latency
    kafka_poll_max_batch_size = 65536,    -- messages per poll while catching up
    kafka_max_block_size = 262144         -- rows per block while catching up: large parts, few merges
;

-- One row: one message, parsed once and judged once, for the three views behind transactions_parsed.
-- Written by: transactions_queue. Read by: transactions_mv, quarantine_mv, ledger_mv.
-- Guarantee: total. Any bytes give exactly one row; nothing here can throw, so no message can stop ingest.
CREATE MATERIALIZED VIEW transactions_parsed_mv TO transactions_parsed AS
WITH
    -- Texts, as the JSON spells them; '' where the field is absent or null.
    JSONExtract(
        message,
        'Tuple(transaction_id String, merchant_id String, amount String, currency String, status String, created_at String, updated_at String)'
    ) AS field,
    JSONExtractKeys(message) AS keys,

    -- An amount written as a JSON number has been through a binary double, which holds 15 digits of the 18 allowed:
    -- take its own text, if it is the number the parser saw and if it alone can be meant. A nested object may have an
    -- amount too, and an escape in a name may hide one.
    arrayDistinct(extractAll(message, '"amount"\\s*:\\s*([0-9][0-9.eE+-]*)')) AS amount_literals,
    multiIf(
        JSONType(message, 'amount') = 'String', field.amount,
        length(amount_literals) = 1
            AND toFloat64OrNull(amount_literals[1]) = toFloat64OrNull(field.amount)
            AND NOT match(message, '\\\\u[^"]*"\\s*:'), amount_literals[1],
        ''
    ) AS amount_text,

    -- The best-effort parser alone takes year 0 for this year, month 0 for January, 24:00 for tomorrow and any offset. A
    -- leap second ends an hour, or half of one where the offset is such; it is stored as the second after it.
    '^[1-9][0-9]{3}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])[T ]([01][0-9]|2[0-3]):([0-5][0-9]:[0-5][0-9]|[25]9:60)([.][0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$' AS rfc3339,
    upper(field.created_at) AS created_at_text,
    upper(field.updated_at) AS updated_at_text,

    toUUIDOrNull(field.transaction_id) AS transaction_id_value,
    toUInt32OrNull(field.merchant_id) AS merchant_id_value,
    toDecimal64OrNull(amount_text, 4) AS amount_value,
    if(match(created_at_text, rfc3339), parseDateTime64BestEffortOrNull(created_at_text, 6, 'UTC'), NULL) AS created_at_value,
    if(match(updated_at_text, rfc3339), parseDateTime64BestEffortOrNull(updated_at_text, 6, 'UTC'), NULL) AS updated_at_value

SELECT
    multiIf(
        empty(keys), multiIf(NOT isValidJSON(message), 'not_json', JSONType(message) != 'Object', 'not_an_object', 'transaction_id_missing'),
        length(keys) != arrayUniq(keys), 'duplicate_field',

        empty(field.transaction_id), 'transaction_id_missing',
        NOT match(field.transaction_id, '^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$') OR isNull(transaction_id_value), 'transaction_id_malformed',

        empty(field.merchant_id), 'merchant_id_missing',
        -- A number with a fraction or an exponent has been rounded to a double by now.
        NOT match(field.merchant_id, '^[1-9][0-9]{0,9}$') OR isNull(merchant_id_value) OR JSONType(message, 'merchant_id') = 'Double', 'merchant_id_malformed',

        empty(field.amount), 'amount_missing',
        NOT match(amount_text, '^(0|[1-9][0-9]{0,13})([.][0-9]{1,4})?$') OR isNull(amount_value), 'amount_malformed',
        amount_value = 0, 'amount_not_positive',

        empty(field.currency), 'currency_missing',
        -- ISO 4217, with the codes withdrawn within the age that created_at may have.
        field.currency NOT IN (
            'AED', 'AFN', 'ALL', 'AMD', 'AOA', 'ARS', 'AUD', 'AWG', 'AZN', 'BAM', 'BBD', 'BDT', 'BHD', 'BIF', 'BMD', 'BND',
            'BOB', 'BOV', 'BRL', 'BSD', 'BTN', 'BWP', 'BYN', 'BZD', 'CAD', 'CDF', 'CHE', 'CHF', 'CHW', 'CLF', 'CLP', 'CNY',
            'COP', 'COU', 'CRC', 'CUP', 'CVE', 'CZK', 'DJF', 'DKK', 'DOP', 'DZD', 'EGP', 'ERN', 'ETB', 'EUR', 'FJD', 'FKP',
            'GBP', 'GEL', 'GHS', 'GIP', 'GMD', 'GNF', 'GTQ', 'GYD', 'HKD', 'HNL', 'HTG', 'HUF', 'IDR', 'ILS', 'INR', 'IQD',
            'IRR', 'ISK', 'JMD', 'JOD', 'JPY', 'KES', 'KGS', 'KHR', 'KMF', 'KPW', 'KRW', 'KWD', 'KYD', 'KZT', 'LAK', 'LBP',
            'LKR', 'LRD', 'LSL', 'LYD', 'MAD', 'MDL', 'MGA', 'MKD', 'MMK', 'MNT', 'MOP', 'MRU', 'MUR', 'MVR', 'MWK', 'MXN',
            'MXV', 'MYR', 'MZN', 'NAD', 'NGN', 'NIO', 'NOK', 'NPR', 'NZD', 'OMR', 'PAB', 'PEN', 'PGK', 'PHP', 'PKR', 'PLN',
            'PYG', 'QAR', 'RON', 'RSD', 'RUB', 'RWF', 'SAR', 'SBD', 'SCR', 'SDG', 'SEK', 'SGD', 'SHP', 'SLE', 'SOS', 'SRD',
            'SSP', 'STN', 'SVC', 'SYP', 'SZL', 'THB', 'TJS', 'TMT', 'TND', 'TOP', 'TRY', 'TTD', 'TWD', 'TZS', 'UAH', 'UGX',
            'USD', 'USN', 'UYI', 'UYU', 'UYW', 'UZS', 'VED', 'VES', 'VND', 'VUV', 'WST', 'XAD', 'XAF', 'XAG', 'XAU', 'XBA',
            'XBB', 'XBC', 'XBD', 'XCD', 'XCG', 'XDR', 'XOF', 'XPD', 'XPF', 'XPT', 'XSU', 'XTS', 'XUA', 'XXX', 'YER', 'ZAR',
            'ZMW', 'ZWG',
            'ANG', 'BGN', 'CUC', 'HRK', 'SLL', 'ZWL'
        ), 'currency_unknown',

        empty(field.status), 'status_missing',
        field.status NOT IN ('authorized', 'captured', 'settled', 'refunded', 'charged_back', 'failed'), 'status_unknown',

        empty(field.created_at), 'created_at_missing',
        isNull(created_at_value), 'created_at_malformed',
        created_at_value > now() + INTERVAL 5 MINUTE, 'created_at_in_future',
        -- One block may touch at most 100 monthly partitions before the engine refuses it, and with it all ingest.
        created_at_value < toStartOfMonth(now()) - INTERVAL 96 MONTH, 'created_at_too_old',

        empty(field.updated_at), 'updated_at_missing',
        isNull(updated_at_value), 'updated_at_malformed',
        -- A state from the future would beat every real one until then.
        updated_at_value > now() + INTERVAL 5 MINUTE, 'updated_at_in_future',
        -- Before 1970 the version, which counts microseconds from there, would wrap.
        updated_at_value < toStartOfMonth(now()) - INTERVAL 96 MONTH, 'updated_at_too_old',
        ''
    ) AS fault,

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

-- version 0004_reports

CREATE VIEW transactions_current AS
SELECT *
FROM transactions FINAL
-- Parts of two partitions never hold the same key, since created_at is part of it; so each can be merged by itself.
SETTINGS do_not_merge_across_partitions_select_final = 1
;

-- One row: one merchant, one day (UTC, by created_at), one currency, one status and one reporting currency ('' where no
-- rate is known yet): the nightly batch's successor.
-- Written by: nobody (a view). Read by: finance and analytics; filter by day and merchant_id to read little.
-- Guarantee: each transaction counts once, in its newest state; equal at any moment to a recomputation from scratch.
CREATE VIEW report_merchant_by_day AS
SELECT
    toDate(created_at) AS day,
    merchant_id,
    any(t.merchant_name) AS merchant_name,
    currency,
    status,
    reporting_currency,
    count() AS transactions,
    sum(t.amount) AS amount,
    -- Amounts whose rate is not known yet are left out of the sum and counted here.
    sum(t.amount_reporting) AS amount_reporting,
    countIf(isNull(t.amount_reporting)) AS transactions_without_rate,
    countIf(enrichment_status = 'fx_provisional') AS transactions_with_provisional_rate
FROM transactions_current AS t
GROUP BY day, merchant_id, currency, status, reporting_currency
;

-- version 0005_quarantine_replays

CREATE TABLE quarantine_replays
(
    -- the refused message, as it stands in quarantine
    kafka_topic       LowCardinality(String),
    kafka_partition   UInt32,
    kafka_offset      UInt64,
    kafka_timestamp   DateTime64(3, 'UTC'),

    -- the attempt; a later state replaces an earlier one, whenever it is written
    replay_id         UUID,
    state             Enum8('sending' = 0, 'not_sent' = 1, 'sent' = 2),
    state_version     UInt8 MATERIALIZED toUInt8(state),
    replayed_at       DateTime64(3, 'UTC'),
    replayed_by       String,

    -- where it went: while 'sending', the offset is the first that it can get; once 'sent', its own
    new_partition     UInt32,
    new_offset        UInt64,
    new_timestamp     DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(state_version)
ORDER BY (kafka_topic, kafka_partition, kafka_offset, kafka_timestamp, replay_id)
TTL toDateTime(replayed_at) + INTERVAL 1 YEAR
;

-- version 0006_repair

ALTER TABLE dimension_snapshots
    ADD COLUMN source_modified_at Nullable(DateTime64(3, 'UTC')),
    ADD COLUMN forced_gates Array(LowCardinality(String))
;

-- One row: one merchant, as one snapshot had it. Compare and join by snapshot_id, as transactions carry it.
-- Written by: `paystream dims refresh merchants`, before the snapshot goes live. Read by: `paystream dims compare` and
-- `rollback`, and whoever asks which record a transaction was enriched with (merchant_snapshot_id).
-- Guarantee: complete for every snapshot that is kept (`paystream dims history`); older ones are dropped as partitions.
CREATE TABLE merchants_history
(
    merchant_id   UInt32,
    merchant_name String,
    country       LowCardinality(String),
    category_code LowCardinality(String),
    snapshot_id   UInt32
)
ENGINE = MergeTree
PARTITION BY snapshot_id
ORDER BY merchant_id
;

-- One row: the rate that one currency was quoted at on one day, as one snapshot had it.
-- Written by: `paystream dims refresh fx`, before the snapshot goes live. Read by: `paystream dims compare` and
-- `rollback`, and whoever asks which rate a transaction was converted with (fx_snapshot_id, fx_rate_date).
-- Guarantee: complete for every snapshot that is kept (`paystream dims history`); older ones are dropped as partitions.
CREATE TABLE fx_rates_history
(
    currency           LowCardinality(String),
    rate_date          Date,
    rate               Decimal(38, 12),
    reporting_currency LowCardinality(String),
    snapshot_id        UInt32
)
ENGINE = MergeTree
PARTITION BY snapshot_id
ORDER BY (currency, rate_date)
;

-- Changes nothing: its rollback makes the view anew once the column is gone.
CREATE OR REPLACE VIEW transactions_current AS
SELECT *
FROM transactions FINAL
-- Parts of two partitions never hold the same key, since created_at is part of it; so each can be merged by itself.
SETTINGS do_not_merge_across_partitions_select_final = 1
;

ALTER TABLE transactions_local
    ADD COLUMN enriched_at DateTime64(3, 'UTC') DEFAULT ingested_at CODEC(Delta, ZSTD(1)),
    ADD INDEX pending enrichment_status TYPE set(4) GRANULARITY 1
;

ALTER TABLE transactions
    ADD COLUMN enriched_at DateTime64(3, 'UTC') DEFAULT ingested_at CODEC(Delta, ZSTD(1))
;

ALTER TABLE transactions_to_shards
    ADD COLUMN enriched_at DateTime64(3, 'UTC') DEFAULT ingested_at CODEC(Delta, ZSTD(1))
;

-- For what is stored already; writes the index alone, not the rows.
ALTER TABLE transactions_local MATERIALIZE INDEX pending
;

-- A view's columns are those at its creation: made anew, it has enriched_at too.
CREATE OR REPLACE VIEW transactions_current AS
SELECT *
FROM transactions FINAL
-- Parts of two partitions never hold the same key, since created_at is part of it; so each can be merged by itself.
SETTINGS do_not_merge_across_partitions_select_final = 1
;

-- One row: one day of payments (by created_at) as a repair left it, once deduplicated (FINAL).
-- Written by: `paystream dims repair`, once all of a day's rows agree with the dictionaries. Read by: the next repair,
-- which looks only at days whose rates or merchants have changed since.
-- Guarantee: none that anything else relies on. Without a row a day is looked at again, which changes nothing it need not.
CREATE TABLE repaired_days
(
    day                   Date,
    rates_hash            UInt64,                -- of the rates that hold on the day, in fx_rates_dict
    fx_snapshot_id        UInt32,                -- of fx_rates_dict; a later one that came and went may have left rates
    merchants_snapshot_id UInt32,                -- late merchants up to this snapshot have been filled in
    restated_snapshot_id  UInt32,                -- changed merchants up to this one have been restated; 0: never
    repaired_at           DateTime64(3, 'UTC')   -- when the repair began
)
ENGINE = ReplacingMergeTree(repaired_at)
ORDER BY day
;

-- One row: one transaction that would be enriched otherwise today: the row to write in its place, and what stands there.
-- Written by: nobody (a view). Read by: `paystream dims repair`; filter by toDate(created_at) to read little.
-- Parameter: restate_merchants, whether a known merchant's changed attributes are taken over into old rows.
-- Guarantee: enriches as transactions_mv does (a test holds them together); empty once what it gives is written. It never
-- takes away: where the dictionaries have no merchant or no rate any more, a row keeps what it was stored with, and so does
-- one in another reporting currency. Each row's version is one above the stored one, so a redelivered message loses.
CREATE VIEW transactions_to_repair AS
WITH
    dictGetOrNull('merchants_dict', ('merchant_name', 'country', 'category_code', 'snapshot_id'), t.merchant_id) AS merchant,
    dictGetOrNull('fx_rates_dict', ('rate', 'rate_date', 'is_latest', 'reporting_currency', 'snapshot_id'), tuple(t.currency), toDate(t.created_at)) AS fx,

    isNotNull(merchant.4) AND (
        t.merchant_snapshot_id = 0
        OR ({restate_merchants:Bool} AND (t.merchant_name, t.merchant_country, t.merchant_category_code) != (assumeNotNull(merchant.1), assumeNotNull(merchant.2), assumeNotNull(merchant.3)))
    ) AS takes_merchant,

    isNotNull(fx.1) AND t.reporting_currency IN ('', assumeNotNull(fx.4)) AS has_rate,
    has_rate AND (isNull(t.fx_rate) OR (assumeNotNull(t.fx_rate), assumeNotNull(t.fx_rate_date)) != (assumeNotNull(fx.1), assumeNotNull(fx.2))) AS takes_rate,

    multiIf(
        t.merchant_snapshot_id = 0 AND NOT takes_merchant, 'merchant_pending',
        isNull(t.fx_rate) AND NOT takes_rate, 'fx_pending',
        -- Without a rate to compare with, a row that waited for its merchant does not say whether its rate is final.
        if(has_rate, fx.3 AND fx.2 < toDate(t.created_at), t.enrichment_status = 'fx_provisional' OR (t.enrichment_status = 'merchant_pending' AND t.fx_rate_date < toDate(t.created_at))), 'fx_provisional',
        'ok'
    ) AS status_now
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
    if(takes_rate, CAST(round(t.amount * fx.1, 4), 'Nullable(Decimal(38, 4))'), t.amount_reporting) AS amount_reporting,
    if(takes_rate, assumeNotNull(fx.4), t.reporting_currency) AS reporting_currency,
    -- Also where only its being provisional has changed: the snapshot that made it final.
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
FROM transactions_local AS t FINAL
WHERE (takes_merchant OR takes_rate OR status_now != t.enrichment_status)
    -- The version has room for no more.
    AND t.enrichment_revision < 4095
SETTINGS do_not_merge_across_partitions_select_final = 1
;

-- version 0007_status

CREATE TABLE audits
(
    audited_at  DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC'),
    kafka_topic LowCardinality(String),
    since       DateTime64(3, 'UTC'),    -- blocks read from then on were audited
    is_deep     Bool,
    verdict     LowCardinality(String),  -- complete, incomplete, recreated, loss
    lost        UInt64,
    expired     UInt64,
    unchecked   UInt64
)
ENGINE = MergeTree
ORDER BY audited_at
TTL toDateTime(audited_at) + INTERVAL 1 YEAR
;

-- For what was refused before, too; writes the index alone.
ALTER TABLE quarantine_local ADD INDEX lately quarantined_at TYPE minmax GRANULARITY 1
;

ALTER TABLE quarantine_local MATERIALIZE INDEX lately
;

-- Blocks read before have no latencies and count for nothing in them.
ALTER TABLE ingest_ledger_local
    ADD COLUMN timed UInt64,
    ADD COLUMN late UInt64,
    ADD COLUMN latency_histogram Array(UInt32) CODEC(ZSTD(1))
;

ALTER TABLE ingest_ledger
    ADD COLUMN timed UInt64,
    ADD COLUMN late UInt64,
    ADD COLUMN latency_histogram Array(UInt32) CODEC(ZSTD(1))
;

-- Else the projection would forbid a DELETE.
ALTER TABLE ingest_ledger_local MODIFY SETTING lightweight_mutation_projection_mode = 'rebuild'
;

-- A row an hour.
ALTER TABLE ingest_ledger_local
    ADD PROJECTION by_hour
    (
        SELECT kafka_topic, toStartOfHour(read_at), sum(messages), sum(timed), sum(late), max(last_kafka_timestamp), max(read_at)
        GROUP BY kafka_topic, toStartOfHour(read_at)
    )
;

ALTER TABLE ingest_ledger_local MATERIALIZE PROJECTION by_hour
;

-- Ingest goes on meanwhile; a block that is under way is written without latencies.
ALTER TABLE ledger_mv MODIFY QUERY
WITH
    now64(3) AS stored_at,
    fault = '' AND kafka_timestamp > toDateTime64(0, 3, 'UTC') AS is_timed,
    -- Clocks that are apart may say that a message was stored before it was sent.
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
    countIf(is_timed AND latency_ms > 300000) AS late,
    CAST(countResampleIf(0, 176, 1)(toUInt8(least(175, floor(8 * log2(latency_ms + 1)))), is_timed), 'Array(UInt32)') AS latency_histogram
FROM transactions_parsed
GROUP BY kafka_topic, kafka_partition
;

-- version 0008_flush_interval

DROP TABLE IF EXISTS transactions_queue SYNC
;

-- One row: one Kafka message, as raw bytes; rows exist only while a block passes through to the views.
-- Written by: producers of the topic. Read by: transactions_parsed_mv, and by nobody else (a SELECT would steal messages).
-- Guarantee: at least once. Rows are inserted first, offsets committed second; a crash in between delivers again.
CREATE TABLE transactions_queue
(
    message String
)
-- Broker addresses, credentials, topic, consumer group and librdkafka's own settings: the named collection that
-- `paystream migrate up` keeps equal to the settings, so that nothing of one deployment, and no secret, stands in a file.
ENGINE = Kafka(paystream_kafka)
SETTINGS
    kafka_format = 'RawBLOB',             -- one message is one row whatever its bytes: no parser in between that could stall, skip or coerce
    kafka_num_consumers = 2,              -- the topic has 4 partitions; more consumers than cores only makes smaller blocks
    kafka_thread_per_consumer = 1,        -- consumers parse and insert side by side; without it the catch-up rate is that of one core
    kafka_flush_interval_ms = 150,        -- the latency: a block closes after this long; a shorter one costs more parts
    kafka_poll_timeout_ms = 50,           -- how long one poll may wait; must be well under the flush interval
    kafka_consumer_reschedule_ms = 10,    -- pause between blocks; the default of 500 would be added to every latency
    kafka_poll_max_batch_size = 65536,    -- messages per poll while catching up
    kafka_max_block_size = 262144         -- rows per block while catching up: large parts, few merges
;

-- version 0009_rollups

CREATE TABLE latency_minutes_local
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
ORDER BY (minute, kafka_topic)
;

CREATE TABLE latency_minutes AS latency_minutes_local
ENGINE = Distributed('payments', 'paystream', 'latency_minutes_local')
;

-- One row: one merchant's payments of one day (UTC, by created_at) that is over, once deduplicated (FINAL): an element of
-- `payments` for each currency, status and reporting currency; `provisional` counts those at a rate that will be replaced.
-- Written by: merchant_days_mv. Read by: merchant_days_current.
-- Guarantee: a row is the sum of its half hours and replaces the one before it as a whole. Rows of 1970 without payments only say
-- that a refresh was complete, since most have nothing to write.
CREATE TABLE merchant_days_local
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
TTL toDateTime(refreshed_at) + INTERVAL 1 DAY DELETE WHERE day = toDate(0)
;

CREATE TABLE merchant_days AS merchant_days_local
ENGINE = Distributed('payments', 'paystream', 'merchant_days_local')
;

-- One row: one merchant's payments of one half hour (UTC, by created_at), once deduplicated (FINAL): an element of
-- `payments` for each combination of currency, status and so on that they are in now. Where no rate is known yet,
-- reporting_currency is '' and amount_reporting 0.
-- Written by: merchant_slots_mv. Read by: merchant_days_mv, volume_hours_mv, report_merchant_by_day.
-- Guarantee: a row is the whole of its bucket, computed from deduplicated transactions, and replaces the one before it as a
-- whole. So nothing counts twice however often it is computed, and a state that nothing is in any more leaves nothing behind.
CREATE TABLE merchant_slots_local
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
ORDER BY (toDate(slot), merchant_id, slot)
;

CREATE TABLE merchant_slots AS merchant_slots_local
ENGINE = Distributed('payments', 'paystream', 'merchant_slots_local')
;

-- One row: one refresh of a roll-up that succeeded, when it began, and up to which time of reading it is complete.
-- Written by: rollup_progress_mv, and `paystream rollup rebuild`. Read by: rollup_state.
-- Guarantee: never says more than was done. Where rows are missing, more is computed again than need be.
CREATE TABLE rollup_progress_local
(
    view           LowCardinality(String),
    began_at       DateTime('UTC'),
    complete_until DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree
ORDER BY (view, began_at)
TTL toDateTime(began_at) + INTERVAL 30 DAY
;

CREATE TABLE rollup_progress AS rollup_progress_local
ENGINE = Distributed('payments', 'paystream', 'rollup_progress_local')
;

ALTER TABLE transactions_local
    ADD INDEX changed enriched_at TYPE minmax GRANULARITY 1
;

-- For what is stored already; writes it alone, not the rows.
ALTER TABLE transactions_local MATERIALIZE INDEX changed
;

-- One row: all payments of one hour (UTC, by created_at), once deduplicated (FINAL): an element of `payments` for each
-- combination of country, category, currency, status and so on.
-- Written by: volume_hours_mv. Read by: the reports of volume, of currency exposure and of what is pending.
-- Guarantee: a row is the sum of its merchants' half hours and replaces the one before it as a whole. Rows of 1970 without
-- payments only say that a refresh was complete, also when it had nothing to write.
CREATE TABLE volume_hours_local
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
SETTINGS index_granularity = 8
;

CREATE TABLE volume_hours AS volume_hours_local
ENGINE = Distributed('payments', 'paystream', 'volume_hours_local')
;

-- One row: one roll-up: up to which time of reading (ingested_at, or enriched_at of what was repaired) it is complete.
-- Written by: nobody (a view). Read by: the refreshes, for what has changed since; the reports, which say it to their readers.
-- Guarantee: never later than the truth. What the engine says of its refreshes is gone at a restart; rollup_progress is not.
-- Rows that say they are complete until 1970 are `paystream rollup rebuild`'s and tell nothing of a refresh.
CREATE VIEW rollup_state_local AS
WITH
    refreshes AS
    (
        SELECT view AS name, toDateTime(assumeNotNull(last_success_time), 'UTC') AS began
        FROM system.view_refreshes
        WHERE database = 'paystream' AND isNotNull(last_success_time)
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
    FROM rollup_progress_local
    UNION ALL
    -- A refresh with a great deal to do does a part of it, and its rows say how far it came.
    SELECT
        'merchant_slots_mv',
        slots_began,
        least(toDateTime64(slots_began, 3, 'UTC') - INTERVAL 5 SECOND, ifNull((SELECT minOrNull(complete_until) FROM merchant_slots_local WHERE refreshed_at >= slots_began AND complete_until > toDateTime64(0, 3, 'UTC')), toDateTime64(slots_began, 3, 'UTC')))
    UNION ALL
    -- These add up what merchant_slots held when they began, and their rows say up to when that was complete. Later rows are of
    -- a refresh that is not done yet.
    SELECT
        'merchant_days_mv',
        days_began,
        ifNull((SELECT minOrNull(complete_until) FROM merchant_days_local WHERE refreshed_at >= days_began AND complete_until > toDateTime64(0, 3, 'UTC')), toDateTime64(0, 3, 'UTC'))
    UNION ALL
    SELECT
        'volume_hours_mv',
        hours_began,
        ifNull((SELECT minOrNull(complete_until) FROM volume_hours_local WHERE refreshed_at >= hours_began AND complete_until > toDateTime64(0, 3, 'UTC')), toDateTime64(0, 3, 'UTC'))
    UNION ALL
    SELECT 'latency_minutes_mv', minutes_began, toDateTime64(minutes_began, 3, 'UTC') - INTERVAL 5 SECOND
)
WHERE began > toDateTime(0, 'UTC')
GROUP BY view
;

CREATE TABLE rollup_state_shards AS rollup_state_local
ENGINE = Distributed('payments', 'paystream', 'rollup_state_local')
;

CREATE VIEW rollup_state AS SELECT * FROM rollup_state_shards SETTINGS prefer_localhost_replica = 0
;

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
SETTINGS do_not_merge_across_partitions_select_final = 1
;

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
)
;

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
SETTINGS do_not_merge_across_partitions_select_final = 1
;

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
ARRAY JOIN payments AS p
;

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
SETTINGS do_not_merge_across_partitions_select_final = 1
;

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
ARRAY JOIN arrayDistinct(arrayMap(p -> (p.currency, p.reporting_currency), payments)) AS pair
;

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
SETTINGS do_not_merge_across_partitions_select_final = 1
;

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
SETTINGS do_not_merge_across_partitions_select_final = 1
;

-- One row: one minute in which blocks have been read since the last refresh.
-- Written by: its schedule. Read by: the table latency_minutes.
-- Guarantee: computed anew from the ledger; a refresh that fails or is lost is made up for by the next.
CREATE MATERIALIZED VIEW latency_minutes_mv
REFRESH EVERY 40 SECOND APPEND TO latency_minutes_local AS
WITH (SELECT toStartOfMinute(least(max(settled_until), now64(3) - INTERVAL 1 MINUTE)) FROM rollup_state_local WHERE view = 'latency_minutes_mv') AS since
SELECT
    toDateTime(toStartOfMinute(read_at)) AS minute,
    kafka_topic,
    sum(messages) AS messages,
    sum(timed) AS timed,
    sum(late) AS late,
    sumForEach(latency_histogram) AS latency_histogram,
    now64(3) AS refreshed_at
FROM ingest_ledger_local
WHERE read_at >= since
GROUP BY minute, kafka_topic
SETTINGS max_threads = 1
;

-- One row: one merchant and day that is over, of which a half hour has been computed since the last refresh.
-- Written by: its schedule, after merchant_slots_mv. Read by: the table merchant_days.
-- Guarantee: computed anew from all half hours of the day; a refresh that fails or is lost is made up for by the next.
CREATE MATERIALIZED VIEW merchant_days_mv
REFRESH EVERY 40 SECOND DEPENDS ON merchant_slots_mv APPEND TO merchant_days_local AS
WITH
    (SELECT max(complete_until) FROM rollup_state_local WHERE view = 'merchant_days_mv') AS since,
    -- The days before it are in merchant_days already; after midnight a whole one is added.
    (SELECT toDate(max(began_at)) FROM rollup_state_local WHERE view = 'merchant_days_mv') AS first_open_day,
    (SELECT max(complete_until) FROM rollup_state_local WHERE view = 'merchant_slots_mv') AS until,
    changed AS
    (
        SELECT *
        FROM merchant_slots_local FINAL
        WHERE toDate(slot) < toDate(now('UTC'))
            AND (toDate(slot), merchant_id) IN
            (
                SELECT toDate(slot), merchant_id
                FROM merchant_slots_local
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
SETTINGS do_not_merge_across_partitions_select_final = 1, max_threads = 1
;

-- One row: one merchant and half hour of which a transaction came in, changed its state or was repaired since the last refresh.
-- Written by: its schedule. Read by: the table merchant_slots.
-- Guarantee: computed anew from deduplicated transactions; a refresh that fails or is lost is made up for by the next. The work
-- is that of the current half hours and of those merchants' older ones that changed, however much is stored. Of older ones a
-- million changes are taken at a time; a restatement of more is behind for a while, and rollup_state says how far.
CREATE MATERIALIZED VIEW merchant_slots_mv
REFRESH EVERY 40 SECOND APPEND TO merchant_slots_local AS
WITH
    (SELECT least(max(settled_until), now64(3) - INTERVAL 1 MINUTE) FROM rollup_state_local WHERE view = 'merchant_slots_mv') AS since,
    -- Payments may be stamped five minutes ahead, so the current half hours can be three.
    toStartOfInterval(now('UTC') - INTERVAL 30 MINUTE, INTERVAL 30 MINUTE) AS current_from,
    (
        SELECT least(now64(3) - INTERVAL 5 SECOND, ifNull(anyOrNull(enriched_at), now64(3)))
        FROM (SELECT enriched_at FROM transactions_local WHERE enriched_at > since AND created_at < current_from ORDER BY enriched_at LIMIT 1 OFFSET 1000000)
    ) AS until,
    current_slots AS
    (
        SELECT DISTINCT toStartOfInterval(created_at, INTERVAL 30 MINUTE)
        FROM transactions_local
        WHERE enriched_at > since AND enriched_at <= until AND created_at >= current_from
    ),
    older_slots AS
    (
        SELECT toDate(created_at), merchant_id, toStartOfInterval(created_at, INTERVAL 30 MINUTE)
        FROM transactions_local
        WHERE enriched_at > since AND enriched_at <= until AND created_at < current_from
    ),
    changed AS
    (
        SELECT *
        FROM transactions_local FINAL
        WHERE created_at >= current_from AND toDate(created_at) >= toDate(current_from)
            AND toStartOfInterval(created_at, INTERVAL 30 MINUTE) IN (current_slots)
        UNION ALL
        SELECT *
        FROM transactions_local FINAL
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
    max_threads = 1
;

-- One row: how far one roll-up has come.
-- Written by: its schedule. Read by: the table rollup_progress.
-- Guarantee: as rollup_state; it is there so that the restart of a server does not cost a computation of everything.
CREATE MATERIALIZED VIEW rollup_progress_mv
REFRESH EVERY 40 SECOND OFFSET 20 SECOND APPEND TO rollup_progress_local AS
SELECT view, began_at, complete_until
FROM rollup_state_local
WHERE (view, began_at) NOT IN (SELECT view, began_at FROM rollup_progress_local)
;

-- One row: one hour of which a merchant's half hour has been computed since the last refresh.
-- Written by: its schedule, after merchant_slots_mv. Read by: the table volume_hours.
-- Guarantee: computed anew from all merchants of the hour; a refresh that fails or is lost is made up for by the next.
CREATE MATERIALIZED VIEW volume_hours_mv
REFRESH EVERY 40 SECOND DEPENDS ON merchant_slots_mv APPEND TO volume_hours_local AS
WITH
    (SELECT max(complete_until) FROM rollup_state_local WHERE view = 'volume_hours_mv') AS since,
    (SELECT max(complete_until) FROM rollup_state_local WHERE view = 'merchant_slots_mv') AS until,
    changed_hours AS (SELECT DISTINCT toStartOfHour(slot) AS changed_hour FROM merchant_slots_local WHERE complete_until > since),
    changed AS
    (
        SELECT *
        FROM merchant_slots_local FINAL
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
    max_threads = 1
;

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
ORDER BY reporting_currency, place, merchant_id
;

-- version 0010_settlement_sums

ALTER TABLE merchant_days_local
    ADD COLUMN by_currency Array(Tuple(
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
        charge_backs_reporting Decimal(38, 4))) MATERIALIZED arrayMap(own -> (own.currency[1], own.reporting_currency[1], arraySum(own.transactions), arraySum(p -> if(p.status = 'authorized', p.transactions, 0), own), arraySum(p -> if(p.status = 'captured', p.transactions, 0), own), arraySum(p -> if(p.status = 'settled', p.transactions, 0), own), arraySum(p -> if(p.status = 'refunded', p.transactions, 0), own), arraySum(p -> if(p.status = 'charged_back', p.transactions, 0), own), arraySum(p -> if(p.status = 'failed', p.transactions, 0), own), arraySum(own.provisional), arraySum(p -> if(p.status = 'authorized', p.amount, 0), own), arraySum(p -> if((p.status IN ('captured', 'settled')), p.amount, 0), own), arraySum(p -> if(p.status = 'refunded', p.amount, 0), own), arraySum(p -> if(p.status = 'charged_back', p.amount, 0), own), arraySum(p -> if((p.status IN ('captured', 'settled')), p.amount_reporting, 0), own), arraySum(p -> if(p.status = 'refunded', p.amount_reporting, 0), own), arraySum(p -> if(p.status = 'charged_back', p.amount_reporting, 0), own)), arrayMap(pair -> arrayFilter(p -> ((p.currency = (pair.1)) AND (p.reporting_currency = (pair.2))), payments), arrayDistinct(arrayMap(p -> (p.currency, p.reporting_currency), payments)))) AFTER payments
;

ALTER TABLE merchant_days
    ADD COLUMN by_currency Array(Tuple(
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
        charge_backs_reporting Decimal(38, 4))) MATERIALIZED arrayMap(own -> (own.currency[1], own.reporting_currency[1], arraySum(own.transactions), arraySum(p -> if(p.status = 'authorized', p.transactions, 0), own), arraySum(p -> if(p.status = 'captured', p.transactions, 0), own), arraySum(p -> if(p.status = 'settled', p.transactions, 0), own), arraySum(p -> if(p.status = 'refunded', p.transactions, 0), own), arraySum(p -> if(p.status = 'charged_back', p.transactions, 0), own), arraySum(p -> if(p.status = 'failed', p.transactions, 0), own), arraySum(own.provisional), arraySum(p -> if(p.status = 'authorized', p.amount, 0), own), arraySum(p -> if((p.status IN ('captured', 'settled')), p.amount, 0), own), arraySum(p -> if(p.status = 'refunded', p.amount, 0), own), arraySum(p -> if(p.status = 'charged_back', p.amount, 0), own), arraySum(p -> if((p.status IN ('captured', 'settled')), p.amount_reporting, 0), own), arraySum(p -> if(p.status = 'refunded', p.amount_reporting, 0), own), arraySum(p -> if(p.status = 'charged_back', p.amount_reporting, 0), own)), arrayMap(pair -> arrayFilter(p -> ((p.currency = (pair.1)) AND (p.reporting_currency = (pair.2))), payments), arrayDistinct(arrayMap(p -> (p.currency, p.reporting_currency), payments)))) AFTER payments
;

-- For what is stored already, where it is computed at each read until then.
ALTER TABLE merchant_days_local MATERIALIZE COLUMN by_currency
;

-- One row: one merchant, one day (UTC, by created_at), one currency and one reporting currency ('' where no rate is known
-- yet): how many of its payments are in each status, and what they come to.
-- Written by: nobody (a view). Read by: report_settlement_by_day, report_merchant_ranking.
-- Guarantee: as merchant_days_current. `net` is captured and settled; `…_reporting` is in the reporting currency, 0 without a rate.
CREATE VIEW merchant_days_by_currency AS
WITH (SELECT toDate(max(began_at)) FROM rollup_state WHERE view = 'merchant_days_mv') AS first_open_day
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
SETTINGS do_not_merge_across_partitions_select_final = 1
;

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
        argMax(merchant_name, day) AS merchant_name,
        reporting_currency,
        sum(d.transactions) AS transactions,
        sum(d.net_reporting) AS net_reporting,
        (SELECT any(complete_until) FROM report_freshness WHERE report = 'report_merchant_ranking') AS complete_until
    FROM merchant_days_by_currency AS d
    WHERE day BETWEEN {first_day:Date} AND {last_day:Date} AND reporting_currency != ''
    GROUP BY merchant_id, reporting_currency
)
ORDER BY reporting_currency, place, merchant_id
;

-- One row: one merchant, one day (UTC, by created_at), one currency and one reporting currency ('' where no rate is known yet).
-- Written by: nobody (a view). Read by: finance, to settle with merchants; filter by day, and by merchant_id to read little.
-- Guarantee: as report_merchant_by_day, of which it is the sum. `gross` is what was taken, also where it went back later:
-- captured, settled, refunded and charged back; `net` is what is left: gross - refunds - charge_backs. Authorized payments
-- are not taken yet, failed ones never. `…_reporting`: in the reporting currency, NULL without a rate.
CREATE OR REPLACE VIEW report_settlement_by_day AS
WITH (SELECT any(complete_until) FROM report_freshness WHERE report = 'report_settlement_by_day') AS reached
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
    net + refunds + charge_backs AS gross,
    refunds,
    charge_backs,
    net,

    if(reporting_currency = '', NULL, s.net_reporting + s.refunds_reporting + s.charge_backs_reporting) AS gross_reporting,
    if(reporting_currency = '', NULL, s.refunds_reporting) AS refunds_reporting,
    if(reporting_currency = '', NULL, s.charge_backs_reporting) AS charge_backs_reporting,
    if(reporting_currency = '', NULL, s.net_reporting) AS net_reporting,

    provisional AS transactions_with_provisional_rate,
    assumeNotNull(reached) AS complete_until
FROM merchant_days_by_currency AS s
;

-- version 0011_rollups_give_way

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
SETTINGS do_not_merge_across_partitions_select_final = 1
;

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
ORDER BY reporting_currency, place, merchant_id
;

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
SETTINGS do_not_merge_across_partitions_select_final = 1
;

ALTER TABLE latency_minutes_mv MODIFY QUERY
WITH (SELECT toStartOfMinute(least(max(settled_until), now64(3) - INTERVAL 1 MINUTE)) FROM rollup_state_local WHERE view = 'latency_minutes_mv') AS since
SELECT
    toDateTime(toStartOfMinute(read_at)) AS minute,
    kafka_topic,
    sum(messages) AS messages,
    sum(timed) AS timed,
    sum(late) AS late,
    sumForEach(latency_histogram) AS latency_histogram,
    now64(3) AS refreshed_at
FROM ingest_ledger_local
WHERE read_at >= since
GROUP BY minute, kafka_topic
SETTINGS max_threads = 1, os_threads_nice_value_query = 15
;

ALTER TABLE merchant_days_mv MODIFY QUERY
WITH
    (SELECT max(complete_until) FROM rollup_state_local WHERE view = 'merchant_days_mv') AS since,
    -- The days before it are in merchant_days already; after midnight a whole one is added.
    (SELECT toDate(max(began_at)) FROM rollup_state_local WHERE view = 'merchant_days_mv') AS first_open_day,
    (SELECT max(complete_until) FROM rollup_state_local WHERE view = 'merchant_slots_mv') AS until,
    changed AS
    (
        SELECT *
        FROM merchant_slots_local FINAL
        WHERE toDate(slot) < toDate(now('UTC'))
            AND (toDate(slot), merchant_id) IN
            (
                SELECT toDate(slot), merchant_id
                FROM merchant_slots_local
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
    (SELECT least(max(settled_until), now64(3) - INTERVAL 1 MINUTE) FROM rollup_state_local WHERE view = 'merchant_slots_mv') AS since,
    -- Payments may be stamped five minutes ahead, so the current half hours can be three.
    toStartOfInterval(now('UTC') - INTERVAL 30 MINUTE, INTERVAL 30 MINUTE) AS current_from,
    (
        SELECT least(now64(3) - INTERVAL 5 SECOND, ifNull(anyOrNull(enriched_at), now64(3)))
        FROM (SELECT enriched_at FROM transactions_local WHERE enriched_at > since AND created_at < current_from ORDER BY enriched_at LIMIT 1 OFFSET 1000000)
    ) AS until,
    current_slots AS
    (
        SELECT DISTINCT toStartOfInterval(created_at, INTERVAL 30 MINUTE)
        FROM transactions_local
        WHERE enriched_at > since AND enriched_at <= until AND created_at >= current_from
    ),
    older_slots AS
    (
        SELECT toDate(created_at), merchant_id, toStartOfInterval(created_at, INTERVAL 30 MINUTE)
        FROM transactions_local
        WHERE enriched_at > since AND enriched_at <= until AND created_at < current_from
    ),
    changed AS
    (
        SELECT *
        FROM transactions_local FINAL
        WHERE created_at >= current_from AND toDate(created_at) >= toDate(current_from)
            AND toStartOfInterval(created_at, INTERVAL 30 MINUTE) IN (current_slots)
        UNION ALL
        SELECT *
        FROM transactions_local FINAL
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
    (SELECT max(complete_until) FROM rollup_state_local WHERE view = 'volume_hours_mv') AS since,
    (SELECT max(complete_until) FROM rollup_state_local WHERE view = 'merchant_slots_mv') AS until,
    changed_hours AS (SELECT DISTINCT toStartOfHour(slot) AS changed_hour FROM merchant_slots_local WHERE complete_until > since),
    changed AS
    (
        SELECT *
        FROM merchant_slots_local FINAL
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

-- version 0012_flush_100_ms

DROP TABLE IF EXISTS transactions_queue SYNC
;

-- One row: one Kafka message, as raw bytes; rows exist only while a block passes through to the views.
-- Written by: producers of the topic. Read by: transactions_parsed_mv, and by nobody else (a SELECT would steal messages).
-- Guarantee: at least once. Rows are inserted first, offsets committed second; a crash in between delivers again.
CREATE TABLE transactions_queue
(
    message String
)
-- Broker addresses, credentials, topic, consumer group and librdkafka's own settings: the named collection that
-- `paystream migrate up` keeps equal to the settings, so that nothing of one deployment, and no secret, stands in a file.
ENGINE = Kafka(paystream_kafka)
SETTINGS
    kafka_format = 'RawBLOB',             -- one message is one row whatever its bytes: no parser in between that could stall, skip or coerce
    kafka_num_consumers = 2,              -- the topic has 4 partitions; more consumers than cores only makes smaller blocks
    kafka_thread_per_consumer = 1,        -- consumers parse and insert side by side; without it the catch-up rate is that of one core
    kafka_flush_interval_ms = 100,        -- the latency: a block closes after this long; a shorter one costs more parts
    kafka_poll_timeout_ms = 50,           -- how long one poll may wait; must be well under the flush interval
    kafka_consumer_reschedule_ms = 10,    -- pause between blocks; the default of 500 would be added to every latency
    kafka_poll_max_batch_size = 65536,    -- messages per poll while catching up
    kafka_max_block_size = 262144         -- rows per block while catching up: large parts, few merges
;

-- version 0013_the_reporting_currency_needs_no_quote

SELECT 'fx_rate_periods is as it was'
;

-- Changes nothing: its rollback makes the view anew once columns are as they were.
CREATE OR REPLACE VIEW fx_rate_periods AS
SELECT
    currency,
    rate_date AS valid_from,
    multiIf(next_rate_date > rate_date, least(next_rate_date - 1, rate_date + 10), (rate_date + 10) >= newest_rate_date, toDate('2149-06-06'), rate_date + 10) AS valid_to,
    rate,
    rate_date,
    (next_rate_date <= rate_date) AND ((rate_date + 10) >= newest_rate_date) AND (currency != reporting_currency) AS is_latest,
    reporting_currency,
    snapshot_id
FROM
(
    SELECT
        *,
        leadInFrame(rate_date) OVER (PARTITION BY currency ORDER BY rate_date ASC ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS next_rate_date,
        max(rate_date) OVER () AS newest_rate_date
    FROM fx_rates
)
;

-- One row: one quote of one currency and the days it holds for, from its own day until the day before the next quote.
-- Written by: nobody (a view). Read by: fx_rates_dict, which holds it in memory.
-- Guarantee: the periods of a currency never overlap. The last quote of a currency still quoted holds without end
-- and is marked is_latest; a gap or a withdrawal ends a quote after 10 days (the longest gap of the European Central
-- Bank's calendar is 5, over Easter or Christmas), so that no rate is silently years old. The reporting currency in itself
-- is 1 on every day there is, by a quote of 1970-01-01 where it has no other.
CREATE OR REPLACE VIEW fx_rate_periods AS
SELECT
    currency,
    rate_date AS valid_from,
    multiIf(
        is_itself AND next_rate_date > rate_date, next_rate_date - 1,
        next_rate_date > rate_date, least(next_rate_date - 1, rate_date + 10),
        is_itself OR rate_date + 10 >= newest_rate_date, toDate('2149-06-06'),
        rate_date + 10
    ) AS valid_to,
    rate,
    rate_date,
    -- Nothing about the reporting currency is provisional.
    next_rate_date <= rate_date AND rate_date + 10 >= newest_rate_date AND NOT is_itself AS is_latest,
    reporting_currency,
    snapshot_id
FROM
(
    SELECT
        *,
        currency = reporting_currency AS is_itself,
        leadInFrame(rate_date) OVER (PARTITION BY currency ORDER BY rate_date ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS next_rate_date,
        max(rate_date) OVER () AS newest_rate_date
    FROM
    (
        SELECT currency, rate_date, rate, reporting_currency, snapshot_id
        FROM fx_rates
        UNION ALL
        -- So that there is one for the days before the first quote.
        SELECT any(reporting_currency), toDate(0), 1, any(reporting_currency), max(snapshot_id)
        FROM fx_rates
        HAVING count() > 0 AND min(rate_date) > toDate(0)
    )
)
;

-- It holds what fx_rate_periods gave when it was loaded.
SYSTEM RELOAD DICTIONARY fx_rates_dict
;

-- version 0014_times_that_cannot_be

ALTER TABLE ledger_mv MODIFY QUERY
WITH
    now64(3) AS stored_at,
    -- A message without a time has 1970's, and one whose producer counts in seconds has a day of January 1970.
    fault = '' AND kafka_timestamp > stored_at - INTERVAL 1 YEAR AS is_timed,
    -- Clocks that are apart may say that a message was stored before it was sent.
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
    countIf(is_timed AND latency_ms > 300000) AS late,
    CAST(countResampleIf(0, 176, 1)(toUInt8(least(175, floor(8 * log2(latency_ms + 1)))), is_timed), 'Array(UInt32)') AS latency_histogram
FROM transactions_parsed
GROUP BY kafka_topic, kafka_partition
;

-- version 0015_dimension_checks

CREATE TABLE dimension_checks
(
    dimension   LowCardinality(String),
    snapshot_id UInt32,
    checked_at  DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
)
ENGINE = MergeTree
ORDER BY (dimension, checked_at)
TTL toDateTime(checked_at) + INTERVAL 90 DAY
;

-- version 0016_rejected_dimension_rows

ALTER TABLE dimension_snapshots
    ADD COLUMN IF NOT EXISTS rejected Array(Tuple(place String, key String, cause String))
;

-- version 0017_whatever_the_profile_says

ALTER TABLE latency_minutes_mv MODIFY QUERY
WITH (SELECT toStartOfMinute(least(max(settled_until), now64(3) - INTERVAL 1 MINUTE)) FROM rollup_state_local WHERE view = 'latency_minutes_mv') AS since
SELECT
    toDateTime(toStartOfMinute(read_at)) AS minute,
    kafka_topic,
    sum(messages) AS messages,
    sum(timed) AS timed,
    sum(late) AS late,
    sumForEach(latency_histogram) AS latency_histogram,
    now64(3) AS refreshed_at
FROM ingest_ledger_local
WHERE read_at >= since
GROUP BY minute, kafka_topic
SETTINGS
    aggregate_functions_null_for_empty = 0,   -- whatever the profile says, which a refresh runs under
    max_threads = 1,
    os_threads_nice_value_query = 15
;

ALTER TABLE merchant_days_mv MODIFY QUERY
WITH
    (SELECT max(complete_until) FROM rollup_state_local WHERE view = 'merchant_days_mv') AS since,
    -- The days before it are in merchant_days already; after midnight a whole one is added.
    (SELECT toDate(max(began_at)) FROM rollup_state_local WHERE view = 'merchant_days_mv') AS first_open_day,
    (SELECT max(complete_until) FROM rollup_state_local WHERE view = 'merchant_slots_mv') AS until,
    changed AS
    (
        SELECT *
        FROM merchant_slots_local FINAL
        WHERE toDate(slot) < toDate(now('UTC'))
            AND (toDate(slot), merchant_id) IN
            (
                SELECT toDate(slot), merchant_id
                FROM merchant_slots_local
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
    (SELECT least(max(settled_until), now64(3) - INTERVAL 1 MINUTE) FROM rollup_state_local WHERE view = 'merchant_slots_mv') AS since,
    -- Payments may be stamped five minutes ahead, so the current half hours can be three.
    toStartOfInterval(now('UTC') - INTERVAL 30 MINUTE, INTERVAL 30 MINUTE) AS current_from,
    (
        SELECT least(now64(3) - INTERVAL 5 SECOND, ifNull(anyOrNull(enriched_at), now64(3)))
        FROM (SELECT enriched_at FROM transactions_local WHERE enriched_at > since AND created_at < current_from ORDER BY enriched_at LIMIT 1 OFFSET 1000000)
    ) AS until,
    current_slots AS
    (
        SELECT DISTINCT toStartOfInterval(created_at, INTERVAL 30 MINUTE)
        FROM transactions_local
        WHERE enriched_at > since AND enriched_at <= until AND created_at >= current_from
    ),
    older_slots AS
    (
        SELECT toDate(created_at), merchant_id, toStartOfInterval(created_at, INTERVAL 30 MINUTE)
        FROM transactions_local
        WHERE enriched_at > since AND enriched_at <= until AND created_at < current_from
    ),
    changed AS
    (
        SELECT *
        FROM transactions_local FINAL
        WHERE created_at >= current_from AND toDate(created_at) >= toDate(current_from)
            AND toStartOfInterval(created_at, INTERVAL 30 MINUTE) IN (current_slots)
        UNION ALL
        SELECT *
        FROM transactions_local FINAL
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
    (SELECT max(complete_until) FROM rollup_state_local WHERE view = 'volume_hours_mv') AS since,
    (SELECT max(complete_until) FROM rollup_state_local WHERE view = 'merchant_slots_mv') AS until,
    changed_hours AS (SELECT DISTINCT toStartOfHour(slot) AS changed_hour FROM merchant_slots_local WHERE complete_until > since),
    changed AS
    (
        SELECT *
        FROM merchant_slots_local FINAL
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

-- version 0018_rollups_by_shard

CREATE OR REPLACE VIEW rollup_state_local AS
WITH
    refreshes AS
    (
        SELECT view AS name, toDateTime(assumeNotNull(last_success_time), 'UTC') AS began
        FROM system.view_refreshes
        WHERE database = 'paystream' AND isNotNull(last_success_time)
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
    FROM rollup_progress_local
    UNION ALL
    -- A refresh with a great deal to do does a part of it, and its rows say how far it came.
    SELECT
        'merchant_slots_mv',
        slots_began,
        least(toDateTime64(slots_began, 3, 'UTC') - INTERVAL 5 SECOND, ifNull((SELECT minOrNull(complete_until) FROM merchant_slots_local WHERE refreshed_at >= slots_began AND complete_until > toDateTime64(0, 3, 'UTC')), toDateTime64(slots_began, 3, 'UTC')))
    UNION ALL
    -- These add up what merchant_slots held when they began, and their rows say up to when that was complete. Later rows are of
    -- a refresh that is not done yet.
    SELECT
        'merchant_days_mv',
        days_began,
        ifNull((SELECT minOrNull(complete_until) FROM merchant_days_local WHERE refreshed_at >= days_began AND complete_until > toDateTime64(0, 3, 'UTC')), toDateTime64(0, 3, 'UTC'))
    UNION ALL
    SELECT
        'volume_hours_mv',
        hours_began,
        ifNull((SELECT minOrNull(complete_until) FROM volume_hours_local WHERE refreshed_at >= hours_began AND complete_until > toDateTime64(0, 3, 'UTC')), toDateTime64(0, 3, 'UTC'))
    UNION ALL
    SELECT 'latency_minutes_mv', minutes_began, toDateTime64(minutes_began, 3, 'UTC') - INTERVAL 5 SECOND
    UNION ALL
    -- A roll-up that was never refreshed has a row too: without it, a shard that has nothing yet would not hold the others back.
    SELECT arrayJoin(['merchant_slots_mv', 'merchant_days_mv', 'volume_hours_mv', 'latency_minutes_mv']), toDateTime(0, 'UTC'), toDateTime64(0, 3, 'UTC')
)
WHERE began > toDateTime(0, 'UTC') OR reached = toDateTime64(0, 3, 'UTC')
GROUP BY view
;

CREATE OR REPLACE TABLE rollup_state_shards AS rollup_state_local
ENGINE = Distributed('payments', 'paystream', 'rollup_state_local')
;

CREATE OR REPLACE VIEW rollup_state AS SELECT * FROM rollup_state_shards SETTINGS prefer_localhost_replica = 0
;

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
SETTINGS do_not_merge_across_partitions_select_final = 1
;

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
)
;

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
SETTINGS do_not_merge_across_partitions_select_final = 1
;

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
SETTINGS do_not_merge_across_partitions_select_final = 1
;

ALTER TABLE rollup_progress_mv MODIFY QUERY
SELECT view, began_at, complete_until
FROM rollup_state_local
WHERE began_at > toDateTime(0, 'UTC') AND (view, began_at) NOT IN (SELECT view, began_at FROM rollup_progress_local)
;

