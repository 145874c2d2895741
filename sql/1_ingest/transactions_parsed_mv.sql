-- One row: one message, parsed once and judged once, for the three views behind transactions_parsed.
-- Made from: transactions_queue, each block as it passes. Read by: the table transactions_parsed.
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
