DROP TABLE IF EXISTS quarantine_replays SYNC;
