"""``paystream status``: what an operator wants to know first. So far: which dimensions serve, and how old they are."""

from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Annotated

import typer
from rich.table import Table

from paystream.clickhouse import answering, connect
from paystream.output import console, is_terminal, print_fields, print_json
from paystream.settings import Settings, load_settings

_DIMENSIONS = """
SELECT
    dimension,
    max(snapshot_id),
    argMax(row_count, snapshot_id),
    argMax(loaded_at, snapshot_id),
    dateDiff('second', argMax(loaded_at, snapshot_id), now64(3)) / 3600,
    if(dimension = 'fx', (SELECT max(rate_date) FROM fx_rates), NULL)
FROM dimension_snapshots
GROUP BY dimension
ORDER BY dimension
"""


@dataclass(frozen=True)
class DimensionAge:
    """A dimension as it serves. ``age_hours``: since it was loaded; a file found unchanged since then does not count.
    ``newest_quote``: the last day that exchange rates are quoted for."""

    dimension: str
    snapshot_id: int
    rows: int
    loaded_at: datetime
    age_hours: float
    newest_quote: date | None


def dimension_ages(settings: Settings) -> list[DimensionAge]:
    """Return the dimensions that were ever loaded.

    Raises:
        UsageError: the schema does not exist yet.
        ServiceUnavailable: ClickHouse cannot be reached.
    """
    with connect(settings) as client, answering("Status"):
        return [DimensionAge(*row) for row in client.query(_DIMENSIONS).result_rows]


def status(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False) -> None:
    """Say which dimensions serve and how old they are.

    Example: paystream status
    """
    ages = dimension_ages(load_settings())
    if as_json:
        print_json({"dimensions": [asdict(age) for age in ages]})
    elif is_terminal():
        table = Table("dimension", "snapshot", "rows", "loaded (UTC)", "hours ago", "newest quote", box=None)
        for age in ages:
            table.add_row(
                age.dimension,
                str(age.snapshot_id),
                f"{age.rows:,}",
                f"{age.loaded_at:%Y-%m-%d %H:%M}",
                f"{age.age_hours:.1f}",
                str(age.newest_quote or "-"),
            )
        console.print(table if ages else "No dimension was loaded yet. Load them with `paystream dims refresh`.")
    else:
        if not ages:
            print_fields("status", {"dimensions": 0})
        for age in ages:
            fields = asdict(age) | {"age_hours": f"{age.age_hours:.2f}", "newest_quote": age.newest_quote or "none"}
            print_fields("status", fields | {"loaded_at": age.loaded_at.isoformat(timespec="seconds")})
