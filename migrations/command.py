"""``paystream migrate``."""

import sys
from collections.abc import Iterable
from dataclasses import asdict
from textwrap import indent
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from paystream.errors import CheckFailed, ServiceUnavailable, UsageError
from paystream.kafka import topic_partitions
from paystream.migrations import lineage_command, lint_command, runner
from paystream.migrations.plan import Step
from paystream.migrations.schema import Difference
from paystream.nodes import find
from paystream.output import console, is_terminal, note, print_fields, print_json
from paystream.settings import Settings, load_settings

app = typer.Typer(name="migrate", help="Create and change the schema.", no_args_is_help=True)
app.command("lint")(lint_command.lint)
app.command("lineage")(lineage_command.lineage)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
SkipAway = Annotated[
    bool, typer.Option("--skip-away", help="Go on without the nodes of the cluster that do not answer.")
]
AllowDestructive = Annotated[
    bool, typer.Option("--allow-destructive", help="Go on where rows, or values of a column, are lost for good.")
]

_MARKS = {"applied": "[X]", "pending": "[ ]", "unfinished": "[~]", "unknown": "[?]"}


@app.command()
def status(as_json: AsJson = False) -> None:
    """List the versions: [X] applied, [ ] pending, [~] unfinished, [?] applied from other files than these.

    Example: paystream migrate status
    """
    settings = load_settings()
    versions = runner.status(settings)
    if as_json:
        print_json([_without_node(asdict(version)) for version in versions])
    elif is_terminal():
        _draw_status(versions)
    else:
        for version in versions:
            applied_at = version.applied_at.isoformat() if version.applied_at else "none"
            fields = {"version": version.version, "state": version.state, "applied_at": applied_at}
            print_fields("migrate_status", fields | ({"node": version.node} if version.node else {}))
    _tell_of_away(settings)


@app.command()
def plan(
    everything: Annotated[
        bool,
        typer.Option("--all", help="All versions, as for an empty server, which is not asked; or for each empty node."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show each statement that `up` would run, in order, and what it means for the rows that are there.

    Changes nothing. Exits with 0 also where there is nothing to do.

    Example: paystream migrate plan
    """
    settings = load_settings()
    steps = runner.plan_all(settings) if everything else runner.plan(settings)
    _tell_of_away(settings)
    destructive = sum(step.destructive for step in steps)
    state = "to do" if steps else "nothing to do"
    if as_json:
        print_json(
            {"status": state, "destructive": destructive, "steps": [_without_node(asdict(step)) for step in steps]}
        )
        return
    if is_terminal():
        _draw_plan(steps)
        return
    for step in steps:
        fields = {
            "version": step.version or "none",
            "step": step.number,
            "direction": step.direction,
            "means": step.means,
            "destructive": str(step.destructive).lower(),
            "statement": step.statement,
        }
        print_fields("migrate_step", fields | ({"nodes": ",".join(step.nodes)} if step.nodes else {}))
    print_fields("migrate_plan", {"status": state, "statements": len(steps), "destructive": destructive})


@app.command()
def check(
    offline: Annotated[bool, typer.Option("--offline", help="Only the files; no server is asked.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find drift: of the files from the newest version, of versions from their lock, of the database from both.

    Names each object that differs and shows how. Exits with 1 where anything does.

    Example: paystream migrate check --offline
    """
    # sqlglot, which this takes, costs the other commands a quarter of their time.
    from paystream.migrations.check import check_database, check_files, describe

    settings = load_settings()
    differences = check_files()
    differences += _lint()
    if not offline:
        differences += check_database(settings)
        _tell_of_away(settings)
    if as_json:
        listed = [asdict(difference) for difference in differences]
        print_json({"status": "drifted" if differences else "ok", "differences": listed})
    elif is_terminal():
        _draw_differences(differences)
    else:
        _print_differences(differences)
        print_fields("migrate_check", {"status": "drifted" if differences else "ok", "differences": len(differences)})
    if differences:
        raise CheckFailed(describe(differences))


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="What it does, such as add_channel; its number is put in front.")],
    as_json: AsJson = False,
) -> None:
    """Write the next version and its rollback: from the newest version to what sql/ and dictionaries/ say.

    Tries both out in an empty engine, then locks them. Steps that it cannot write surely are left marked; write those,
    then run `paystream migrate lock`. Needs no server.

    Example: paystream migrate new add_channel
    """
    from paystream.migrations.draft import new as write_draft

    if findings := _lint():
        first = findings[0]
        raise CheckFailed(
            f"Schema files have {len(findings)} of the linter's findings, the first at {first.name}: {first.how}. "
            f"{first.fix}. `paystream migrate lint` lists them; nothing was written."
        )
    draft = write_draft(name)
    state = "nothing to do" if not draft.version else "to be finished by hand" if draft.unwritten else "locked"
    if as_json:
        print_json({"status": state, **asdict(draft)})
    elif not is_terminal():
        _print_differences(draft.differences)
        fields = {"status": state, "version": draft.version or "none", "statements": len(draft.statements)}
        print_fields("migrate_new", fields | {"unwritten": draft.unwritten})
    elif not draft.version:
        console.print("Nothing to do: the versions give what the files say.")
    else:
        _draw_differences(list(draft.differences))
        console.print(f"Wrote migrations/versions/{draft.version}.sql and its rollback, {state}.", highlight=False)
        console.print("Read them, then see `paystream migrate plan`.")


