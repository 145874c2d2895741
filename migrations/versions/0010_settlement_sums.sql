-- Settlement sums.
-- depends: 0009_rollups

ALTER TABLE merchant_days
    ADD COLUMN by_currency Array(Tuple(
        currency LowCardinality(String),
        reporting_currency LowCardinality(String),
        transactions UInt64,
        authorized UInt64,
        captured UInt64,
        settled UInt64,
        refunded UInt64,
        charged_back UInt64,
        failed UInt64,
        provisional UInt64,
        authorized_amount Decimal(38, 4),
        net Decimal(38, 4),
        refunds Decimal(38, 4),
        charge_backs Decimal(38, 4),
        net_reporting Decimal(38, 4),
        refunds_reporting Decimal(38, 4),
        charge_backs_reporting Decimal(38, 4))) MATERIALIZED arrayMap(own -> (own.currency[1], own.reporting_currency[1], arraySum(own.transactions), arraySum(p -> if(p.status = 'authorized', p.transactions, 0), own), arraySum(p -> if(p.status = 'captured', p.transactions, 0), own), arraySum(p -> if(p.status = 'settled', p.transactions, 0), own), arraySum(p -> if(p.status = 'refunded', p.transactions, 0), own), arraySum(p -> if(p.status = 'charged_back', p.transactions, 0), own), arraySum(p -> if(p.status = 'failed', p.transactions, 0), own), arraySum(own.provisional), arraySum(p -> if(p.status = 'authorized', p.amount, 0), own), arraySum(p -> if((p.status IN ('captured', 'settled')), p.amount, 0), own), arraySum(p -> if(p.status = 'refunded', p.amount, 0), own), arraySum(p -> if(p.status = 'charged_back', p.amount, 0), own), arraySum(p -> if((p.status IN ('captured', 'settled')), p.amount_reporting, 0), own), arraySum(p -> if(p.status = 'refunded', p.amount_reporting, 0), own), arraySum(p -> if(p.status = 'charged_back', p.amount_reporting, 0), own)), arrayMap(pair -> arrayFilter(p -> ((p.currency = (pair.1)) AND (p.reporting_currency = (pair.2))), payments), arrayDistinct(arrayMap(p -> (p.currency, p.reporting_currency), payments)))) AFTER payments;

-- For what is stored already, where it is computed at each read until then.
ALTER TABLE merchant_days MATERIALIZE COLUMN by_currency;

-- One row: one merchant, one day (UTC, by created_at), one currency and one reporting currency ('' where no rate is known
-- yet): how many of its payments are in each status, and what they come to.
-- Written by: nobody (a view). Read by: report_settlement_by_day, report_merchant_ranking.
-- Guarantee: as merchant_days_current. `net` is captured and settled; `…_reporting` is in the reporting currency, 0 without a rate.
CREATE VIEW merchant_days_by_currency AS
WITH (SELECT toDate(max(began_at)) FROM rollup_state WHERE view = 'merchant_days_mv') AS first_open_day
SELECT
    day,
    merchant_id,
    merchant_name,
    b.currency AS currency,
    b.reporting_currency AS reporting_currency,
    b.transactions AS transactions,
    b.authorized AS authorized,
    b.captured AS captured,
    b.settled AS settled,
    b.refunded AS refunded,
    b.charged_back AS charged_back,
    b.failed AS failed,
    b.provisional AS provisional,
    b.authorized_amount AS authorized_amount,
    b.net AS net,
    b.refunds AS refunds,
    b.charge_backs AS charge_backs,
    b.net_reporting AS net_reporting,
    b.refunds_reporting AS refunds_reporting,
    b.charge_backs_reporting AS charge_backs_reporting
