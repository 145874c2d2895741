"""Statements as words, since no parser of ours knows all of ClickHouse's SQL.

sqlglot parses the files of ``sql/`` into trees (``schema_graph``), but lags behind ClickHouse, and a version may use
any SQL. So a version is read word by word. sqlglot's own tokenizer does not serve: `up` and `plan` would wait 0.1 s for
its import, and it returns everything after SYSTEM or RENAME as one text.
"""

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

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
    statement: str

    @property
    def upper(self) -> str:
        """The word in upper case, ``""`` for a quoted one, which is no keyword."""
        return "" if self.quote else self.text.upper()


class Words(tuple[Word, ...]):
    """Some words of a statement that follow each other."""

    def __getitem__(self, at: Any) -> Any:
        return Words(super().__getitem__(at)) if isinstance(at, slice) else super().__getitem__(at)

    @property
    def text(self) -> str:
        """The statement's own text from the first to the last of them."""
        return self[0].statement[self[0].start : self[-1].end] if self else ""

    def begins(self, *keywords: str) -> bool:
        """Return whether they begin with these keywords."""
        return [word.upper for word in self[: len(keywords)]] == list(keywords)

    def after(self, *keywords: str) -> "Words":
        """Return what follows the first place, in no parentheses, that has these keywords; nothing where none has."""
        length = len(keywords)
        places = (at for at, word in enumerate(self) if word.depth == self[0].depth)
        return next((self[at + length :] for at in places if self[at : at + length].begins(*keywords)), self[:0])

    def from_name(self) -> "Words":
        """Return them from an object's name on: without its kind and IF [NOT] EXISTS before it."""
        rest = self[next((at for at, word in enumerate(self) if word.upper not in _KINDS), len(self)) :]
        return rest[3 if rest.begins("IF", "NOT") else 2 :] if rest.begins("IF") else rest

    def behind_name(self) -> "Words":
        """Return what follows an object's name, which may have its database's before it."""
        rest = self.from_name()
        return rest[3:] if rest[1:].begins(".") else rest[1:]

    def names(self) -> list[str]:
        """Return the objects that they name first, set apart by commas, each without its database's name."""
        named, rest = [], self.from_name()
        while rest and rest[0].quote != "'" and (rest[0].quote or rest[0].text.isidentifier()):
            named.append(rest[2 if rest[1:].begins(".") and len(rest) > 2 else 0].text)
            rest = rest.behind_name()
            rest = rest[1:] if rest.begins(",") else rest[:0]
        return named

    def until(self, *keywords: str) -> "Words":
        """Return them up to the first, in no parentheses of its own, that is one of these keywords."""
        places = (at for at, word in enumerate(self) if word.depth == self[0].depth and word.upper in keywords)
        return self[: next(places, len(self))]

    def engine(self) -> "Words":
        """Return what follows ENGINE, the equals sign left out."""
        engine = self.after("ENGINE")
        return engine[1:] if engine.begins("=") else engine

    def split(self, sign: str = ",") -> list["Words"]:
        """Return what stands between the commas, or other signs, that are not in parentheses of their own."""
        places = [at for at, word in enumerate(self) if word.upper == sign and word.depth == self[0].depth]
        return [self[start + 1 : end] for start, end in pairwise([-1, *places, len(self)])]


def words_of(statement: str) -> Words:
    """Return a statement's words, comments left out. A quote that has no end is a sign."""
    words, depth = [], 0
    for match in _WORD.finditer(statement):
        if (kind := match.lastgroup) != "skipped":
            depth -= match[0] == ")"
            quote = "" if kind in ("word", "sign") else match[0][0]
            words.append(Word(match[kind], quote, *match.span(), depth, statement))
            depth += match[0] == "("
    return Words(words)


def select_of(statement: str) -> str:
    """Return the SELECT of a view's CREATE as it is written, ``""`` for none."""
    for before, word in pairwise(words_of(statement)):
        if before.upper == "AS" and before.depth == 0 and word.upper in ("SELECT", "WITH", "("):
            return statement[before.end :].strip()
    return ""
