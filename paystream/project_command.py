"""``paystream init`` and ``paystream upgrade``."""

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from paystream import project
from paystream.output import console, errors, is_terminal, print_fields, print_json
from paystream.project import Change
from paystream.settings import example_settings, project_folder

_MEANING = {
    Change.UPDATED: "you had not changed it",
    Change.ADDED: "new in the reference",
    Change.REMOVED: "gone from the reference, and you had not changed it",
    Change.CONFLICT: f"you changed it too: yours stays, the reference's is beside it, named …{project.NEW}",
    Change.HELD: "you have versions of your own: `paystream migrate new` writes one for what changed in sql/",
}


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An empty folder, or one that is to be made.")],
) -> None:
    """Write a project folder: schema, migrations, workloads, roles, prices and alerts, all yours to edit.

    Example: paystream init my-pipeline
    """
    files = project.init(folder, example_settings())
    if not is_terminal():
        return print_fields("init", {"project": folder, "files": len(files)})
    console.print(f"Project '{folder}' has {len(files)} files. Next:\n", markup=False, highlight=False)
    console.print(
        f"  cd {shlex.quote(str(folder))}\n"
        "  paystream up            # Kafka and ClickHouse on this machine\n"
        "  paystream migrate up    # create the schema\n"
        "  paystream demo          # dimensions, a minute of payments, a verdict\n\n"
        "For a ClickHouse and a Kafka that you have: copy .env.example to .env, edit it, then `paystream migrate up`.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def upgrade(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing: say what would be done.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Show each file's difference, from yours to the new.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Bring a project folder to the installed Paystream: take over each file that you have not changed.

    What both sides changed stays as it is; the new file is put beside it with the ending .new, for you to merge and
    delete. Exit code 1 as long as one is there.

    Example: paystream upgrade --dry-run --diff
    """
    folder = project_folder()
    changes = project.upgrade(folder, dry_run=dry_run)
    left = project.unresolved(folder)
    if as_json:
        print_json(
            {
                "project": folder,
                "dry_run": dry_run,
                "changes": [
                    {"path": change.path, "change": change.change} | ({"diff": change.diff} if diff else {})
                    for change in changes
                ],
                "unresolved": left,
            }
        )
    elif is_terminal():
        table = Table("file", "change", "why", title=f"Project '{folder}'", title_justify="left")
        for change in changes:
            table.add_row(change.path, change.change, _MEANING[change.change])
        console.print(table if changes else f"Project '{folder}' has all of the installed reference.")
    else:
        counts = {kind.name.lower(): sum(change.change is kind for change in changes) for kind in Change}
        print_fields("upgrade", {"project": folder, "dry_run": dry_run, **counts, "unresolved": len(left)})
        for change in changes:
            print_fields("upgrade_file", {"path": change.path, "change": change.change})
    if diff and not as_json:
        for change in changes:
            console.print(change.diff, markup=False, highlight=False, soft_wrap=True, end="")
    if left:
        errors.print(f"To merge, then delete: {', '.join(left)}.", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1)
