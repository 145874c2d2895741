-- Times that cannot be.
-- depends: 0013_the_reporting_currency_needs_no_quote

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
GROUP BY kafka_topic, kafka_partition;
