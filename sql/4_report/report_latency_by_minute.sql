-- One row: one minute (UTC, by when ClickHouse read the messages) and one topic.
-- Made from: latency_minutes. Read by: operators and the head of data; filter by minute, a DateTime, or by day.
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
