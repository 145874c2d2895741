-- One row: one merchant's payments of one day (UTC, by created_at) that is over, once deduplicated (FINAL): an element of
-- `payments` for each currency, status and reporting currency; `provisional` counts those at a rate that will be replaced.
-- `by_currency` is the same without the status: an element for each currency and reporting currency, added up when it is stored.
-- On a cluster each shard has such a row of its own payments; so have the other roll-ups.
-- Written by: merchant_days_mv, and `paystream rollup rebuild`. Read by: merchant_days_current, merchant_days_by_currency,
-- rollup_state, `paystream audit`.
-- Guarantee: a row is the sum of its half hours and replaces the one before it as a whole. Rows of 1970 without payments only say
-- that a refresh was complete, since most have nothing to write.
CREATE TABLE merchant_days
(
    day                  Date,
    merchant_id          UInt32,
    merchant_name        String CODEC(ZSTD(1)),
    merchant_snapshot_id UInt32,
    payments             Array(Tuple(
        currency           LowCardinality(String),
        status             LowCardinality(String),
        reporting_currency LowCardinality(String),
        transactions       UInt64,
        provisional        UInt64,
        amount             Decimal(38, 4),
        amount_reporting   Decimal(38, 4))),
    by_currency          Array(Tuple(
        currency               LowCardinality(String),
        reporting_currency     LowCardinality(String),
        transactions           UInt64,
        authorized             UInt64,
        captured               UInt64,
        settled                UInt64,
        refunded               UInt64,
        charged_back           UInt64,
        failed                 UInt64,
        provisional            UInt64,
        authorized_amount      Decimal(38, 4),
        net                    Decimal(38, 4),
        refunds                Decimal(38, 4),
        charge_backs           Decimal(38, 4),
        net_reporting          Decimal(38, 4),
        refunds_reporting      Decimal(38, 4),
        charge_backs_reporting Decimal(38, 4)))
        MATERIALIZED arrayMap(
            own -> (
                own.currency[1],
                own.reporting_currency[1],
                arraySum(own.transactions),
                arraySum(p -> if(p.status = 'authorized', p.transactions, 0), own),
                arraySum(p -> if(p.status = 'captured', p.transactions, 0), own),
                arraySum(p -> if(p.status = 'settled', p.transactions, 0), own),
                arraySum(p -> if(p.status = 'refunded', p.transactions, 0), own),
                arraySum(p -> if(p.status = 'charged_back', p.transactions, 0), own),
                arraySum(p -> if(p.status = 'failed', p.transactions, 0), own),
                arraySum(own.provisional),
                arraySum(p -> if(p.status = 'authorized', p.amount, 0), own),
                arraySum(p -> if(p.status IN ('captured', 'settled'), p.amount, 0), own),
                arraySum(p -> if(p.status = 'refunded', p.amount, 0), own),
                arraySum(p -> if(p.status = 'charged_back', p.amount, 0), own),
                arraySum(p -> if(p.status IN ('captured', 'settled'), p.amount_reporting, 0), own),
                arraySum(p -> if(p.status = 'refunded', p.amount_reporting, 0), own),
                arraySum(p -> if(p.status = 'charged_back', p.amount_reporting, 0), own)),
            arrayMap(
                pair -> arrayFilter(p -> p.currency = pair.1 AND p.reporting_currency = pair.2, payments),
                arrayDistinct(arrayMap(p -> (p.currency, p.reporting_currency), payments)))),
    refreshed_at         DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    complete_until       DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),

    INDEX lately (refreshed_at, complete_until) TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(refreshed_at)
PARTITION BY toYYYYMM(day)
ORDER BY (day, merchant_id)
TTL toDateTime(refreshed_at) + INTERVAL 1 DAY DELETE WHERE day = toDate(0)
