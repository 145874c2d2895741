"""What pydantic finds wrong with a file or a setting, in our words."""

from collections.abc import Callable, Sequence

from pydantic import ValidationError

Place = Sequence[str | int]
"""The way to a field: names of fields and numbers of elements."""


def dotted(place: Place) -> str:
    """Return a field's name as ``thresholds.lost``."""
    return ".".join(str(part) for part in place if part != "[key]")


def problems(error: ValidationError, named: Callable[[Place], str] = dotted, *, shows_value: bool = False) -> list[str]:
    """Return what is wrong, a text for each field.

    Args:
        error: what pydantic raised.
        named: how a field is called.
        shows_value: whether the value is told, which of a secret it must not be.
    """
    return [_problem(fault, named(fault["loc"]), shows_value) for fault in error.errors(include_url=False)]


def _problem(fault: dict, name: str, shows_value: bool) -> str:
    told = {"missing": "missing", "extra_forbidden": "no such field"}.get(fault["type"])
    message = told or fault["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    if not name:
        return message
    is_told = shows_value and not (told or isinstance(fault["input"], dict))
    return f"{name}: {message}" + (f" (it is {fault['input']!r})" if is_told else "")
