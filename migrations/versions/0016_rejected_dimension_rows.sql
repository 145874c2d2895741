-- Rejected dimension rows.
-- depends: 0015_dimension_checks

ALTER TABLE dimension_snapshots
    ADD COLUMN IF NOT EXISTS rejected Array(Tuple(place String, key String, cause String));
