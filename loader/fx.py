"""Exchange rates: reading the European Central Bank's reference rates or a table of one's own."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal
from functools import lru_cache
from typing import Annotated, Any, Literal
from xml.parsers import expat

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from paystream.currencies import of_rates
from paystream.loader.source import Problem, Problems, Source, line
from paystream.loader.tables import check_not_empty, csv_batches, is_markup, read_csv, validate, wrong_width
from paystream.loader.unpack import unpacked

EURO_START = date(1999, 1, 1)

RATE_DECIMALS = 12

RATE_LIMIT = 10**8
"""Rates stay below this: amounts have 14 integer digits and 4 decimals, rates 12 decimals, the product 38 digits."""

LARGEST_CSV_BYTES = 256 * 2**20

FxFormat = Literal["ecb-csv", "ecb-xml", "ecb-data", "plain-csv"]

MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip

# The names of the bank's XML, with expat's separator between namespace and name.
_ENVELOPE = "http://www.gesmes.org/xml/2002-08-01 Envelope"
_CUBE = "http://www.ecb.int/vocabulary/2002-08-01/eurofxref Cube"

# What a series of the bank's data portal must be, of which there are others: daily, against the euro, reference rates.
_SERIES = {"FREQ": "D", "CURRENCY_DENOM": "EUR", "EXR_TYPE": "SP00"}

# Enough digits that rounding twice is rounding once: a quotient of two quotes (24 digits each) that is not halfway
# between two rates is at least 10^-37 away from there, and has at most 24 digits before the point.
_EXACT = Context(prec=100, rounding=ROUND_HALF_EVEN)
_LAST_DECIMAL = Decimal(1).scaleb(-RATE_DECIMALS)


@dataclass(frozen=True)
class Rates:
    """Rates to one reporting currency."""

    columns: dict[str, list[Any]]
    """``currency``, ``rate_date``, ``rate`` and ``reporting_currency``; (currency, rate_date) is distinct."""
    partial: bool
    """True for the bank's daily forms: one day, to be added to the days there are instead of replacing them."""


# A file repeats its days, for each currency of a day at worst.
@lru_cache(maxsize=20_000)
def _parsed_day(text: str) -> date:
    if not re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        raise ValueError
    return date.fromisoformat(text)


def _iso_day(text: str) -> date:
    day = _parsed_day(text)
    if not EURO_START <= day <= datetime.now(UTC).date():
        raise ValueError
    return day


def _ecb_day(text: str) -> date:
    # The daily CSV alone writes its day in English.
    if (english := re.fullmatch("([0-9]{1,2}) ([A-Z][a-z]+) ([0-9]{4})", text)) and english[2] in MONTHS:
        text = f"{english[3]}-{MONTHS.index(english[2]) + 1:02}-{int(english[1]):02}"
    return _iso_day(text)


def _quote(text: str) -> Decimal | None:
    if text == "N/A":
        return None
    if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,12})?", text):
        raise ValueError
    quote = Decimal(text)
    if not quote:
        raise ValueError
    return quote


def _rate(text: str) -> Decimal:
    # Read exactly, whatever a program or a double made of it, and rounded once.
    if not re.fullmatch(r"[0-9]{1,30}(\.[0-9]{1,60})?([eE][+-]?[0-9]{1,2})?", text):
        raise ValueError
    rate = Decimal(text)
    if not 0 < rate < RATE_LIMIT or not (rounded := _EXACT.quantize(rate, _LAST_DECIMAL)):
        raise ValueError
    return rounded


class QuoteColumns(BaseModel):
    """Days of the bank's rates, column by column: what one field must be is its description."""

    days: list[Annotated[date, BeforeValidator(_ecb_day)]] = Field(
        description="a day from 1999-01-01 to today, written YYYY-MM-DD (or 2 January 2024, as the daily file does)"
    )
    per_euro: dict[str, list[Annotated[Decimal | None, BeforeValidator(_quote)]]] = Field(
        description="a positive decimal number (at most 12 digits before and after the point) or N/A"
    )