FROM merchant_days FINAL
ARRAY JOIN by_currency AS b
WHERE day < first_open_day
UNION ALL
SELECT
    toDate(slot) AS day,
    merchant_id,
    -- The same for all of a merchant's day.
    argMax(argMax(merchant_name, merchant_snapshot_id), max(merchant_snapshot_id)) OVER (PARTITION BY day, merchant_id) AS merchant_name,
    p.currency AS currency,
    p.reporting_currency AS reporting_currency,
    sum(p.transactions) AS transactions,
    sumIf(p.transactions, p.status = 'authorized') AS authorized,
    sumIf(p.transactions, p.status = 'captured') AS captured,
    sumIf(p.transactions, p.status = 'settled') AS settled,
    sumIf(p.transactions, p.status = 'refunded') AS refunded,
    sumIf(p.transactions, p.status = 'charged_back') AS charged_back,
    sumIf(p.transactions, p.status = 'failed') AS failed,
    sumIf(p.transactions, p.enrichment_status = 'fx_provisional') AS provisional,
    sumIf(p.amount, p.status = 'authorized') AS authorized_amount,
    sumIf(p.amount, p.status IN ('captured', 'settled')) AS net,
    sumIf(p.amount, p.status = 'refunded') AS refunds,
    sumIf(p.amount, p.status = 'charged_back') AS charge_backs,
    sumIf(p.amount_reporting, p.status IN ('captured', 'settled')) AS net_reporting,
    sumIf(p.amount_reporting, p.status = 'refunded') AS refunds_reporting,
    sumIf(p.amount_reporting, p.status = 'charged_back') AS charge_backs_reporting
FROM merchant_slots FINAL
ARRAY JOIN payments AS p
WHERE toDate(slot) >= first_open_day
GROUP BY day, merchant_id, currency, reporting_currency
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- One row: one merchant and reporting currency, over the days (UTC) from first_day to last_day.
-- Written by: nobody (a view). Read by: analytics. Parameters: first_day and last_day, both included.
-- Guarantee: as report_merchant_by_day; merchants of equal net share a place. Payments without a
-- rate are in no place: report_pending_by_day has them.
CREATE OR REPLACE VIEW report_merchant_ranking AS
SELECT
    rank() OVER (PARTITION BY reporting_currency ORDER BY net_reporting DESC) AS place,
    merchant_id,
    merchant_name,
    reporting_currency,
    transactions,
    net_reporting,
    assumeNotNull(complete_until) AS complete_until
FROM
(
    SELECT
        merchant_id,
        argMax(merchant_name, day) AS merchant_name,
        reporting_currency,
        sum(d.transactions) AS transactions,
        sum(d.net_reporting) AS net_reporting,
        (SELECT any(complete_until) FROM report_freshness WHERE report = 'report_merchant_ranking') AS complete_until
    FROM merchant_days_by_currency AS d
    WHERE day BETWEEN {first_day:Date} AND {last_day:Date} AND reporting_currency != ''
    GROUP BY merchant_id, reporting_currency
)
ORDER BY reporting_currency, place, merchant_id;

-- One row: one merchant, one day (UTC, by created_at), one currency and one reporting currency ('' where no rate is known yet).
-- Written by: nobody (a view). Read by: finance, to settle with merchants; filter by day, and by merchant_id to read little.
-- Guarantee: as report_merchant_by_day, of which it is the sum. `gross` is what was taken, also where it went back later:
-- captured, settled, refunded and charged back; `net` is what is left: gross - refunds - charge_backs. Authorized payments
-- are not taken yet, failed ones never. `…_reporting`: in the reporting currency, NULL without a rate.
CREATE OR REPLACE VIEW report_settlement_by_day AS
WITH (SELECT any(complete_until) FROM report_freshness WHERE report = 'report_settlement_by_day') AS reached
SELECT
    day,
    merchant_id,
    merchant_name,
    currency,
    reporting_currency,

    transactions,
    authorized,
    captured,
    settled,
    refunded,
    charged_back,
    failed,

    authorized_amount,
    net + refunds + charge_backs AS gross,
    refunds,
    charge_backs,
    net,

    if(reporting_currency = '', NULL, s.net_reporting + s.refunds_reporting + s.charge_backs_reporting) AS gross_reporting,
    if(reporting_currency = '', NULL, s.refunds_reporting) AS refunds_reporting,
    if(reporting_currency = '', NULL, s.charge_backs_reporting) AS charge_backs_reporting,
    if(reporting_currency = '', NULL, s.net_reporting) AS net_reporting,

    provisional AS transactions_with_provisional_rate,
    assumeNotNull(reached) AS complete_until
FROM merchant_days_by_currency AS s;
