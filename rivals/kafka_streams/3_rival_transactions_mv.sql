-- One row: one valid payment, as the job has enriched it.
-- Made from: rival_transactions_queue, each block as it passes. Read by: the table transactions.
-- Guarantee: adds the time of the insert, and nothing else.
CREATE MATERIALIZED VIEW rival_transactions_mv TO transactions AS
SELECT *, now64(3) AS ingested_at
FROM rival_transactions_queue
