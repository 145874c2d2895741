"""``paystream report`` and ``paystream rollup``."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from paystream.errors import UsageError
from paystream.output import console, errors, is_terminal, print_fields, print_json
from paystream.reports.report import (
    REPORTS,
    Asked,
    Report,
    Rows,
    all_reports,
    check,
    day_of,
    export,
    find_report,
    freshness,
    month_of,
    open_reports,
    read,
    refuse_disorder,
    wait_until_complete,
    write,
)
from paystream.reports.rollup import Progress
from paystream.reports.rollup import rebuild as run_rebuild
from paystream.settings import load_settings

rollup_app = typer.Typer(help="What reports are computed from.", no_args_is_help=True)


class Format(StrEnum):
    """How a report is written."""

    TABLE = "table"
    CSV = "csv"
    PARQUET = "parquet"
    JSON = "json"


SHOWN = 50
"""Rows of a table on a terminal."""
MAX_WIDTH = 10_000


def report(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Which one; without it all are listed.")] = None,
    day: Annotated[str | None, typer.Option(help="A day (UTC) such as 2026-11-25, today or yesterday.")] = None,
    month: Annotated[str | None, typer.Option(help="A month (UTC) such as 2026-11.")] = None,
    first: Annotated[str | None, typer.Option("--from", help="The first of several days.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="The last of them; without it today.")] = None,
    merchant: Annotated[int | None, typer.Option(min=1, max=2**32 - 1, help="Of this merchant alone.")] = None,
    kind: Annotated[
        Format | None, typer.Option("--format", help="table on a terminal, else csv; json is an array of rows.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write it to this file.", dir_okay=False)] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most this many rows; a terminal shows 50, or what fits.")
    ] = None,
    spreadsheet: Annotated[
        bool | None,
        typer.Option(
            "--spreadsheet/--no-spreadsheet",
            help="In a CSV, put an apostrophe before a merchant's name that a spreadsheet would take for a formula; "
            "without either: where it is called from a terminal.",
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="First wait until it has everything read up to now, at most three minutes.")
    ] = False,
) -> None:
    """Print a report, or write it to a file: for a day, a month, or from one day to another; without any for today.

    Each row says up to which time of reading it is complete. A file appears whole or not at all. Without NAME: the
    reports there are, what a row of each is, and up to when each is complete.

    Example: paystream report settlement_by_day --day yesterday --format parquet --out settlement.parquet
    """
    if name is None:
        _refuse(day, month, first, last, merchant, out, limit)
        _list(kind)
        return
    chosen = kind or (_by_name(out) if out else Format.TABLE if is_terminal() else Format.CSV)
    for_people = is_terminal() if spreadsheet is None else spreadsheet
    first_day, last_day = _days(day, month, first, last)
    if out and chosen in (Format.TABLE, Format.JSON):
        raise UsageError(f"File '{out}': a file is written as csv or parquet. Say which with --format.")
    if out and not out.absolute().parent.is_dir():
        raise UsageError(f"File '{out}': there is no folder '{out.parent}'. Make it first.")
    if chosen is Format.PARQUET and not out:
        raise UsageError("Format 'parquet': it is binary and cannot be printed. Name a file with --out.")
    for_spreadsheet = for_people and chosen is Format.CSV
    ask = partial(Asked, first=first_day, last=last_day, merchant_id=merchant, for_spreadsheet=for_spreadsheet)
    _answer(name, ask, chosen, out, limit, wait)


def _answer(
    name: str, ask: Callable[[Report], Asked], kind: Format, out: Path | None, limit: int | None, wait: bool
) -> None:
    with open_reports(load_settings()) as client:
        asked = ask(find_report(name, all_reports(client)))
        check(client, asked)
        with errors.status(f"Report {asked.report.name}"):
            until = wait_until_complete(client, asked.report) if wait else freshness(client)[asked.report.view]
            if out:
                size = export(client, asked, kind, out, limit)
            elif kind in (Format.TABLE, Format.JSON):
                rows = read(client, asked, limit or (SHOWN if kind is Format.TABLE else 1_000_000))
        if out:
            fields = {"report": asked.report.name, "first": asked.first, "last": asked.last, "file": out, "bytes": size}
            print_fields("report", fields | {"complete_until": _said(until)})
        elif kind is Format.CSV:
            write(client, asked, kind, sys.stdout.buffer, limit)
            sys.stdout.buffer.flush()
        elif kind is Format.JSON:
            if rows.more and not limit:
                raise UsageError(
                    f"Report '{asked.report.name}': it has more than {len(rows.rows):,} rows, too many for JSON. "
                    "Take --format csv or parquet, or --limit."
                )
            print_json([dict(zip(rows.columns, row, strict=True)) for row in rows.rows])
        else:
            _show(asked, rows, until, limit)


@rollup_app.callback()
def _rollup() -> None:
    """What reports are computed from."""


@rollup_app.command()
def rebuild(
    first: Annotated[str | None, typer.Option("--from", help="The first day (UTC); without it all days.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="The last day; without it the newest.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Recompute what reports are made of, from the payments themselves, the newest day first.

    ClickHouse does that by itself every 40 seconds for what has changed. This is for a great deal at once: a table that
    was filled before it had reports, or a restatement of many days. Ingest and refreshes go on; doing it again is
    harmless.

    Example: paystream rollup rebuild --from 2026-11-01 --to 2026-11-24
    """
    first_day = None if first is None else day_of(first)
    last_day = None if last is None else day_of(last)
    if first_day and last_day:
        refuse_disorder(first_day, last_day)
    settings = load_settings()
    with errors.status("Recomputing reports") as status:

        def show(progress: Progress) -> None:
            status.update(
                f"Recomputing reports: {progress.rows:,} payments, day {progress.days_done + 1} of {progress.days}"
                f" ({progress.day})"
            )

        done = run_rebuild(settings, first_day, last_day, report=show)
    fields = asdict(done) | {"seconds": round(done.seconds, 2)}
    if as_json:
        print_json(fields)
    else:
        print_fields("rollup_rebuild", fields)


