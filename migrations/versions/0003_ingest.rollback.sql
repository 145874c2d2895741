DROP VIEW IF EXISTS transactions_parsed_mv SYNC;
DROP TABLE IF EXISTS transactions_queue SYNC;
DROP VIEW IF EXISTS ledger_mv SYNC;
DROP VIEW IF EXISTS quarantine_mv SYNC;
DROP VIEW IF EXISTS transactions_mv SYNC;
DROP TABLE IF EXISTS transactions_parsed SYNC;
