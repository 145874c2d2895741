-- One row: one report: up to which time of reading it is complete. What was read later is in it soon, usually within a minute.
-- Made from: rollup_state. Read by: the other reports (report_*), `paystream report`, `paystream status`.
-- Guarantee: never later than the truth; 1970 before the first refresh. On a cluster that of the shard that is furthest behind.
CREATE VIEW report_freshness AS
WITH
    (
        SELECT
            (
                minIf(complete_until, view IN ('merchant_slots_mv', 'merchant_days_mv')),
                minIf(complete_until, view = 'volume_hours_mv'),
                minIf(complete_until, view = 'latency_minutes_mv')
            )
        FROM rollup_state
    ) AS reached,
    assumeNotNull(reached.1) AS merchants,
    assumeNotNull(reached.2) AS hours,
    assumeNotNull(reached.3) AS minutes
SELECT
    said.1 AS report,
    said.2 AS complete_until
FROM
(
    SELECT arrayJoin(
    [
        ('report_merchant_by_day', merchants),
        ('report_settlement_by_day', merchants),
        ('report_merchant_ranking', merchants),
        ('report_volume_by_hour', hours),
        ('report_currency_exposure_by_day', hours),
        ('report_pending_by_day', hours),
        ('report_latency_by_minute', minutes)
    ]) AS said
)
