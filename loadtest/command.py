"""``paystream loadtest``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from paystream.errors import UsageError
from paystream.loadtest.benchmark_command import AsJson, drain_backlog, generate, repair
from paystream.loadtest.fault_command import faults
from paystream.loadtest.removal import remove as remove_run
from paystream.loadtest.report_command import report
from paystream.loadtest.report_file import parse, read_document
from paystream.loadtest.rivals_command import rivals
from paystream.loadtest.run_command import run
from paystream.loadtest.workload import load, shipped
from paystream.output import console, errors, is_terminal, note, print_fields, print_json
from paystream.settings import load_settings

app = typer.Typer(help="Send payments at a fixed rate and check what becomes of them.", no_args_is_help=True)

app.command()(run)
app.command()(report)
app.command()(generate)
app.command("drain")(drain_backlog)
app.command()(faults)
app.command()(repair)
app.command()(rivals)


@app.command()
def remove(
    file: Annotated[Path, typer.Argument(help="The run's result, as `paystream loadtest run --json FILE` writes it.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove a load test's own payments from the tables and the reports; all others stay.

    They are recognised by their ids, which follow from the result's seed. The topic keeps the messages until they
    expire: until then `paystream audit --deep` counts them as absent, and reading them again brings them back.

    Example: paystream loadtest remove result.json
    """
    result = parse(read_document(file))
    if result.seed is None or result.generator.planned is None:
        raise UsageError(f"Result '{file}': it has no seed or no number of messages. Name the result of a whole run.")
    settings = load_settings()
    doing = "Counting the load test's payments" if dry_run else "Removing the load test's payments"
    with errors.status(doing) as status:
        done = remove_run(
            settings, result.seed, result.generator.planned, dry_run, lambda text: status.update(f"{doing}: {text}")
        )
    if not done.payments + done.refused:
        note(
            f"database '{settings.clickhouse_database}' has nothing of this run: it was removed before, or is in "
            "another database."
        )
    fields = {"status": "would remove" if dry_run else "removed", **asdict(done)}
    if as_json:
        print_json(fields)
    else:
        print_fields("loadtest_remove", fields)


@app.command("list")
def list_workloads(as_json: AsJson = False) -> None:
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
