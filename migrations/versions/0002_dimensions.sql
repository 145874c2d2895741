-- What transactions are enriched with: merchants and exchange rates, and the dictionaries over them.
-- depends: 0001_store

-- One row: one merchant, as of the newest snapshot.
-- Written by: `paystream dims refresh merchants`, which replaces the whole table at once. Read by: merchants_dict.
-- Guarantee: one snapshot, never a mix of two.
CREATE TABLE merchants
(
    merchant_id   UInt32,
    merchant_name String,
    country       LowCardinality(String),  -- ISO 3166-1 alpha-2
    category_code LowCardinality(String),  -- ISO 18245, four digits
    snapshot_id   UInt32
)
ENGINE = MergeTree
ORDER BY merchant_id;

-- One row: the rate that one currency was quoted at on one day: units of reporting_currency for one unit of currency.
-- Written by: `paystream dims refresh fx`, which replaces the whole table at once. Read by: fx_rates_dict.
-- Guarantee: one snapshot, never a mix of two; no row for a day without a quote.
CREATE TABLE fx_rates
(
    currency           LowCardinality(String),  -- ISO 4217
    rate_date          Date,
    rate               Decimal(38, 12),
    reporting_currency LowCardinality(String),
    snapshot_id        UInt32
)
ENGINE = MergeTree
ORDER BY (currency, rate_date);

-- One row: one refresh of a dimension that went live.
-- Written by: `paystream dims refresh`. Read by: whoever asks which snapshot a transaction was enriched with.
-- Guarantee: append only; snapshot_id rises within a dimension, and rows of the dimension carry it.
CREATE TABLE dimension_snapshots
(
    dimension   LowCardinality(String),
    snapshot_id UInt32,
    source      String,
    checksum    String,                    -- SHA-256 of the source's bytes, hexadecimal
    row_count   UInt64,
    loaded_at   DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC'),
    loaded_by   String
)
ENGINE = MergeTree
ORDER BY (dimension, snapshot_id);

-- One row: one quote of one currency and the days it holds for, from its own day until the day before the next quote.
-- Written by: nobody (a view). Read by: fx_rates_dict, which holds it in memory.
-- Guarantee: the periods of a currency never overlap. The last quote of a currency still quoted holds without end
-- and is marked is_latest; a gap or a withdrawal ends a quote after 10 days (the longest gap of the European Central
-- Bank's calendar is 5, over Easter or Christmas), so that no rate is silently years old.
CREATE VIEW fx_rate_periods AS
SELECT
    currency,
    rate_date AS valid_from,
    multiIf(
        next_rate_date > rate_date, least(next_rate_date - 1, rate_date + 10),
        rate_date + 10 >= newest_rate_date, toDate('2149-06-06'),
        rate_date + 10
    ) AS valid_to,
    rate,
    rate_date,
    -- The reporting currency in itself is 1 on every day: nothing about it is provisional.
    next_rate_date <= rate_date AND rate_date + 10 >= newest_rate_date AND currency != reporting_currency AS is_latest,
    reporting_currency,
    snapshot_id
FROM
(
    SELECT
        *,
        leadInFrame(rate_date) OVER (PARTITION BY currency ORDER BY rate_date ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS next_rate_date,
        max(rate_date) OVER () AS newest_rate_date
    FROM fx_rates
);

-- One entry: one merchant, by merchant_id.
-- Loaded from: merchants. Read by: transactions_mv.
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
LIFETIME(0);

-- One entry: one quote of one currency, found by any day it holds for.
-- Loaded from: fx_rate_periods. Read by: transactions_mv.
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
LIFETIME(0);

-- A dictionary that never loaded makes dictGet throw, and that would stop ingest: load it now, empty as it is.
SYSTEM RELOAD DICTIONARY merchants_dict;

SYSTEM RELOAD DICTIONARY fx_rates_dict;
