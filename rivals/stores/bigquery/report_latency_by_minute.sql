-- One row: one minute (UTC, by when the writer handed the rows over) and one topic.
-- Made from: transaction_states. Read by: operators; filter by day. Partitions are by created_at, so it reads these columns
-- of all that is kept, whatever the day: not for a dashboard.
-- Guarantee: what was delivered again counts again; refused messages are not here. p50_s and so on: seconds from a
-- payment's Kafka timestamp until the writer handed it over, approximate. What is acknowledged after that can be seen at
-- once.
-- Written by hand: sqlglot knows neither FINAL nor the arrays' arithmetic, and percentiles need no histogram where each row
-- is kept.
CREATE VIEW paystream.report_latency_by_minute AS
SELECT
    DATE(ingested_at) AS day,
    TIMESTAMP_TRUNC(ingested_at, MINUTE) AS minute,
    kafka_topic,
    COUNT(*) AS timed,
    COUNTIF(latency_ms > 300000) AS late,   -- after more than five minutes
    APPROX_QUANTILES(latency_ms, 100)[OFFSET(50)] / 1000 AS p50_s,
    APPROX_QUANTILES(latency_ms, 100)[OFFSET(95)] / 1000 AS p95_s,
    APPROX_QUANTILES(latency_ms, 100)[OFFSET(99)] / 1000 AS p99_s
FROM
(
    -- Clocks that are apart may say that a message was stored before it was sent.
    SELECT kafka_topic, ingested_at, GREATEST(0, TIMESTAMP_DIFF(ingested_at, kafka_timestamp, MILLISECOND)) AS latency_ms
    FROM paystream.transaction_states
) AS timed_states
GROUP BY DATE(ingested_at), TIMESTAMP_TRUNC(ingested_at, MINUTE), kafka_topic
