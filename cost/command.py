"""``paystream cost``."""

from pathlib import Path
from typing import Annotated

import typer

from paystream.cost import memo as memo_section
from paystream.cost import view
from paystream.cost.coefficients import as_yaml, from_results, load_coefficients
from paystream.cost.designs import DESIGNS, design
from paystream.cost.model import Model
from paystream.cost.prices import load_prices
from paystream.errors import UsageError
from paystream.output import console, is_terminal, print_fields, print_json
from paystream.settings import project_folder

DEFAULT_RATES = "500,5000,50000"

app = typer.Typer(help="What the pipeline costs a month, beside other designs.", invoke_without_command=True)

Prices = Annotated[
    Path | None, typer.Option("--prices", metavar="FILE", help="Prices of your own, in place of those shipped.")
]
Own = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="An assumption of your own; may be repeated.")
]


@app.callback()
def cost(
    context: typer.Context,
    rates: Annotated[str, typer.Option(help="Messages a second, with commas between.")] = DEFAULT_RATES,
    only: Annotated[
        list[str] | None, typer.Option("--design", help="A design by its id, with all its lines; may be repeated.")
    ] = None,
    prices: Prices = None,
    own: Own = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write every line of every bill.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Compare what designs cost a month at several rates; with --design, show a bill line by line.

    A month in which all retention is reached; low and high have every assumption at its better and its worse end.

    Example: paystream cost --design own_msk --rates 5000
    """
    if context.invoked_subcommand:
        if csv or prices or own or only or as_json or rates != DEFAULT_RATES:
            raise UsageError(
                f"`cost {context.invoked_subcommand}`: it takes none of the options of `cost`. Leave them out."
            )
        return
    model = _model(prices, own)
    designs = [design(design_id) for design_id in dict.fromkeys(only)] if only else DESIGNS
    asked = _rates(rates)
    estimates = [model.estimate(entry, rate) for entry in designs for rate in asked]
    if csv:
        _write(csv, view.as_csv(estimates, model.prices))
    if as_json:
        print_json(view.as_json(estimates, model.prices))
    elif is_terminal():
        if only:
            for estimate in estimates:
                console.print(view.bill(estimate, model.prices))
                console.print(view.swings(model.tornado(estimate.base.design, estimate.base.rate)))
        else:
            console.print(view.comparison(estimates, asked, console.width >= 60 + 30 * len(asked)))
            console.print(f"The lines of a bill, and what moves it most: paystream cost --design {DESIGNS[0].id}")
    else:
        for estimate in estimates:
            fields = {
                "design": estimate.base.design.id,
                "rate_per_second": f"{estimate.base.rate:g}",
                "first_month_usd": f"{estimate.base.first_month:.0f}",
                "steady_usd": f"{estimate.base.steady:.0f}",
                "steady_low_usd": f"{estimate.low.steady:.0f}",
                "steady_high_usd": f"{estimate.high.steady:.0f}",
                "people_usd": f"{estimate.base.people:.0f}",
            }
            print_fields("cost", fields)


@app.command()
def fit(
    results: Annotated[list[Path], typer.Argument(help="Results of `paystream loadtest run --json`, one for a rate.")],
    to: Annotated[Path | None, typer.Option(metavar="FILE", help="Write them there; else they are printed.")] = None,
) -> None:
    """Take the measured coefficients from results of load tests: processor time and bytes, by the rate.

    Example: paystream cost fit today.json ten_times.json
    """
    text = as_yaml(from_results(results))
    if to is None:
        print(text, end="")
    else:
        _write(to, text)


@app.command()
def memo(check: Annotated[bool, typer.Option("--check", help="Only say whether it is current.")] = False) -> None:
    """Generate the tables and plots of docs/costs.md, or check them: exit code 1 when they are not current.

    Example: paystream cost memo --check
    """
    model, page = _model(None, None), project_folder() / memo_section.MEMO
    if check:
        memo_section.check(model, page)
    else:
        from paystream.cost.plots import write_plots

        memo_section.write(model, page)
        write_plots(model, page.parent / "images")
    print_fields("cost_memo", {"status": "current" if check else "written"})


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"File '{file}' cannot be written: {error.strerror}. Name another one.") from error


def _model(prices: Path | None, own: list[str] | None) -> Model:
    return Model(load_coefficients(), load_prices(prices), _assignments(own or []))


def _assignments(given: list[str]) -> dict[str, float]:
    own: dict[str, float] = {}
    for assignment in given:
        name, _, value = (part.strip() for part in assignment.partition("="))
        if name in own:
            raise UsageError(f"Assumption '{name}': given twice. Give it once.")
        try:
            own[name] = float(value)
        except ValueError:
            raise UsageError(
                f"Assumption '{assignment}': not NAME=NUMBER. Write it as in --set peak_to_average=4."
            ) from None
    return own


def _rates(text: str) -> list[float]:
    try:
        rates = [float(rate) for rate in text.split(",")]
    except ValueError:
        raise UsageError(
            f"Rates '{text}': not numbers with commas between. Write them as in --rates 500,5000."
        ) from None
    return list(dict.fromkeys(rates))
