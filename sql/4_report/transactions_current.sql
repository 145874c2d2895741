-- One row: one transaction in its newest state.
-- Made from: transactions. Read by: analysts who want single payments, and the load test's checks; reports read the
-- roll-ups.
-- Guarantee: deduplicated at the moment of reading, before and after merges.
CREATE VIEW transactions_current AS
SELECT *
FROM transactions FINAL
-- Parts of two partitions never hold the same key, since created_at is part of it; so each can be merged by itself.
SETTINGS do_not_merge_across_partitions_select_final = 1
