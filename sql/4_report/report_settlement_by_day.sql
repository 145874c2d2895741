-- One row: one merchant, one day (UTC, by created_at), one currency and one reporting currency ('' where no rate is known yet).
-- Made from: merchant_days_by_currency. Read by: finance, to settle with each merchant; filter by day, and by merchant_id
-- to read little.
-- Guarantee: as report_merchant_by_day, of which it is the sum. `gross` is what was taken, also where it went back later:
-- captured, settled, refunded and charged back; `net` is what is left: gross - refunds - charge_backs. Authorized payments
-- are not taken yet, failed ones never. `…_reporting`: in the reporting currency, NULL without a rate.
CREATE VIEW report_settlement_by_day AS
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
FROM merchant_days_by_currency AS s
