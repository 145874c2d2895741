DROP VIEW IF EXISTS report_merchant_by_day SYNC;
DROP VIEW IF EXISTS transactions_current SYNC;
