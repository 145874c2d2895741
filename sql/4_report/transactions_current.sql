-- One row: one transaction in its newest state.
-- Written by: nobody (a view). Read by: everyone; every report is built on it.
-- Guarantee: deduplicated at the moment of reading, before and after merges.
CREATE VIEW transactions_current AS
SELECT *
FROM transactions FINAL
-- Parts of two partitions never hold the same key, since created_at is part of it; so each can be merged by itself.
SETTINGS do_not_merge_across_partitions_select_final = 1
