-- One row: one minute (UTC, by when the writer handed the rows over) and one topic.
-- Made from: transaction_states. Read by: operators; filter by day.
-- Guarantee: what was delivered again counts again; refused messages are not here. p50_s and so on: seconds from a
-- payment's Kafka timestamp until the writer handed it over, approximate. Until a row can be seen Snowpipe Streaming takes
-- some seconds more, which no row can say.
-- Written by hand: sqlglot knows neither FINAL nor the arrays' arithmetic, and percentiles need no histogram where each row
-- is kept.
CREATE VIEW report_latency_by_minute AS
SELECT
    ingested_at::DATE AS day,
    DATE_TRUNC('minute', ingested_at) AS minute,
    kafka_topic,
    COUNT(*) AS timed,
    COUNT_IF(latency_ms > 300000) AS late,   -- after more than five minutes
    APPROX_PERCENTILE(latency_ms, 0.5) / 1000 AS p50_s,
    APPROX_PERCENTILE(latency_ms, 0.95) / 1000 AS p95_s,
    APPROX_PERCENTILE(latency_ms, 0.99) / 1000 AS p99_s
FROM
(
    -- Clocks that are apart may say that a message was stored before it was sent.
    SELECT kafka_topic, ingested_at, GREATEST(0, DATEDIFF(millisecond, kafka_timestamp, ingested_at)) AS latency_ms
    FROM transaction_states
) AS timed_states
GROUP BY ingested_at::DATE, DATE_TRUNC('minute', ingested_at), kafka_topic
