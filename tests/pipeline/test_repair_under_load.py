"""Late merchants and late rates on Apache Kafka, repaired while payments go on arriving."""

from datetime import timedelta

from paystream.audit.reconcile import audit
from paystream.clickhouse import connect
from paystream.loadtest.fault_run import prepare
from paystream.loadtest.repair_run import DAYS, repair_under_load
from paystream.settings import Settings

LATE = 5_000


def test_late_merchants_and_rates_are_repaired_while_payments_arrive(stack: Settings) -> None:
    prepare(stack)
    result = repair_under_load(stack, LATE, 200, print, steady_s=2)
    payments = result.found
    assert (payments.lost, payments.duplicated, payments.unexpected) == (0, 0, 0)
    assert (payments.altered, payments.quarantined) == (0, 0)
    assert payments.wrong_sums == []
    assert result.left == 0
    assert result.repaired >= LATE
    with connect(stack) as client:
        [[days, rows, repaired]] = client.query(
            "SELECT uniqExact(toDate(created_at)), count(), countIf(enrichment_revision > 0) FROM transactions_current"
        ).result_rows
        assert days == DAYS
        assert rows == payments.stored + LATE
        assert repaired >= LATE
        # Each amount is its own times the rate that was loaded for its day, to the rounding rule.
        [[wrong]] = client.query(
            """
            SELECT count()
            FROM transactions_current AS t
            LEFT JOIN fx_rates AS r ON r.currency = t.currency AND r.rate_date = toDate(t.created_at)
            WHERE t.fx_rate != r.rate OR t.fx_rate_date != r.rate_date
                OR abs(t.amount_reporting - t.amount * r.rate) > 0.00005
                OR isNull(t.amount_reporting) OR t.merchant_name = ''
            """
        ).result_rows
        assert wrong == 0
    assert audit(stack, timedelta(hours=1)).verdict == "complete"
