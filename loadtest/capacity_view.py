"""How a search for the capacity is shown: as it goes, and at its end."""

from typing import Any

from rich.table import Table
from rich.text import Text

from paystream.loadtest.capacity import Capacity, Step
from paystream.loadtest.report_figures import shown
from paystream.loadtest.report_file import parse
from paystream.loadtest.report_text import number

FORMAT = "capacity-1"


def step_fields(step: Step) -> dict[str, Any]:
    """Return a run's most telling values, for one line of a log."""
    result = parse(step.document)
    p95 = result.latency(result.visibility.p95_s)
    fields: dict[str, Any] = {
        "rate_per_second": step.rate_per_second,
        "held": str(not step.broken).lower(),
        "p95_seconds": number(p95) or "none",
        "peak_lag": result.lag.peak,
        "busy_share": result.usage.busy_share,
    }
    return fields | ({"broken": step.broken} if step.broken else {})


def answer_fields(name: str, capacity: Capacity) -> dict[str, Any]:
    """Return the answer, for one line of a log."""
    held, limit = capacity.held, capacity.limit
    return {
        "workload": name,
        "rate_per_second": held.rate_per_second if held else 0,
        "not_held_at": limit.rate_per_second if limit else "none",
        "because": limit.broken if limit else "the search ended before",
    }


def answer(name: str, capacity: Capacity) -> str:
    """Return the answer in a sentence or two."""
    held, limit = capacity.held, capacity.limit
    text = (
        f"Capacity for {name}: {held.rate_per_second:,}/s held." if held else f"Capacity for {name}: no rate was held."
    )
    return f"{text} {limit.rate_per_second:,}/s was not: {limit.broken}." if limit else f"{text} No limit was found."


def table(capacity: Capacity) -> Table:
    """Return a row per run, in order of the rates."""
    rows = Table("", "rate", "p50", "p95", "p99", "peak lag", "engine", "machine", "not held, since", box=None)
    for column in rows.columns[1:8]:
        column.justify, column.no_wrap = "right", True
    rows.columns[8].overflow = "fold"
    for step in sorted(capacity.steps, key=lambda step: step.rate_per_second):
        result = parse(step.document)
        seen, usage = result.visibility, result.usage
        cores = sum(spent or 0 for name, spent in usage.cpu_s.items() if name.startswith("clickhouse"))
        rows.add_row(
            Text("✗", "bold red") if step.broken else Text("✓", "green"),
            f"{step.rate_per_second:,}/s",
            *(shown(result.latency(latency_s), "s") for latency_s in (seen.p50_s, seen.p95_s, seen.p99_s)),
            shown(result.lag.peak, ""),
            "" if not cores or not result.duration_s else f"{cores / result.duration_s:.2f} cores",
            "" if usage.busy_share is None else f"{usage.busy_share:.0%} busy",
            Text(step.broken),
        )
    return rows


def as_json(name: str, capacity: Capacity) -> dict[str, Any]:
    """Return everything, each run as `paystream loadtest run --json` writes it."""
    return {
        "format": FORMAT,
        "answer": answer_fields(name, capacity),
        "steps": [step.document for step in capacity.steps],
    }
