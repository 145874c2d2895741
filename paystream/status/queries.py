"""What `paystream status` asks ClickHouse. No question reads more when more is stored, only when more came lately.

A column is named after the field of ``state`` that takes it. On a cluster each node is asked the same of its own share.
"""

import re


def of_share(query: str) -> str:
    """Return a question as a node of a cluster is asked it: about its own share of the rows, in ``NAME_local``."""
    # Reports are over all shards; what a shard does for them is its roll-ups.
    query = query.replace("FROM report_freshness", "FROM rollup_state")
    return re.sub(r"(FROM |')(ingest_ledger|quarantine|rollup_state|transactions)\b", r"\1\2_local", query)


FLOW = """
SELECT
    sum(messages) AS messages,
    sum(refused) AS refused,
    sum(timed) AS payments,
    sumForEach(latency_histogram) AS histogram
FROM ingest_ledger
WHERE kafka_topic = {topic:String} AND read_at >= now64(3) - toIntervalSecond({window_s:UInt32})
"""

TOTALS = """
SELECT
    sum(timed_payments) AS payments,
    sum(late_payments) AS late,
    if(payments = 0, NULL, minIf(hour, timed_payments > 0)) AS since,
    -- A message that is stamped ahead of time is no newer than its block.
    -- An impossible timestamp says nothing of its age.
    if(
        sum(read) = 0 OR max(newest) <= max(last_read) - INTERVAL 1 YEAR, NULL,
        greatest(0, dateDiff('millisecond', least(max(newest), max(last_read)), now64(3)) / 1000)
    ) AS freshness_s,
    if(sum(read) = 0, NULL, greatest(0, dateDiff('millisecond', max(last_read), now64(3)) / 1000)) AS quiet_s
FROM
(
    SELECT
        toStartOfHour(read_at) AS hour,
        sum(messages) AS read,
        sum(timed) AS timed_payments,
        sum(late) AS late_payments,
        max(last_kafka_timestamp) AS newest,
        max(read_at) AS last_read
    FROM ingest_ledger
    WHERE kafka_topic = {topic:String}
        AND toStartOfHour(read_at) > now() - toIntervalSecond({objective_s:UInt32})
    GROUP BY hour
)
"""
"""From the projection by_hour."""

INGEST_ERROR = """
SELECT if(count() = 0, '', argMax(text, time)) AS error
FROM
(
    SELECT e.1 AS time, e.2 AS text
    FROM system.kafka_consumers
    ARRAY JOIN arrayZip(exceptions.time, exceptions.text) AS e
    WHERE database = currentDatabase() AND table = 'transactions_queue'
        AND e.1 >= now() - toIntervalSecond(60)
)
"""

# A detached table or view is not among the tables. The ledger has a view of its own, so it goes on telling of blocks
# whose payments no view stores.
MISSING = """
SELECT arrayJoin([
    'transactions_queue', 'transactions_parsed', 'transactions_parsed_mv', 'transactions_mv', 'transactions',
    'quarantine_mv', 'quarantine', 'ledger_mv', 'ingest_ledger']) AS name
WHERE name NOT IN (SELECT name FROM system.tables WHERE database = currentDatabase())
"""

REFUSALS = """
SELECT reason, uniqExact(kafka_partition, kafka_offset, kafka_timestamp) AS messages
FROM quarantine
WHERE kafka_topic = {topic:String} AND quarantined_at >= now64(3) - toIntervalSecond({window_s:UInt32})
GROUP BY reason
ORDER BY messages DESC, reason
"""

# Rows are sorted by day and merchant, so that what came in lately is everywhere in a day. But it is in parts that were
# written lately, and of those the small ones, newest first, are what is read: the cost has a bound at any volume.
PENDING = """
SELECT
    countIf(enrichment_status = 'merchant_pending') AS merchant_pending,
    countIf(enrichment_status = 'fx_pending') AS fx_pending,
    count() AS looked_at
FROM transactions
WHERE ingested_at >= now64(3) - toIntervalSecond({window_s:UInt32}) AND kafka_topic = {topic:String}
    AND _part IN
    (
        SELECT name
        FROM
        (
            SELECT name, sum(rows) OVER (ORDER BY modification_time DESC, name) AS read
            FROM system.parts
            WHERE active AND database = currentDatabase() AND table = 'transactions' AND rows <= 1000000
                AND modification_time >= now() - toIntervalSecond({window_s:UInt32})
        )
        WHERE read <= 3000000
    )
"""

