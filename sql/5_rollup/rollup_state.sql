-- One row: one roll-up: up to which time of reading (ingested_at, or enriched_at of what was repaired) it is complete; 1970
-- before its first refresh. On a cluster one roll-up and shard: each shard computes those of its own payments.
-- Made from: rollup_progress, and from what merchant_slots, merchant_days and volume_hours hold. Read by:
-- merchant_slots_mv, merchant_days_mv, volume_hours_mv and latency_minutes_mv, for what has changed since;
-- rollup_progress_mv; merchant_days_current, merchant_days_by_currency; report_freshness.
-- Guarantee: never later than the truth. What the engine says of its refreshes is gone at a restart; rollup_progress is not.
-- Rows that say they are complete until 1970 are `paystream rollup rebuild`'s and tell nothing of a refresh.
CREATE VIEW rollup_state AS
WITH
    refreshes AS
    (
        SELECT view AS name, toDateTime(assumeNotNull(last_success_time), 'UTC') AS began
        FROM system.view_refreshes
        WHERE database = currentDatabase() AND isNotNull(last_success_time)
    ),
    ifNull((SELECT max(began) FROM refreshes WHERE name = 'merchant_slots_mv'), toDateTime(0, 'UTC')) AS slots_began,
    ifNull((SELECT max(began) FROM refreshes WHERE name = 'merchant_days_mv'), toDateTime(0, 'UTC')) AS days_began,
    ifNull((SELECT max(began) FROM refreshes WHERE name = 'volume_hours_mv'), toDateTime(0, 'UTC')) AS hours_began,
    ifNull((SELECT max(began) FROM refreshes WHERE name = 'latency_minutes_mv'), toDateTime(0, 'UTC')) AS minutes_began
SELECT
    view,
    max(began) AS began_at,
    max(reached) AS complete_until,
    -- A block that was under way when a refresh began shows within a minute: the next one looks back to here.
    max(least(reached, began - INTERVAL 1 MINUTE)) AS settled_until
FROM
(
    SELECT view, began_at AS began, complete_until AS reached
    FROM rollup_progress
    UNION ALL
    -- A refresh with a great deal to do does a part of it, and its rows say how far it came.
    SELECT
        'merchant_slots_mv',
        slots_began,
        least(toDateTime64(slots_began, 3, 'UTC') - INTERVAL 5 SECOND, ifNull((SELECT minOrNull(complete_until) FROM merchant_slots WHERE refreshed_at >= slots_began AND complete_until > toDateTime64(0, 3, 'UTC')), toDateTime64(slots_began, 3, 'UTC')))
    UNION ALL
    -- These add up what merchant_slots held when they began, and their rows say up to when that was complete. Later rows are of
    -- a refresh that is not done yet.
    SELECT
        'merchant_days_mv',
        days_began,
        ifNull((SELECT minOrNull(complete_until) FROM merchant_days WHERE refreshed_at >= days_began AND complete_until > toDateTime64(0, 3, 'UTC')), toDateTime64(0, 3, 'UTC'))
    UNION ALL
    SELECT
        'volume_hours_mv',
        hours_began,
        ifNull((SELECT minOrNull(complete_until) FROM volume_hours WHERE refreshed_at >= hours_began AND complete_until > toDateTime64(0, 3, 'UTC')), toDateTime64(0, 3, 'UTC'))
    UNION ALL
    SELECT 'latency_minutes_mv', minutes_began, toDateTime64(minutes_began, 3, 'UTC') - INTERVAL 5 SECOND
    UNION ALL
    -- A roll-up that was never refreshed has a row too: without it, a shard that has nothing yet would not hold the others back.
    SELECT arrayJoin(['merchant_slots_mv', 'merchant_days_mv', 'volume_hours_mv', 'latency_minutes_mv']), toDateTime(0, 'UTC'), toDateTime64(0, 3, 'UTC')
)
WHERE began > toDateTime(0, 'UTC') OR reached = toDateTime64(0, 3, 'UTC')
GROUP BY view
