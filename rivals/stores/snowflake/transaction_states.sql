-- One row: one state of a transaction, as one delivery of its message said; redelivered ones are here again.
-- Written by: a writer that has judged the message as transactions_parsed_mv does, by Snowpipe Streaming, append only.
-- Read by: transactions_current, report_freshness, report_latency_by_minute.
-- Guarantee: at least once. With one channel per Kafka partition and its offset token, exactly once while the channel
-- lives.
-- Mended: sqlglot leaves LowCardinality, DateTime64, CODEC, INDEX, ENGINE and ORDER BY standing, none of which exists here. The
-- columns of enrichment, and `version` with them, are gone: transactions_current enriches when it is read, so nothing is
-- written again.
CREATE TABLE transaction_states
(
    -- key
    transaction_id  VARCHAR(36)      NOT NULL,  -- a UUID as text in lower case: spelt otherwise it would be another payment
    created_at      TIMESTAMP_NTZ(6) NOT NULL,  -- UTC. TIMESTAMP_LTZ would make a payment's day depend on who asks
    merchant_id     NUMBER(10, 0)    NOT NULL,

    -- payment
    amount          NUMBER(18, 4)    NOT NULL,
    currency        VARCHAR(3)       NOT NULL,
    status          VARCHAR          NOT NULL,
    updated_at      TIMESTAMP_NTZ(6) NOT NULL,

    -- provenance
    kafka_topic     VARCHAR          NOT NULL,
    kafka_partition NUMBER(10, 0)    NOT NULL,
    kafka_offset    NUMBER(20, 0)    NOT NULL,
    kafka_timestamp TIMESTAMP_NTZ(3) NOT NULL,
    ingested_at     TIMESTAMP_NTZ(3) NOT NULL   -- the writer's clock when it hands the row over; visible seconds later
)
-- The day first, since reports ask for days; then the merchant. Clustering again what came late is billed.
CLUSTER BY (created_at::DATE, merchant_id)
