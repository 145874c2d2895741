"""A result as one HTML page that needs nothing else: no script, no font, no request, and it prints on A4."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from paystream.loadtest.report_figures import (
    NOT_MEASURED,
    PERCENTILES,
    Group,
    flat,
    groups,
    headline,
    seconds,
    shown,
    size,
    sums,
)
from paystream.loadtest.report_file import ResultFile
from paystream.loadtest.report_plots import MOST_COLOURS, Format, Level, Line, bucket, filled, histogram, line_plot
from paystream.loadtest.report_text import limit

FOLDER = Path(__file__).parent
MARKS = {"pass": "✓ PASS", "fail": "✗ FAIL", "invalid": "! INVALID", "partial": "! PARTIAL"}
HIDDEN = ("name", "description")
"""Fields of the workload that the head of the page shows."""


@dataclass(frozen=True)
class Plot:
    """A plot with its legend, a style and a name each, and its numbers as a table; no drawing: nothing was measured."""

    title: str
    what: str = ""
    drawing: str = ""
    legend: Sequence[tuple[str, str]] = ()
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


def page(result: ResultFile) -> str:
    """Return the page. Whatever the result's texts contain is shown as text."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    all_groups = groups(result)
    return environment.get_template("report_page.html").render(
        NOT_MEASURED=NOT_MEASURED,
        facts=_facts(result),
        groups=all_groups,
        latency=[_latency(group) for group in all_groups if group.latency],
        limit=limit,
        machine=_machine(result),
        mark=MARKS[result.verdict],
        percentiles=list(PERCENTILES.values()),
        plots=list(_plots(result)),
        result=result,
        rows_of=lambda group: [[figure.label, shown(figure.value, figure.unit)] for figure in group.figures],
        said=_said(result),
        shown=shown,
        style=(FOLDER / "report_page.css").read_text(encoding="utf-8"),
        sums=sums,
        tiles={
            "95 of 100 payments can be queried within": shown(result.latency(result.visibility.p95_s), "s"),
            "half of them within": shown(result.latency(result.visibility.p50_s), "s"),
            "unread messages, peak": shown(result.lag.peak, ""),
            "memory of broker and engine, peak": shown(result.usage.peak_memory_bytes, "bytes"),
        },
        workload=_workload(result),
    )


def _facts(result: ResultFile) -> Iterable[str]:
    yield headline(result)
    if result.duration_s is not None:
        yield f"{result.duration_s:,.0f} s"
    if result.started_at:
        yield f"{result.started_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _said(result: ResultFile) -> str:
    if result.no_result:
        return "Not a result."
    broken = sum(not threshold.held for threshold in result.thresholds)
    return f"{broken} of {len(result.thresholds)} thresholds did not hold." if broken else "Every threshold held."


def _latency(group: Group) -> list[str]:
    """Return a row of seconds without their unit, which the table's head has."""
    values = [shown(figure.value, "s").removesuffix(" s") for figure in group.figures]
    return [group.title, *(values if set(values) != {NOT_MEASURED} else [NOT_MEASURED])]


def _machine(result: ResultFile) -> list[tuple[str, str]]:
    machine = result.machine
    facts = {
        "cores": machine.cores,
        "memory": None if machine.memory_bytes is None else size(machine.memory_bytes),
        "Paystream": machine.paystream,
        "ClickHouse": machine.clickhouse,
        "Python": machine.python,
        "seed": result.seed,
    }
    return [(name, NOT_MEASURED if value is None else str(value)) for name, value in facts.items()]


def _workload(result: ResultFile) -> list[tuple[str, str]]:
    hidden = {*HIDDEN, *(f"thresholds.{threshold.name}" for threshold in result.thresholds)}
    return [(name, value) for name, value in flat(result.workload).items() if name not in hidden]


def _plots(result: ResultFile) -> Iterable[Plot]:
    visibility, timeline = result.visibility, result.usage.timeline
    yield _histogram(result)
    p95_limit = next((threshold.limit for threshold in result.thresholds if threshold.name == "p95_seconds"), None)
    yield _over_time(
        "latency",
        "Latency over time",
        "payment to queryable, by the second at which it was due",
        [
            Line("p95", [(at.at_s, at.p95_s) for at in visibility.timeline]),
            Line("p50", [(at.at_s, at.p50_s) for at in visibility.timeline]),
            Line("max", [(at.at_s, at.max_s) for at in visibility.timeline]),
        ],
        _s,
        _bound,
        level=None if p95_limit is None else Level("limit of p95", p95_limit),
    )
    lag = [Line("messages", [(at.at_s, at.messages) for at in result.lag.timeline])]
    yield _over_time("lag", "Lag", "messages in the topic that are not read yet", lag, _count, _count)
    parts = [
        Line("active parts", [(at.at_s, at.active) for at in result.parts.timeline]),
        Line("merges", [(at.at_s, at.merges) for at in result.parts.timeline]),
    ]
    yield _over_time("parts", "Parts", "of the table, and merges at work", parts, _count, _count)
    for name, title, what, label in (
        ("cpu_share", "Processor", "share of one core, by process", "{:.0%}".format),
        ("memory_bytes", "Memory", "resident, by process", size),
    ):
        processes = list(dict.fromkeys(process for at in timeline for process in getattr(at, name)))[:MOST_COLOURS]
        lines = [Line(process, [(at.at_s, getattr(at, name).get(process)) for at in timeline]) for process in processes]
        yield _over_time(name, title, what, lines, label, label, binary=label is size)


def _histogram(result: ResultFile) -> Plot:
    title, p95_s = "Latency of all canaries", result.visibility.p95_s
    bounds, counts = result.visibility.histogram.bounds_s, result.visibility.histogram.counts
    if not bounds or not any(counts):
        return Plot(title)
    first, last = filled(counts)
    edges = [0.0, *bounds, math.inf]
    rows = [[bucket(edges[place], edges[place + 1], _s), f"{counts[place]:,}"] for place in range(first, last + 1)]
    marks = [] if p95_s is None else [Level(f"p95 {_s(p95_s)}", p95_s)]
    drawing = histogram("histogram", title, bounds, counts, _bound, marks)
    return Plot(title, "canaries by time to queryable", drawing, head=["latency", "canaries"], rows=rows)


def _over_time(
    name: str,
    title: str,
    what: str,
    lines: Sequence[Line],
    label: Format,
    axis: Format,
    level: Level | None = None,
    binary: bool = False,
) -> Plot:
    lines = [line for line in lines if any(value is not None for _, value in line.points)]
    if not lines:
        return Plot(title)
    drawing = line_plot(f"plot-{name}", title, lines, label, axis, level, binary)
    legend = [(f"s{number}", line.name) for number, line in enumerate(lines, start=1)]
    if level and 'class="limit"' in drawing:
        legend.append(("limit", f"{level.name}, {_s(level.value)}"))
    rows = [
        [f"{at:g}", *("-" if value is None else label(value) for value in values)]
        for at, *values in (
            (point[0], *(line.points[place][1] for line in lines)) for place, point in enumerate(lines[0].points)
        )
    ]
    return Plot(title, what, drawing, legend, ["second", *(line.name for line in lines)], rows)


def _s(value: float) -> str:
    return f"{seconds(value)} s"


def _bound(value: float) -> str:
    return f"{value:g} s"


def _count(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"
