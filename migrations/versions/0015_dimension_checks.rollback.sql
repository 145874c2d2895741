DROP TABLE IF EXISTS dimension_checks SYNC;
