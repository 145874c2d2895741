-- One row: one message, taken apart and converted, and called good whatever it holds; NEVER for real payments.
-- Written by: transactions_queue. Read by: the views behind transactions_parsed, in the scratch database of
-- `paystream loadtest drain --compare`, which measures there what sql/1_ingest/transactions_parsed_mv.sql adds to this.
-- Guarantee: a valid message gives the same row as the real view; the comparison checks that.
CREATE MATERIALIZED VIEW transactions_parsed_mv TO transactions_parsed AS
WITH
    JSONExtract(
        message,
        'Tuple(transaction_id UUID, merchant_id UInt32, amount Decimal(18, 4), currency LowCardinality(String), status LowCardinality(String), created_at DateTime64(6, \'UTC\'), updated_at DateTime64(6, \'UTC\'))'
    ) AS field
SELECT
    '' AS fault,

    field.transaction_id AS transaction_id,
    field.merchant_id AS merchant_id,
    field.amount AS amount,
    field.currency AS currency,
    field.status AS status,
    field.created_at AS created_at,
    field.updated_at AS updated_at,

    message,
    _key AS kafka_key,
    _topic AS kafka_topic,
    toUInt32(_partition) AS kafka_partition,
    _offset AS kafka_offset,
    ifNull(_timestamp_ms, toDateTime64(0, 3, 'UTC')) AS kafka_timestamp
FROM transactions_queue