@app.command("lock")
def freeze_versions(
    version: Annotated[
        str | None, typer.Argument(help="A version that was edited since, and that no database has applied yet.")
    ] = None,
) -> None:
    """Freeze versions that were written or finished by hand: replay all, compare with the files, lock them.

    Writes migrations/versions.lock and migrations/schema.sql. Needs no server.

    Example: paystream migrate lock
    """
    from paystream.migrations.freeze import freeze

    done = freeze(version)
    if is_terminal():
        console.print(f"Locked: {', '.join(done.locked) or 'nothing new'}. Newest: {done.newest}.", highlight=False)
    else:
        print_fields("migrate_lock", {"locked": ",".join(done.locked) or "none", "version": done.newest})


@app.command()
def up(
    allow_destructive: AllowDestructive = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run, as `plan` does.")] = False,
    leave_unread: Annotated[
        bool, typer.Option("--leave-unread", help="Read another topic although messages of the one so far are unread.")
    ] = False,
    skip_away: SkipAway = False,
    as_json: AsJson = False,
) -> None:
    """Create the database if needed and apply every pending version, oldest first.

    Keeps the named collection paystream_kafka, which the Kafka table connects with, equal to the settings. Refuses,
    with exit code 2, where rows would be lost; `plan` shows what would run and what it means.

    Example: paystream migrate up
    """
    if dry_run:
        plan(as_json=as_json)
        return
    settings = load_settings()

    def applied(moved: runner.Moved) -> None:
        _print_moved("applied", moved, as_json)

    done = runner.up(
        settings,
        allow_destructive=allow_destructive,
        leave_unread=leave_unread,
        skip_away=skip_away,
        on_applied=applied,
        tell=note,
    )
    state = "migrated" if done.applied else "attached anew" if done.collection_changed else "nothing to do"
    if as_json:
        print_json(
            {
                "status": state,
                "applied": list(dict.fromkeys(moved.version for moved in done.applied)),
                "version": done.newest,
                "kafka_settings_changed": done.collection_changed,
            }
        )
    elif is_terminal():
        if done.collection_changed:
            console.print("Kafka's connection was written, and the Kafka table attached with it.")
        console.print(f"{state.capitalize()}: the schema is at {done.newest}.", highlight=False)
    else:
        fields = {
            "status": state,
            "version": done.newest,
            "kafka_settings_changed": str(done.collection_changed).lower(),
        }
        print_fields("migrate_up", fields)
    _warn_about_kafka(settings)


@app.command()
def down(
    to: Annotated[str | None, typer.Option(metavar="VERSION", help="Take back every version newer than this.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Take back all versions.")] = False,
    allow_destructive: AllowDestructive = False,
    as_json: AsJson = False,
) -> None:
    """Take back the newest version. Refuses, with exit code 2, where that drops a table that holds rows or a column
    that holds values.

    Example: paystream migrate down --to 0003_ingest
    """
    if to is not None and everything:
        raise UsageError("Options '--to' and '--all' cannot be used together. Give one of them.")

    def taken_back(moved: runner.Moved) -> None:
        _print_moved("taken_back", moved, as_json)

    moved = runner.down(
        load_settings(),
        to=to,
        everything=everything,
        allow_destructive=allow_destructive,
        on_taken_back=taken_back,
        tell=note,
    )
    state = "taken back" if moved else "nothing to do"
    if as_json:
        print_json({"status": state, "taken_back": list(dict.fromkeys(version.version for version in moved))})
    elif not is_terminal():
        print_fields("migrate_down", {"status": state})
    elif not moved:
        console.print("Nothing to take back.")


