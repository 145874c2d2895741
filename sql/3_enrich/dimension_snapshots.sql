-- One row: one refresh of a dimension that went live.
-- Written by: `paystream dims refresh`. Read by: `paystream dims history`, `paystream status`, and whoever asks which
-- snapshot a transaction was enriched with.
-- Guarantee: append only; snapshot_id rises within a dimension, and rows of the dimension carry it.
CREATE TABLE dimension_snapshots
(
    dimension   LowCardinality(String),
    snapshot_id UInt32,
    source      String,
    checksum    String,                    -- SHA-256 of the source's bytes, hexadecimal
    row_count   UInt64,
    loaded_at   DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC'),
    loaded_by   String,
    source_modified_at Nullable(DateTime64(3, 'UTC')),  -- what the source says of itself; NULL where it says nothing
    forced_gates       Array(LowCardinality(String)),   -- the checks that were overridden with --force
    rejected           Array(Tuple(place String, key String, cause String))  -- rows that were left out of the snapshot
)
ENGINE = MergeTree
ORDER BY (dimension, snapshot_id)
