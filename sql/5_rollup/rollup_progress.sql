-- One row: one refresh of a roll-up that succeeded, when it began, and up to which time of reading it is complete.
-- Written by: rollup_progress_mv, and `paystream rollup rebuild`. Read by: rollup_state, rollup_progress_mv.
-- Guarantee: never says more than was done. Where rows are missing, more is computed again than need be.
CREATE TABLE rollup_progress
(
    view           LowCardinality(String),
    began_at       DateTime('UTC'),
    complete_until DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree
ORDER BY (view, began_at)
TTL toDateTime(began_at) + INTERVAL 30 DAY
