-- One row: one refused message with its reason and its bytes; rows exist only while a block passes to the view.
-- Written by: the job, into its topic. Read by: rival_quarantine_mv, and by nobody else.
-- Guarantee: each row of a committed transaction at least once: inserted first, offset committed second.
CREATE TABLE rival_quarantine_queue
(
    reason          LowCardinality(String),
    raw_message     String,
    kafka_key       String,
    kafka_topic     LowCardinality(String),
    kafka_partition UInt32,
    kafka_offset    UInt64,
    kafka_timestamp DateTime64(3, 'UTC')
)
ENGINE = Kafka(rival_kafka, kafka_topic_list = '{group}-refused', kafka_group_name = '{group}-clickhouse-refused')
SETTINGS
    kafka_flush_interval_ms = 1000,       -- few rows, that nobody waits for: one small part a second
    kafka_poll_timeout_ms = 100,
    kafka_consumer_reschedule_ms = 100
