-- One row: one audit that came to a verdict.
-- Written by: `paystream audit`. Read by: `paystream status`, which says what the last one found and when.
-- Guarantee: none that anything else relies on; an audit whose row could not be written says so, and its verdict stands.
CREATE TABLE audits
(
    audited_at  DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC'),
    kafka_topic LowCardinality(String),
    since       DateTime64(3, 'UTC'),    -- blocks read from then on were audited
    is_deep     Bool,
    verdict     LowCardinality(String),  -- complete, incomplete, recreated, loss
    lost        UInt64,
    expired     UInt64,
    unchecked   UInt64
)
ENGINE = MergeTree
ORDER BY audited_at
TTL toDateTime(audited_at) + INTERVAL 1 YEAR
