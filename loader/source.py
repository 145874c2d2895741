"""A file as it was found, and the problems found in it."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from paystream.errors import CheckFailed, UsageError
from paystream.loader.fetch import Limits, fetch, is_remote
from paystream.output import counted

SHOWN_PROBLEMS = 20

MOST_REJECTED = 10_000
"""More rows than this are never left out of a snapshot, whatever share of the file they are: each is recorded."""

UNKNOWN_CODES = "unknown-codes"
"""The gate that stops codes which have the right form and are in no list."""


class GateFailed(CheckFailed):
    """A check came out negative that can be overridden with ``--force <gate>``."""

    def __init__(self, message: str, gate: str) -> None:
        super().__init__(message)
        self.gate = gate


@dataclass(frozen=True)
class Rejected:
    """A row that is left out of a snapshot: where it is in the file, its key, and why."""

    place: str
    key: str
    cause: str


class Problem(NamedTuple):
    """One thing wrong in one place of a file, by the number of its line or row. Sorts in the order of the file."""

    place: int
    column: str
    value: str | None
    """What is there; None is Parquet's null. Not shown where there is no one column."""
    cause: str
    is_unknown_code: bool = False

    @property
    def text(self) -> str:
        """What is wrong, without the place."""
        if not self.column:
            return self.cause
        value = self.value
        if value is not None and len(value) > 60:
            value = value[:57] + "..."
        return f"column {self.column}: {'null' if value is None else repr(value)} {self.cause}"


def line(number: int) -> str:
    """Name the place of a problem in a text."""
    return f"line {number}"


def row(number: int) -> str:
    """Name the place of a problem in what has no lines."""
    return f"row {number}"


@dataclass
class Problems:
    """The number of all problems of a file, and the first twenty of them."""

    name_place: Callable[[int], str] = line
    count: int = 0
    unknown_codes: int = 0
    unknown_at: dict[int, Problem] = field(default_factory=dict)
    """By place, the first unknown code of a row; of ``MOST_REJECTED`` rows and one more."""
    shown: list[Problem] = field(default_factory=list)

    def add(self, problems: list[Problem]) -> None:
        """Count these problems, and keep the first of them in the file's order if there is room."""
        self.count += len(problems)
        unknown = [problem for problem in problems if problem.is_unknown_code]
        self.unknown_codes += len(unknown)
        for problem in unknown[: MOST_REJECTED + 1 - len(self.unknown_at)]:
            self.unknown_at.setdefault(problem.place, problem)
        self.shown += sorted(problems, key=lambda problem: problem.place)[: SHOWN_PROBLEMS - len(self.shown)]

    def texts(self) -> list[str]:
        """Return one line for each of the problems shown."""
        return [self._text(problem) for problem in self.shown]

    def _text(self, problem: Problem) -> str:
        place = self.name_place(problem.place)
        return f"{place}, {problem.text}" if problem.column else f"{place}: {problem.text}"


