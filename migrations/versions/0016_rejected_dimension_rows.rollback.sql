ALTER TABLE dimension_snapshots DROP COLUMN IF EXISTS rejected;
