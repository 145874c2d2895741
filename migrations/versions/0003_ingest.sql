-- From the topic to the tables. The last statement starts ingest, the first of the rollback stops it.
-- depends: 0002_dimensions

-- One row: one message, parsed and judged; `fault` is '' for a good one. Stores nothing (engine Null).
-- Written by: transactions_parsed_mv. Read by: transactions_mv, quarantine_mv, ledger_mv, each as a block passes.
-- Guarantee: every message of a block is handed to all three views; when one of them throws, none of the block's
-- offsets is committed, and the block comes again.
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
ENGINE = Null;

-- One row: one valid message, enriched with the merchant and the exchange rate known at this moment.
-- Written by: transactions_parsed_mv. Read by: the table transactions. The only place with dictGet.
-- Guarantee: a merchant or rate that is not known gives a pending row with NULL amounts, never a zero and never a loss.
CREATE MATERIALIZED VIEW transactions_mv TO transactions AS
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
WHERE fault = '';

-- One row: one refused message with its reason and its bytes.
-- Written by: transactions_parsed_mv. Read by: the table quarantine.
-- Guarantee: exactly the messages that transactions_mv leaves out.
CREATE MATERIALIZED VIEW quarantine_mv TO quarantine AS
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
WHERE fault != '';

-- One row: what one block read from one partition.
-- Written by: transactions_parsed_mv. Read by: the table ingest_ledger.
-- Guarantee: counts every message read, good or refused, redelivered ones again.
CREATE MATERIALIZED VIEW ledger_mv TO ingest_ledger AS
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
GROUP BY kafka_topic, kafka_partition;

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
FROM transactions_queue;
