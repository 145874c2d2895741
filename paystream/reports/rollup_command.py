"""``paystream rollup``."""

from dataclasses import asdict
from typing import Annotated

import typer

from paystream.output import errors, print_fields, print_json
from paystream.reports.report import day_of, refuse_disorder
from paystream.reports.rollup import Progress
from paystream.reports.rollup import rebuild as run_rebuild
from paystream.settings import load_settings

app = typer.Typer(help="What reports are computed from.", no_args_is_help=True)


@app.callback()
def _rollup() -> None:
    """What reports are computed from."""


@app.command()
def rebuild(
    first: Annotated[str | None, typer.Option("--from", help="The first day (UTC); without it all days.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="The last day; without it the newest.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Compute what reports are made of anew, from the payments themselves, the newest day first.

    ClickHouse does that by itself every 40 seconds for what has changed. This is for a great deal at once: a table that
    was filled before it had reports, or a restatement of many days. Ingest and refreshes go on; doing it again is
    harmless.

    Example: paystream rollup rebuild --from 2026-11-01 --to 2026-11-24
    """
    days = None if first is None else day_of(first), None if last is None else day_of(last)
    if days[0] and days[1]:
        refuse_disorder(*days)
    settings = load_settings()
    with errors.status("Computing reports anew") as status:

        def report(progress: Progress) -> None:
            status.update(
                f"Computing reports anew: {progress.rows:,} payments, day {progress.days_done + 1} of {progress.days}"
                f" ({progress.day})"
            )

        done = run_rebuild(settings, *days, report=report)
    fields = asdict(done) | {"seconds": round(done.seconds, 2)}
    if as_json:
        print_json(fields)
    else:
        print_fields("rollup_rebuild", fields)
