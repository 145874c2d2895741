"""``paystream migrate lineage``."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from paystream.errors import UsageError
from paystream.output import console, is_terminal, note, print_fields, print_json
from paystream.settings import project_folder

FORMATS = ("text", "mermaid")

if TYPE_CHECKING:
    from paystream.migrations.lineage import Lineage, Step


def lineage(
    column: Annotated[
        str | None,
        typer.Argument(metavar="[COLUMN]", help="table.column, or a name that columns have: a table's, or theirs."),
    ] = None,
    style: Annotated[
        str, typer.Option("--format", metavar="|".join(FORMATS), help="Text, or a Mermaid diagram.")
    ] = "text",
    folder: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Where sql/ and dictionaries/ are.", show_default="the project"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Print what a column is made of, from the topic's fields on, dictionaries included, and what it goes into.

    Without a column: what each column that nothing else is made of comes from. A field of the message is topic.FIELD,
    an element of a tuple table.column.ELEMENT.
    Filters and groupings are not followed. Reads the files alone, no server.

    Example: paystream migrate lineage report_merchant_by_day.amount_reporting
    """
    if style not in FORMATS:
        raise UsageError(f"Format '{style}' does not exist. Choose one of {', '.join(FORMATS)}.")
    if as_json and style != "text":
        raise UsageError(f"Options '--json' and '--format {style}' cannot be used together. Give one of them.")
    # sqlglot, which this takes, is not for the other commands of `migrate` to wait for.
    from paystream.migrations.lineage import Lineage
    from paystream.migrations.schema_graph import read_graph

    folder = folder or project_folder()
    graph = read_graph(folder)
    for broken in graph.unreadable:
        if broken.unparsed is None or not graph.objects:
            raise UsageError(f"File '{broken.path}' cannot be followed: {broken.cause}. {broken.what_next}")
        note(f"file '{broken.path}' is not followed: {broken.cause}.")
    if not graph.objects:
        raise UsageError(
            f"Folder '{folder}' cannot be followed: it has no sql/ and no dictionaries/. Name another one."
        )
    traced = Lineage(graph)
    if column is None:
        _print_all(traced, style, as_json)
    else:
        _print_one(traced, column, style, as_json)


def _print_all(traced: "Lineage", style: str, as_json: bool) -> None:
    if style == "mermaid":
        from paystream.migrations.lineage import picture

        print(picture(traced.graph))
        return
    summaries = [traced.summary(end) for end in traced.ends()]
    if as_json:
        print_json([asdict(summary) for summary in summaries])
    elif is_terminal():
        table = Table()
        for heading in ("column", "fields of the message", "dictionaries", "found by", "clock"):
            table.add_column(heading, overflow="fold")
        for summary in summaries:
            cells = (summary.fields, summary.dictionaries, summary.found_by, summary.clocks)
            table.add_row(summary.column, *(escape("\n".join(cell)) for cell in cells))
        console.print(table)
    else:
        for summary in summaries:
            print_fields("migrate_lineage", {name: _joined(value) for name, value in asdict(summary).items()})


def _print_one(traced: "Lineage", column: str, style: str, as_json: bool) -> None:
    columns = traced.columns_named(column)
    if style == "mermaid":
        from paystream.migrations.lineage import picture_of

        print(picture_of(traced, columns))
        return
    steps, uses = traced.before(columns), traced.after(columns)
    if as_json:
        print_json({"columns": columns, "steps": [asdict(step) for step in steps], "goes_into": uses})
    elif is_terminal():
        _print_steps(steps, columns)
        if uses:
            console.print(f"\ngoes into {', '.join(uses)}", highlight=False, markup=False)
    else:
        for step in steps:
            print_fields("migrate_lineage_step", {name: _joined(value) for name, value in asdict(step).items()})
        for use in uses:
            print_fields("migrate_lineage_use", {"column": use})


def _print_steps(steps: "list[Step]", wanted: list[str]) -> None:
    for step in steps:
        console.print(step.column, style="bold" if step.column in wanted else None, highlight=False, markup=False)
        # A column that is handed on as it is, and a view that makes its own, need no words.
        handed_on = step.of and step.expression in (step.of[0], step.of[0].partition(".")[2])
        made = [("= ", "" if handed_on else step.expression), ("of ", ", ".join((*step.of, *step.clocks)))]
        made.append(("by ", "" if step.column.startswith(f"{step.by}.") else step.by))
        for word, what in [*made, ("found by ", ", ".join(step.found_by))]:
            if what:
                console.print(f"    {word}{what}", style="dim", highlight=False, markup=False, soft_wrap=True)


def _joined(value: str | Sequence[str]) -> str:
    return (value if isinstance(value, str) else ",".join(value)) or "none"
