-- One row: one day of payments (by created_at) as a repair left it, once deduplicated (FINAL).
-- Written by: `paystream dims repair`, once all of a day's rows agree with the dictionaries. Read by: the next
-- `paystream dims repair`, which looks only at days whose dimensions have changed since.
-- Guarantee: none that anything else relies on. Without a row a day is looked at again, which changes nothing it need not.
CREATE TABLE repaired_days
(
    day                   Date,
    rates_hash            UInt64,                -- of the rates that hold on the day, in fx_rates_dict
    fx_snapshot_id        UInt32,                -- of fx_rates_dict; a later one that came and went may have left rates
    merchants_snapshot_id UInt32,                -- late merchants up to this snapshot have been filled in
    restated_snapshot_id  UInt32,                -- changed merchants up to this one have been restated; 0: never
    repaired_at           DateTime64(3, 'UTC')   -- when the repair began
)
ENGINE = ReplacingMergeTree(repaired_at)
ORDER BY day
