"""Exchange rates: reading the European Central Bank's reference-rate history and converting it."""

import io
import re
import zipfile
import zlib
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Annotated, Any

import pycountry
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from loader.source import Problem, Problems, Source
from loader.tables import read_csv, wrong_width

WITHDRAWN_CURRENCIES = frozenset(["BGN", "CYP", "EEK", "HRK", "LTL", "LVL", "MTL", "ROL", "SIT", "SKK", "TRL"])
"""Codes that the history quotes and that ISO 4217 has withdrawn since."""

CURRENCIES = frozenset(currency.alpha_3 for currency in pycountry.currencies) - {"EUR"} | WITHDRAWN_CURRENCIES
"""Currencies that may be quoted against the euro."""

EURO_START = date(1999, 1, 1)

RATE_DECIMALS = 12

RATE_LIMIT = 10**8
"""Rates stay below this: amounts have 14 integer digits and 4 decimals, rates 12 decimals, the product 38 digits."""

LARGEST_CSV_BYTES = 256 * 2**20

# Enough digits that rounding twice is rounding once: a quotient of two quotes (24 digits each) that is not halfway
# between two rates is at least 10^-37 away from there, and has at most 24 digits before the point.
_EXACT = Context(prec=100, rounding=ROUND_HALF_EVEN)
_LAST_DECIMAL = Decimal(1).scaleb(-RATE_DECIMALS)


def _day(text: str) -> date:
    if not re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        raise ValueError
    day = date.fromisoformat(text)
    if not EURO_START <= day <= datetime.now(UTC).date():
        raise ValueError
    return day


def _quote(text: str) -> Decimal | None:
    if text == "N/A":
        return None
    if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,12})?", text):
        raise ValueError
    quote = Decimal(text)
    if not quote:
        raise ValueError
    return quote


class QuoteColumns(BaseModel):
    """Rows of the history, column by column: what one field must be is its description."""

    days: list[Annotated[date, BeforeValidator(_day)]] = Field(
        description="a day from 1999-01-01 to today, written YYYY-MM-DD"
    )
    per_euro: dict[str, list[Annotated[Decimal | None, BeforeValidator(_quote)]]] = Field(
        description="a positive decimal number (at most 12 digits before and after the point) or N/A"
    )


def read_fx(source: Source, reporting_currency: str) -> dict[str, list[Any]]:
    """Read the European Central Bank's history, CSV or a ZIP of it, and convert it to a reporting currency.

    The file quotes units of a currency per euro, ``N/A`` where there is no quote. The rate of a currency, and of the
    euro, is units of the reporting currency for one unit of it: the reporting currency's quote of that day divided by
    the currency's, exactly, then rounded half to even to 12 decimals. The reporting currency's own rate is 1. A day on
    which the reporting currency or the currency is not quoted gives no row.

    Returns:
        The columns ``currency``, ``rate_date``, ``rate`` and ``reporting_currency``; (currency, rate_date) is distinct.

    Raises:
        CheckFailed: the file is refused; the message counts all problems and lists the first twenty.
    """
    plain = _unpacked(source)
    header, rows = read_csv(plain, ["Date"])
    currencies = _quoted_currencies(plain, header)
    if reporting_currency not in {*currencies, "EUR"}:
        raise plain.refuse(
            f"it does not quote the reporting currency {reporting_currency}",
            "Set PAYSTREAM_REPORTING_CURRENCY to a currency that it quotes",
        )
    found: list[Problem] = []
    complete: list[tuple[int, list[str]]] = []
    for line, fields in rows:
        if len(fields) == len(header):
            complete.append((line, fields))
        else:
            found.append(wrong_width(line, fields, header))
    count = len(complete) + len(found)
    if not count:
        raise plain.refuse("it has a header and no rows", "Fetch it again")

    lines = [line for line, _ in complete]
    days = [fields[header.index("Date")] for _, fields in complete]
    per_euro = {
        name: [fields[position] for _, fields in complete] for position, name in enumerate(header) if name in currencies
    }
    lines, quotes = _validate(lines, days, per_euro, found)
    _find_repeated_days(lines, quotes.days, found)
    columns = _convert(lines, quotes, reporting_currency, found)
    if found:
        problems = Problems()
        problems.add(found)
        raise plain.refuse_rows(problems, count)
    if not columns["rate"]:
        raise plain.refuse(f"it has no day on which the reporting currency {reporting_currency} is quoted")
    return columns


