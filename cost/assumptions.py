"""What is neither a price nor measured: each with a range and a reason."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, Self

from pydantic import Field, model_validator

from paystream.cost.files import Strict, of_project, read
from paystream.errors import UsageError

FILE = "assumptions.yaml"

Level = Literal["low", "base", "high"]


class Assumption(Strict):
    """A value with the range it may lie in; ``low`` is where the bill is lower."""

    id: str = Field(min_length=1)
    low: float = Field(ge=0)
    base: float = Field(ge=0)
    high: float = Field(ge=0)
    least: float = Field(0, ge=0, description="a value below would make no sense")
    unit: str = Field(min_length=1)
    why: str = Field(min_length=1)

    @model_validator(mode="after")
    def _base_lies_between(self) -> Self:
        if not min(self.low, self.high) <= self.base <= max(self.low, self.high):
            raise ValueError("base: should lie between low and high")
        return self


class Assumptions(Strict):
    """All of them."""

    assumptions: list[Assumption]


@dataclass(frozen=True)
class Drivers:
    """The value of each assumption in one estimate."""

    values: Mapping[str, float]

    def __getitem__(self, name: str) -> float:
        return self.values[name]

    def moved(self, name: str, value: float) -> "Drivers":
        """Return the same with one value changed."""
        return Drivers({**self.values, name: value})


@cache
def load_assumptions() -> list[Assumption]:
    """Return the assumptions of the project.

    Raises:
        UsageError: the file is not as it should be.
    """
    return read(of_project(FILE), Assumptions).assumptions


def drivers(level: Level, own: Mapping[str, float] | None = None) -> Drivers:
    """Return all values at one level; the user's own hold at every level.

    Raises:
        UsageError: an own value is of no assumption, or cannot be.
    """
    own = own or {}
    known = {assumption.id: assumption for assumption in load_assumptions()}
    for name, value in own.items():
        if name not in known:
            raise UsageError(f"Assumption '{name}': there is none. Name one of: {', '.join(known)}.")
        unit, least = known[name].unit, known[name].least
        most = 1 if unit == "share" else 1e9
        if not least <= value <= most:
            raise UsageError(f"Assumption '{name}': {value:g} {unit} cannot be. Give {least:g} to {most:g}.")
    return Drivers({name: own.get(name, getattr(assumption, level)) for name, assumption in known.items()})