@app.command("break-lock")
def break_lock(yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Remove the lock that a killed migrator left behind. First make sure that it no longer runs.

    Example: paystream migrate break-lock --yes
    """
    settings = load_settings()
    holder = "; ".join(dict.fromkeys(runner.lock_holders(settings).values()))
    if holder and not yes:
        if not sys.stdin.isatty():
            raise UsageError(f"Lock of {holder}: nobody is here to confirm. Repeat with --yes if it no longer runs.")
        typer.confirm(f"The lock belongs to {holder}. Does it no longer run, and shall the lock go?", abort=True)
    if holder:
        runner.break_lock(settings)
    if is_terminal():
        console.print(f"Lock of {holder} removed." if holder else "Nobody holds the lock.", highlight=False)
    else:
        print_fields(
            "migrate_break_lock", {"status": "removed" if holder else "not locked", "holder": holder or "none"}
        )


def _without_node(fields: dict[str, object]) -> dict[str, object]:
    """Leave out what only a cluster has to say."""
    return {name: value for name, value in fields.items() if value or name not in ("node", "nodes")}


def _tell_of_away(settings: Settings) -> None:
    for node in find(settings).away:
        note(f"Node '{node.address}' could not be asked: {node.cause}.")


def _draw_status(versions: list[runner.VersionStatus]) -> None:
    """Draw the versions; of a cluster, how each node stands with them."""
    addresses = list(dict.fromkeys(version.node for version in versions))
    if addresses == [""]:
        table = Table("", "version", "state", "applied at (UTC)")
        for version in versions:
            applied_at = f"{version.applied_at:%Y-%m-%d %H:%M:%S}" if version.applied_at else ""
            table.add_row(escape(_MARKS[version.state]), version.version, version.state, applied_at)
    else:
        table = Table("version", *addresses)
        states = {(version.version, version.node): version.state for version in versions}
        for name in sorted({version.version for version in versions}):
            told = [states.get((name, address)) for address in addresses]
            table.add_row(name, *(escape(f"{_MARKS[state]} {state}") if state else "" for state in told))
    console.print(table)


def _draw_plan(steps: list[Step]) -> None:
    heading = None
    for step in steps:
        title = step.version or "before the first version"
        if step.nodes:
            title = f"{title}, on {', '.join(step.nodes)}"
        if title != heading:
            heading = title
            console.print(f"[bold]{title}[/bold]", highlight=False)
        mark = "[red]![/red]" if step.destructive else "·"
        verb = "takes back: " if step.direction == "undo" else ""
        console.print(f"  {mark} {step.number}. {escape(verb + step.means)}", highlight=False, soft_wrap=True)
        console.print(indent(step.statement, "       "), style="dim", markup=False, highlight=False, soft_wrap=True)
    if lost := sum(step.destructive for step in steps):
        console.print(f"{lost} of them, marked !, lose data: `up` needs --allow-destructive.", highlight=False)
    if not steps:
        console.print("Nothing to do.")


def _draw_differences(differences: list[Difference]) -> None:
    for difference in differences:
        said = f"[bold]{difference.name}[/bold]: {difference.how} ({difference.where}). {escape(difference.fix)}"
        console.print(said, highlight=False, soft_wrap=True)
        for line in difference.diff:
            style = "red" if line.startswith("-") else "green"
            console.print(f"    {line}", style=style, markup=False, highlight=False, soft_wrap=True)
    if not differences:
        console.print("Nothing has drifted.")


def _print_moved(what: str, moved: runner.Moved, as_json: bool) -> None:
    if as_json:
        return
    if is_terminal():
        words = what.replace("_", " ")
        where = f" on {moved.node}" if moved.node else ""
        told = f"{words} {moved.version}{where} ({moved.statements} statements, {moved.seconds:.1f} s)"
        console.print(told, highlight=False)
    else:
        fields = {"version": moved.version, "statements": moved.statements, "seconds": f"{moved.seconds:.3f}"}
        print_fields(f"migrate_{what}", fields | ({"node": moved.node} if moved.node else {}))


def _warn_about_kafka(settings: Settings) -> None:
    """Say on stderr when ingest will have to wait for Kafka. That is no error: a Kafka table waits by itself."""
    try:
        partitions = topic_partitions(settings, timeout_s=2)
    except ServiceUnavailable as error:
        text = str(error)
    else:
        if partitions:
            return
        text = f"Topic '{settings.kafka_topic}' does not exist yet. Ingest starts by itself once it is created."
    note(text)


def _print_differences(differences: Iterable[Difference]) -> None:
    for difference in differences:
        fields = {"where": difference.where, "name": difference.name, "how": difference.how, "fix": difference.fix}
        print_fields("migrate_difference", fields | {"diff": "\n".join(difference.diff) or "none"})


def _lint() -> list[Difference]:
    from paystream.migrations.lint import lint_files

    differences = []
    for finding in lint_files():
        how = f"{finding.rule} '{finding.object}': {finding.cause}"
        differences.append(Difference("lint", f"{finding.path}:{finding.line}", how, fix=finding.what_next))
    return differences
