"""``paystream status``, ``metrics`` and ``dashboard``."""

import re
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import orjson
import typer
from prometheus_client import CollectorRegistry, generate_latest
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand

from paystream.output import console, is_terminal, print_fields, print_json
from paystream.settings import Settings, load_settings
from paystream.status import dashboard as page
from paystream.status.health import Verdict, judge
from paystream.status.metrics import StatusCollector
from paystream.status.reading import read_status
from paystream.status.server import Answer, kept_status, serve
from paystream.status.state import Status
from paystream.status.view import document, fields, fields_of_nodes, figures, sections

WATCH_S = 2.0
METRICS_PORT = 9470
DASHBOARD_PORT = 9471
_COLOURS = {0: "green", 1: "red"}

Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")]
Host = Annotated[str, typer.Option(help="The address to listen on; the default is this machine alone.")]


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
            help="Ask again every 2 s, or every SECONDS; Ctrl-C ends it.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document; with --watch, one a line.")] = False,
) -> None:
    """Say whether the pipeline is healthy, and why not: lag, latency, refusals, dimensions, objective, last audit.

    On a cluster, of each node too. The first line is the verdict. Reads only, and reads no more when more is stored.
    Exit code 0 healthy, 1 not healthy, 2 no schema or topic, 3 Kafka or ClickHouse cannot be reached (what can be
    measured is shown).

    Example: paystream status --watch 5
    """
    settings = load_settings()
    if watch is None:
        state, verdict = _ask(settings)
        if as_json:
            print_json(document(state, verdict))
        elif is_terminal():
            console.print(_screen(state, verdict))
        else:
            _print_lines(state, verdict)
    else:
        verdict = _watch(settings, watch, as_json)
    if verdict.exit_code:
        raise typer.Exit(verdict.exit_code)


def metrics(port: Port = METRICS_PORT, host: Host = "127.0.0.1") -> None:
    """Serve what `paystream status` says to Prometheus, under /metrics, until Ctrl-C.

    Asks at each scrape, at most every two seconds. What cannot be measured is left out; paystream_up and
    paystream_problem say so. Dashboard and alert rules: monitoring/.

    Example: paystream metrics --port 9470
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatusCollector(kept_status(load_settings())))
    routes = {"/metrics": lambda: Answer("text/plain; version=0.0.4", generate_latest(registry))}
    serve(host, port, routes, _announcing("metrics", "Metrics at", "/metrics"))


def dashboard(port: Port = DASHBOARD_PORT, host: Host = "127.0.0.1") -> None:
    """Serve what `paystream status` says as a web page that updates itself, until Ctrl-C.

    Needs nothing from the internet. The same as JSON is at /status.json.

    Example: paystream dashboard --port 9471
    """
    serve(host, port, page.routes(kept_status(load_settings())), _announcing("dashboard", "The page is at", "/"))


def _announcing(event: str, words: str, path: str) -> Callable[[str], None]:
    def ready(address: str) -> None:
        if is_terminal():
            console.print(f"{words} {address}{path}. Stop with Ctrl-C.", highlight=False)
        else:
            print_fields(event, {"address": f"{address}{path}"})

    return ready


def _ask(settings: Settings) -> tuple[Status, Verdict]:
    state = read_status(settings)
    return state, judge(state, settings)


def _watch(settings: Settings, every_s: float, as_json: bool) -> Verdict:
    verdict = Verdict([], 130)
    try:
        state, verdict = _ask(settings)
        if is_terminal() and not as_json:
            with Live(_screen(state, verdict), console=console, auto_refresh=False, vertical_overflow="crop") as live:
                while True:
                    time.sleep(every_s)
                    state, verdict = _ask(settings)
                    live.update(_screen(state, verdict), refresh=True)
        while True:
            if as_json:
                sys.stdout.write(orjson.dumps(document(state, verdict), default=str).decode() + "\n")
                sys.stdout.flush()
            else:
                _print_lines(state, verdict)
            time.sleep(every_s)
            state, verdict = _ask(settings)
    except KeyboardInterrupt:
        return verdict


def _print_lines(state: Status, verdict: Verdict) -> None:
    print_fields("status", fields(state, verdict))
    for node in fields_of_nodes(state):
        print_fields("status_node", node)


def _screen(state: Status, verdict: Verdict) -> Group:
    head = Text(verdict.word.upper(), style=f"bold {_COLOURS.get(verdict.exit_code, 'yellow')}")
    advice = []
    if verdict.problems:
        head.append(": " + "; ".join(problem.text for problem in verdict.problems), style="not bold default")
        where = ", ".join(f"'{section}'" for section in dict.fromkeys(problem.section for problem in verdict.problems))
        advice = [Text(f"What to do: docs/runbook.md, {where}.")]
    numbers = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for figure in figures(state):
        numbers.add_row(figure.label, Text(figure.value, style="bold"), Text(figure.note, style="dim"))
    parts: list[Any] = [head, *advice, Text(), numbers]
    for section in sections(state):
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
    parts += [Text(), Text(f"{state.at:%Y-%m-%d %H:%M:%S} UTC, asked in {state.took_s:.2f} s", style="dim")]
    return Group(*parts)
