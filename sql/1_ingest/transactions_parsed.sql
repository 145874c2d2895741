-- One row: one message, parsed and judged; `fault` is '' for a good one. Stores nothing (engine Null).
-- Written by: transactions_parsed_mv. Read by: transactions_mv, quarantine_mv, ledger_mv, each as a block passes.
-- Guarantee: every message of a block is handed to all three views; when one of them throws, none of the block's
-- offsets is committed, and the block comes again.
CREATE TABLE transactions_parsed
(
    -- verdict
    fault           LowCardinality(String),
    -- the message's fields, meaningful only where fault = ''
    transaction_id  UUID,
    merchant_id     UInt32,
    amount          Decimal(18, 4),
    currency        LowCardinality(String),
    status          LowCardinality(String),
    created_at      DateTime64(6, 'UTC'),
    updated_at      DateTime64(6, 'UTC'),
    -- provenance
    message         String,
    kafka_key       String,
    kafka_topic     LowCardinality(String),
    kafka_partition UInt32,
    kafka_offset    UInt64,
    kafka_timestamp DateTime64(3, 'UTC')
)
ENGINE = Null
