-- One row: one day of payments (UTC, by created_at) and one partition of a topic: how far what can be seen of it reaches.
-- Made from: transaction_states. Read by: whoever asks how fresh a report is; filter by day, today's for "now".
-- Guarantee: of that day everything up to last_kafka_offset can be seen, if the writer keeps a partition's order. It does
-- not say what still waits in the topic: compare with the broker's offsets.
-- Written by hand: there is no roll-up whose progress could be told, and so no complete_until in the reports.
CREATE VIEW paystream.report_freshness AS
SELECT
    DATE(created_at) AS day,
    kafka_topic,
    kafka_partition,
    COUNT(*) AS states,
    MAX(kafka_offset) AS last_kafka_offset,
    MAX(kafka_timestamp) AS last_kafka_timestamp,
    MAX(ingested_at) AS last_ingested_at
FROM paystream.transaction_states
GROUP BY DATE(created_at), kafka_topic, kafka_partition
