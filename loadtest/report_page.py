"""A result as one HTML page that needs nothing else: no script, no font, no request, and it prints on A4."""

import math
from collections.abc import Iterable, Sequence
from datetime import UTC
from html import escape
from pathlib import Path

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
from paystream.loadtest.report_file import ResultFile, Threshold
from paystream.loadtest.report_plots import MOST_COLOURS, Format, Level, Line, bucket, filled, histogram, line_plot
from paystream.loadtest.report_text import limit

STYLE = Path(__file__).with_name("report_page.css")
MARKS = {"pass": "✓ PASS", "fail": "✗ FAIL", "invalid": "! INVALID", "partial": "! PARTIAL"}
HIDDEN = ("name", "description")
"""Fields of the workload that the head of the page shows."""


def page(result: ResultFile) -> str:
    """Return the page. Whatever the result's texts contain is shown as text."""
    title = f"Load test {result.name}: {result.verdict}"
    sections = [
        _head(result),
        _thresholds(result),
        _tiles(result),
        _section("Latency by stage", _latency(groups(result))),
        _section("Course of the run", f'<div class="plots">{"".join(_plots(result))}</div>'),
        _section("Figures", _cards(result), "whole"),
        _section("To run it again", _again(result), "whole"),
        _section("What the figures mean", _definitions(result)),
    ]
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>
{STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<main>
{"".join(sections)}</main>
</body>
</html>
"""


def _head(result: ResultFile) -> str:
    facts = [headline(result)]
    if result.duration_s is not None:
        facts.append(f"{result.duration_s:,.0f} s")
    if result.started_at:
        facts.append(f"{result.started_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC")
    broken = sum(not one.held for one in result.thresholds)
    said = f"{broken} of {len(result.thresholds)} thresholds did not hold." if broken else "Every threshold held."
    if result.no_result:
        said = "Not a result."
    reasons = "".join(f'<p class="warning">{escape(reason)}</p>\n' for reason in result.no_result)
    return (
        f"<header><h1>Load test “{escape(result.name)}”</h1>"
        f'<span class="verdict {result.verdict}">{MARKS[result.verdict]}</span></header>\n'
        f"<p>{escape(str(result.workload.get('description', '')))} <strong>{said}</strong><br>\n"
        f'<span class="soft">{escape(" · ".join(facts))}</span></p>\n{reasons}'
    )


def _thresholds(result: ResultFile) -> str:
    rows = "".join(_threshold(result, one) for one in result.thresholds)
    return (
        '<h2 id="thresholds">Thresholds</h2>\n<table class="thresholds"><thead><tr>'
        '<th scope="col" class="mark"><span class="hidden">held or not</span></th>'
        '<th scope="col">what had to hold</th><th scope="col" class="number">measured</th>'
        f'<th scope="col" class="number">at most</th></tr></thead><tbody>\n{rows}</tbody></table>\n'
    )


def _threshold(result: ResultFile, one: Threshold) -> str:
    mark = '<span aria-hidden="true">{}</span><span class="hidden">{}</span>'
    state, sign, word = ("held", "✓", "held") if one.held else ("broken", "✗", "not held")
    if result.measured(one) is None:
        state, sign, word = "unknown", "?", NOT_MEASURED
    return (
        f'<tr class="{state}"><td class="mark">{mark.format(sign, word)}</td>'
        f'<th scope="row">{escape(one.meaning or one.name)}</th>'
        f'<td class="number measured">{shown(result.measured(one), one.unit)}</td>'
        f'<td class="number">{limit(one)}</td></tr>\n'
    )


def _tiles(result: ResultFile) -> str:
    tiles = {
        "95 of 100 payments can be queried within": shown(result.latency(result.visibility.p95_s), "s"),
        "half of them within": shown(result.latency(result.visibility.p50_s), "s"),
        "unread messages, peak": shown(result.lag.peak, ""),
        "memory of broker and engine, peak": shown(result.usage.peak_memory_bytes, "bytes"),
    }
    items = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in tiles.items())
    return f'<dl class="tiles">{items}</dl>\n'


def _latency(all_groups: Sequence[Group]) -> str:
    rows = []
    for group in all_groups:
        if group.latency:
            values = [_bare(figure.value) for figure in group.figures]
            rows.append([group.title, *(values if set(values) != {NOT_MEASURED} else [NOT_MEASURED])])
    table = _table(["seconds", *PERCENTILES.values()], rows, "latency")
    return (
        f'{table}<p class="soft">Created is when a payment was due to be sent, Kafka its message’s own '
        "timestamp, stored when ClickHouse read its block, visible when a reader’s query first returned it.</p>\n"
    )


def _plots(result: ResultFile) -> Iterable[str]:
    """Yield a figure per plot: caption, drawing, legend, and the numbers as a table."""
    visibility, counts = result.visibility, result.visibility.histogram.counts
    bounds = visibility.histogram.bounds_s
    p95_limit = next((one.limit for one in result.thresholds if one.name == "p95_seconds"), None)
    level = None if p95_limit is None else Level("limit of p95", p95_limit)
    title = "Latency of all canaries"
    if bounds and any(counts):
        first, last = filled(counts)
        edges = [0.0, *bounds, math.inf]
        rows = [[bucket(edges[place], edges[place + 1], _s), f"{counts[place]:,}"] for place in range(first, last + 1)]
        marks = [] if visibility.p95_s is None else [Level(f"p95 {_s(visibility.p95_s)}", visibility.p95_s)]
        drawing = histogram("histogram", title, bounds, counts, _bound, marks)
        yield _figure(title, "canaries by time to queryable", drawing, "", _table(["latency", "canaries"], rows))
    else:
        yield _unmeasured(title)

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
        level,
    )
    yield _over_time(
        "lag",
        "Lag",
        "messages in the topic that are not read yet",
        [Line("messages", [(at.at_s, at.messages) for at in result.lag.timeline])],
        _count,
        _count,
    )
    yield _over_time(
        "parts",
        "Parts",
        "of the table, and merges at work",
        [
            Line("active parts", [(at.at_s, at.active) for at in result.parts.timeline]),
            Line("merges", [(at.at_s, at.merges) for at in result.parts.timeline]),
        ],
        _count,
        _count,
    )
    timeline = result.usage.timeline
    for name, title, what, label in (
        ("cpu_share", "Processor", "share of one core, by process", _share),
        ("memory_bytes", "Memory", "resident, by process", size),
    ):
        processes = list(dict.fromkeys(process for at in timeline for process in getattr(at, name)))[:MOST_COLOURS]
        lines = [Line(process, [(at.at_s, getattr(at, name).get(process)) for at in timeline]) for process in processes]
        yield _over_time(name, title, what, lines, label, label, binary=label is size)


def _over_time(
    name: str,
    title: str,
    what: str,
    lines: Sequence[Line],
    label: Format,
    axis: Format,
    level: Level | None = None,
    binary: bool = False,
) -> str:
    lines = [line for line in lines if any(value is not None for _, value in line.points)]
    if not lines:
        return _unmeasured(title)
    drawing = line_plot(f"plot-{name}", title, lines, label, axis, level, binary)
    drawn_level = level if level and 'class="limit"' in drawing else None
    rows = [
        [f"{at:g}", *("-" if value is None else label(value) for value in values)]
        for at, *values in (
            (point[0], *(line.points[place][1] for line in lines)) for place, point in enumerate(lines[0].points)
        )
    ]
    return _figure(
        title, what, drawing, _legend(lines, drawn_level), _table(["second", *(line.name for line in lines)], rows)
    )


def _legend(lines: Sequence[Line], level: Level | None) -> str:
    entries = [(f"s{number}", line.name) for number, line in enumerate(lines, start=1)]
    if level:
        entries.append(("limit", f"{level.name}, {_s(level.value)}"))
    if len(entries) == 1:
        return ""
    items = "".join(
        f'<li><svg viewBox="0 0 26 8" aria-hidden="true"><path class="{style}" d="M1 4H25"/></svg>{escape(name)}</li>'
        for style, name in entries
    )
    return f'<ul class="legend">{items}</ul>'


def _figure(title: str, what: str, drawing: str, legend: str, table: str) -> str:
    return (
        f'<figure><figcaption><h3>{escape(title)} <span class="soft">{escape(what)}</span></h3></figcaption>'
        f"{drawing}{legend}"
        f'<details><summary>{escape(title)} as a table</summary><div class="scroll" tabindex="0" role="region" '
        f'aria-label="{escape(title)} as a table">{table}</div></details></figure>\n'
    )


def _unmeasured(title: str) -> str:
    return f'<figure><figcaption><h3>{escape(title)}</h3></figcaption><p class="soft">{NOT_MEASURED}</p></figure>\n'


def _cards(result: ResultFile) -> str:
    cards = []
    for group in groups(result):
        if group.figures and not group.latency:
            rows = [[figure.label, shown(figure.value, figure.unit)] for figure in group.figures]
            if all(figure.value is None for figure in group.figures):
                cards.append(_card(group.title, f'<p class="soft">{NOT_MEASURED}</p>'))
            else:
                cards.append(_card(group.title, _table([], rows)))
    if result.generator.first_error:
        cards.append(_card("broker’s first refusal", f"<p>{escape(result.generator.first_error)}</p>"))
    cards.append(_card("sums", f"<p>{escape(sums(result))}</p>"))
    return f'<div class="cards">{"".join(cards)}</div>\n'


def _again(result: ResultFile) -> str:
    machine = result.machine
    memory = None if machine.memory_bytes is None else size(machine.memory_bytes)
    facts = {
        "cores": machine.cores,
        "memory": memory,
        "Paystream": machine.paystream,
        "ClickHouse": machine.clickhouse,
        "Python": machine.python,
        "seed": result.seed,
    }
    hidden = {*HIDDEN, *(f"thresholds.{one.name}" for one in result.thresholds)}
    workload = {name: value for name, value in flat(result.workload).items() if name not in hidden}
    return (
        f"<pre><code>paystream loadtest run {escape(result.name)}</code></pre>\n"
        '<div class="cards">'
        + _card("machine and seed", _table([], [[name, _or_not(value)] for name, value in facts.items()]))
        + _card("workload", _table([], [[name, value] for name, value in workload.items()]))
        + "</div>\n"
    )


def _definitions(result: ResultFile) -> str:
    if not result.definitions:
        return '<p class="soft">The result file has no definitions.</p>\n'
    items = "".join(
        f"<div><dt>{escape(name.replace('_', ' '))}</dt><dd>{escape(text)}</dd></div>"
        for name, text in result.definitions.items()
    )
    return f'<dl class="definitions">{items}</dl>\n'


def _section(title: str, content: str, style: str = "part") -> str:
    return f'<section class="{style}"><h2>{title}</h2>\n{content}</section>\n'


def _card(title: str, content: str) -> str:
    return f"<section><h3>{title}</h3>{content}</section>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], style: str = "") -> str:
    """Return a table whose first column names its rows and whose others are numbers; a row's last cell fills it."""
    heading = "".join(
        f'<th scope="col"{" class=number" if place else ""}>{escape(name)}</th>' for place, name in enumerate(head)
    )
    body = "".join(f"<tr>{_row(row, len(head))}</tr>" for row in rows)
    start = f'<table class="{style}">' if style else "<table>"
    return f"{start}{f'<thead><tr>{heading}</tr></thead>' if head else ''}<tbody>{body}</tbody></table>"


def _row(row: Sequence[str], columns: int) -> str:
    cells = [f'<th scope="row">{escape(row[0])}</th>']
    for place, value in enumerate(row[1:], start=2):
        style = "number unmeasured" if value == NOT_MEASURED else "number"
        span = f' colspan="{columns - place + 1}"' if place == len(row) < columns else ""
        cells.append(f'<td class="{style}"{span}>{escape(value)}</td>')
    return "".join(cells)


def _or_not(value: object) -> str:
    return NOT_MEASURED if value is None else str(value)


def _bare(value: float | None) -> str:
    """Return seconds without their unit, which the table's head has."""
    return shown(value, "s").removesuffix(" s")


def _s(value: float) -> str:
    return f"{seconds(value)} s"


def _bound(value: float) -> str:
    return f"{value:g} s"


def _count(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def _share(value: float) -> str:
    return f"{value:.0%}"