def _unpacked(source: Source) -> Source:
    """Return the CSV of a ZIP, or what is not a ZIP as it is."""
    if not source.data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return source
    try:
        with zipfile.ZipFile(io.BytesIO(source.data)) as archive:
            members = [member for member in archive.infolist() if member.filename.lower().endswith(".csv")]
            if len(members) != 1:
                raise source.refuse(f"the ZIP holds {len(members)} CSV files instead of one")
            if members[0].file_size > LARGEST_CSV_BYTES:
                raise source.refuse(f"the CSV in the ZIP is larger than {LARGEST_CSV_BYTES:,} bytes")
            return Source(source.kind, source.name, archive.read(members[0]))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        cause = str(error) or type(error).__name__
        raise source.refuse(f"the ZIP is truncated or damaged ({cause})", "Fetch it again") from None


def _quoted_currencies(source: Source, header: list[str]) -> list[str]:
    # The bank ends each line with a comma: one more column, without a name.
    names = [name for name in header if name != "Date"]
    currencies = names[:-1] if names and not names[-1] else names
    unknown = [name for name in currencies if name not in CURRENCIES]
    if unknown:
        shown = ", ".join(repr(name[:40]) for name in unknown[:10]) + ", ..." * (len(unknown) > 10)
        raise source.refuse(f"these columns are no currencies quoted against the euro: {shown}")
    repeated = sorted({name for name in currencies if currencies.count(name) > 1})
    if repeated:
        raise source.refuse(f"the header names {', '.join(repeated)} more than once")
    if not currencies:
        raise source.refuse("the header names no currency")
    return currencies


def _validate(
    lines: list[int], days: list[str], per_euro: dict[str, list[str]], found: list[Problem]
) -> tuple[list[int], QuoteColumns]:
    """Return what is valid; add what is not to ``found``, leaving out its row (a day) or its value (a quote)."""
    try:
        return lines, QuoteColumns.model_validate({"days": days, "per_euro": per_euro})
    except ValidationError as error:
        wrong_days = set()
        per_euro = {name: list(quotes) for name, quotes in per_euro.items()}
        for fault in error.errors(include_url=False, include_context=False):
            match fault["loc"]:
                case ("per_euro", name, row, *_):
                    per_euro[name][row] = "N/A"
                case ("days", row, *_):
                    wrong_days.add(row)
                    name = "Date"
            expected = QuoteColumns.model_fields[fault["loc"][0]].description
            found.append(Problem(lines[row], name, fault["input"], f"is not {expected}"))
        right = [row for row in range(len(lines)) if row not in wrong_days]
        kept = {
            "days": [days[row] for row in right],
            "per_euro": {name: [quotes[row] for row in right] for name, quotes in per_euro.items()},
        }
        return [lines[row] for row in right], QuoteColumns.model_validate(kept)


def _find_repeated_days(lines: list[int], days: list[date], found: list[Problem]) -> None:
    line_of: dict[date, int] = {}
    for line, day in zip(lines, days, strict=True):
        first = line_of.setdefault(day, line)
        if first != line:
            found.append(Problem(line, "Date", day.isoformat(), f"is already on line {first}"))


def _convert(
    lines: list[int], quotes: QuoteColumns, reporting_currency: str, found: list[Problem]
) -> dict[str, list[Any]]:
    euro = [Decimal(1)] * len(lines)
    reporting = quotes.per_euro.get(reporting_currency, euro)
    columns: dict[str, list[Any]] = {"currency": [], "rate_date": [], "rate": []}
    for currency, per_euro in {"EUR": euro, **quotes.per_euro}.items():
        for line, day, quote, reporting_quote in zip(lines, quotes.days, per_euro, reporting, strict=True):
            if quote is None or reporting_quote is None:
                continue
            rate = _EXACT.quantize(_EXACT.divide(reporting_quote, quote), _LAST_DECIMAL)
            if not 0 < rate < RATE_LIMIT:
                # The euro has no column of its own: its rate is the reporting currency's quote.
                column, value = (currency, quote) if currency != "EUR" else (reporting_currency, reporting_quote)
                found.append(
                    Problem(
                        line,
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
