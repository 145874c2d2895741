ALTER TABLE ledger_mv MODIFY QUERY
WITH
    now64(3) AS stored_at,
    (fault = '') AND (kafka_timestamp > toDateTime64(0, 3, 'UTC')) AS is_timed,
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
    kafka_partition;
