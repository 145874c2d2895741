"""Has anything drifted: the files from the versions, the versions from their lock, a database from both?"""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from paystream import group
from paystream.clickhouse import answering
from paystream.devstack import clickhouse_server
from paystream.migrations import lock_file, named_collection, scratch
from paystream.migrations.backend import ClickHouseBackend
from paystream.migrations.freeze import compare
from paystream.migrations.history import UNWRITTEN, object_name, read_history, versions_folder
from paystream.migrations.runner import cluster_for, database_exists
from paystream.migrations.schema import (
    WRITE_VERSION,
    Command,
    Difference,
    detached,
    diff,
    over_shards,
    read_snapshot,
    reformatted,
    spelled,
)
from paystream.migrations.sources import read_sources
from paystream.nodes import find, naming
from paystream.settings import Settings, project_folder

_UP = Command("paystream migrate up")


def check_files(root: Path | None = None, engine: Settings | None = None) -> list[Difference]:
    """Compare the files with what the versions give, and the versions with the lock file. Needs no server.

    How a changed file differs is asked of an engine, which takes some seconds; without one it is only named.

    Args:
        root: the project folder.
        engine: an engine to ask; without it, one is started where it is installed.

    Raises:
        UsageError: a file or a version cannot be read at all.
    """
    root = root or project_folder()
    folder = versions_folder(root)
    history = read_history(folder, finished=False)
    wrong = lock_file.violations(folder, [version.id for version in history])
    differences = [
        Difference("versions", name, what, fix=lock_file.describe(name, what)) for name, what in wrong.items()
    ]
    for version in history:
        if steps := version.unwritten_steps():
            numbers = ", ".join(map(str, steps))
            differences.append(
                Difference("versions", version.id, f"step {numbers} has the mark {UNWRITTEN!r}", fix="Write the step.")
            )
    expected = read_snapshot(lock_file.snapshot_path(folder))
    sources = read_sources(root)
    suspects = [
        Difference("files", name, _how(name in expected, name in sources), fix=WRITE_VERSION)
        for name in sorted({*expected, *sources})
        if name not in sources or name not in expected or sources[name].fingerprint != expected[name].fingerprint
    ]
    if not suspects or not (engine or clickhouse_server.is_installed()):
        return differences + suspects
    with nullcontext(engine) if engine else scratch.scratch_engine() as engine:
        _, loaded = scratch.load(engine, sources)
    # Words may change without a change of meaning, such as a type's other name: the engine knows.
    return differences + compare({name: entry.create for name, entry in expected.items()}, loaded)


def check_database(settings: Settings, folder: Path | None = None) -> list[Difference]:
    """Compare the objects of a database with what its versions give, in the engine's own spelling. Changes nothing.

    Of a cluster, every node that answers is compared. Objects that a pending version is about are not compared, since
    what they should be until then is not written down.

    Raises:
        ServiceUnavailable: ClickHouse cannot be reached.
        UsageError: the versions cannot be read, or a server is too old.
    """
    folder = folder or versions_folder()
    nodes = find(settings)
    expected = [entry.create for entry in read_snapshot(lock_file.snapshot_path(folder)).values()]
    if nodes.cluster:
        from paystream.migrations.cluster import render

        cluster = cluster_for(nodes)
        expected = [text for create in expected for text in render(create, cluster)]
    differences = []
    for node in nodes.present:
        with naming(node, nodes):
            found = _check_server(node.settings, folder, {object_name(text): text for text in expected})
        where = f"node {node.address}" if nodes.cluster else "database"
        differences += [replace(difference, where=where) for difference in found]
    return differences


def _check_server(settings: Settings, folder: Path, expected: dict[str, str]) -> list[Difference]:
    history = read_history(folder, finished=False)
    if not database_exists(settings):
        return [Difference("database", settings.clickhouse_database, "missing", fix=_UP)]
    what = f"Check of database '{settings.clickhouse_database}'"
    with answering(what), ClickHouseBackend.of(settings) as backend:
        client = backend.connection
        states = backend.states()
        database = settings.clickhouse_database
        live = {name: named_collection.authored(text, database) for name, text in spelled(client, database).items()}
        if settings.clickhouse_cluster:
            live |= reformatted(client, over_shards(client, database))
        away = detached(client, settings.clickhouse_database)
        wanted = reformatted(client, expected)
        otherwise = group.look(client, settings)
    known = [version.id for version in history]
    pending = [version for version in history if version.id not in states or states[version.id].state != "applied"]
    differences = [
        Difference("database", version.id, states[version.id].state if version.id in states else "pending", fix=_UP)
        for version in pending
    ]
    if otherwise:
        differences.append(Difference("database", group.TABLE, otherwise, fix=_UP))
    for name in sorted(set(states) - set(known)):
        how = "applied, but not among the files"
        differences.append(Difference("database", name, how, fix="Use a newer checkout."))
    changing = {object_name(text) for version in pending for text in version.statements}
    for name in sorted({*wanted, *live, *away} - changing):
        if name in away:
            differences.append(Difference("database", name, "detached", fix=Command(f"ATTACH TABLE {name}")))
        elif name not in live:
            fix = f"Create it again from its file, or restore {name} from a backup."
            differences.append(Difference("database", name, "missing", fix=fix))
        elif name not in wanted:
            differences.append(Difference("database", name, "unknown", fix="Drop it, or write it as a version."))
        elif live[name] != wanted[name]:
            lines = diff(wanted[name], live[name]) or ("  (only the order of its parts)",)
            differences.append(
                Difference("database", name, "differs", lines, "Take the change back, or write it as a version.")
            )
    return differences


def _how(is_expected: bool, is_there: bool) -> str:
    if is_expected and is_there:
        return "changed"
    return "new" if is_there else "removed"


def describe(differences: list[Difference]) -> str:
    """Return the one line that says that something drifted."""
    names = ", ".join(dict.fromkeys(difference.name for difference in differences))
    first = differences[0]
    fix = f"Run `{first.fix}`." if isinstance(first.fix, Command) else f"{first.fix.rstrip('.')}."
    return f"Schema of '{names}' has drifted: {first.name}: {first.how}. {fix}"
