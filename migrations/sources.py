"""What ``sql/`` and ``dictionaries/`` say exists: one object a file, named as the file is."""

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.tokens import Token, TokenType

from migrations.history import object_name
from migrations.text import read_text
from paystream.errors import UsageError
from paystream.settings import REPOSITORY


@dataclass(frozen=True)
class Source:
    """One file of ``sql/`` or ``dictionaries/``."""

    name: str
    path: str
    """From the repository's root."""
    kind: str
    """``TABLE``, ``MATERIALIZED VIEW``, ``VIEW`` or ``DICTIONARY``."""
    text: str
    """As authored, without the semicolon that may end it."""
    fingerprint: str
    """SHA-256 of its words: the same whatever its comments, line breaks and spaces are."""

    @property
    def select(self) -> str:
        """The SELECT of a view, as authored."""
        tokens = tokens_of(self.text)
        depth = 0
        for before, token in pairwise(tokens):
            depth += {TokenType.L_PAREN: 1, TokenType.R_PAREN: -1}.get(before.token_type, 0)
            if depth == 0 and before.token_type is TokenType.ALIAS and token.text.upper() in ("SELECT", "WITH", "("):
                return self.text[before.end + 1 :].strip()
        raise UsageError(f"SQL file '{self.path}' cannot be used: no SELECT follows AS. Write the view's SELECT.")


def read_sources(root: Path = REPOSITORY, parsed: Collection[str] = ()) -> dict[str, Source]:
    """Read every file of ``sql/`` and ``dictionaries/`` under a folder, by the name of its object.

    Args:
        root: the folder.
        parsed: fingerprints of texts that were parsed before, which saves most of the time.

    Raises:
        UsageError: naming the first file that is half-written, holds other than one CREATE, or is not named as its
            object is.
    """
    sources: dict[str, Source] = {}
    for path in sorted([*root.glob("sql/**/*.sql"), *root.glob("dictionaries/**/*.sql")]):
        source = read_source(path, root, parsed)
        if source.name in sources:
            raise UsageError(
                f"Object '{source.name}' is written twice: in {sources[source.name].path} and in {source.path}. "
                "Remove one of them."
            )
        sources[source.name] = source
    if not sources:
        raise UsageError(f"SQL files of '{root}' cannot be read: there are none. Restore sql/ and dictionaries/.")
    return sources


def read_source(path: Path, root: Path, parsed: Collection[str] = ()) -> Source:
    """Read one file.

    Raises:
        UsageError: as ``read_sources``.
    """
    shown = path.relative_to(root).as_posix()
    text = read_text(path).strip().rstrip(";")
    try:
        found = fingerprint(text)
        statements = (
            [] if found in parsed else [one for one in sqlglot.parse(text, read="clickhouse") if one is not None]
        )
    except SqlglotError as error:
        cause = re.sub(r"\x1b\[\d+m", "", " ".join(str(error).split()))[:200].rstrip(". ")
        raise UsageError(f"SQL file '{shown}' cannot be parsed: {cause}. Correct it.") from error
    if found not in parsed and (len(statements) != 1 or not isinstance(statements[0], exp.Create | exp.Command)):
        raise UsageError(
            f"SQL file '{shown}' cannot be used: it holds {_what(statements)} where one CREATE belongs. "
            "Give each object a file of its own."
        )
    name = object_name(text)
    if name != path.stem:
        raise UsageError(
            f"SQL file '{shown}' cannot be used: it creates {name!r}. Name the file as its object is: {name}.sql."
        )
    words = [token.text for token in tokens_of(text)]
    if "." in words[: words.index(name)]:
        raise UsageError(
            f"SQL file '{shown}' cannot be used: it names a database. Leave that out: the settings say which."
        )
    upper = [word.upper() for word in words[:4]]
    if upper[:2] == ["CREATE", "OR"] or "IF" in upper:
        raise UsageError(
            f"SQL file '{shown}' cannot be used: it begins with {' '.join(words[:4])}. Begin it with a plain CREATE."
        )
    kind = "MATERIALIZED VIEW" if upper[1] == "MATERIALIZED" else upper[1]
    return Source(name, shown, kind, text, found)


def _what(statements: list[exp.Expression]) -> str:
    return "another statement" if len(statements) == 1 else f"{len(statements)} statements"


def fingerprint(text: str) -> str:
    """Return the SHA-256 of a statement's words, which is the same whatever its comments and spaces are.

    Raises:
        sqlglot.errors.TokenError: a quote in it has no end.
    """
    words = "\0".join(f"{token.token_type.name} {token.text}" for token in tokens_of(text))
    return hashlib.sha256(words.encode()).hexdigest()


def tokens_of(text: str) -> list[Token]:
    """Return a statement's words, without comments."""
    return sqlglot.tokenize(text, read="clickhouse")
