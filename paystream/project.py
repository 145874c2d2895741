"""The project folder, which a team owns and edits: where it is, how it begins, how it follows a newer Paystream.

It begins as a copy of the reference, which travels with the tool. Its marker file lists what each file was in the
reference it came from, so that an upgrade can tell what the team has changed since.
"""

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from paystream import checksums
from paystream.errors import UsageError
from paystream.files import whole_file

MARKER = "paystream.project"
_HEAD = (
    "# Marks a Paystream project folder. Keep it in version control; `paystream upgrade` needs it and rewrites it.\n"
    "# Below: each file as the reference had it, whence this folder came. `sha256sum --check` lists what you changed.\n"
)

_FILES = (
    "sql/*/*.sql",
    "dictionaries/*.sql",
    "migrations/versions/*.sql",
    "migrations/versions.lock",
    "migrations/schema.sql",
    "access/*.sql",
    "loadtest/workloads/*.yaml",
    "cost/*.yaml",
    "monitoring/*",
)
"""What of the reference a project folder has. The rest of a checkout is the tool."""

NEW = ".new"
"""Ends the name of the reference's file where it stands beside the team's own."""

_PACKAGE = Path(__file__).parent
CHECKOUT = _PACKAGE.parent if (_PACKAGE.parent / MARKER).is_file() else None
"""The repository, where the tool runs from one."""
REFERENCE = CHECKOUT or _PACKAGE
"""The folder with the reference's files: the repository, or what a wheel carries, which has the same paths."""

_BESIDE = {
    ".gitignore": ".env\n.paystream/\n",
    ".gitattributes": "# Versions are locked by their hashes.\n* text=auto eol=lf\n",
    "README.md": """# A Paystream project

What this pipeline is: `sql/` and `dictionaries/` (the schema), `migrations/` (its history), `access/` (roles),
`loadtest/workloads/`, `cost/` (prices and assumptions), `monitoring/` (alerts, dashboards). All of it is yours to edit.

    paystream up                 # Kafka and ClickHouse on this machine, or name your own in .env (see .env.example)
    paystream migrate up
    paystream migrate new NAME   # after an edit of sql/ or dictionaries/
    paystream upgrade            # after an update of the tool

Keep the folder in version control, `paystream.project` included.
""",
}


class Change(StrEnum):
    """What an upgrade does with a file."""

    UPDATED = "updated"
    ADDED = "added"
    REMOVED = "removed"
    CONFLICT = "conflict"
    """Both sides changed it: the team's stays, the reference's is put beside it with the ending ``.new``."""
    HELD = "held back"
    """A version of the reference, where the team has versions of its own: theirs can't be numbered in between."""


@dataclass(frozen=True)
class FileChange:
    """A file that the reference has changed since the project came from it."""

    path: str
    change: Change
    diff: str
    """From the project's text to the reference's, as a unified diff."""


def find(start: Path) -> Path | None:
    """Return the nearest project folder from ``start`` upward, None where there is none."""
    return next((folder for folder in (start, *start.parents) if os.path.isfile(folder / MARKER)), None)


def require(folder: Path | None) -> Path:
    """Return a project folder as it is.

    Raises:
        UsageError: it has no marker, or there is no project.
    """
    if folder is None:
        raise UsageError(
            f"Project: neither the working directory nor a folder above it has '{MARKER}'. Go to your project's "
            "folder, name it with --project or PAYSTREAM_PROJECT, or make one: `paystream init my-pipeline`."
        )
    if not os.path.isfile(folder / MARKER):
        raise UsageError(
            f"Project '{folder}': it has no file '{MARKER}'. Name a folder that `paystream init` wrote; if the file "
            "was lost, restore it from version control, or make an empty one."
        )
    return folder


def init(folder: Path, example_settings: str) -> list[str]:
    """Write a project folder, and return the paths of its files.

    Args:
        folder: one that is empty or not there yet.
        example_settings: the text of ``.env.example``.

    Raises:
        UsageError: it is not empty, can't be written, or is within another project. Then nothing is left there.
    """
    written: list[Path] = []
    try:
        if outer := find(folder.resolve().parent):
            raise UsageError(
                f"Project '{folder}': it would be within another, '{outer}'. Choose a folder outside of that one."
            )
        if folder.exists() and (there := sorted(path.name for path in folder.iterdir())):
            raise UsageError(
                f"Project '{folder}': it is not empty (it has {', '.join(there[:3])}). Empty it, or choose another."
            )
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        texts = {path: (REFERENCE / path).read_bytes() for path in _paths(REFERENCE)}
        texts |= {path: text.encode() for path, text in ({".env.example": example_settings} | _BESIDE).items()}
        try:
            for path, text in texts.items():
                written.append(folder / path)
                _write(folder / path, text)
            written.append(folder / MARKER)
            _mark(folder, {path: checksums.digest(REFERENCE / path) for path in _paths(REFERENCE)})
        except BaseException:
            _take_away(written, folder, made)
            raise
    except OSError as error:
        raise UsageError(
            f"Project '{folder}': it cannot be written: {error.strerror or error}. Choose a folder that can."
        ) from error
    return [*texts, MARKER]


