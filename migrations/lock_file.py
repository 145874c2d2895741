"""The lock file: what each version was when it was frozen, as ``sha256sum --check`` reads it.

A version that was applied anywhere must never change, since nothing would apply it again. ``versions.lock`` stands
beside the folder of the versions and holds the SHA-256 of each of their files and of ``schema.sql``.
"""

from pathlib import Path

from paystream import checksums
from paystream.errors import UsageError
from paystream.migrations.text import read_text, write_text

_HEAD = "# Written by `paystream migrate new` and `lock`. `sha256sum --check versions.lock` reads it too.\n"


def lock_path(folder: Path) -> Path:
    """Return where the lock file of a folder of versions is."""
    return folder.with_suffix(".lock")


def snapshot_path(folder: Path) -> Path:
    """Return where it is written what the versions of a folder give."""
    return folder.with_name("schema.sql")


def read_lock(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each locked file, by its path from the lock file; nothing where there is no lock file.

    Raises:
        UsageError: the lock file is malformed.
    """
    path = lock_path(folder)
    if not path.exists():
        return {}
    return checksums.parse(
        read_text(path),
        f"Lock file '{path.name}'",
        "Restore it from the repository; after a merge, take one side's and add the other's versions with "
        "`paystream migrate lock`.",
    )


def write_lock(folder: Path, versions: list[str]) -> None:
    """Lock versions as their files are now, and the written schema where there is one; nothing else stays locked."""
    files = [file for version in versions for file in _files(folder, version)]
    if snapshot_path(folder).exists():
        files.append(snapshot_path(folder))
    digests = {path.relative_to(folder.parent).as_posix(): checksums.digest(path) for path in files}
    write_text(lock_path(folder), _HEAD + checksums.text(digests))


def locked_versions(folder: Path) -> list[str]:
    """Return the ids of the locked versions, oldest first."""
    names = [Path(name).name for name in read_lock(folder) if name.startswith(f"{folder.name}/")]
    return sorted(name.removesuffix(".sql") for name in names if not name.endswith(".rollback.sql"))


def violations(folder: Path, versions: list[str]) -> dict[str, str]:
    """Return what is wrong with versions by the lock file: ``edited``, ``deleted`` or ``not locked``, by version.

    Args:
        folder: where the versions are.
        versions: the ids of those that are there.
    """
    locked = read_lock(folder)
    wrong: dict[str, str] = {}
    for version in sorted({*versions, *locked_versions(folder)}):
        files = _files(folder, version)
        names = [path.relative_to(folder.parent).as_posix() for path in files]
        if not any(name in locked for name in names):
            wrong[version] = "not locked"
        elif not files[0].exists():
            wrong[version] = "deleted"
        elif any(not _is_as_locked(path, locked.get(name)) for path, name in zip(files, names, strict=True)):
            wrong[version] = "edited"
    path = snapshot_path(folder)
    if path.name in locked and not _is_as_locked(path, locked[path.name]):
        wrong[path.name] = "edited" if path.exists() else "deleted"
    return wrong


def refuse_violations(folder: Path, versions: list[str]) -> None:
    """Make sure that versions are what they were when they were frozen.

    Raises:
        UsageError: naming the first that is not.
    """
    path = lock_path(folder)
    if versions and not path.exists():
        # Freezing them anew would hide that one was edited.
        raise UsageError(
            f"Lock file '{path.name}' is missing: whether versions were edited is not known. Restore it from the "
            "repository, or if there never was one, write it with `paystream migrate lock`."
        )
    for name, what in violations(folder, versions).items():
        raise UsageError(describe(name, what))


def refuse_deleted(folder: Path) -> None:
    """Make sure that both files of each locked version are there.

    Raises:
        UsageError: naming the first version that lacks one.
    """
    for version in locked_versions(folder):
        if not all(path.exists() for path in _files(folder, version)):
            raise UsageError(describe(version, "deleted"))


def describe(name: str, what: str) -> str:
    """Return in one line what is wrong with a version by the lock file, and what to do."""
    if what == "not locked":
        return f"Version '{name}' is not in the lock file. Freeze it with `paystream migrate lock`."
    if name.endswith(".sql"):
        return f"Schema file '{name}' was {what}. Restore it, or write it anew with `paystream migrate lock`."
    if what == "deleted":
        return f"Version '{name}' was deleted since it was locked. Restore its files from the repository."
    return (
        f"Version '{name}' was edited since it was locked. Restore its files and put the change into a new version; "
        f"one that no database has applied yet can be frozen anew with `paystream migrate lock {name}`."
    )


def _files(folder: Path, version: str) -> list[Path]:
    return [folder / f"{version}.sql", folder / f"{version}.rollback.sql"]


def _is_as_locked(path: Path, digest: str | None) -> bool:
    return path.exists() and checksums.digest(path) == digest
