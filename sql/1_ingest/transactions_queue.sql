-- One row: one Kafka message, as raw bytes; rows exist only while a block passes through to the views.
-- Written by: producers of the topic. Read by: transactions_parsed_mv, and by nobody else (a SELECT would steal messages).
-- Guarantee: at least once. Rows are inserted first, offsets committed second; a crash in between delivers again.
CREATE TABLE transactions_queue
(
    message String
)
-- Broker addresses, credentials, topic, consumer group and librdkafka's own settings: the named collection that
-- `paystream migrate up` keeps equal to the settings, so that nothing of one deployment, and no secret, stands in a file.
ENGINE = Kafka(paystream_kafka)
SETTINGS
    kafka_format = 'RawBLOB',             -- one message is one row whatever its bytes: no parser in between that could stall, skip or coerce
    kafka_num_consumers = 2,              -- the topic has 4 partitions; more consumers than cores only makes smaller blocks
    kafka_thread_per_consumer = 1,        -- consumers parse and insert side by side; without it the catch-up rate is that of one core
    kafka_flush_interval_ms = 100,        -- the latency: a block closes after this long; a shorter one costs more parts
    kafka_poll_timeout_ms = 50,           -- how long one poll may wait; must be well under the flush interval
    kafka_consumer_reschedule_ms = 10,    -- pause between blocks; the default of 500 would be added to every latency
    kafka_poll_max_batch_size = 65536,    -- messages per poll while catching up
    kafka_max_block_size = 262144         -- rows per block while catching up: large parts, few merges
