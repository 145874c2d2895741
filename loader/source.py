"""A file as it was found, read as CSV, and the problems found in it."""

import csv
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from paystream.errors import CheckFailed, UsageError

SHOWN_PROBLEMS = 20

UNKNOWN_CODES = "unknown-codes"


class GateFailed(CheckFailed):
    """A gate refused a file; ``--force <gate>`` overrides it."""

    def __init__(self, message: str, gate: str) -> None:
        super().__init__(message)
        self.gate = gate


class Problem(NamedTuple):
    """One thing wrong in one place of a file. Sorts in the order of the file."""

    line: int
    column: str
    value: str | None
    cause: str

    def __str__(self) -> str:
        if self.value is None:
            return f"line {self.line}: {self.cause}"
        value = self.value if len(self.value) <= 60 else self.value[:57] + "..."
        return f"line {self.line}, column {self.column}: {value!r} {self.cause}"


@dataclass
class Problems:
    """The number of all problems of a file, and the first twenty of them."""

    count: int = 0
    shown: list[Problem] = field(default_factory=list)

    def add(self, found: list[Problem]) -> None:
        """Count these problems, and keep the first of them in the file's order if there is room."""
        self.count += len(found)
        self.shown += sorted(found, key=lambda problem: problem.line)[: SHOWN_PROBLEMS - len(self.shown)]


@dataclass(frozen=True)
class Source:
    """The bytes of a file, read once, so that the checksum is of what was loaded."""

    kind: str
    name: str
    data: bytes
    modified_at: datetime | None = None

    @property
    def checksum(self) -> str:
        """SHA-256 of the bytes, hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()

    def refuse(self, cause: str, remedy: str = "Correct it and run again") -> CheckFailed:
        """Return the error that refuses this file as a whole."""
        return CheckFailed(f"{self.kind} '{self.name}': {cause}. Nothing was changed. {remedy}.")

    def refuse_rows(self, problems: Problems, rows: int) -> CheckFailed:
        """Return the error that refuses this file for what its rows hold: one line, then the first problems."""
        listed = f"the first {SHOWN_PROBLEMS} below" if problems.count > SHOWN_PROBLEMS else "listed below"
        error = self.refuse(f"{_counted(problems.count, 'problem')} in {_counted(rows, 'row')} ({listed})")
        return CheckFailed("\n  ".join([str(error), *map(str, problems.shown)]))


def read_source(kind: str, path: Path) -> Source:
    """Read a file whole.

    Args:
        kind: what the file is to the user, as messages shall call it.
        path: where it is.

    Raises:
        UsageError: there is no such file, it is not a regular file, or it may not be read.
    """
    try:
        if path.is_dir():
            raise UsageError(f"{kind} '{path}': it is a directory. Name the file with --from.")
        if path.exists() and not path.is_file():
            raise UsageError(f"{kind} '{path}': it is not a regular file. Save it to a file and name that with --from.")
        return Source(kind, str(path), path.read_bytes())
    except OSError as error:
        cause = (error.strerror or str(error)).lower()
        raise UsageError(f"{kind} '{path}': {cause}. Name a file that can be read with --from.") from None


def read_csv(source: Source, required: list[str]) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Read UTF-8 text as comma-separated values with a header; a byte order mark and blank lines are passed over.

    Returns:
        The header, and an iterator over the rows, each with the number of the line it starts on. A row may have more
        or fewer fields than the header.

    Raises:
        CheckFailed: what was read is not such a file, or its header lacks a required column or names it twice. The
            iterator raises it too, for a quote that is wrong or never closed.
    """
    _check_text(source)
    rows = _rows(source)
    _, header = next(rows, (0, []))
    missing = [name for name in required if name not in header]
    if missing:
        separator = next((mark for mark in ";\t|" if set(required) <= set(",".join(header).split(mark))), None)
        if separator:
            raise source.refuse(f"columns are separated by {separator!r} instead of ','")
        found = ", ".join(repr(name[:40]) for name in header[:10]) + ", ..." * (len(header) > 10)
        raise source.refuse(
            f"the header lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)} (found: {found})"
        )
    repeated = [name for name in required if header.count(name) > 1]
    if repeated:
        raise source.refuse(f"the header names {', '.join(repeated)} more than once")
    return header, rows


def wrong_width(line: int, fields: list[str], header: list[str]) -> Problem:
    """Return the problem of a row whose number of fields is not that of the header."""
    return Problem(line, "", None, f"{len(fields)} field{'s' * (len(fields) != 1)} where the header has {len(header)}")


def _check_text(source: Source) -> None:
    if not source.data.strip():
        raise source.refuse("the file is empty", "Fetch it again")
    if source.data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise source.refuse("the file is UTF-16 instead of UTF-8", "Save it as UTF-8")
    if source.data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise source.refuse("the file is an HTML or XML page instead of CSV", "Check where it was fetched from")
    if (position := source.data.find(b"\0")) >= 0:
        raise source.refuse(f"{_place(source, position)} is NUL, which no text contains")
    try:
        source.data.decode()
    except UnicodeDecodeError as error:
        place = _place(source, error.start)
        raise source.refuse(
            f"{place} is 0x{source.data[error.start]:02x}, which is not UTF-8 there", "Save it as UTF-8"
        ) from None


def _place(source: Source, position: int) -> str:
    line = source.data.count(b"\n", 0, position) + 1
    return f"byte {position + 1:,} (line {line:,})"


def _rows(source: Source) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.TextIOWrapper(io.BytesIO(source.data), encoding="utf-8-sig", newline=""), strict=True)
    line = 1
    try:
        for fields in reader:
            if fields:
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise source.refuse(f"the row that starts on line {line:,} is not CSV ({error})") from None


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"
