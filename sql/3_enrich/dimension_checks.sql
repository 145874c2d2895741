-- One row: one time that a dimension's source was looked at and found to be what serves already.
-- Written by: `paystream dims refresh`. Read by: `paystream status`, to which an unchanged file is a sign of life too.
-- Guarantee: none that anything else relies on; forgotten after 90 days.
CREATE TABLE dimension_checks
(
    dimension   LowCardinality(String),
    snapshot_id UInt32,
    checked_at  DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
)
ENGINE = MergeTree
ORDER BY (dimension, checked_at)
TTL toDateTime(checked_at) + INTERVAL 90 DAY