# Under a name of its own: within the model, "date" is a column.
_Day = Annotated[date, BeforeValidator(_iso_day)]


class RateColumns(BaseModel):
    """Rows of a table of rates, column by column: what one field must be is its description."""

    date: list[_Day] = Field(description="a day from 1999-01-01 to today, written YYYY-MM-DD")
    currency: list[Annotated[str, Field(pattern="^[A-Z]{3}$")]] = Field(
        description="an ISO 4217 currency code of three capital letters"
    )
    rate_to_reporting: list[Annotated[Decimal, BeforeValidator(_rate)]] = Field(
        description="a positive number below 100,000,000 that is not 0 when rounded to 12 decimals"
    )


@dataclass(frozen=True)
class _Quotes:
    """What the bank's file says, as text: one row a day."""

    places: list[int]
    days: list[str]
    per_euro: dict[str, list[str]]
    problems: list[Problem]
    """What is wrong beside days and quotes."""
    rows: int
    """With those that are in ``problems`` only."""
    partial: bool
    day_column: str
    name_place: Callable[[int], str] = line


def read_fx(
    source: Source, reporting_currency: str, format: FxFormat | None = None, allow_unknown_codes: bool = False
) -> Rates:
    """Read exchange rates and convert them to a reporting currency.

    ``ecb-csv`` and ``ecb-xml`` are the European Central Bank's files, daily or history. They quote units of a currency
    per euro, ``N/A`` where there is no quote. The rate of a currency, and of the euro, is units of the reporting
    currency for one unit of it: the reporting currency's quote of that day divided by the currency's, exactly, then
    rounded half to even to 12 decimals. A day on which the reporting currency or the currency is not quoted gives no
    row. ``ecb-data`` is the CSV of the bank's data portal (dataflow EXR, SDMX-CSV: one quote a row), where nothing and
    ``NaN`` are no quote.

    ``plain-csv`` has the columns date, currency and rate_to_reporting in any order and is taken as it is; further
    columns are ignored.

    The reporting currency's own rate is 1, on each day. Any of them may come in a ZIP, as its only CSV.

    Args:
        source: the file.
        reporting_currency: what amounts are converted to.
        format: what it is; by default its content tells.
        allow_unknown_codes: take currencies of three capital letters that ISO 4217 does not know.

    Raises:
        GateFailed: codes that no list has are all that is wrong with the file.
        CheckFailed: the file is refused; the message counts all problems and lists the first twenty.
    """
    plain = unpacked(source, LARGEST_CSV_BYTES)
    check_not_empty(plain)
    match format or _recognized(plain):
        case "plain-csv":
            return Rates(_read_table(plain, reporting_currency, allow_unknown_codes), partial=False)
        case "ecb-xml":
            quotes = _read_xml(plain, allow_unknown_codes)
        case "ecb-csv":
            quotes = _read_ecb_csv(plain, allow_unknown_codes)
        case "ecb-data":
            quotes = _read_ecb_data(plain, allow_unknown_codes)
    return Rates(_converted(plain, quotes, reporting_currency), quotes.partial)


def _recognized(source: Source) -> FxFormat:
    if is_markup(source):
        return "ecb-xml"
    header, _ = read_csv(source, [])
    # Also where the separator is wrong: what is said about it shall be about the format that was meant.
    names = set(re.split("[,;\t|]", ",".join(header)))
    if names >= _SERIES.keys():
        return "ecb-data"
    return "plain-csv" if names & RateColumns.model_fields.keys() else "ecb-csv"


def _read_ecb_csv(source: Source, allow_unknown_codes: bool) -> _Quotes:
    header, rows = read_csv(source, ["Date"])
    # The daily file puts a space after each comma, the history does not: the same mistake may be in its quotes only.
    daily = len(header) > 1 and all(name.startswith(" ") for name in header[1:])
    if daily:
        header = [name.strip(" ") for name in header]
    currencies = _quoted_currencies(source, header)
    problems = [] if allow_unknown_codes else [_unknown(1, name, name) for name in currencies if name not in of_rates()]
    complete: list[tuple[int, list[str]]] = []
    count = 0
    for number, fields in rows:
        count += 1
        if len(fields) == len(header):
            complete.append((number, [field.strip(" ") for field in fields] if daily else fields))
        else:
            problems.append(wrong_width(number, fields, header))
    if not count:
        raise source.refuse("it has a header and no rows", "Fetch it again")
    return _Quotes(
        places=[number for number, _ in complete],
        days=[fields[header.index("Date")] for _, fields in complete],
        per_euro={
            name: [fields[position] for _, fields in complete]
            for position, name in enumerate(header)
            if name in currencies
        },
        problems=problems,
        rows=count,
        partial=daily,
        day_column="Date",
    )


