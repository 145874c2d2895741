"""Two runs side by side: each figure of both, the difference, the ratio, and what got worse."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from paystream.loadtest.report_figures import NOT_MEASURED, Worse, flat, groups, headline, shown
from paystream.loadtest.report_file import ResultFile, Threshold
from paystream.loadtest.report_text import STYLES, limit

TOLERANCE = 0.1
"""Share by which a figure may differ before it counts as worse: two runs of the same thing differ that much."""

TOLERANCE_S = 0.01
"""Seconds that count for nothing, whatever their share: a quarter of a round of asking."""

RULE = (
    f"worse: by more than {TOLERANCE:.0%}, and for times by more than {TOLERANCE_S:g} s as well; "
    "by anything for the thresholds' counts, and where a threshold no longer holds"
)
UNJUDGED = ("description", "name", "thresholds.")


@dataclass(frozen=True)
class Change:
    """A figure of two runs. ``group`` is where it belongs; ``limit_a`` and ``limit_b`` are those of thresholds."""

    group: str
    key: str
    label: str
    unit: str
    a: float | None
    b: float | None
    worse: bool
    limit_a: str = ""
    limit_b: str = ""

    @property
    def difference(self) -> float | None:
        """Return b - a, None where one of them is not a finite number."""
        if self.a is None or self.b is None or not math.isfinite(self.a) or not math.isfinite(self.b):
            return None
        return self.b - self.a

    @property
    def ratio(self) -> float | None:
        """Return b / a, None where that says nothing."""
        return None if self.difference is None or not self.a else self.b / self.a


def changes(a: ResultFile, b: ResultFile) -> list[Change]:
    """Return every threshold and figure that at least one of the runs measured; the thresholds first."""
    return [*_thresholds(a, b), *_figures(a, b)]


def differing(a: ResultFile, b: ResultFile) -> list[str]:
    """Say how the workloads and machines differ, apart from names and thresholds; empty when they do not."""
    lines = []
    for what, first, second in (
        ("workload", flat(a.workload), flat(b.workload)),
        ("machine", flat(a.machine.model_dump()), flat(b.machine.model_dump())),
    ):
        names = [name for name in first | second if not name.startswith(UNJUDGED)]
        differences = [
            f"{name} {first.get(name, '-')} and {second.get(name, '-')}"
            for name in names
            if first.get(name, "-") != second.get(name, "-")
        ]
        if differences:
            lines.append(f"not the same {what}: {', '.join(differences)}")
    return lines


def warnings(a: ResultFile, b: ResultFile) -> list[str]:
    """Return what a reader must know before taking any difference seriously."""
    proves_nothing = [
        f"{letter} is not a result: {reason}" for letter, run in (("A", a), ("B", b)) for reason in run.no_result
    ]
    return [*differing(a, b), *proves_nothing]


def show(console: Console, a: ResultFile, b: ResultFile) -> None:
    """Print both runs side by side for a person."""
    for letter, run in (("A", a), ("B", b)):
        started = f", {run.started_at:%Y-%m-%d %H:%M} UTC" if run.started_at else ""
        text = f"{letter}  {run.verdict.upper()}  {run.name}: {headline(run)}{started}"
        console.print(Text(text, style=STYLES[run.verdict]), soft_wrap=True)
    for line in warnings(a, b):
        console.print(Text.assemble(("! ", "yellow"), line), soft_wrap=True)
    compared = changes(a, b)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("")
    for label in ("A", "B", "difference", "ratio"):
        table.add_column(label, justify="right")
    table.add_column("")
    group = ""
    for change in compared:
        if change.group != group:
            group = change.group
            table.add_row()
            table.add_row(Text(group, style="bold"))
        cells = [shown(change.a, change.unit) + change.limit_a, shown(change.b, change.unit) + change.limit_b]
        mark = Text("worse", style="bold red") if change.worse else Text()
        table.add_row(Text(f"  {change.label}"), *cells, signed(change), times(change), mark)
    console.print(table)
    worse = [f"{change.group} {change.label}" for change in compared if change.worse]
    console.print()
    summary = f"{len(worse)} of {len(compared)} figures got worse in B" if worse else "nothing got worse in B"
    console.print(Text(summary))
    console.print(Text(RULE, style="dim"), soft_wrap=True)


def as_document(a: ResultFile, b: ResultFile) -> dict[str, Any]:
    """Return the comparison for JSON. What was not measured or cannot be divided is null."""
    return {
        "a": _run(a),
        "b": _run(b),
        "differing": differing(a, b),
        "figures": [
            {
                "name": change.key,
                "unit": change.unit,
                "a": _finite(change.a),
                "b": _finite(change.b),
                "difference": change.difference,
                "ratio": change.ratio,
                "worse": change.worse,
            }
            for change in changes(a, b)
        ],
    }


def as_lines(a: ResultFile, b: ResultFile) -> Iterable[tuple[str, dict[str, Any]]]:
    """Yield events with fields for a log: the comparison in one line, then a line per figure."""
    compared = changes(a, b)
    fields: dict[str, Any] = {"a": a.name, "b": b.name, "verdict_a": a.verdict, "verdict_b": b.verdict}
    if notes := warnings(a, b):
        fields["warning"] = "; ".join(notes)
    yield "comparison", fields | {"worse": ",".join(change.key for change in compared if change.worse) or "none"}
    for change in compared:
        values = {"name": change.key, "a": _plain(change.a), "b": _plain(change.b)}
        if change.difference is not None:
            values["difference"] = _plain(change.difference)
        if change.ratio is not None:
            values["ratio"] = f"{change.ratio:.3f}"
        yield "figure", values | {"worse": "yes" if change.worse else "no"}


def signed(change: Change) -> str:
    """Return the difference with its sign."""
    if change.difference is None:
        return "-"
    sign = "+" if change.difference > 0 else "−" if change.difference < 0 else ""
    return sign + shown(abs(change.difference), change.unit)


def times(change: Change) -> str:
    """Return the ratio as a factor."""
    return "-" if change.ratio is None else f"× {change.ratio:.2f}"


def is_worse(a: float | None, b: float | None, bad: Worse, tolerance: float, tolerance_s: float) -> bool:
    """Return whether a figure moved the bad way by more than is tolerated. What was not measured did not move."""
    if a is None or b is None or not bad or a == b:
        return False
    if not math.isfinite(a) or not math.isfinite(b):
        return b > a
    return b - a > max(tolerance * abs(a), tolerance_s)


def _thresholds(a: ResultFile, b: ResultFile) -> list[Change]:
    of_a, of_b = ({threshold.name: threshold for threshold in run.thresholds} for run in (a, b))
    compared = []
    for name in of_a | of_b:
        in_a, in_b = of_a.get(name), of_b.get(name)
        either = in_b or in_a
        value_a, value_b = a.measured(in_a) if in_a else None, b.measured(in_b) if in_b else None
        # Nothing more may be lost than before, but two latencies are never the same.
        tolerated = (TOLERANCE, TOLERANCE_S) if either.unit == "s" else (0, 0)
        broke = bool(in_a and in_b and in_a.held and not in_b.held)
        worse = broke or is_worse(value_a, value_b, "more", *tolerated)
        label, limits = either.meaning or name, (_held(in_a), _held(in_b))
        compared.append(
            Change("thresholds", f"thresholds.{name}", label, either.unit, value_a, value_b, worse, *limits)
        )
    return compared


def _figures(a: ResultFile, b: ResultFile) -> list[Change]:
    of_a = {figure.key: (group.title, figure) for group in groups(a) for figure in group.figures}
    of_b = {figure.key: (group.title, figure) for group in groups(b) for figure in group.figures}
    titles = list(dict.fromkeys(title for title, _ in [*of_a.values(), *of_b.values()]))
    both = sorted(of_a | of_b, key=lambda key: titles.index((of_a.get(key) or of_b[key])[0]))
    compared = []
    for key in both:
        title, figure = of_b.get(key) or of_a[key]
        value_a, value_b = (of[key][1].value if key in of else None for of in (of_a, of_b))
        if value_a is not None or value_b is not None:
            worse = is_worse(value_a, value_b, figure.bad, TOLERANCE, TOLERANCE_S if figure.unit == "s" else 0)
            compared.append(Change(title, key, figure.label, figure.unit, value_a, value_b, worse))
    return compared


def _held(threshold: Threshold | None) -> str:
    return f" {'✓' if threshold.held else '✗'} at most {limit(threshold)}" if threshold else ""


def _run(result: ResultFile) -> dict[str, Any]:
    return {
        "workload": result.name,
        "verdict": result.verdict,
        "not_a_result": result.no_result,
        "started_at": result.started_at,
        "seed": result.seed,
        "thresholds": [threshold.model_dump() for threshold in result.thresholds],
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _plain(value: float | None) -> str:
    if value is None:
        return NOT_MEASURED.replace(" ", "_")
    if not math.isfinite(value):
        return "never"
    return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.0f}"