def upgrade(folder: Path, *, dry_run: bool = False) -> list[FileChange]:
    """Take over what the reference has changed and the team has not; return all that the reference has changed.

    It can be repeated after an interruption. The team's versions stay as they are: once it has one of its own, those of
    the reference are held back, and ``paystream migrate new`` writes the version for what changed in ``sql/``.

    Raises:
        UsageError: the folder is the reference itself, its marker can't be read, or a file can't be written.
    """
    if folder.resolve() == REFERENCE.resolve():
        raise UsageError(f"Project '{folder}': it is the reference itself. Pull its repository instead.")
    before = _marked(folder)
    now = {path: checksums.digest(REFERENCE / path) for path in _paths(REFERENCE)}
    lock = "migrations/versions.lock"
    has_own_versions = _digest(folder / lock) not in (before.get(lock), now.get(lock))
    changes: list[FileChange] = []
    try:
        for path in sorted({*before, *now}):
            change = _change(_digest(folder / path), before.get(path), now.get(path))
            if has_own_versions and path.startswith("migrations/"):
                change = Change.HELD if path.startswith("migrations/versions/") and path not in before else None
            if change:
                changes.append(FileChange(path, change, _diff(folder, path)))
                if not dry_run:
                    _take_over(folder, path, change)
        if not dry_run:
            _mark(folder, now)
    except OSError as error:
        raise UsageError(
            f"Project '{folder}': '{error.filename}' cannot be written: {error.strerror}. Correct that, then repeat."
        ) from error
    return changes


def unresolved(folder: Path) -> list[str]:
    """Return the paths of the reference's files that stand beside the team's own, waiting to be merged."""
    return sorted(path.relative_to(folder).as_posix() for glob in _FILES for path in folder.glob(f"{glob}{NEW}"))


def _paths(root: Path) -> Iterator[str]:
    for glob in _FILES:
        for path in sorted(root.glob(glob)):
            if path.is_file() and path.suffix != NEW:
                yield path.relative_to(root).as_posix()


def _change(mine: str | None, before: str | None, now: str | None) -> Change | None:
    """Return what to do with a file, by its digest in the project, in the reference before, and in that of now."""
    if now in (mine, before):
        return None
    if mine == before:
        return Change.ADDED if mine is None else Change.REMOVED if now is None else Change.UPDATED
    return Change.CONFLICT


def _digest(path: Path) -> str | None:
    return checksums.digest(path) if path.is_file() else None


def _take_over(folder: Path, path: str, change: Change) -> None:
    match change:
        case Change.UPDATED | Change.ADDED:
            _write(folder / path, (REFERENCE / path).read_bytes())
        case Change.REMOVED:
            (folder / path).unlink()
        case Change.CONFLICT if (REFERENCE / path).is_file():
            _write(folder / f"{path}{NEW}", (REFERENCE / path).read_bytes())


def _diff(folder: Path, path: str) -> str:
    texts = [
        place.read_text("utf-8", errors="replace").splitlines(keepends=True) if place.is_file() else []
        for place in (folder / path, REFERENCE / path)
    ]
    return "".join(difflib.unified_diff(*texts, f"yours/{path}", f"reference/{path}"))


def _marked(folder: Path) -> dict[str, str]:
    path = folder / MARKER
    advice = "Restore it from version control. If it is lost, empty it: then every file that differs is a conflict."
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Marker '{path}' cannot be read: {error}. {advice}") from error
    return checksums.parse(text, f"Marker '{path}'", advice)


def _mark(folder: Path, digests: dict[str, str]) -> None:
    _write(folder / MARKER, (_HEAD + checksums.text(digests)).encode())


def _write(path: Path, text: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(text)


def _take_away(written: list[Path], folder: Path, made: list[Path]) -> None:
    for path in written:
        path.unlink(missing_ok=True)
    for below in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        below.rmdir()
    for path in made:
        if path.exists():
            path.rmdir()
