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
GROUP BY kafka_topic, kafka_partition
