"""The versions as their files state them."""

import copy
import glob
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from yoyo import read_migrations
from yoyo.exceptions import BadMigration
from yoyo.migrations import Migration, MigrationStep, topological_sort

from paystream.errors import UsageError
from paystream.migrations.lock_file import refuse_deleted, refuse_violations
from paystream.migrations.statement import words_of
from paystream.migrations.text import read_text
from paystream.settings import project_folder

UNWRITTEN = "WRITE THIS STEP"
"""Marks the place of a statement that `migrate new` could not write."""

# No line comment: yoyo takes those at the head of a file away.
_IRREVERSIBLE = re.compile(r"/\*\s*irreversible:(.*?)\*/", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Version:
    """One version. ``rollbacks[n]`` takes ``statements[n]`` back."""

    migration: Migration
    statements: tuple[str, ...]
    rollbacks: tuple[str, ...]

    @property
    def id(self) -> str:
        return self.migration.id

    @property
    def number(self) -> str:
        return self.id.partition("_")[0]

    def unwritten_steps(self) -> list[int]:
        """Return the steps, counted from 1, that `migrate new` could not write and nobody has written since."""
        pairs = zip(self.statements, self.rollbacks, strict=True)
        return [number for number, texts in enumerate(pairs, start=1) if any(UNWRITTEN in text for text in texts)]

    def irreversible(self) -> list[str]:
        """Return what taking this version back does not bring back, in the words of its rollback."""
        return [reason for text in self.rollbacks for reason in irreversible(text)]

    def tables_dropped_by_rollback(self) -> list[str]:
        """Return the names of the tables that taking this version back drops."""
        return [object_name(text) for text in self.rollbacks if words_of(text).begins("DROP", "TABLE")]

    def columns_dropped_by_rollback(self) -> list[tuple[str, str]]:
        """Return the table and the name of each column that taking this version back drops."""
        dropped = r"\bDROP\s+COLUMN\s+(?:IF\s+EXISTS\s+)?[`\"]?(\w+)"
        return [
            (object_name(statement), column)
            for statement in self.rollbacks
            for column in re.findall(dropped, statement, re.IGNORECASE)
        ]

    def with_steps(self, steps: Iterable[tuple[str, str]]) -> "Version":
        """Return it with other steps, each a statement and what takes that back."""
        pairs = list(steps)
        migration = copy.copy(self.migration)
        migration.steps = [MigrationStep(number, *pair) for number, pair in enumerate(pairs)]
        return Version(migration, tuple(apply for apply, _ in pairs), tuple(back for _, back in pairs))

    def tables_reading(self, collection: str) -> list[str]:
        """Return the names of the Kafka tables that this version creates over a named collection."""
        engine = re.compile(rf"\bKafka\s*\(\s*{collection}\b", re.IGNORECASE)
        return [object_name(statement) for statement in self.statements if engine.search(statement)]


def versions_folder(root: Path | None = None) -> Path:
    """Return where the versions of a project folder are, else of the one that commands work on."""
    return (root or project_folder()) / "migrations" / "versions"


def read_history(folder: Path | None = None, *, finished: bool = True) -> list[Version]:
    """Read all versions of a folder, in the order in which they apply.

    Args:
        folder: where the versions are; else in the project.
        finished: whether each has to be what it was when it was locked, with all its steps written.

    Raises:
        UsageError: a version depends on one that is not there, is out of order, has the number of another, was edited
            or deleted since it was locked, has a step that is not written, or its rollback does not pair with it.
    """
    folder = folder or versions_folder()
    versions = _read(folder)
    if finished:
        refuse_violations(folder, [version.id for version in versions])
        for version in versions:
            refuse_unwritten(version)
    return versions


def refuse_unwritten(version: Version) -> None:
    """Make sure that all steps of a version are written.

    Raises:
        UsageError: naming the first that is not.
    """
    if steps := version.unwritten_steps():
        raise UsageError(
            f"Version '{version.id}' is not finished: step {steps[0]} has the mark '{UNWRITTEN}'. "
            f"Write it and its rollback, remove the mark, then freeze the version with `paystream migrate lock`."
        )


def _read(folder: Path) -> list[Version]:
    # A command asks more than once, and splitting the statements takes a tenth of a second each time.
    states = [(path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.glob("*"))]
    return list(_parsed(folder, tuple(states)))


@lru_cache(maxsize=4)
def _parsed(folder: Path, states: tuple[tuple[str, int, int], ...]) -> list[Version]:
    migrations = list(read_migrations(glob.escape(str(folder))))
    if not migrations:
        raise UsageError(f"Versions in '{folder}' cannot be read: there are none. Restore the folder.")
    for migration in migrations:
        if not migration.is_raw_sql():
            raise UsageError(f"Version '{migration.id}' cannot be used: it is Python. Write it as SQL.")
    try:
        for migration in migrations:
            read_text(Path(migration.path))  # yoyo's own error, where it is no UTF-8, names no file
            migration.load()
        ordered = list(topological_sort(migrations))
    except BadMigration as error:
        refuse_deleted(folder)
        raise UsageError(f"Versions in '{folder}' cannot be ordered: {error}. Correct their `-- depends:`.") from error
    _refuse_disorder([migration.id for migration in ordered])
    versions = []
    for migration in ordered:
        path = Path(migration.path)
        # As `load` has split and paired them, which it does not say in public and takes a tenth of a second to repeat.
        pairs = [(wrapped.step._apply, wrapped.step._rollback) for wrapped in migration.steps]
        statements = [apply for apply, _ in pairs if apply is not None]
        rollbacks = [rollback for _, rollback in pairs if rollback is not None]
        for file, texts in ((path, statements), (path.with_suffix(".rollback.sql"), rollbacks)):
            if any(not any(words_of(text).split(";")) for text in texts):
                raise UsageError(
                    f"Version '{migration.id}' cannot be used: {file.name} ends with a comment. Move it before a "
                    "statement."
                )
            if file.exists() and len(texts) != sum(map(bool, words_of(read_text(file)).split(";"))):
                # yoyo splits with sqlparse, which takes the quote after an escaped backslash for an escaped quote.
                raise UsageError(
                    f"Version '{migration.id}' cannot be used: the statements of {file.name} cannot be told apart. "
                    "Avoid a quoted text that ends with a backslash."
                )
        versions.append(Version(migration, tuple(statements), tuple(rollbacks)))
    for version in versions:
        if len(version.statements) != len(version.rollbacks):
            refuse_deleted(folder)
            raise UsageError(
                f"Version '{version.id}' cannot be used: it has {len(version.statements)} statements and its rollback "
                f"{len(version.rollbacks)}. Write one rollback statement for each, in reverse order."
            )
    return versions


def _refuse_disorder(ids: list[str]) -> None:
    for name in ids:
        if not re.fullmatch(r"[0-9]{4}_\w+", name):
            raise UsageError(
                f"Version '{name}' cannot be used: its name is not four digits, _ and words. Name it as the others are."
            )
    for before, after in pairwise(ids):
        first, second = (name.partition("_")[0] for name in (before, after))
        if first == second:
            raise UsageError(
                f"Versions '{before}' and '{after}' have the same number. Give the one that came later the next number."
            )
        if first > second:
            raise UsageError(
                f"Version '{after}' is out of order: it depends on {before}. Number versions in the order of their "
                "`-- depends:`."
            )


def irreversible(rollback: str) -> list[str]:
    """Return what a rollback statement says it does not bring back."""
    return [match[1].strip().rstrip(".") for match in _IRREVERSIBLE.finditer(rollback)]


def object_name(statement: str) -> str:
    """Return the name of the table, view or dictionary that a statement is about, else how the statement begins."""
    words = words_of(statement)
    for verb in (("CREATE", "OR", "REPLACE"), ("CREATE",), ("DROP",), ("ALTER",), ("SYSTEM", "RELOAD")):
        if words.begins(*verb):
            rest = words[len(verb) :]
            if rest[0].upper in ("TABLE", "VIEW", "MATERIALIZED", "DICTIONARY") and (names := rest.names()):
                return names[0]
            break
    return " ".join(words[:20].text.split())[:60]
