"""``paystream loadtest repair``."""

import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from paystream.loadtest.fault_run import prepared_stack
from paystream.loadtest.repair_run import RepairRun, repair_under_load
from paystream.output import console, errors, is_terminal, print_fields, print_json


def repair(
    rows: Annotated[int, typer.Option(min=100, max=100_000_000, help="How many payments came too early.")] = 1_000_000,
    rate: Annotated[int, typer.Option(min=50, max=50_000, help="Payments a second that arrive meanwhile.")] = 500,
    at_most: Annotated[float, typer.Option(help="Seconds that the repair may take.")] = 60,
    p95: Annotated[float, typer.Option(help="Seconds that payments may take meanwhile, 95th percentile.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Store payments ahead of their merchants and rates, load those, and time the repair while others arrive.

    Starts a local stack of its own in a temporary folder, so nothing of yours is touched. Exit code 1 when it takes too
    long, when a payment is left unrepaired, or when one of those arriving is lost, counted twice or altered.

    Example: paystream loadtest repair --rows 1000000
    """
    folder = Path(tempfile.mkdtemp(prefix="paystream-repair-"))
    try:
        with errors.status("Starting a stack") as status, prepared_stack(folder / "stack") as settings:
            result = repair_under_load(settings, rows, rate, lambda text: status.update(f"Repair under load: {text}"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    payments = result.found
    checks = {
        "seconds": (result.seconds <= at_most, f"{result.seconds:.1f} s", f"at most {at_most:g} s"),
        "p95_during_s": (result.p95_during_s <= p95, f"{result.p95_during_s:.3f} s", f"at most {p95:g} s"),
        "left": (result.left == 0, f"{result.left:,}", "0"),
        "lost": (payments.lost == 0, f"{payments.lost:,}", "0"),
        "duplicated": (payments.duplicated == 0, f"{payments.duplicated:,}", "0"),
        "altered": (payments.altered + payments.unexpected == 0, f"{payments.altered + payments.unexpected:,}", "0"),
    }
    verdict = "pass" if all(held for held, *_ in checks.values()) else "fail"
    if as_json:
        document = asdict(result) | {"verdict": verdict}
        document["found"].pop("money")
        print_json(document)
    elif is_terminal():
        console.print(_table(result, checks))
        console.print(f"before the repair: 95th percentile {result.p95_before_s:.3f} s", highlight=False)
    else:
        fields = {
            "verdict": verdict,
            "late": result.late,
            "repaired": result.repaired,
            "seconds": f"{result.seconds:.1f}",
            "p95_before_seconds": f"{result.p95_before_s:.3f}",
            "p95_during_seconds": f"{result.p95_during_s:.3f}",
            "canaries_during": result.canaries_during,
            "left": result.left,
            "lost": payments.lost,
            "duplicated": payments.duplicated,
        }
        print_fields("loadtest_repair", fields)
    if verdict == "fail":
        raise typer.Exit(1)


def _table(result: RepairRun, checks: dict[str, tuple[bool, str, str]]) -> Table:
    labels = {
        "seconds": f"repair of {result.repaired:,} rows",
        "p95_during_s": "payment to queryable row meanwhile, 95th percentile",
        "left": "payments left pending or provisional",
        "lost": "lost",
        "duplicated": "counted twice",
        "altered": "altered or never sent",
    }
    table = Table("", "", "measured", "limit", box=None)
    for name, (held, measured, limit) in checks.items():
        table.add_row("[green]✓[/]" if held else "[bold red]✗[/]", labels[name], measured, limit)
    return table
