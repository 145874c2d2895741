"""The memo's plots."""

from functools import partial
from pathlib import Path

import numpy as np

from paystream.cost.designs import DESIGNS, design
from paystream.cost.memo import OURS, RATES
from paystream.cost.model import Model
from paystream.plots import Figure, pyplot, write

SHOWN = ("own_msk", "cloud_msk", "flink", "spark_emr", "kafka_streams", "bigquery", "snowflake", "batch")


def write_plots(model: Model, folder: Path) -> list[Path]:
    """Write the plots, and return their files."""
    drawn = {"cost_by_rate": _by_rate, "cost_lines": _lines, "cost_tornado": _tornado}
    return write({name: partial(draw, model) for name, draw in drawn.items()}, folder, "paystream cost memo")


def _by_rate(model: Model) -> Figure:
    figure, axes = pyplot.subplots(figsize=(7.2, 4.2))
    rates = np.geomspace(100, 100_000, 49)
    for number, name in enumerate(SHOWN):
        bills = [model.estimate(design(name), float(rate)).base.steady for rate in rates]
        style = (
            {"linewidth": 2.6} if name == OURS else {"linewidth": 1.3, "linestyle": ("-", "--", "-.", ":")[number % 4]}
        )
        axes.plot(rates, bills, label=design(name).name, **style)
    axes.set(
        xscale="log", yscale="log", xlabel="payments a second", ylabel="US dollars a month, steady, without people"
    )
    for rate in RATES:
        axes.axvline(rate, color="0.8", linewidth=0.8, zorder=0)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("${x:,.0f}")
    axes.legend(frameon=False, fontsize=8)
    return figure


def _lines(model: Model) -> Figure:
    figure, panels = pyplot.subplots(1, len(RATES), figsize=(9.6, 4.0), sharey=True)
    names = [entry.id for entry in reversed(DESIGNS)]
    bills = {rate: {name: model.estimate(design(name), rate).base.by_kind() for name in names} for rate in RATES}
    kinds = dict.fromkeys(kind for of_rate in bills.values() for bill in of_rate.values() for kind in bill)
    colours = {kind: pyplot.get_cmap("tab20")(place) for place, kind in enumerate(kinds)}
    for panel, rate in zip(panels, RATES, strict=True):
        left = np.zeros(len(names))
        for kind in kinds:
            widths = np.array([bills[rate][name].get(kind, 0.0) for name in names])
            panel.barh([design(name).name for name in names], widths, left=left, color=colours[kind], label=kind)
            left += widths
        panel.set_title(f"{rate:,.0f}/s", fontsize=9)
        panel.xaxis.set_major_formatter("${x:,.0f}")
        panel.tick_params(axis="x", labelsize=7, rotation=30)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=6, frameon=False, fontsize=7, bbox_to_anchor=(0.5, -0.14))
    return figure


def _tornado(model: Model) -> Figure:
    figure, axes = pyplot.subplots(figsize=(7.2, 3.4))
    rate = RATES[1]
    base = model.estimate(design(OURS), rate).base.steady
    swings = list(reversed(model.tornado(design(OURS), rate)[:10]))
    for swing in swings:
        for value, colour in ((swing.at_low, "#4c8dc4"), (swing.at_high, "#c4694c")):
            axes.barh(swing.assumption, value - base, left=base, color=colour)
    axes.axvline(base, color="0.3", linewidth=0.8)
    axes.xaxis.set_major_formatter("${x:,.0f}")
    axes.set_xlabel(f"US dollars a month at {rate:,.0f}/s: each assumption from its low (blue) to its high (red)")
    return figure
