-- One row: one minute in which blocks have been read since the last refresh.
-- Made from: ingest_ledger, every 40 seconds. Read by: the table latency_minutes.
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
SETTINGS
    aggregate_functions_null_for_empty = 0,   -- whatever the profile says, which a refresh runs under
    max_threads = 1,
    os_threads_nice_value_query = 15
