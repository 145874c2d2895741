"""``paystream migrate``."""

import sys
from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from migrations import cluster_command, lineage_command, lint_command, runner
from paystream.errors import ServiceUnavailable, UsageError
from paystream.kafka import topic_partitions
from paystream.output import console, errors, is_terminal, print_fields, print_json
from paystream.settings import Settings, load_settings

app = typer.Typer(name="migrate", help="Create and change the schema.", no_args_is_help=True)
app.command("lint")(lint_command.lint)
app.command("lineage")(lineage_command.lineage)
app.command("cluster")(cluster_command.cluster)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
AllowDestructive = Annotated[
    bool, typer.Option("--allow-destructive", help="Go on where this drops a table that holds rows.")
]

_MARKS = {"applied": "[X]", "pending": "[ ]", "unfinished": "[~]", "unknown": "[?]"}


@app.command()
def status(as_json: AsJson = False) -> None:
    """List the versions: [X] applied, [ ] pending, [~] unfinished, [?] applied from other files than these.

    Example: paystream migrate status
    """
    versions = runner.status(load_settings())
    if as_json:
        print_json([asdict(one) for one in versions])
    elif is_terminal():
        table = Table("", "version", "state", "applied at (UTC)")
        for one in versions:
            applied_at = f"{one.applied_at:%Y-%m-%d %H:%M:%S}" if one.applied_at else ""
            table.add_row(escape(_MARKS[one.state]), one.version, one.state, applied_at)
        console.print(table)
    else:
        for one in versions:
            applied_at = one.applied_at.isoformat() if one.applied_at else "none"
            print_fields("migrate_status", {"version": one.version, "state": one.state, "applied_at": applied_at})


@app.command()
def up(allow_destructive: AllowDestructive = False, as_json: AsJson = False) -> None:
    """Create the database if needed and apply every pending version, oldest first.

    Keeps the named collection paystream_kafka, which the Kafka table connects with, equal to the settings.

    Example: paystream migrate up
    """
    settings = load_settings()

    def applied(moved: runner.Moved) -> None:
        _print_moved("applied", moved, as_json)

    done = runner.up(settings, allow_destructive=allow_destructive, on_applied=applied)
    state = "migrated" if done.applied else "nothing to do"
    if as_json:
        print_json(
            {
                "status": state,
                "applied": [moved.version for moved in done.applied],
                "version": done.newest,
                "kafka_settings_changed": done.collection_changed,
            }
        )
    elif is_terminal():
        if done.collection_changed:
            console.print("Kafka connection written to the named collection paystream_kafka.")
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
    """Take back the newest version. Refuses, with exit code 2, where that drops a table that holds rows.

    Example: paystream migrate down --to 0003_ingest
    """
    if to is not None and everything:
        raise UsageError("Options '--to' and '--all' cannot be used together. Give one of them.")

    def taken_back(moved: runner.Moved) -> None:
        _print_moved("taken_back", moved, as_json)

    moved = runner.down(
        load_settings(), to=to, everything=everything, allow_destructive=allow_destructive, on_taken_back=taken_back
    )
    state = "taken back" if moved else "nothing to do"
    if as_json:
        print_json({"status": state, "taken_back": [one.version for one in moved]})
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
    holder = runner.lock_holder(settings)
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


def _print_moved(what: str, moved: runner.Moved, as_json: bool) -> None:
    if as_json:
        return
    if is_terminal():
        words = what.replace("_", " ")
        console.print(
            f"{words} {moved.version} ({moved.statements} statements, {moved.seconds:.1f} s)", highlight=False
        )
    else:
        fields = {"version": moved.version, "statements": moved.statements, "seconds": f"{moved.seconds:.3f}"}
        print_fields(f"migrate_{what}", fields)


def _warn_about_kafka(settings: Settings) -> None:
    """Say on stderr when ingest will have to wait for Kafka. That is no error: a Kafka table waits by itself."""
    try:
        partitions = topic_partitions(settings, timeout_s=2)
    except ServiceUnavailable as error:
        note = str(error)
    else:
        if partitions:
            return
        note = f"Topic '{settings.kafka_topic}' does not exist yet. Ingest starts by itself once it is created."
    errors.print(f"note: {note}", style="yellow", soft_wrap=True, markup=False, highlight=False)
