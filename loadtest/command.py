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
        for name, workload in workloads.items():
            table.add_row(
                name,
                workload.rate_text,
                str(workload.duration_seconds),
                f"{workload.duplicate_share:.0%}",
                f"{workload.thresholds.p95_seconds:g} s",
                workload.description,
            )
        console.print(table)
    else:
        for name, workload in workloads.items():
            fields = {
                "name": name,
                "rate_per_second": workload.rate_per_second,
                "duration_seconds": workload.duration_seconds,
                "duplicate_share": workload.duplicate_share,
                "p95_seconds": workload.thresholds.p95_seconds,
            }
            print_fields("workload", fields)
