-- One row: one refused message with its reason and its bytes.
-- Made from: rival_quarantine_queue, each block as it passes. Read by: the table quarantine.
-- Guarantee: adds the time of the insert, and nothing else.
CREATE MATERIALIZED VIEW rival_quarantine_mv TO quarantine AS
SELECT *, now64(3) AS quarantined_at
FROM rival_quarantine_queue
