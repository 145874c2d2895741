SELECT 'a reload leaves nothing to take back';
SELECT 'a reload leaves nothing to take back';
DROP DICTIONARY IF EXISTS fx_rates_dict SYNC;
DROP DICTIONARY IF EXISTS merchants_dict SYNC;
DROP VIEW IF EXISTS fx_rate_periods SYNC;
DROP TABLE IF EXISTS dimension_snapshots SYNC;
DROP TABLE IF EXISTS fx_rates SYNC;
DROP TABLE IF EXISTS merchants SYNC;
