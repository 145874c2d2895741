"""Estimates: a design's bill at a rate, its range, and what moves it most."""

from collections.abc import Mapping
from dataclasses import dataclass

from paystream.cost.assumptions import Drivers, Level, drivers, load_assumptions
from paystream.cost.coefficients import Coefficients
from paystream.cost.designs import Design
from paystream.cost.prices import PriceBook
from paystream.cost.sizing import MOST_RATE, Item, Sizing
from paystream.errors import UsageError

PEOPLE = "hours_"


@dataclass(frozen=True)
class Bill:
    """The lines of a design's bill at a rate, in US dollars a month; ``people`` apart."""

    design: Design
    rate: float
    items: list[Item]
    people: float

    @property
    def first_month(self) -> float:
        """Return the sum of the first month."""
        return sum(item.first_month for item in self.items)

    @property
    def steady(self) -> float:
        """Return the sum of a month once all retention is reached."""
        return sum(item.steady for item in self.items)

    def by_kind(self) -> dict[str, float]:
        """Return the steady month by kind of line."""
        sums: dict[str, float] = {}
        for item in self.items:
            sums[item.kind] = sums.get(item.kind, 0.0) + item.steady
        return sums


@dataclass(frozen=True)
class Estimate:
    """A bill with its range. ``low`` and ``high`` have all assumptions at their better and at their worse end at once,
    so they bound what is conceivable, not what is likely."""

    low: Bill
    base: Bill
    high: Bill

    def bills(self) -> list[tuple[Level, Bill]]:
        """Return each level's bill."""
        return [("low", self.low), ("base", self.base), ("high", self.high)]


@dataclass(frozen=True)
class Swing:
    """What one assumption does to the steady bill while all others keep their base value."""

    assumption: str
    at_low: float
    at_high: float

    @property
    def width(self) -> float:
        """Return by how much it moves the bill."""
        return abs(self.at_high - self.at_low)


@dataclass(frozen=True)
class Model:
    """The inputs that all estimates share."""

    measured: Coefficients
    prices: PriceBook
    own: Mapping[str, float]

    def estimate(self, design: Design, rate: float) -> Estimate:
        """Return a design's bill at a rate in messages a second.

        Raises:
            UsageError: the rate cannot be, or the price book lacks a price.
        """
        levels: list[Level] = ["low", "base", "high"]
        low, base, high = (self._bill(design, rate, drivers(level, self.own)) for level in levels)
        return Estimate(low, base, high)

    def tornado(self, design: Design, rate: float) -> list[Swing]:
        """Return what each assumption does to the steady bill, the most first; what does nothing is left out."""
        base = drivers("base", self.own)
        swings = [
            Swing(
                assumption.id,
                self._bill(design, rate, base.moved(assumption.id, assumption.low)).steady,
                self._bill(design, rate, base.moved(assumption.id, assumption.high)).steady,
            )
            for assumption in load_assumptions()
            if assumption.id not in self.own and not assumption.id.startswith(PEOPLE)
        ]
        return sorted((swing for swing in swings if swing.width > 0.005), key=lambda swing: -swing.width)

    def _bill(self, design: Design, rate: float, values: Drivers) -> Bill:
        if not 0 < rate <= MOST_RATE:
            raise UsageError(f"Rate {rate:g}/s: cannot be. Give messages a second, above 0 and up to {MOST_RATE:,}.")
        sizing = Sizing(rate, self.measured, self.prices, values)
        items = design.items(sizing)
        share = values["support_share"]
        first, steady = (sum(getattr(item, name) for item in items) for name in ("first_month", "steady"))
        support = Item("support plan", "support", first * share, steady * share, f"{share:.0%} of the rest", ())
        hours = sum(values[name] for name in design.hours)
        return Bill(design, rate, [*items, support], hours * values["hourly_wage"])
