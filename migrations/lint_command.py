"""``paystream migrate lint``."""

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from paystream.clickhouse import answering, connect
from paystream.errors import CheckFailed, ServiceUnavailable, UsageError
from paystream.output import console, is_terminal, note, print_fields, print_json
from paystream.settings import load_settings, project_folder

if TYPE_CHECKING:
    from paystream.migrations.lint import Finding


def lint(
    folder: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Where sql/ and dictionaries/ are.", show_default="the project"),
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no server for the types of columns.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Check the files of sql/ and dictionaries/ for what would lose, double or falsify messages.

    Exits with 1 if anything is found. Waive a rule in a file with `-- lint: waive RULE because …`. Types are compared
    by a ClickHouse server if one answers; it is only asked, and needs nothing of the schema.

    Example: paystream migrate lint
    """
    # sqlglot, which this takes, is not for the other commands of `migrate` to wait for.
    from paystream.migrations.lint import REASONS, lint_files

    folder = folder or project_folder()
    if not (folder / "sql").is_dir() and not (folder / "dictionaries").is_dir():
        raise UsageError(f"Folder '{folder}' cannot be checked: it has no sql/ and no dictionaries/. Name another one.")
    with ExitStack() as stack:
        client = None
        if not offline:
            try:
                client = stack.enter_context(connect(load_settings(), database=""))
            except ServiceUnavailable as error:
                note(f"types are compared only where the files say them: {error}")
        with answering("Check of the views' types"):
            findings = lint_files(folder, client)
    types = "by files" if client is None else "by engine"
    if as_json:
        listed = [asdict(finding) | {"reason": REASONS[finding.rule]} for finding in findings]
        print_json({"types": types, "findings": listed})
    elif is_terminal():
        _print_table(findings, types)
    else:
        for finding in findings:
            print_fields("migrate_finding", asdict(finding))
        print_fields("migrate_lint", {"findings": len(findings), "types": types})
    if findings:
        count = "1 finding" if len(findings) == 1 else f"{len(findings)} findings"
        raise CheckFailed(
            f"Files of '{folder}': {count}. Correct each, or waive it there with `-- lint: waive RULE because …`."
        )


def _print_table(findings: "list[Finding]", types: str) -> None:
    from paystream.migrations.lint import REASONS

    if not findings:
        console.print(f"Nothing found (types compared {types}).", highlight=False)
        return
    table = Table("where", "rule", "what", "do")
    for finding in findings:
        table.add_row(f"{finding.path}:{finding.line}", finding.rule, escape(finding.cause), escape(finding.what_next))
    console.print(table)
    for rule in dict.fromkeys(finding.rule for finding in findings):
        console.print(f"{rule}: {REASONS[rule]}", highlight=False, markup=False)
