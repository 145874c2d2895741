"""``paystream loadtest``."""

from typing import Annotated

import typer
from rich.table import Table

from paystream.loadtest.drain_command import drain_backlog
from paystream.loadtest.fault_command import faults
from paystream.loadtest.generate_command import generate
from paystream.loadtest.removal_command import remove
from paystream.loadtest.repair_command import repair
from paystream.loadtest.report_command import report
from paystream.loadtest.run_command import run
from paystream.loadtest.workload import load, shipped
from paystream.output import console, is_terminal, print_fields, print_json

app = typer.Typer(help="Send payments at a fixed rate and check what becomes of them.", no_args_is_help=True)

app.command()(run)
app.command()(report)
app.command()(generate)
app.command("drain")(drain_backlog)
app.command()(faults)
app.command()(repair)
app.command()(remove)


@app.command("list")
def list_workloads(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False) -> None:
    """List the workloads that come with Paystream.

    Example: paystream loadtest list
    """
    workloads = {name: load(name) for name in shipped()}
    if as_json:
        print_json([{"name": name} | workload.model_dump() for name, workload in workloads.items()])
    elif is_terminal():
        table = Table("workload", "rate", "seconds", "duplicates", "p95 at most", "what it is")
        for name, one in workloads.items():
            table.add_row(
                name,
                one.rate_text,
                str(one.duration_seconds),
                f"{one.duplicate_share:.0%}",
                f"{one.thresholds.p95_seconds:g} s",
                one.description,
            )
        console.print(table)
    else:
        for name, one in workloads.items():
            fields = {
                "name": name,
                "rate_per_second": one.rate_per_second,
                "duration_seconds": one.duration_seconds,
                "duplicate_share": one.duplicate_share,
                "p95_seconds": one.thresholds.p95_seconds,
            }
            print_fields("workload", fields)