def _read_ecb_data(source: Source, allow_unknown_codes: bool) -> _Quotes:
    problems: list[Problem] = []
    first_lines: dict[str, int] = {}
    quotes: dict[str, dict[str, str]] = {}
    count = 0
    for batch in csv_batches(source, [*_SERIES, "CURRENCY", "TIME_PERIOD", "OBS_VALUE"]):
        count += batch.rows
        problems += batch.problems
        columns = batch.columns
        for row, place in enumerate(batch.places):
            currency, day, quote = (columns[name][row] for name in ("CURRENCY", "TIME_PERIOD", "OBS_VALUE"))
            others = [name for name, value in _SERIES.items() if columns[name][row] != value]
            problems += [Problem(place, name, columns[name][row], f"is not {_SERIES[name]}") for name in others]
            first_lines.setdefault(day, place)
            of_currency = quotes.setdefault(currency, {})
            if not _may_be_quoted(currency):
                problems.append(Problem(place, "CURRENCY", currency, "is not a currency quoted against the euro"))
            elif day in of_currency:
                problems.append(Problem(place, "TIME_PERIOD", day, f"of {currency} is there twice"))
            elif currency not in of_rates() and not allow_unknown_codes and not of_currency:
                problems.append(_unknown(place, "CURRENCY", currency))
            of_currency[day] = "N/A" if quote in ("", "NaN") else quote
    if not count:
        raise source.refuse("it has a header and no rows", "Fetch it again")
    _refuse_cut_off(source)
    days = list(first_lines)
    return _Quotes(
        places=list(first_lines.values()),
        days=days,
        per_euro={
            currency: [of_currency.get(day, "N/A") for day in days]
            for currency, of_currency in quotes.items()
            if _may_be_quoted(currency)
        },
        problems=problems,
        rows=count,
        partial=len(days) == 1,
        day_column="TIME_PERIOD",
    )


def _quoted_currencies(source: Source, header: list[str]) -> list[str]:
    # The bank ends each line with a comma: one more column, without a name.
    names = [name for name in header if name != "Date"]
    currencies = names[:-1] if names and not names[-1] else names
    wrong = [name for name in currencies if not _may_be_quoted(name)]
    if wrong:
        shown = ", ".join(repr(name[:40]) for name in wrong[:10]) + ", ..." * (len(wrong) > 10)
        raise source.refuse(f"these columns are no currencies quoted against the euro: {shown}")
    repeated = sorted({name for name in currencies if currencies.count(name) > 1})
    if repeated:
        raise source.refuse(f"the header names {', '.join(repeated)} more than once")
    if not currencies:
        raise source.refuse("the header names no currency")
    return currencies


def _may_be_quoted(name: str) -> bool:
    return name != "EUR" and re.fullmatch("[A-Z]{3}", name) is not None


def _unknown(place: int, column: str, name: str) -> Problem:
    return Problem(place, column, name, f"is not {RateColumns.model_fields['currency'].description}", True)


