-- One entry: one quote of one currency, found by any day it holds for.
-- Loaded from: fx_rate_periods. Read by: transactions_mv, transactions_to_repair.
-- Guarantee: a day outside every period has no rate: NULL through dictGetOrNull (a plain dictGet would say zero).
-- Changes only when `paystream dims refresh fx` reloads it.
CREATE DICTIONARY fx_rates_dict
(
    currency           String,
    valid_from         Date,
    valid_to           Date,
    rate               Decimal(38, 12),
    rate_date          Date,
    is_latest          UInt8,
    reporting_currency String,
    snapshot_id        UInt32
)
PRIMARY KEY currency
-- The user that the tooling has, from a named collection that `paystream migrate up` keeps equal to the settings.
SOURCE(CLICKHOUSE(NAME paystream_dictionaries TABLE 'fx_rate_periods'))
LAYOUT(COMPLEX_KEY_RANGE_HASHED())
RANGE(MIN valid_from MAX valid_to)
LIFETIME(0)
