"""How estimates are shown: on a terminal, as JSON, as CSV, and as the tables of the memo."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from paystream.cost.assumptions import load_assumptions
from paystream.cost.model import Bill, Estimate, Swing
from paystream.cost.prices import PriceBook

FIELDS = (
    "design",
    "rate_per_second",
    "level",
    "kind",
    "what",
    "first_month_usd",
    "steady_usd",
    "how",
    "prices",
    "marks",
)


def dollars(value: float) -> str:
    """Return US dollars to three digits: what is known of them at most."""
    if value < 1000:
        return f"${value:,.0f}"
    digits = 10 ** (len(str(int(value))) - 3)
    return f"${round(value / digits) * digits:,.0f}"


def comparison(estimates: Sequence[Estimate], rates: Sequence[float], ranges: bool = True) -> Table:
    """Return a row per design, and for each rate the steady month, with its range where there is room."""
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("US dollars a month")
    for rate in rates:
        table.add_column(f"{rate:,.0f}/s", justify="right")
        if ranges:
            table.add_column("low … high", justify="right", style="dim")
    table.add_column("people", justify="right")
    for name in dict.fromkeys(one.base.design.name for one in estimates):
        row: list[str] = [name]
        of_design = [one for one in estimates if one.base.design.name == name]
        for one in of_design:
            span = [f"{dollars(one.low.steady)} … {dollars(one.high.steady)}"] if ranges else []
            row += [dollars(one.base.steady), *span]
        people = of_design[0]
        row.append(f"{dollars(people.low.people)} … {dollars(people.high.people)}")
        table.add_row(*row)
    return table


def bill(estimate: Estimate, book: PriceBook) -> Table:
    """Return the lines of one bill."""
    base = estimate.base
    table = Table(
        title=f"{base.design.name}, {base.rate:,.0f}/s, US dollars a month", title_justify="left", box=None,
        padding=(0, 3, 0, 0),
    )  # fmt: skip
    table.add_column("")
    table.add_column("month 1", justify="right")
    table.add_column("steady", justify="right")
    table.add_column("how", style="dim")
    table.add_column("price", style="dim")
    for one in base.items:
        marked = ", ".join(_marked(price_id, book) for price_id in one.prices)
        table.add_row(one.what, dollars(one.first_month), dollars(one.steady), one.how, marked)
    table.add_row("", "", "")
    table.add_row("together", dollars(base.first_month), dollars(base.steady), style="bold")
    table.add_row(
        "all assumptions at their better end", dollars(estimate.low.first_month), dollars(estimate.low.steady)
    )
    table.add_row("at their worse end", dollars(estimate.high.first_month), dollars(estimate.high.steady))
    people = f"{dollars(estimate.low.people)} to {dollars(estimate.high.people)}"
    table.add_row("people, apart", dollars(base.people), dollars(base.people), people)
    return table


def swings(found: Sequence[Swing], most: int = 8) -> Table:
    """Return what moves a bill most."""
    table = Table(title="What moves it most", title_justify="left", box=None, padding=(0, 3, 0, 0))
    table.add_column("assumption")
    table.add_column("from … to", style="dim")
    table.add_column("at its low", justify="right")
    table.add_column("at its high", justify="right")
    known = {one.id: one for one in load_assumptions()}
    for one in found[:most]:
        span = f"{known[one.assumption].low:g} … {known[one.assumption].high:g} {known[one.assumption].unit}"
        table.add_row(one.assumption, span, dollars(one.at_low), dollars(one.at_high))
    return table


def as_json(estimates: Sequence[Estimate], book: PriceBook) -> list[dict[str, Any]]:
    """Return everything: each design at each rate, its range, and the lines of its base estimate."""
    return [
        {
            "design": one.base.design.id,
            "rate_per_second": one.base.rate,
            "first_month_usd": {level: _cents(getattr(one, level).first_month) for level in ("low", "base", "high")},
            "steady_usd": {level: _cents(getattr(one, level).steady) for level in ("low", "base", "high")},
            "people_usd": {level: _cents(getattr(one, level).people) for level in ("low", "base", "high")},
            "items": [
                asdict(item)
                | {
                    "first_month": _cents(item.first_month),
                    "steady": _cents(item.steady),
                    "marks": _marks(item.prices, book),
                }
                for item in one.base.items
            ],
        }
        for one in estimates
    ]


def as_csv(estimates: Sequence[Estimate], book: PriceBook) -> str:
    """Return a line for each line of each bill at each level, people included."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FIELDS)
    for one in estimates:
        for level in ("low", "base", "high"):
            for line in _lines(getattr(one, level), level, book):
                writer.writerow(line)
    return text.getvalue()


def _lines(of: Bill, level: str, book: PriceBook) -> list[list[Any]]:
    head = [of.design.id, f"{of.rate:g}", level]
    lines = [
        [*head, one.kind, one.what, _cents(one.first_month), _cents(one.steady), one.how, " ".join(one.prices),
         "; ".join(_marks(one.prices, book))]
        for one in of.items
    ]  # fmt: skip
    return [*lines, [*head, "people", "people", _cents(of.people), _cents(of.people), "hours x wage", "", "assumption"]]


def _marks(price_ids: Sequence[str], book: PriceBook) -> list[str]:
    return [f"{price_id}: {book[price_id].mark}" for price_id in price_ids if book[price_id].mark]


def _marked(price_id: str, book: PriceBook) -> str:
    mark = book[price_id].mark
    return f"{price_id} ({mark})" if mark else price_id


def _cents(value: float) -> float:
    return round(value, 2)
