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
    "design", "rate_per_second", "level", "kind", "what", "first_month_usd", "steady_usd", "how", "prices", "marks",
)  # fmt: skip


def dollars(value: float) -> str:
    """Return US dollars to three significant digits: no more is known."""
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
    for name in dict.fromkeys(estimate.base.design.name for estimate in estimates):
        row: list[str] = [name]
        of_design = [estimate for estimate in estimates if estimate.base.design.name == name]
        for estimate in of_design:
            span = [f"{dollars(estimate.low.steady)} … {dollars(estimate.high.steady)}"] if ranges else []
            row += [dollars(estimate.base.steady), *span]
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
    for item in base.items:
        marked = ", ".join(_marked(price_id, book) for price_id in item.prices)
        table.add_row(item.what, dollars(item.first_month), dollars(item.steady), item.how, marked)
    table.add_row("", "", "")
    table.add_row("together", dollars(base.first_month), dollars(base.steady), style="bold")
    table.add_row(
        "all assumptions at their better end", dollars(estimate.low.first_month), dollars(estimate.low.steady)
    )
    table.add_row("at their worse end", dollars(estimate.high.first_month), dollars(estimate.high.steady))
    people = f"{dollars(estimate.low.people)} to {dollars(estimate.high.people)}"
    table.add_row("people, apart", dollars(base.people), dollars(base.people), people)
    return table


def swings(ranked: Sequence[Swing], most: int = 8) -> Table:
    """Return what moves a bill most."""
    table = Table(title="What moves it most", title_justify="left", box=None, padding=(0, 3, 0, 0))
    table.add_column("assumption")
    table.add_column("from … to", style="dim")
    table.add_column("at its low", justify="right")
    table.add_column("at its high", justify="right")
    known = {assumption.id: assumption for assumption in load_assumptions()}
    for swing in ranked[:most]:
        span = f"{known[swing.assumption].low:g} … {known[swing.assumption].high:g} {known[swing.assumption].unit}"
        table.add_row(swing.assumption, span, dollars(swing.at_low), dollars(swing.at_high))
    return table


def as_json(estimates: Sequence[Estimate], book: PriceBook) -> list[dict[str, Any]]:
    """Return everything: each design at each rate, its range, and the lines of its base estimate."""
    return [
        {
            "design": estimate.base.design.id,
            "rate_per_second": estimate.base.rate,
            "first_month_usd": {level: _cents(bill.first_month) for level, bill in estimate.bills()},
            "steady_usd": {level: _cents(bill.steady) for level, bill in estimate.bills()},
            "people_usd": {level: _cents(bill.people) for level, bill in estimate.bills()},
            "items": [
                asdict(item)
                | {
                    "first_month": _cents(item.first_month),
                    "steady": _cents(item.steady),
                    "marks": _marks(item.prices, book),
                }
                for item in estimate.base.items
            ],
        }
        for estimate in estimates
    ]


def as_csv(estimates: Sequence[Estimate], book: PriceBook) -> str:
    """Return a line for each line of each bill at each level, people included."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FIELDS)
    for estimate in estimates:
        for level, its_bill in estimate.bills():
            writer.writerows(_lines(its_bill, level, book))
    return text.getvalue()


def _lines(bill: Bill, level: str, book: PriceBook) -> list[list[Any]]:
    head, people = [bill.design.id, f"{bill.rate:g}", level], _cents(bill.people)
    lines = [
        [*head, item.kind, item.what, _cents(item.first_month), _cents(item.steady), item.how, " ".join(item.prices),
         "; ".join(_marks(item.prices, book))]
        for item in bill.items
    ]  # fmt: skip
    return [*lines, [*head, "people", "people", people, people, "hours x wage", "", "assumption"]]


def _marks(price_ids: Sequence[str], book: PriceBook) -> list[str]:
    return [f"{price_id}: {book[price_id].mark}" for price_id in price_ids if book[price_id].mark]


def _marked(price_id: str, book: PriceBook) -> str:
    mark = book[price_id].mark
    return f"{price_id} ({mark})" if mark else price_id


def _cents(value: float) -> float:
    return round(value, 2)
