-- How both Kafka tables reach the broker; in a named collection, since only there a table takes librdkafka's own settings.
-- Placeholders, here and in the tables: {brokers}, and {group}, the job's RIVAL_GROUP, which its topics are named by.
CREATE NAMED COLLECTION rival_kafka AS
    kafka_broker_list = '{brokers}',
    kafka_format = 'RowBinary',                      -- the job has encoded the row: half the bytes of JSONEachRow, and nothing to parse
    kafka.isolation_level = 'read_committed',        -- what an ended transaction of the job wrote, and nothing else
    kafka.fetch_wait_max_ms = '20',                  -- the rest as the shipped collection paystream_kafka has it
    kafka.fetch_min_bytes = '30000',
    kafka.fetch_message_max_bytes = '32768',
    kafka.queued_max_messages_kbytes = '16384',
    kafka.fetch_queue_backoff_ms = '100',
    kafka.session_timeout_ms = '6000',
    kafka.heartbeat_interval_ms = '1000',
    kafka.reconnect_backoff_max_ms = '500',
    kafka.topic_metadata_refresh_interval_ms = '5000'