def _read_xml(source: Source, allow_unknown_codes: bool) -> _Quotes:
    """Read ``Envelope > Cube > Cube time > Cube currency rate``; whatever else is in it is passed over."""
    if re.search(rb"<!doctype html|<html", source.data[:1000], re.IGNORECASE):
        raise source.refuse("the file is an HTML page instead of exchange rates", "Check where it was fetched from")
    parser = expat.ParserCreate(namespace_separator=" ")
    lines: list[int] = []
    days: list[str] = []
    quotes: list[dict[str, str]] = []
    problems: list[Problem] = []
    open_elements: list[bool] = []  # whether each of them is a day

    def doctype(*_: object) -> None:
        # Entities are declared there: without one, nothing expands and nothing is fetched.
        raise source.refuse("it has a DOCTYPE, which the bank's files have not", "Check where it was fetched from")

    def start(name: str, attributes: dict[str, str]) -> None:
        if not open_elements and name != _ENVELOPE:
            raise source.refuse(f"its outermost element is {name[:80]!r} instead of the bank's gesmes:Envelope")
        is_day = name == _CUBE and "time" in attributes
        if is_day:
            lines.append(parser.CurrentLineNumber)
            days.append(attributes["time"])
            quotes.append({})
        elif name == _CUBE and attributes.keys() & {"currency", "rate"}:
            if not open_elements[-1]:
                raise source.refuse(f"line {parser.CurrentLineNumber:,} has a rate outside of any day")
            add(attributes.get("currency", ""), attributes.get("rate", ""))
        open_elements.append(is_day)

    def add(currency: str, rate: str) -> None:
        place = len(days)
        if not _may_be_quoted(currency):
            problems.append(Problem(place, "currency", currency, "is not a currency quoted against the euro"))
        elif currency in quotes[-1]:
            problems.append(Problem(place, "currency", currency, "is there twice on one day"))
        else:
            if currency not in of_rates() and not allow_unknown_codes:
                problems.append(_unknown(place, "currency", currency))
            quotes[-1][currency] = rate

    parser.StartDoctypeDeclHandler = doctype
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: open_elements.pop()
    try:
        parser.Parse(source.data, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        # The latter two are of an encoding that Python does not know or cannot use here.
        raise source.refuse(f"the XML is truncated or damaged ({error})", "Fetch it again") from None
    if not any(quotes) and not problems:
        raise source.refuse("it has no rates", "Fetch it again")
    currencies = dict.fromkeys(currency for day in quotes for currency in day)
    return _Quotes(
        places=list(range(1, len(days) + 1)),
        days=days,
        per_euro={currency: [day.get(currency, "N/A") for day in quotes] for currency in currencies},
        problems=problems,
        rows=len(days),
        partial=len(days) == 1,
        day_column="time",
        # A whole history may be on one line: the day says more.
        name_place=lambda place: f"line {lines[place - 1]} ({days[place - 1][:20]})",
    )


def _converted(source: Source, quotes: _Quotes, reporting_currency: str) -> dict[str, list[Any]]:
    if reporting_currency not in {*quotes.per_euro, "EUR"}:
        raise source.refuse(
            f"it does not quote the reporting currency {reporting_currency}",
            "Set PAYSTREAM_REPORTING_CURRENCY to a currency that it quotes",
        )
    of_quotes = list(quotes.problems)
    places, valid = _validate(quotes, of_quotes)
    place_of: dict[date, int] = {}
    for place, day in zip(places, valid.days, strict=True):
        first = place_of.setdefault(day, place)
        if first != place:
            of_quotes.append(
                Problem(place, quotes.day_column, day.isoformat(), f"is already on {quotes.name_place(first)}")
            )
    columns = _convert(places, valid, reporting_currency, of_quotes)
    problems = Problems(quotes.name_place)
    problems.add(of_quotes)
    if not columns["rate"] and problems.count == problems.unknown_codes:
        raise source.refuse(f"it has no day on which the reporting currency {reporting_currency} is quoted")
    if of_quotes:
        raise source.refuse_rows(problems, quotes.rows)
    return columns


def _validate(quotes: _Quotes, problems: list[Problem]) -> tuple[list[int], QuoteColumns]:
    """Return what is valid; add what is not to ``problems``, leaving out its row (a day) or its value (a quote)."""
    places, days = quotes.places, quotes.days
    try:
        return places, QuoteColumns.model_validate({"days": days, "per_euro": quotes.per_euro})
    except ValidationError as error:
        wrong_days = set()
        per_euro = {name: list(values) for name, values in quotes.per_euro.items()}
        for fault in error.errors(include_url=False, include_context=False):
            match fault["loc"]:
                case ("per_euro", name, row, *_):
                    per_euro[name][row] = "N/A"
                case ("days", row, *_):
                    wrong_days.add(row)
                    name = quotes.day_column
            expected = QuoteColumns.model_fields[fault["loc"][0]].description
            problems.append(Problem(places[row], name, fault["input"], f"is not {expected}"))
        right = [row for row in range(len(places)) if row not in wrong_days]
        kept = {
            "days": [days[row] for row in right],
            "per_euro": {name: [values[row] for row in right] for name, values in per_euro.items()},
        }
        return [places[row] for row in right], QuoteColumns.model_validate(kept)


def _convert(
    places: list[int], quotes: QuoteColumns, reporting_currency: str, problems: list[Problem]
) -> dict[str, list[Any]]:
    euro = [Decimal(1)] * len(places)
    reporting = quotes.per_euro.get(reporting_currency, euro)
    columns: dict[str, list[Any]] = {"currency": [], "rate_date": [], "rate": []}
    for currency, per_euro in {"EUR": euro, **quotes.per_euro}.items():
        for place, day, quote, reporting_quote in zip(places, quotes.days, per_euro, reporting, strict=True):
            if quote is None or reporting_quote is None:
                continue
            rate = _EXACT.quantize(_EXACT.divide(reporting_quote, quote), _LAST_DECIMAL)
            if not 0 < rate < RATE_LIMIT:
                # The euro has no column of its own: its rate is the reporting currency's quote.
                column, value = (currency, quote) if currency != "EUR" else (reporting_currency, reporting_quote)
                problems.append(
                    Problem(
                        place,
                        column,
                        str(value),
                        f"gives a rate to {reporting_currency} of {rate.normalize(_EXACT)}, "
                        f"outside what {RATE_DECIMALS} decimals and {RATE_LIMIT:,} can hold",
                    )
                )
                continue
            columns["currency"].append(currency)
            columns["rate_date"].append(day)
            columns["rate"].append(rate)
    return columns | {"reporting_currency": [reporting_currency] * len(columns["rate"])}


def _refuse_cut_off(source: Source) -> None:
    # A rate that lost its last digits is a rate still; all other columns cut short are noticed.
    if not source.data.endswith((b"\n", b"\r")):
        raise source.refuse(
            "its last line has no line end: it may be cut off", "Fetch it again, or end the line if it is complete"
        )


def _read_table(source: Source, reporting_currency: str, allow_unknown_codes: bool) -> dict[str, list[Any]]:
    known = {} if allow_unknown_codes else {"currency": of_rates()}
    columns: dict[str, list[Any]] = {"currency": [], "rate_date": [], "rate": []}
    place_of: dict[tuple[str, date], int] = {}
    problems = Problems()
    count = 0
    for batch in csv_batches(source, list(RateColumns.model_fields)):
        count += batch.rows
        places, valid, of_batch = validate(RateColumns, batch, known)
        for place, day, currency, rate in zip(places, valid.date, valid.currency, valid.rate_to_reporting, strict=True):
            first = place_of.setdefault((currency, day), place)
            if first != place:
                of_batch.append(Problem(place, "date", day.isoformat(), f"of {currency} is already on {line(first)}"))
            if currency == reporting_currency and rate != 1:
                of_batch.append(
                    Problem(place, "rate_to_reporting", str(rate), f"is not 1, as {currency} is what amounts are in")
                )
            columns["currency"].append(currency)
            columns["rate_date"].append(day)
            columns["rate"].append(rate)
        problems.add(of_batch)
    if problems.count:
        raise source.refuse_rows(problems, count)
    if not count:
        raise source.refuse("it has a header and no rows", "Fetch it again")
    _refuse_cut_off(source)
    for day in sorted(set(columns["rate_date"])):
        if (reporting_currency, day) not in place_of:
            columns["currency"].append(reporting_currency)
            columns["rate_date"].append(day)
            columns["rate"].append(_rate("1"))
    return columns | {"reporting_currency": [reporting_currency] * len(columns["rate"])}
