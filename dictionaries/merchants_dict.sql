-- One entry: one merchant, by merchant_id.
-- Loaded from: merchants. Read by: transactions_mv, transactions_to_repair.
-- Guarantee: changes only when `paystream dims refresh merchants` reloads it; an empty table loads as empty.
CREATE DICTIONARY merchants_dict
(
    merchant_id   UInt32,
    merchant_name String,
    country       String,
    category_code String,
    snapshot_id   UInt32
)
PRIMARY KEY merchant_id
-- The user that the tooling has, from a named collection that `paystream migrate up` keeps equal to the settings.
SOURCE(CLICKHOUSE(NAME paystream_dictionaries TABLE 'merchants'))
LAYOUT(HASHED())
LIFETIME(0)
