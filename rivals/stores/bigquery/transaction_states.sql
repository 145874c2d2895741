-- One row: one state of a transaction, as one delivery of its message said; redelivered ones are here again.
-- Written by: a writer that has judged the message as transactions_parsed_mv does, by the Storage Write API, append only.
-- Read by: transactions_current, report_freshness, report_latency_by_minute.
-- Guarantee: at least once on the default stream. A stream of its own per Kafka partition, with offsets, is exactly once.
-- Mended: sqlglot leaves LowCardinality, DateTime64, CODEC, INDEX, ENGINE and ORDER BY standing, none of which exists here. The
-- columns of enrichment, and `version` with them, are gone: transactions_current enriches when it is read, so nothing is
-- written again.
CREATE TABLE paystream.transaction_states
(
    -- key
    transaction_id  STRING         NOT NULL,  -- a UUID as text in lower case: spelt otherwise it would be another payment
    created_at      TIMESTAMP      NOT NULL,  -- microseconds, UTC
    merchant_id     INT64          NOT NULL,

    -- payment
    amount          NUMERIC(18, 4) NOT NULL,
    currency        STRING         NOT NULL,
    status          STRING         NOT NULL,
    updated_at      TIMESTAMP      NOT NULL,

    -- provenance
    kafka_topic     STRING         NOT NULL,
    kafka_partition INT64          NOT NULL,
    kafka_offset    INT64          NOT NULL,
    kafka_timestamp TIMESTAMP      NOT NULL,
    ingested_at     TIMESTAMP      NOT NULL   -- the writer's clock when it hands the row over
)
-- By day, since reports ask for days: 96 months are 2,900 partitions of the 10,000 that a table may have.
PARTITION BY DATE(created_at)
CLUSTER BY merchant_id, transaction_id
