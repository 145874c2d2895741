"""``paystream loadtest drain``."""

from dataclasses import asdict
from statistics import median
from typing import Annotated

import typer
from rich.table import Table

from paystream.loadtest.drain import FULL, PARTS, drain
from paystream.output import console, errors, is_terminal, print_fields, print_json
from paystream.settings import load_settings


def drain_backlog(
    messages: Annotated[int, typer.Option(min=1000, max=100_000_000, help="How many wait in the topic.")] = 1_000_000,
    compare: Annotated[
        int, typer.Option(min=0, max=100, metavar="ROUNDS", help="Measure so often what parts cost; 3 has a median.")
    ] = 0,
    at_least: Annotated[float, typer.Option(help="Rows a second that must be reached.")] = 100_000,
    share_of_file: Annotated[float, typer.Option(help="Share of the rate from a file that must be reached.")] = 0.5,
    validation_cost: Annotated[float, typer.Option(help="Share of the rate that validation may cost.")] = 0.25,
    enrichment_cost: Annotated[float, typer.Option(help="Share of the rate that enrichment may cost.")] = 0.30,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Stop ingest, let a backlog build up, and time how fast it drains, beside the same messages from a file.

    With --compare, ingest stops again, and the same messages are read from the topic whole, without validation and
    quarantine, and without enrichment, in turns, into a database that is dropped again.
    Sends real messages, which stay stored. Needs the local stack, whose engine can read this machine's files.

    Example: paystream loadtest drain --compare 3
    """
    settings = load_settings()
    with errors.status(f"Draining a backlog of {messages:,} messages"):
        result = drain(settings, messages, compare)
    at_most = {"validation": validation_cost, "enrichment": enrichment_cost}
    costs = {part: result.comparison.cost(part) for part in PARTS} if result.comparison else {}
    held = {
        "kafka_rows_per_second": result.kafka_rows_per_second >= at_least,
        "share_of_file": result.share_of_file >= share_of_file,
        "visible": result.visible == messages,
    } | {f"{part}_cost": cost <= at_most[part] for part, cost in costs.items()}
    if as_json:
        print_json(asdict(result) | {"share_of_file": result.share_of_file, "costs": costs, "held": held})
    elif is_terminal():
        table = Table("", "", "measured", "limit", title=f"Backlog of {messages:,} messages", title_justify="left")
        marks = {name: "[green]✓[/]" if ok else "[red]✗[/]" for name, ok in held.items()}
        rate, file_rate = f"{result.kafka_rows_per_second:,.0f}/s", f"{result.file_rows_per_second:,.0f}/s"
        table.add_row(
            marks["kafka_rows_per_second"], "from first to last visible row", rate, f"at least {at_least:,.0f}/s"
        )
        table.add_row("", "the same messages from a file", file_rate, "")
        table.add_row(
            marks["share_of_file"], "share of that", f"{result.share_of_file:.0%}", f"at least {share_of_file:.0%}"
        )
        table.add_row(marks["visible"], "transactions a reader finds", f"{result.visible:,}", f"{messages:,}")
        if result.comparison:
            whole = median(result.comparison.rows_per_second[FULL])
            table.add_row("", "the same messages read again", f"{whole:,.0f}/s", "")
        for part, cost in costs.items():
            without = median(result.comparison.rows_per_second[f"without_{part}"])
            table.add_row("", f"without {PARTS[part].label}", f"{without:,.0f}/s", "")
            rounds = result.comparison.cost_by_round(part)
            measured = f"{cost:.0%} ({min(rounds):.0%} to {max(rounds):.0%})"
            table.add_row(
                marks[f"{part}_cost"], f"cost of {PARTS[part].label}", measured, f"at most {at_most[part]:.0%}"
            )
        console.print(table)
    else:
        fields = {
            "messages": messages,
            "verdict": "pass" if all(held.values()) else "fail",
            "kafka_rows_per_second": round(result.kafka_rows_per_second),
            "file_rows_per_second": round(result.file_rows_per_second),
            "share_of_file": f"{result.share_of_file:.2f}",
            "visible": result.visible,
            "first_row_after_seconds": f"{result.first_row_after_s:.2f}",
        } | {f"{part}_cost": f"{cost:.2f}" for part, cost in costs.items()}
        print_fields("drain", fields)
    if not all(held.values()):
        raise typer.Exit(1)
