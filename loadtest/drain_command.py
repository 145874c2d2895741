"""``paystream loadtest drain``."""

from dataclasses import asdict
from statistics import median
from typing import Annotated

import typer
from rich.table import Table

from paystream.loadtest.drain import FULL, PARTS, Drain, drain
from paystream.output import console, errors, is_terminal, print_fields, print_json
from paystream.settings import load_settings


def drain_backlog(
    messages: Annotated[int, typer.Option(min=1000, max=100_000_000, help="How many wait in the topic.")] = 1_000_000,
    compare: Annotated[
        int, typer.Option(min=0, max=100, metavar="ROUNDS", help="Measure what each part costs, in so many rounds.")
    ] = 0,
    at_least: Annotated[float, typer.Option(help="Rows a second that must be reached.")] = 100_000,
    share_of_file: Annotated[float, typer.Option(help="Share of the rate from a file that must be reached.")] = 0.5,
    validation_cost: Annotated[float, typer.Option(help="Share of the rate that validation may cost.")] = 0.25,
    enrichment_cost: Annotated[float, typer.Option(help="Share of the rate that enrichment may cost.")] = 0.30,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Stop ingest, let a backlog build up, and time how fast it drains, beside the same messages from a file.

    With --compare, ingest stops again, and the same messages are read from the topic in turns: by the whole pipeline,
    without validation and quarantine, and without enrichment, into a database that is dropped afterwards.
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
        limits = {
            "kafka_rows_per_second": f"at least {at_least:,.0f}/s",
            "share_of_file": f"at least {share_of_file:.0%}",
            "visible": f"{messages:,}",
        } | {f"{part}_cost": f"at most {limit:.0%}" for part, limit in at_most.items()}
        console.print(_table(result, held, limits))
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


def _table(result: Drain, held: dict[str, bool], limits: dict[str, str]) -> Table:
    table = Table("", "", "measured", "limit", title=f"Backlog of {result.messages:,} messages", title_justify="left")

    def add(label: str, measured: str, name: str = "") -> None:
        mark = "" if not name else "[green]✓[/]" if held[name] else "[red]✗[/]"
        table.add_row(mark, label, measured, limits.get(name, ""))

    add("from first to last visible row", f"{result.kafka_rows_per_second:,.0f}/s", "kafka_rows_per_second")
    add("the same messages from a file", f"{result.file_rows_per_second:,.0f}/s")
    add("share of that", f"{result.share_of_file:.0%}", "share_of_file")
    add("transactions a reader finds", f"{result.visible:,}", "visible")
    if comparison := result.comparison:
        add("the same messages read again", f"{median(comparison.rows_per_second[FULL]):,.0f}/s")
        for name, part in PARTS.items():
            rounds = comparison.cost_by_round(name)
            add(f"without {part.label}", f"{median(comparison.rows_per_second[f'without_{name}']):,.0f}/s")
            measured = f"{comparison.cost(name):.0%} ({min(rounds):.0%} to {max(rounds):.0%})"
            add(f"cost of {part.label}", measured, f"{name}_cost")
    return table