def _refuse(*options: object) -> None:
    if any(option is not None for option in options):
        raise UsageError(f"Report: name one of {', '.join(REPORTS)}. `paystream report` says what each is.")


def _list(kind: Format | None) -> None:
    with open_reports(load_settings()) as client:
        until, reports = freshness(client), all_reports(client).values()
    if kind is Format.JSON:
        print_json([{"report": r.name, "row": r.grain, "complete_until": until[r.view]} for r in reports])
    elif is_terminal():
        table = Table("report", "a row is", "complete until (UTC)")
        for report in reports:
            table.add_row(report.name, report.grain, _said(until[report.view]))
        console.print(table)
    else:
        for report in reports:
            fields = {"name": report.name, "row": report.grain, "complete_until": _said(until[report.view])}
            print_fields("report", fields)


def _days(day: str | None, month: str | None, first: str | None, last: str | None) -> tuple[date, date]:
    if sum(option is not None for option in (day, month, first)) > 1 or (last is not None and first is None):
        raise UsageError("Days: give --day, or --month, or --from with --to; one of them.")
    if month is not None:
        return month_of(month)
    if first is not None:
        return day_of(first), day_of("today" if last is None else last)
    return (day_of("today" if day is None else day),) * 2


def _by_name(out: Path) -> Format:
    kind = {".csv": Format.CSV, ".parquet": Format.PARQUET}.get(out.suffix.lower())
    if kind is None:
        raise UsageError(f"File '{out}': its name does not say what to write. Add --format csv or --format parquet.")
    return kind


def _said(until: datetime | None) -> str:
    return "never" if until is None else f"{until:%Y-%m-%dT%H:%M:%SZ}"


def _show(asked: Asked, result: Rows, until: datetime | None, limit: int | None) -> None:
    # The same in each row: once, below.
    places = [place for place, column in enumerate(result.columns) if column != "complete_until"]
    if asked.first == asked.last and not asked.report.has_parameters:
        places = [place for place in places if result.columns[place] != "day"]
    table = Table()
    for place in places:
        numeric = any(isinstance(row[place], int | float | Decimal) for row in result.rows)
        name = result.columns[place].replace("_", "\n")
        table.add_column(name, justify="right" if numeric else "left", no_wrap=True)
    rows = [[_cell(result.columns[place], row[place]) for place in places] for row in result.rows]
    for row in rows:
        table.add_row(*row)
    more, tables, shown = result.more, [table], len(rows)
    if _width(table) > console.width and is_terminal() and rows:
        tables = list(_upright([result.columns[place].replace("_", " ") for place in places], rows))
        if limit is None:
            more = more or len(tables) > 1
            del tables[1:]
        shown = sum(len(table.columns) - 1 for table in tables)
    console.print(_title(asked), style="italic", highlight=False)
    for table in tables:
        Console(width=max(_width(table), console.width)).print(table)
    if not rows:
        console.print("No payments of those days." if until else "Nothing was computed yet: it is within a minute.")
    if more:
        first = "row" if shown == 1 else f"{shown:,} rows"
        console.print(f"The first {first}; --limit shows more, --format csv all.", highlight=False)
    console.print(f"Complete until {_said(until)}, by when ClickHouse read the messages.", highlight=False)


def _upright(names: list[str], rows: list[list[str]]) -> Iterator[Table]:
    """What is too wide for the terminal as tables with a column for each row, as many in each as fit."""
    waiting = rows
    while waiting:
        table, taken = _columns(names, waiting[:1]), 1
        while taken < len(waiting) and _width(wider := _columns(names, waiting[: taken + 1])) <= console.width:
            table, taken = wider, taken + 1
        yield table
        waiting = waiting[taken:]


def _columns(names: list[str], rows: list[list[str]]) -> Table:
    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    for _ in rows:
        table.add_column(justify="right")
    for name, *values in zip(names, *rows, strict=True):
        table.add_row(name, *values)
    return table


def _width(table: Table) -> int:
    """The characters that a table takes where nothing is cut."""
    return console.measure(table, options=console.options.update(max_width=MAX_WIDTH)).maximum


def _title(asked: Asked) -> str:
    days = f"{asked.first}" if asked.first == asked.last else f"{asked.first} to {asked.last}"
    return f"{asked.report.name}, {days} (UTC)"


def _cell(column: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    if isinstance(value, Decimal):
        return f"{value:,.2f}"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, int) and not column.endswith("_id"):
        return f"{value:,}"
    return str(value)
