DROP VIEW IF EXISTS transactions_to_repair SYNC;
DROP TABLE IF EXISTS repaired_days SYNC;
CREATE OR REPLACE VIEW transactions_current AS
SELECT *
FROM transactions FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1;
ALTER TABLE transactions CLEAR INDEX IF EXISTS pending;
ALTER TABLE transactions DROP INDEX IF EXISTS pending, DROP COLUMN IF EXISTS enriched_at;
CREATE OR REPLACE VIEW transactions_current AS
SELECT *
FROM transactions FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1;
DROP TABLE IF EXISTS fx_rates_history SYNC;
DROP TABLE IF EXISTS merchants_history SYNC;
ALTER TABLE dimension_snapshots DROP COLUMN IF EXISTS source_modified_at, DROP COLUMN IF EXISTS forced_gates;