DIMENSIONS = """
SELECT
    dimension,
    max(loads.snapshot_id) AS snapshot_id,
    argMax(row_count, loads.snapshot_id) AS rows,
    argMax(loads.loaded_at, loads.snapshot_id) AS loaded_at,
    -- A file that was found to be the one that serves is as good as a new one.
    dateDiff('second', greatest(loaded_at, max(last_check)), now64(3)) / 3600 AS age_hours,
    if(dimension = 'fx', (SELECT max(rate_date) FROM fx_rates), NULL) AS newest_quote,
    argMax(length(loads.rejected), loads.snapshot_id) AS rejected
FROM dimension_snapshots AS loads
LEFT JOIN
(
    SELECT dimension, max(checked_at) AS last_check
    FROM dimension_checks
    GROUP BY dimension
) AS checks USING dimension
GROUP BY dimension
ORDER BY dimension
"""

FAILED_LOADS = """
SELECT 'dictionary' AS kind, name, last_exception AS why
FROM system.dictionaries
WHERE database = currentDatabase() AND last_exception != ''
UNION ALL
SELECT 'view' AS kind, view AS name, exception AS why
FROM system.view_refreshes
WHERE database = currentDatabase() AND exception != ''
"""

PARTS = """
SELECT table, sum(active_parts) AS parts, max(active_parts) AS in_fullest_partition
FROM
(
    SELECT table, partition_id, count() AS active_parts
    FROM system.parts
    WHERE active AND database = currentDatabase()
    GROUP BY table, partition_id
)
WHERE table IN ('transactions', 'ingest_ledger', 'quarantine')
GROUP BY table
ORDER BY table DESC
"""

REPORTS = """
SELECT
    if(reached = 0, NULL, reached) AS complete_until,
    if(reached = 0, NULL, greatest(0, dateDiff('millisecond', reached, now64(3)) / 1000)) AS behind_s
FROM (SELECT min(complete_until) AS reached FROM report_freshness)
"""
"""Of the report that is furthest behind."""

SLOWEST_REPORT = """
SELECT
    replaceOne(table, concat(currentDatabase(), '.report_'), '') AS report,
    query_duration_ms / 1000 AS seconds,
    user,
    event_time AS asked_at
FROM system.query_log
ARRAY JOIN tables AS table
-- A load test alone asks a million times a day: what is quick is left out before anything else is read of it.
PREWHERE query_duration_ms >= 100
WHERE event_date >= today() - 1 AND event_time >= now() - INTERVAL 1 DAY
    AND type = 'QueryFinish' AND query_kind = 'Select' AND is_initial_query
    AND startsWith(table, concat(currentDatabase(), '.report_')) AND NOT endsWith(table, '.report_freshness')
ORDER BY query_duration_ms DESC
LIMIT 1
"""

LAST_AUDIT = """
SELECT
    audited_at,
    dateDiff('second', audited_at, now64(3)) / 3600 AS age_hours,
    verdict,
    dateDiff('second', since, audited_at) / 3600 AS window_hours,
    is_deep,
    lost,
    expired
FROM audits
WHERE kafka_topic = {topic:String}
ORDER BY audited_at DESC
LIMIT 1
"""

NODE = """
SELECT
    (SELECT max(migration_id) FROM _yoyo_migration FINAL WHERE state = 'applied') AS schema,
    count() AS consumers,
    arraySort(groupUniqArrayArray(arrayMap(
        held -> held.2,
        arrayFilter(held -> held.1 = {topic:String}, arrayZip(assignments.topic, assignments.partition_id))
    ))) AS partitions,
    (SELECT argMin(free_space, free_space / total_space) FROM system.disks WHERE total_space > 0) AS disk_free_bytes,
    (SELECT argMin(total_space, free_space / total_space) FROM system.disks WHERE total_space > 0) AS disk_bytes,
    (
        SELECT engine_full
        FROM system.tables
        WHERE database = currentDatabase() AND name = 'transactions_to_shards'
    ) AS sharding
FROM system.kafka_consumers
WHERE database = currentDatabase() AND table = 'transactions_queue'
"""
"""What only a node of a cluster is asked."""
