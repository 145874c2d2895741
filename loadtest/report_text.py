"""A result as text: for a person on a terminal, and as fields for one line of a log."""

import math
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from paystream.loadtest.report_figures import NOT_MEASURED, PERCENTILES, Group, groups, headline, shown, sums
from paystream.loadtest.report_file import ResultFile, Threshold, parse

STYLES = {"pass": "bold green", "fail": "bold red", "invalid": "bold yellow", "partial": "bold yellow"}


def show_document(console: Console, document: Mapping[str, Any]) -> None:
    """Print a result document, as `loadtest run` has it or a file holds it.

    Raises:
        UsageError: the document is no result of this format.
    """
    show(console, parse(document))


def show(console: Console, result: ResultFile) -> None:
    """Print the verdict for a person: what had to hold first, then percentiles, then everything else."""
    title = f"{result.verdict.upper()}  {result.name}: {headline(result)}"
    console.print(Text(title, style=STYLES[result.verdict]))
    for reason in result.no_result:
        console.print(Text.assemble(("! ", "yellow"), f"not a result: {reason}"), soft_wrap=True)
    console.print(threshold_table(result))
    all_groups = groups(result)
    console.print()
    console.print(latency_table(all_groups))
    details = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    details.add_column(style="dim", no_wrap=True)
    details.add_column(overflow="fold")
    for group in all_groups:
        if group.figures and not group.latency:
            details.add_row(group.title, Text(in_line(group)))
    if result.generator.first_error:
        details.add_row("broker's first refusal", Text(result.generator.first_error))
    details.add_row("sums", Text(sums(result)))
    console.print()
    console.print(details)


def threshold_table(result: ResultFile) -> Table:
    """Return a row per threshold: ✓ or ✗, what it is, what was measured, and the limit."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    for threshold in result.thresholds:
        measured = result.measured(threshold)
        mark = Text("✓", "green") if threshold.held else Text("✗", "bold red")
        if measured is None:
            mark = Text("?", "yellow")
        meaning = Text(threshold.meaning or threshold.name)
        table.add_row(mark, meaning, shown(measured, threshold.unit), f"at most {limit(threshold)}")
    return table


def latency_table(all_groups: list[Group]) -> Table:
    """Return the percentiles of the whole way and of its stages."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", style="dim", no_wrap=True)
    for label in PERCENTILES.values():
        table.add_column(label, justify="right")
    for group in all_groups:
        if group.latency and all(figure.value is None for figure in group.figures):
            table.add_row(group.title, NOT_MEASURED)
        elif group.latency:
            table.add_row(group.title, *(shown(figure.value, "s") for figure in group.figures))
    return table


def in_line(group: Group) -> str:
    """Return a group's figures on one line."""
    if all(figure.value is None for figure in group.figures):
        return NOT_MEASURED
    return "  ".join(f"{figure.label} {shown(figure.value, figure.unit)}" for figure in group.figures)


def limit(threshold: Threshold) -> str:
    """Return a threshold's limit with its unit."""
    if threshold.limit is None:
        return "-"
    return f"{threshold.limit:g} s" if threshold.unit == "s" else shown(threshold.limit, threshold.unit)


def as_fields(result: ResultFile) -> dict[str, Any]:
    """Return the most telling values, for one line of a log. What was not measured is left out."""
    fields: dict[str, Any] = {"workload": result.name, "verdict": result.verdict}
    measured = [threshold for threshold in result.thresholds if result.measured(threshold) is not None]
    if result.no_result:
        fields["not_a_result"] = "; ".join(result.no_result)
    for name in PERCENTILES:
        value = result.latency(getattr(result.visibility, name))
        fields[f"{name.removesuffix('_s')}_seconds"] = number(value)
    fields |= {
        threshold.name: f"{threshold.measured:.0f}"
        for threshold in result.thresholds
        if threshold.unit == "" and threshold.measured is not None
    }
    fields |= {
        "sent": result.generator.sent,
        "stored": result.transactions.stored,
        "recovered": result.transactions.recovered,
        "duplicate_messages": result.transactions.duplicate_messages,
        "malformed_messages": result.transactions.malformed_messages,
        "refused_as_planned": result.transactions.refused_as_planned,
        "generator_lateness_p99_seconds": number(result.generator.lateness_p99_s),
        "peak_lag": result.lag.peak,
        "peak_parts": result.parts.peak,
        "peak_memory_mib": int(result.usage.peak_memory_bytes or 0) >> 20 or None,
        "others_cpu_share": result.usage.others_share,
        "broken": ",".join(threshold.name for threshold in measured if not threshold.held) or None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def number(value: float | None) -> str | None:
    """Return a value for a log: ``never`` where it is infinite, None where it was not measured."""
    if value is None:
        return None
    return f"{value:.3f}" if math.isfinite(value) else "never"