@dataclass(frozen=True)
class Source:
    """The bytes of a file, read once, so that the checksum is of what was loaded.

    Of a folder of part files, ``parts`` are these and ``data`` is empty.
    """

    kind: str
    name: str
    """The path or the address, without anything secret."""
    data: bytes = field(repr=False)
    modified_at: datetime | None = None
    """When the file was last changed (UTC), as far as its place says."""
    packed: bytes | None = field(default=None, repr=False)
    """What ``data`` was unpacked from."""
    parts: tuple["Source", ...] = ()

    @property
    def checksum(self) -> str:
        """SHA-256 of the bytes as they came, hexadecimal; of a folder, of its parts' checksums in order."""
        if self.parts:
            return hashlib.sha256("".join(f"{part.checksum}\n" for part in self.parts).encode()).hexdigest()
        return hashlib.sha256(self.data if self.packed is None else self.packed).hexdigest()

    def refuse(self, cause: str, remedy: str = "Correct it and run again") -> CheckFailed:
        """Return the error that refuses this file as a whole."""
        return CheckFailed(self._refusal(cause, remedy))

    def refuse_rows(self, problems: Problems, rows: int, limit: str = "") -> CheckFailed:
        """Return the error that refuses this file for what its rows hold: one line, then the first problems.

        It is a ``GateFailed`` where codes that are in no list are all that is wrong. ``limit`` says how many of them
        would have been few enough.
        """
        listed = f"the first {SHOWN_PROBLEMS} below" if problems.count > SHOWN_PROBLEMS else "listed below"
        cause = f"{counted(problems.count, 'problem')} in {counted(rows, 'row')} ({listed})"
        remedy = "Correct it and run again"
        if problems.count > problems.unknown_codes:
            return CheckFailed("\n  ".join([self._refusal(cause, remedy), *problems.texts()]))
        cause += limit
        remedy += f", or override with --force {UNKNOWN_CODES}"
        return GateFailed("\n  ".join([self._refusal(cause, remedy), *problems.texts()]), UNKNOWN_CODES)

    def _refusal(self, cause: str, remedy: str) -> str:
        return f"{self.kind} '{self.name}': {cause}. Nothing was changed. {remedy}."


def read_source(
    kind: str,
    place: str | Path,
    limits: Limits = Limits(),  # noqa: B008  frozen
    folders: bool = False,
) -> Source:
    """Read a file whole: a path, an ``http://`` or ``https://`` address, or ``s3://bucket/key`` (see ``fetch``).

    Args:
        kind: what the file is to the user, as messages shall call it.
        place: where it is. An address is a ``str``: a ``Path`` has lost one of its slashes.
        limits: what the source may take at most; of a path, only the size counts.
        folders: whether a folder of part files will do, as Spark and Snowflake write them. What begins with ``.`` or
            ``_`` is none of them.

    Raises:
        UsageError: there is no such file, it is not a regular file, or it may not be read.
        ServiceUnavailable: the source cannot be reached, or is not done in time.
        CheckFailed: the file is too large.
    """
    if not str(place).strip():  # which would be the working directory
        raise UsageError(f"{kind} '': no place is named. Name a file, a folder or an address with --from.")
    if is_remote(str(place)):
        name, data, modified_at = fetch(kind, str(place), limits)
        return Source(kind, name, data, modified_at)
    path = Path(place)
    try:
        if path.is_dir() and folders:
            return _read_folder(kind, path, limits)
        if path.is_dir():
            raise UsageError(f"{kind} '{path}': it is a directory. Name the file with --from.")
        if path.exists() and not path.is_file():
            raise UsageError(f"{kind} '{path}': it is not a regular file. Save it to a file and name that with --from.")
        stat = path.stat()
        if stat.st_size > limits.largest_bytes:
            raise CheckFailed(
                f"{kind} '{path}': it is larger than {limits.largest_bytes:,} bytes. Nothing was changed."
            )
        return Source(kind, str(path), path.read_bytes(), datetime.fromtimestamp(stat.st_mtime, UTC))
    except OSError as error:
        cause = (error.strerror or str(error)).lower()
        raise UsageError(f"{kind} '{path}': {cause}. Name a file that can be read with --from.") from None


def _read_folder(kind: str, folder: Path, limits: Limits) -> Source:
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.name[0] not in "._")
    if not files:
        raise UsageError(f"{kind} '{folder}': there is no file in that folder. Name another with --from.")
    if sum(file.stat().st_size for file in files) > limits.largest_bytes:
        raise CheckFailed(f"{kind} '{folder}': it is larger than {limits.largest_bytes:,} bytes. Nothing was changed.")
    parts = tuple(read_source(kind, file, limits) for file in files)
    newest = max(part.modified_at for part in parts if part.modified_at)
    return Source(kind, str(folder), b"", newest, parts=parts)
