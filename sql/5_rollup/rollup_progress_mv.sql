-- One row: how far one roll-up has come.
-- Made from: rollup_state, every 40 seconds. Read by: the table rollup_progress.
-- Guarantee: as rollup_state; it is there so that the restart of a server does not cost a computation of everything.
CREATE MATERIALIZED VIEW rollup_progress_mv
REFRESH EVERY 40 SECOND OFFSET 20 SECOND APPEND TO rollup_progress AS
SELECT view, began_at, complete_until
FROM rollup_state
WHERE began_at > toDateTime(0, 'UTC') AND (view, began_at) NOT IN (SELECT view, began_at FROM rollup_progress)
