"""The price book: each price with its unit, date, grade and source."""

from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from paystream.cost.files import Strict, of_project, parse, read, read_yaml
from paystream.errors import UsageError

BOOK = "prices.yaml"

Grade = Literal["vendor", "transcript", "aggregator", "derived", "recollection", "own"]
WEAK: frozenset[Grade] = frozenset({"aggregator", "recollection"})
"""Grades that are marked wherever a price is used: nobody at the vendor said so."""


class Price(Strict):
    """A list price in US dollars. ``as_of`` is the date that the source states, None when it states none.

    ``region`` defaults to that of the whole book.
    """

    id: str = Field(min_length=1)
    price: Annotated[float, Field(ge=0, strict=True)]
    unit: str = Field(min_length=1)
    region: str = "us-east-1"
    note: str = ""
    as_of: date | None
    grade: Grade
    source: str = Field(min_length=1)

    @property
    def mark(self) -> str:
        """Return what a reader must know about this price: "no date", "weak", both, or nothing."""
        return ", ".join(
            word for word, applies in (("no date", self.as_of is None), ("weak", self.grade in WEAK)) if applies
        )


class SizingFact(Strict):
    """What someone else measured or advises, for the reader of the memo."""

    fact: str
    source: str


class PriceBook(Strict):
    """All prices, each once."""

    prices: list[Price]
    sizing_facts: list[SizingFact] = Field(default_factory=list)
    pitfalls: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        ids = [price.id for price in self.prices]
        if twice := sorted({price_id for price_id in ids if ids.count(price_id) > 1}):
            raise ValueError(f"{', '.join(twice)}: priced twice")
        return self

    def __getitem__(self, price_id: str) -> Price:
        """Return a price.

        Raises:
            UsageError: the book has none of this id.
        """
        price = next((entry for entry in self.prices if entry.id == price_id), None)
        if price is None:
            raise UsageError(
                f"Price '{price_id}': the price book has none. Add it, with its source, or correct the id."
            )
        return price


@cache
def load_prices(own: Path | None = None) -> PriceBook:
    """Read the shipped price book, with prices of the user's own in place of the shipped ones.

    Args:
        own: a YAML file of the same form; of its prices, only `id` and `price` are required.

    Raises:
        UsageError: a file cannot be read, or a price is missing, mistyped, or given twice.
    """
    book = read(of_project(BOOK), PriceBook)
    if own is None:
        return book
    fields = read_yaml(own)
    listed = fields.get("prices") if isinstance(fields, dict) else None
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise UsageError(f"Price book '{own}': no list `prices`. Take 'cost/{BOOK}' of the project as a pattern.")
    known = {price.id: price.model_dump() for price in book.prices}
    for entry in listed:
        if not isinstance(entry.get("id"), str) or entry["id"] not in known:
            raise UsageError(
                f"Price book '{own}': '{entry.get('id')}' is no price that a design uses. "
                f"Take an id of 'cost/{BOOK}'; `paystream cost --json` names those of each line."
            )
        unit = known[entry["id"]]["unit"]
        if entry.get("unit", unit) != unit:
            raise UsageError(f"Price '{entry['id']}': in {entry['unit']}, but a price in {unit} is used. Convert it.")
    of_own = {"grade": "own", "source": str(own), "as_of": None, "note": ""}
    changed = [known[entry["id"]] | of_own | entry for entry in listed]
    parsed = parse({"prices": changed}, own, PriceBook)
    replaced = {price.id for price in parsed.prices}
    kept = [price for price in book.prices if price.id not in replaced]
    return PriceBook(prices=[*kept, *parsed.prices], sizing_facts=book.sizing_facts, pitfalls=book.pitfalls)
