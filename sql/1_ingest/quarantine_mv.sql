-- One row: one refused message with its reason and its bytes.
-- Made from: transactions_parsed, each block as it passes. Read by: the table quarantine.
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
WHERE fault != ''
