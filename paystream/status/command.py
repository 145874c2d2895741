"""``paystream status``."""

import re
import sys
import time
from typing import Annotated, Any

import orjson
import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand

from paystream.output import console, is_terminal, print_fields, print_json
from paystream.settings import Settings, load_settings
from paystream.status.health import Verdict, judge
from paystream.status.state import Status, read_status
from paystream.status.view import document, fields, figures, sections

WATCH_S = 2.0
_COLOURS = {0: "green", 1: "red"}


class WatchCommand(TyperCommand):
    """Lets ``--watch`` stand alone, which Typer's options with a value cannot."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give a ``--watch`` without a number the usual one."""
        given = []
        for place, word in enumerate(args):
            given.append(word)
            if word == "--watch" and not re.match(r"[-+]?[0-9.]", "".join(args[place + 1 : place + 2])):
                given.append(str(WATCH_S))
        return super().parse_args(ctx, given)


def status(
    watch: Annotated[
        float | None,
        typer.Option(
            min=0.2,
            max=86_400,
            metavar="[SECONDS]",
            help="Ask again and again, every 2 s or so many; ends with Ctrl-C.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document; with --watch, one a line.")] = False,
) -> None:
    """Say whether the pipeline is healthy, and why not: lag, latency, refusals, dimensions, objective, last audit.

    The first line is the verdict. Reads only, and reads no more when more is stored. Exit code 0 healthy, 1 not
    healthy, 2 no schema or topic, 3 Kafka or ClickHouse cannot be reached (what can be measured is shown).

    Example: paystream status --watch 5
    """
    settings = load_settings()
    if watch is None:
        found, verdict = _ask(settings)
        if as_json:
            print_json(document(found, verdict))
        elif is_terminal():
            console.print(_screen(found, verdict))
        else:
            print_fields("status", fields(found, verdict))
    else:
        verdict = _watch(settings, watch, as_json)
    if verdict.exit_code:
        raise typer.Exit(verdict.exit_code)


def _ask(settings: Settings) -> tuple[Status, Verdict]:
    found = read_status(settings)
    return found, judge(found, settings)


def _watch(settings: Settings, every_s: float, as_json: bool) -> Verdict:
    verdict = Verdict([], 130)
    try:
        found, verdict = _ask(settings)
        if is_terminal() and not as_json:
            with Live(_screen(found, verdict), console=console, auto_refresh=False, vertical_overflow="crop") as live:
                while True:
                    time.sleep(every_s)
                    found, verdict = _ask(settings)
                    live.update(_screen(found, verdict), refresh=True)
        while True:
            if as_json:
                sys.stdout.write(orjson.dumps(document(found, verdict), default=str).decode() + "\n")
                sys.stdout.flush()
            else:
                print_fields("status", fields(found, verdict))
            time.sleep(every_s)
            found, verdict = _ask(settings)
    except KeyboardInterrupt:
        return verdict


def _screen(found: Status, verdict: Verdict) -> Group:
    head = Text(verdict.word.upper(), style=f"bold {_COLOURS.get(verdict.exit_code, 'yellow')}")
    advice = []
    if verdict.problems:
        head.append(": " + "; ".join(one.text for one in verdict.problems), style="not bold default")
        where = ", ".join(f"'{section}'" for section in dict.fromkeys(one.section for one in verdict.problems))
        advice = [Text(f"What to do: docs/runbook.md, {where}.")]
    numbers = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for figure in figures(found):
        numbers.add_row(figure.label, Text(figure.value, style="bold"), Text(figure.note, style="dim"))
    parts: list[Any] = [head, *advice, Text(), numbers]
    for section in sections(found):
        if not section.rows and not section.note:
            continue
        parts += [Text(), Text(section.title, style="bold")]
        if section.rows:
            table = Table(*section.header, box=None, show_header=any(section.header), padding=(0, 2, 0, 0))
            for row in section.rows:
                table.add_row(*(Text(cell) for cell in row))
            parts.append(table)
        if section.note:
            parts.append(Text(section.note, style="dim"))
    parts += [Text(), Text(f"{found.at:%Y-%m-%d %H:%M:%S} UTC, asked in {found.took_s:.2f} s", style="dim")]
    return Group(*parts)
