"""The generated part of the memo: tables between two marks in docs/costs.md, and the plots beside it."""

from pathlib import Path

from paystream.cost.coefficients import Coefficients
from paystream.cost.designs import DESIGNS, design
from paystream.cost.model import Estimate, Model
from paystream.cost.view import dollars
from paystream.generated import Generated

MEMO = "docs/costs.md"
GENERATED = Generated("paystream cost memo", "cost/")
RATES = (500.0, 5_000.0, 50_000.0)
OURS = "own_msk"


def section(model: Model) -> str:
    """Return the generated part as Markdown."""
    estimates = {entry.id: [model.estimate(entry, rate) for rate in RATES] for entry in DESIGNS}
    parts = [
        _measured(model.measured),
        _comparison(estimates),
        _lines(estimates[OURS], model),
        _swings(model),
        _weak(estimates, model),
    ]
    return "\n".join(parts)


def write(model: Model, path: Path) -> None:
    """Write the generated part into the memo; create the memo if there is none.

    Raises:
        UsageError: the memo has no place for it.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# What it costs\n\n{GENERATED.begin}\n{GENERATED.end}\n", encoding="utf-8")
    GENERATED.write(path, section(model))


def check(model: Model, path: Path) -> None:
    """Compare the memo with what would be generated now.

    Raises:
        CheckFailed: it is not current.
        UsageError: the memo has no place for it.
    """
    GENERATED.check(path, section(model))


def _table(header: list[str], rows: list[list[str]], right: int = 1) -> str:
    """Return a Markdown table whose columns from ``right`` on are numbers."""
    rule = ["---"] * right + ["---:"] * (len(header) - right)
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, rule, *rows]) + "\n"


def _range(estimate: Estimate) -> str:
    return f"**{dollars(estimate.base.steady)}** ({dollars(estimate.low.steady)} to {dollars(estimate.high.steady)})"


def _comparison(estimates: dict[str, list[Estimate]]) -> str:
    rows = [
        [
            of_design[0].base.design.name,
            *(_range(estimate) for estimate in of_design),
            f"{of_design[1].base.steady / of_design[0].base.steady:.1f}x",
            f"{dollars(of_design[0].low.people)} to {dollars(of_design[0].high.people)}",
        ]
        for of_design in estimates.values()
    ]
    header = [
        "US dollars a month, steady",
        *(f"{rate:,.0f}/s" for rate in RATES),
        "ten times the volume costs",
        "people",
    ]
    return "\n\n### What each design costs\n\n" + _table(header, rows)


def _lines(ours: list[Estimate], model: Model) -> str:
    kinds = dict.fromkeys(kind for estimate in ours for kind in estimate.base.by_kind())
    rows = [[kind, *(dollars(estimate.base.by_kind().get(kind, 0.0)) for estimate in ours)] for kind in kinds]
    rows.append(["**together, steady**", *(f"**{dollars(estimate.base.steady)}**" for estimate in ours)])
    rows.append(["together, first month", *(dollars(estimate.base.first_month) for estimate in ours)])
    messages = [rate * 2.628 for rate in RATES]
    rows.append(
        [
            "per million messages",
            *(f"${estimate.base.steady / count:,.3f}" for estimate, count in zip(ours, messages, strict=True)),
        ]
    )
    name = design(OURS).name
    return f"\n### What it is made of: {name}\n\n" + _table(["", *(f"{rate:,.0f}/s" for rate in RATES)], rows)


def _swings(model: Model) -> str:
    swings = model.tornado(design(OURS), RATES[1])[:6]
    rows = [[swing.assumption, dollars(swing.at_low), dollars(swing.at_high)] for swing in swings]
    head = f"\n### What moves it most: {design(OURS).name}, {RATES[1]:,.0f}/s\n\n"
    return head + _table(["assumption, alone from its low to its high", "at low", "at high"], rows)


def _measured(measured: Coefficients) -> str:
    engine, broker = measured.engine, measured.broker
    rows = [
        [
            f"{point.rate_per_second:,}/s", f"{point.engine_cores:.2f}", f"{engine.at(point.rate_per_second):.2f}",
            f"{point.broker_cores:.2f}", f"{point.wire_bytes:.0f}", f"{point.row_bytes:.0f}", f"{point.p95_s:.2f} s",
        ]
        for point in measured.points
    ]  # fmt: skip
    header = [
        "rate", "ClickHouse, cores", "by the line", "broker, cores", "bytes a message on the wire", "bytes a row",
        "p95",
    ]  # fmt: skip
    return (
        f"\n\n### What was measured\n\nOn {measured.measured_on}, {measured.cores} cores and "
        f"{measured.memory_bytes / 2**30:.0f} GiB, ClickHouse {measured.clickhouse}; a run for each rate: "
        f"`{measured.command}`.\n\n"
        + _table(header, rows)
        + f"\nClickHouse uses {engine.base:.2f} ± {engine.base_interval:.2f} cores and "
        f"{engine.slope * 1e6:.1f} ± {engine.slope_interval * 1e6:.1f} CPU seconds a million messages (95 %),\n"
        f"the broker {broker.base:.2f} ± {broker.base_interval:.2f} and {broker.slope * 1e6:.1f} ± "
        f"{broker.slope_interval * 1e6:.1f}. Merges are at most {measured.merge_share:.0%} of ClickHouse's time.\n"
        + _predictions(measured)
    )


def _predictions(measured: Coefficients) -> str:
    rates = [point.rate_per_second for point in measured.points if point.rate_per_second >= RATES[1]]
    errors = []
    for rate in rates:
        predicted, cores = measured.prediction(int(RATES[0]), rate)
        errors.append(f"at {rate:,}/s {predicted:.2f} cores ({cores:.2f} measured, {predicted / cores - 1:+.0%})")
    return (
        "\nPredicted from the run at 500/s and the slope of all runs but the one predicted: "
        + ", ".join(errors)
        + ".\n"
        f"A row is counted with the {measured.row_bytes:.0f} bytes of the highest rate, whose parts are as large as "
        "those of a table in use, times `row_size_factor`.\n"
    )


def _weak(estimates: dict[str, list[Estimate]], model: Model) -> str:
    used = dict.fromkeys(
        price
        for of_design in estimates.values()
        for estimate in of_design
        for item in estimate.base.items
        for price in item.prices
    )
    rows = [
        [price.id, f"${price.price:g}", price.unit.replace("_", " "), str(price.as_of or "no date"), price.grade,
             price.mark]
        for price in (model.prices[price_id] for price_id in used)
    ]  # fmt: skip
    header = ["price", "US dollars", "for", "as of", "grade", "marked"]
    return (
        "\n### The prices used\n\nList prices, AWS us-east-1. `weak`: nobody at the vendor said so; `no date`: the "
        "source states none.\n\n" + _table(header, rows, right=len(header)).replace("---:", "---") + "\n"
    )
