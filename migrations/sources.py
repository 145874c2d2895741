"""What ``sql/`` and ``dictionaries/`` say exists: one object a file, named as the file is."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import sqlglot
from sqlglot.errors import SqlglotError

from paystream.errors import UsageError
from paystream.migrations.history import object_name
from paystream.migrations.statement import Words, select_of, words_of
from paystream.migrations.text import read_text
from paystream.settings import project_folder


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
        if select := select_of(self.text):
            return select
        raise UsageError(f"SQL file '{self.path}' cannot be used: no SELECT follows AS. Write the view's SELECT.")


def read_sources(root: Path | None = None) -> dict[str, Source]:
    """Read every file of ``sql/`` and ``dictionaries/`` under a folder, by the name of its object.

    What a statement may hold beyond its first words, the engine knows: a parser of ours would refuse what is new.

    Raises:
        UsageError: naming the first file that is half-written, holds other than one CREATE, or is not named as its
            object is.
    """
    sources: dict[str, Source] = {}
    root = root or project_folder()
    for path in sorted([*root.glob("sql/**/*.sql"), *root.glob("dictionaries/**/*.sql")]):
        source = read_source(path, root)
        if source.name in sources:
            raise UsageError(
                f"Object '{source.name}' is written twice: in {sources[source.name].path} and in {source.path}. "
                "Remove one of them."
            )
        sources[source.name] = source
    if not sources:
        raise UsageError(f"SQL files of '{root}' cannot be read: there are none. Restore sql/ and dictionaries/.")
    return sources


def read_source(path: Path, root: Path) -> Source:
    """Read one file.

    Raises:
        UsageError: as ``read_sources``.
    """
    shown = path.relative_to(root).as_posix()
    text = read_text(path).strip().rstrip(";")
    try:
        meaning = fingerprint(text)
    except SqlglotError as error:
        cause = re.sub(r"\x1b\[\d+m", "", " ".join(str(error).split()))[:200].rstrip(". ")
        raise UsageError(f"SQL file '{shown}' cannot be parsed: {cause}. Correct it.") from error
    tokens = words_of(text)
    statements = [statement for statement in tokens.split(";") if statement]
    if len(statements) != 1 or not statements[0].begins("CREATE"):
        raise UsageError(
            f"SQL file '{shown}' cannot be used: it holds {_what(statements)} where one CREATE belongs. "
            "Give each object a file of its own."
        )
    signs = [token.upper for token in tokens]
    if signs.count("(") != signs.count(")") or any(token.depth < 0 for token in tokens):
        raise UsageError(f"SQL file '{shown}' cannot be parsed: its parentheses do not pair. Correct it.")
    name = object_name(text)
    if name != path.stem:
        raise UsageError(
            f"SQL file '{shown}' cannot be used: it creates {name!r}. Name the file as its object is: {name}.sql."
        )
    words = [token.text for token in tokens]
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
    return Source(name, shown, kind, text, meaning)


def _what(statements: list[Words]) -> str:
    return "another statement" if len(statements) == 1 else f"{len(statements)} statements"


def fingerprint(text: str) -> str:
    """Return the SHA-256 of a statement's words, which is the same whatever its comments and spaces are.

    Raises:
        sqlglot.errors.TokenError: a quote in it has no end.
    """
    # By sqlglot's words, as those that are written down in schema.sql are.
    tokens = sqlglot.tokenize(text, read="clickhouse")
    words = "\0".join(f"{token.token_type.name} {token.text}" for token in tokens)
    return hashlib.sha256(words.encode()).hexdigest()
