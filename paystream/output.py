"""How commands answer: a table or progress on a terminal, one ``key=value`` line elsewhere, JSON on request."""

import re
import sys
from collections.abc import Mapping
from typing import Any

import orjson
from rich.console import Console

console = Console()
"""Where results go (stdout)."""

errors = Console(stderr=True)
"""Where progress and errors go (stderr)."""


def is_terminal() -> bool:
    """Return whether a person is watching stdout."""
    return sys.stdout.isatty()


def note(text: str) -> None:
    """Say on stderr what a user should know and need not act upon at once."""
    errors.print(f"note: {text}", style="yellow", soft_wrap=True, markup=False, highlight=False)


def say(text: str, where: Console = console) -> None:
    """Print text as it is: no line is broken, and nothing in it is markup."""
    where.print(text, soft_wrap=True, markup=False, highlight=False)


def counted(number: int, noun: str) -> str:
    """Return a number of things in words: ``1 row``, ``2,000 rows``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def print_json(value: Any) -> None:
    """Print a value as one JSON document. Dates become ISO 8601, decimals strings."""
    sys.stdout.write(orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode())
    sys.stdout.write("\n")


def print_fields(event: str, fields: Mapping[str, Any]) -> None:
    """Print one line ``event key=value …`` for logs; values with spaces or quotes are JSON strings."""
    parts = [f"{key}={_field(value)}" for key, value in fields.items()]
    print(" ".join([event, *parts]), flush=True)


def _field(value: Any) -> str:
    text = value if isinstance(value, str) else str(value)
    return text if re.fullmatch(r"[^\s\"'=]+", text) else orjson.dumps(text).decode()
