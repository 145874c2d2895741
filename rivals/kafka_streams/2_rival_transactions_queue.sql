-- One row: one valid payment, judged and enriched by the job; rows exist only while a block passes to the view.
-- Written by: the job, into its topic. Read by: rival_transactions_mv, and by nobody else.
-- Guarantee: each row of a committed transaction at least once: inserted first, offset committed second.
CREATE TABLE rival_transactions_queue
(
    transaction_id         UUID,
    created_at             DateTime64(6, 'UTC'),
    merchant_id            UInt32,
    amount                 Decimal(18, 4),
    currency               LowCardinality(String),
    status                 LowCardinality(String),
    updated_at             DateTime64(6, 'UTC'),

    merchant_name          String,
    merchant_country       LowCardinality(String),
    merchant_category_code LowCardinality(String),
    merchant_snapshot_id   UInt32,

    fx_rate                Nullable(Decimal(38, 12)),
    fx_rate_date           Nullable(Date),
    amount_reporting       Nullable(Decimal(38, 4)),
    reporting_currency     LowCardinality(String),
    fx_snapshot_id         UInt32,
    enrichment_status      LowCardinality(String),

    kafka_topic            LowCardinality(String),   -- these are the payment's own message's, not this topic's
    kafka_partition        UInt32,
    kafka_offset           UInt64,
    kafka_timestamp        DateTime64(3, 'UTC')
)
ENGINE = Kafka(rival_kafka, kafka_topic_list = '{group}-transactions', kafka_group_name = '{group}-clickhouse')
SETTINGS
    kafka_num_consumers = 2,              -- as transactions_queue has it, from here on
    kafka_thread_per_consumer = 1,
    kafka_flush_interval_ms = 100,
    kafka_poll_timeout_ms = 50,
    kafka_consumer_reschedule_ms = 10,
    kafka_poll_max_batch_size = 65536,
    kafka_max_block_size = 262144
