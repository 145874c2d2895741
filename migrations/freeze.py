"""Freeze versions: replay them, see that they give what the files say, and write that and the lock file down."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from paystream.errors import CheckFailed, UsageError
from paystream.migrations import lock_file, scratch
from paystream.migrations.history import Version, read_history, refuse_unwritten, versions_folder
from paystream.migrations.schema import WRITE_VERSION, Difference, Expected, diff, write_snapshot
from paystream.migrations.sources import Source, read_sources
from paystream.settings import Settings, project_folder


@dataclass(frozen=True)
class Frozen:
    """What ``freeze`` did."""

    locked: tuple[str, ...]
    """The versions that were not locked before, or not as they are now."""
    newest: str


def freeze(again: str | None = None, root: Path | None = None, engine: Settings | None = None) -> Frozen:
    """Lock every version that is not locked yet, and write down what all of them give.

    Args:
        again: a version to lock as it is now although it was locked otherwise.
        root: the project folder.
        engine: an engine to replay the versions in; without it, one is started.

    Raises:
        UsageError: a locked version was edited or deleted, one is unfinished, or one cannot be replayed.
        CheckFailed: the versions do not give what the files say.
    """
    root = root or project_folder()
    folder = versions_folder(root)
    history = read_history(folder, finished=False)
    known = [version.id for version in history]
    if again is not None and again not in known:
        raise UsageError(f"Version '{again}' does not exist. Choose one of {', '.join(known)}.")
    wrong = lock_file.violations(folder, known)
    for name, what in wrong.items():
        if what != "not locked" and name != again and not name.endswith(".sql"):
            raise UsageError(lock_file.describe(name, what))
    for version in history:
        refuse_unwritten(version)
    sources = read_sources(root)
    with nullcontext(engine) if engine else scratch.scratch_engine() as engine:
        with scratch.replayed(engine, history) as replay:
            replayed = replay.spelled()
        _, loaded = scratch.load(engine, sources)
    if differences := compare(replayed, loaded):
        names = ", ".join(difference.name for difference in differences)
        raise CheckFailed(
            f"Version '{known[-1]}' does not give what the files say: {names}. Write what is missing with "
            "`paystream migrate new NAME`, or correct it; `paystream migrate check --offline` shows how they differ."
        )
    write(folder, history, sources, replayed)
    return Frozen(tuple(name for name in wrong if name in known), known[-1])


def write(folder: Path, history: list[Version], sources: dict[str, Source], replayed: dict[str, str]) -> None:
    """Write the schema file and the lock file for versions that give what the files say."""
    objects = {name: Expected(name, sources[name].fingerprint, create) for name, create in replayed.items()}
    write_snapshot(lock_file.snapshot_path(folder), history[-1].id, objects)
    lock_file.write_lock(folder, [version.id for version in history])


def compare(replayed: dict[str, str], loaded: dict[str, str]) -> list[Difference]:
    """Return in which objects the files say something else than the versions give."""
    differences = []
    for name in sorted({*replayed, *loaded}):
        if name not in replayed:
            differences.append(Difference("files", name, "new", fix=WRITE_VERSION))
        elif name not in loaded:
            differences.append(Difference("files", name, "removed", fix=WRITE_VERSION))
        elif replayed[name] != loaded[name]:
            lines = diff(replayed[name], loaded[name])
            differences.append(Difference("files", name, "changed", lines, WRITE_VERSION))
    return differences
