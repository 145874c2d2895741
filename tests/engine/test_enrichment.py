"""The merchant and the rate that a transaction is stored with."""

import itertools
import uuid
from datetime import date, timedelta
from decimal import Context, Decimal

import pytest
from ingest import ingest_schema
from payments import message

NEWEST_QUOTE = date(2026, 10, 30)


@pytest.fixture(scope="module")
def ingest(clickhouse_server):
    with ingest_schema(clickhouse_server) as ingest:
        ingest.load_merchants((7, "Corner Café", "AT", "0742"), snapshot_id=3)
        ingest.load_rates(
            ("EUR", "2026-10-01", "1.1"),  # Thursday
            ("EUR", "2026-10-02", "1.2"),  # Friday
            ("EUR", "2026-10-05", "1.3"),  # Monday
            ("EUR", NEWEST_QUOTE.isoformat(), "1.4"),  # 25 days later: a gap
            ("HRK", "2022-12-30", "0.14"),  # withdrawn
            ("IDR", "2026-10-30", "0.000062114285"),
            ("KWD", "2026-10-30", "99999999.999999999999"),  # the largest rate that a refresh accepts
            snapshot_id=5,
        )
        yield ingest


def stored(ingest, columns: str, **fields) -> tuple:
    transaction_id = str(uuid.uuid4())
    ingest.deliver(message(transaction_id=transaction_id, **fields))
    [row] = ingest.rows(
        f"SELECT {columns} FROM transactions_current WHERE transaction_id = {{id:UUID}}", id=transaction_id
    )
    return row


@pytest.mark.parametrize(
    ("day", "rate", "rate_date", "status"),
    [
        ("2026-09-30", None, None, "fx_pending"),  # before the first quote
        ("2026-10-01", "1.1", "2026-10-01", "ok"),
        ("2026-10-02", "1.2", "2026-10-02", "ok"),
        ("2026-10-03", "1.2", "2026-10-02", "ok"),  # Saturday: Friday's, for good, since Monday's is known
        ("2026-10-04", "1.2", "2026-10-02", "ok"),
        ("2026-10-05", "1.3", "2026-10-05", "ok"),
        ("2026-10-15", "1.3", "2026-10-05", "ok"),
        ("2026-10-16", None, None, "fx_pending"),  # eleven days without a quote
        ("2026-10-30", "1.4", "2026-10-30", "ok"),
        ("2026-10-31", "1.4", "2026-10-30", "fx_provisional"),  # the next quote is not known yet
        ("2026-11-20", "1.4", "2026-10-30", "fx_provisional"),
    ],
)
def test_the_rate_of_a_payment_is_the_last_quote_up_to_its_own_day(ingest, day, rate, rate_date, status):
    row = stored(
        ingest,
        "fx_rate, fx_rate_date, enrichment_status, amount_reporting, reporting_currency, fx_snapshot_id",
        created_at=f"{day}T23:59:59.999999Z",
        amount="10",
    )
    assert row == (
        rate and Decimal(rate),
        rate_date and date.fromisoformat(rate_date),
        status,
        rate and Decimal(rate) * 10,
        "USD" if rate else "",
        5 if rate else 0,
    )


@pytest.mark.parametrize("day", ["2019-06-01", "2026-09-30", "2026-10-01", "2026-10-16", "2026-11-20"])
def test_the_reporting_currency_needs_no_quote(ingest, day):
    row = stored(
        ingest,
        "fx_rate, amount_reporting, reporting_currency, enrichment_status, fx_rate_date <= toDate(created_at)",
        currency="USD",
        amount="12.34",
        created_at=f"{day}T12:00:00Z",
    )
    assert row == (1, Decimal("12.34"), "USD", "ok", True)


def test_the_day_is_the_utc_day(ingest):
    row = stored(ingest, "fx_rate_date", created_at="2026-10-03T00:30:00+02:00")
    assert row == (date(2026, 10, 2),)
    row = stored(ingest, "fx_rate_date", created_at="2026-10-01T22:30:00-02:00")
    assert row == (date(2026, 10, 2),)


def test_a_withdrawn_currency_has_no_rate_long_after(ingest):
    assert stored(ingest, "fx_rate, enrichment_status", currency="HRK", created_at="2023-01-05T00:00:00Z") == (
        Decimal("0.14"),
        "ok",
    )
    assert stored(ingest, "fx_rate, enrichment_status", currency="HRK", created_at="2026-10-31T00:00:00Z") == (
        None,
        "fx_pending",
    )


def test_a_currency_never_quoted_is_null_and_never_zero(ingest):
    row = stored(ingest, "fx_rate, fx_rate_date, amount_reporting, enrichment_status", currency="XAF")
    assert row == (None, None, None, "fx_pending")


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        ("1", "0.0001"),
        ("99999999999999.9999", "6211428500"),  # the largest amount times the rate, to four decimals
        ("0.0001", "0"),
    ],
)
def test_small_rates_are_exact_to_the_rounding_rule(ingest, amount, expected):
    product = (Decimal(amount) * Decimal("0.000062114285")).quantize(Decimal("0.0001"), rounding="ROUND_HALF_UP")
    assert product == Decimal(expected)
    row = stored(ingest, "amount_reporting", currency="IDR", amount=amount, created_at="2026-10-30T12:00:00Z")
    assert row == (product,)


def test_the_largest_amount_at_the_largest_rate_does_not_overflow(ingest):
    product = (Decimal("99999999999999.9999") * Decimal("99999999.999999999999")).quantize(
        Decimal("0.0001"), rounding="ROUND_HALF_UP", context=Context(prec=60)
    )
    row = stored(
        ingest,
        "amount_reporting",
        currency="KWD",
        amount="99999999999999.9999",
        created_at="2026-10-30T12:00:00Z",
    )
    assert row == (product,)


@pytest.mark.parametrize(("amount", "expected"), [("0.0005", "0.0006"), ("0.0015", "0.0017"), ("0.0003", "0.0003")])
def test_halves_are_rounded_away_from_zero(ingest, amount, expected):
    # 1.1 * 0.0005 = 0.00055, and 1.1 * 0.0015 = 0.00165
    row = stored(ingest, "amount_reporting", amount=amount, created_at="2026-10-01T12:00:00Z")
    assert row == (Decimal(expected),)


def test_the_row_names_its_merchant_record(ingest):
    columns = "merchant_name, merchant_country, merchant_category_code, merchant_snapshot_id"
    assert stored(ingest, columns, merchant_id=7) == ("Corner Café", "AT", "0742", 3)


def test_an_unknown_merchant_is_stored_and_marked(ingest):
    columns = "merchant_id, merchant_name, merchant_country, merchant_snapshot_id, enrichment_status, amount"
    row = stored(ingest, columns, merchant_id=8, created_at="2026-10-01T12:00:00Z", amount="3.5")
    assert row == (8, "", "", 0, "merchant_pending", Decimal("3.5"))


def test_periods_of_a_currency_never_overlap_and_each_day_has_at_most_one(ingest):
    periods = ingest.rows("SELECT currency, valid_from, valid_to FROM fx_rate_periods ORDER BY currency, valid_from")
    for (currency, _, until), (following, start, _) in itertools.pairwise(periods):
        assert currency != following or until < start
    assert all(until - start >= timedelta(0) for _, start, until in periods)
