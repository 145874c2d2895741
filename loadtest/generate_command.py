"""``paystream loadtest generate``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from paystream.loadtest.generate import generate as generate_workload
from paystream.loadtest.verdict import generator_problems
from paystream.loadtest.workload import load
from paystream.output import console, errors, is_terminal, print_fields, print_json
from paystream.settings import load_settings


def generate(
    workload: Annotated[str, typer.Argument(help="A shipped workload (`paystream loadtest list`) or a YAML file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Send a workload to a topic of its own, and say whether the generator kept up: exit code 0 when it did, else 1.

    Tells what this machine can generate. Nobody reads the messages, and the topic is deleted afterwards.

    Example: paystream loadtest generate hundred_times
    """
    settings = load_settings()
    wanted = load(workload)
    name = Path(workload).stem
    with errors.status(f"Generating {name}") as status:
        result = generate_workload(
            settings, wanted, lambda sent: status.update(f"Generating {name}: {sent:,} of {wanted.messages:,}")
        )
    sent = result.sent
    problems = generator_problems(wanted.thresholds, sent)
    if sent.rejected_keys:
        problems.append(f"the broker did not confirm {len(sent.rejected_keys):,} messages: {sent.first_error}")
    fields = {
        "workload": name,
        "verdict": "fail" if problems else "pass",
        "sent": sent.sent,
        "seconds": round(result.seconds, 1),
        "per_second": round(sent.sent / result.seconds),
        "lateness_p50_seconds": sent.lateness_p50_s,
        "lateness_p99_seconds": sent.lateness_p99_s,
        "lateness_max_seconds": round(sent.lateness_max_s, 3),
        "cpu_seconds": round(sent.cpu_s, 3),
        "cpu_seconds_per_million": round(result.cpu_s_per_million, 2),
        "per_second_and_core": round(result.per_core),
    }
    if as_json:
        print_json(fields | {"problems": problems})
    elif is_terminal():
        table = Table(show_header=False, title=f"{name}, the generator alone", title_justify="left")
        table.add_row("sent", f"{sent.sent:,} of {sent.planned:,} in {result.seconds:.1f} s ({wanted.rate_text})")
        late = f"p50 {sent.lateness_p50_s:.3g} s  p99 {sent.lateness_p99_s:.3g} s  max {sent.lateness_max_s:.3g} s"
        table.add_row("late by", late)
        table.add_row("processor", f"{sent.cpu_s:.1f} s, {result.cpu_s_per_million:.2f} s a million messages")
        table.add_row("one core alone", f"{result.per_core:,.0f} messages/s")
        console.print(table)
        for problem in problems:
            console.print(f"[red]✗[/] {problem}", highlight=False, soft_wrap=True)
    else:
        print_fields("generate", fields | ({"problems": "; ".join(problems)} if problems else {}))
    if problems:
        raise typer.Exit(1)
