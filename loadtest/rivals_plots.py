"""The plots of the rivals: p95 by rate, and where the processor time goes."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from paystream.loadtest.pipeline import OWN
from paystream.loadtest.rivals_page import GENERATED, TITLES, at_rate, by_pipeline
from paystream.plots import Figure, pyplot, write


def write_plots(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the plots, and return their files."""
    drawn = {"rivals_p95": _p95, "rivals_cpu": _cpu}
    return write({name: partial(draw, results) for name, draw in drawn.items()}, folder, GENERATED.command)


def _p95(results: Mapping[str, Any]) -> Figure:
    figure, axes = pyplot.subplots(figsize=(7.2, 3.6))
    for number, (name, turns) in enumerate(by_pipeline(results).items()):
        points = [
            (int(rate), median(values))
            for rate in ("500", "5000")
            if (values := at_rate(turns, rate, lambda figures: figures["p95_s"]))
        ]
        if held := [turn["capacity"] for turn in turns if turn.get("capacity", {}).get("rate_per_second")]:
            points.append((held[0]["rate_per_second"], held[0]["p95_s"]))
        points.sort()
        style = (
            {"linewidth": 2.6} if name == OWN else {"linewidth": 1.3, "linestyle": ("-", "--", "-.", ":")[number % 4]}
        )
        axes.plot(*zip(*points, strict=True), marker="o", label=TITLES[name], **style) if points else None
    axes.set(xscale="log", yscale="log", xlabel="payments a second; the last point: the highest rate held")
    axes.set_ylabel("p95, seconds from payment to queryable row")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.legend(frameon=False, fontsize=8)
    return figure


def _cpu(results: Mapping[str, Any]) -> Figure:
    figure, axes = pyplot.subplots(figsize=(7.2, 2.8))
    pipelines = {
        name: turns for name, turns in reversed(by_pipeline(results).items()) if at_rate(turns, "5000", lambda _: 0.0)
    }
    left = [0.0] * len(pipelines)
    for part, colour in (("broker", "0.75"), ("clickhouse", "#4c8dc4"), ("job", "#c4694c")):
        widths = [
            median(at_rate(turns, "5000", lambda f, name=name: f["cpu_s_per_million"].get(name, 0.0)))
            for name, turns in ((own if part == "job" else part, turns) for own, turns in pipelines.items())
        ]
        axes.barh([TITLES[name] for name in pipelines], widths, left=left, color=colour, label=part)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_xlabel("processor seconds a million messages at 5,000/s: grey the broker, blue ClickHouse, red the job")
    return figure
