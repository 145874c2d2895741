"""``paystream dims repair``."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Table

from paystream.errors import PaystreamError
from paystream.loader.repair import Move, Progress, Repaired, preview, repair
from paystream.output import console, errors, is_terminal, print_fields, print_json
from paystream.settings import Settings, load_settings

ThenRepair = Annotated[
    bool, typer.Option("--repair/--no-repair", help="Afterwards, repair the transactions concerned.")
]

SkipAway = Annotated[
    bool, typer.Option("--skip-away", help="Go on without the nodes of the cluster that do not answer.")
]


def repair_transactions(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be repaired, and change nothing.")] = False,
    every_day: Annotated[
        bool, typer.Option("--every-day", help="Look at each day there is, not only where a dimension has changed.")
    ] = False,
    skip_away: SkipAway = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Write again the transactions whose merchant or exchange rate is known now, or known better.

    Each gets a newer version, so nothing redelivered undoes it. `dims refresh` does this by itself; run it by hand
    after one that was interrupted. Ingest goes on meanwhile. Running it twice changes nothing the second time.

    Example: paystream dims repair --dry-run
    """
    settings = load_settings()
    if dry_run:
        with errors.status("Looking for transactions to repair"):
            moves = preview(settings, every_day=every_day, skip_away=skip_away)
        _show_preview(settings, moves, as_json)
        return
    fields = repaired_fields(run_repair(settings, every_day=every_day, skip_away=skip_away))
    if as_json:
        print_json(fields)
    elif is_terminal():
        show_repaired(fields)
    else:
        print_fields("dims_repair", fields)


def run_repair(settings: Settings, *, every_day: bool = False, skip_away: bool = False) -> Repaired:
    """Repair, with progress on a terminal."""
    with errors.status("Repairing transactions") as status:

        def report(progress: Progress) -> None:
            status.update(
                f"Repairing transactions: {progress.rows:,} rows, "
                f"day {progress.days_done + 1} of {progress.days} ({progress.day})"
            )

        return repair(settings, every_day=every_day, skip_away=skip_away, report=report)


def repair_after(settings: Settings, now_serving: str, skip_away: bool = False) -> dict[str, Any]:
    """Repair after another snapshot went live, and return what that did as ``repaired_fields`` does.

    Args:
        settings: where ClickHouse is.
        now_serving: a clause that says which snapshot serves now, for whoever reads that the repair failed.

    Raises:
        PaystreamError: as ``repair``, saying what is left to do.
    """
    try:
        return repaired_fields(run_repair(settings, skip_away=skip_away))
    except PaystreamError as error:
        raise type(error)(f"{error} {now_serving}; `paystream dims repair` does what is left.") from error


def repaired_fields(done: Repaired) -> dict[str, Any]:
    """Return what a repair did, as every command reports it."""
    return {
        "repaired_rows": done.rows,
        "days_looked_at": done.days,
        "repair_seconds": round(done.seconds, 2),
    }


def show_repaired(fields: Mapping[str, Any]) -> None:
    """Say on a terminal what a repair did."""
    console.print(
        f"transactions: {fields['repaired_rows']:,} repaired, {fields['days_looked_at']} days looked at, "
        f"{fields['repair_seconds']} s",
        highlight=False,
    )


def _show_preview(settings: Settings, moves: list[Move], as_json: bool) -> None:
    total = sum(move.rows for move in moves)
    if as_json:
        print_json([asdict(move) for move in moves])
    elif is_terminal():
        if not moves:
            console.print("Nothing to repair: every transaction is enriched as it would be today.")
            return
        currency = settings.reporting_currency
        table = Table("day", "currency", box=None, title=f"{total:,} transactions to repair", title_justify="left")
        for name in ("rows", "amount", f"{currency} stored", f"{currency} repaired", "difference"):
            table.add_column(name, justify="right")
        for move in moves:
            table.add_row(
                str(move.day),
                move.currency,
                f"{move.rows:,}",
                f"{move.amount:,.2f}",
                f"{move.reporting_before:,.2f}",
                f"{move.reporting_after:,.2f}",
                f"{move.reporting_after - move.reporting_before:+,.2f}",
            )
        console.print(table)
    else:
        for move in moves:
            print_fields("dims_repair", {"status": "dry_run"} | asdict(move))
        print_fields("dims_repair", {"status": "dry_run", "rows": total})
