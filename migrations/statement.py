"""A statement as words: what the versions' SQL is read by, whatever is new in it.

sqlglot parses the files of ``sql/`` into trees (``schema_graph``), and does not know all of ClickHouse's SQL. A version
may hold any of it, so that of a version words alone are read. Not by sqlglot's tokenizer: `up` and `plan` would wait
0.1 s for it to load, and to it the rest of a SYSTEM or a RENAME is one text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

_WORD = re.compile(
    r"(?P<skipped>\s+|--[^\n]*|/\*.*?\*/)"
    r"|'(?P<text>(?:[^'\\]|\\.|'')*)'|`(?P<tick>(?:[^`\\]|\\.)*)`|\"(?P<name>(?:[^\"\\]|\\.)*)\""
    r"|(?P<word>\w+)|(?P<sign>.)",
    re.DOTALL,
)


_KINDS = ("TABLE", "VIEW", "MATERIALIZED", "DICTIONARY", "NAMED", "COLLECTION", "FROM")


@dataclass(frozen=True)
class Word:
    """A word, a number, a quoted text or name, or a sign of a statement."""

    text: str
    """Without the quotes around it."""
    quote: str
    """``'`` around a text, `````` ` `````` or ``"`` around a name, ``""`` around anything else."""
    start: int
    end: int
    """Where it begins in the statement and where it has ended, quotes included."""
    depth: int
    """In how many parentheses it stands; a parenthesis itself stands outside."""

    @property
    def upper(self) -> str:
        """The word in upper case, ``""`` for a quoted one, which is no keyword."""
        return "" if self.quote else self.text.upper()

    @property
    def is_name(self) -> bool:
        """Whether it may name an object or a column."""
        return self.quote != "'" and (bool(self.quote) or self.text.isidentifier())


def words_of(statement: str) -> list[Word]:
    """Return a statement's words, comments left out. A quote that has no end is a sign."""
    words, depth = [], 0
    for match in _WORD.finditer(statement):
        kind = match.lastgroup
        if kind == "skipped":
            continue
        text = match[kind]
        depth -= text == ")" and kind == "sign"
        quote = "" if kind in ("word", "sign") else statement[match.start()]
        words.append(Word(text, quote, *match.span(), depth))
        depth += text == "(" and kind == "sign"
    return words


def begins(words: Sequence[Word], *keywords: str) -> bool:
    """Return whether some words begin with these keywords."""
    return [word.upper for word in words[: len(keywords)]] == list(keywords)


def after(words: Sequence[Word], *keywords: str) -> Sequence[Word]:
    """Return what follows the first place, within no parentheses, that has these keywords; nothing where none has."""
    for at, word in enumerate(words):
        if word.depth == words[0].depth and begins(words[at:], *keywords):
            return words[at + len(keywords) :]
    return []


def from_name(words: Sequence[Word]) -> Sequence[Word]:
    """Return some words from an object's name on: without its kind and IF [NOT] EXISTS before it."""
    while words and words[0].upper in _KINDS:
        words = words[1:]
    if begins(words, "IF"):
        words = words[3 if begins(words[1:], "NOT") else 2 :]
    return words


def behind_name(words: Sequence[Word]) -> Sequence[Word]:
    """Return what follows an object's name, which may have its database's before it."""
    words = from_name(words)
    return words[3:] if begins(words[1:], ".") else words[1:]


def split(words: Sequence[Word]) -> list[Sequence[Word]]:
    """Return what stands between the commas that are not within parentheses of their own."""
    commas = [at for at, word in enumerate(words) if word.upper == "," and word.depth == words[0].depth]
    return [words[start + 1 : end] for start, end in zip([-1, *commas], [*commas, len(words)], strict=True)]


def without_cluster(words: Sequence[Word]) -> list[Word]:
    """Return some words without ON CLUSTER and the cluster's name."""
    at = next((at for at in range(len(words)) if begins(words[at:], "ON", "CLUSTER")), len(words))
    return [*words[:at], *words[at + 3 :]]


def names(words: Sequence[Word]) -> list[str]:
    """Return the objects that some words name first, set apart by commas, each without its database's name."""
    words = from_name(words)
    named = []
    while words and words[0].is_name:
        at = 2 if begins(words[1:], ".") and len(words) > 2 else 0
        named.append(words[at].text)
        words = words[at + 2 :] if begins(words[at + 1 :], ",") else ()
    return named


def text_of(statement: str, words: Sequence[Word]) -> str:
    """Return a statement's own text from the first to the last of some of its words."""
    return statement[words[0].start : words[-1].end] if words else ""


def select_of(statement: str) -> str:
    """Return the SELECT of a view's CREATE as it is written, ``""`` for none."""
    words = words_of(statement)
    for before, word in pairwise(words):
        if before.upper == "AS" and before.depth == 0 and word.upper in ("SELECT", "WITH", "("):
            return statement[before.end :].strip()
    return ""
