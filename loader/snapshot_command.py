"""``paystream dims history``, ``compare`` and ``rollback``: the snapshots of a dimension."""

from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.table import Table

from paystream.loader import history
from paystream.loader.dimension import FX, MERCHANTS, Dimension
from paystream.loader.refresh import Refreshed, roll_back
from paystream.loader.repair_command import SkipAway, ThenRepair, repair_after, show_repaired
from paystream.nodes import find
from paystream.output import console, errors, is_terminal, note, print_fields, print_json
from paystream.settings import Settings, load_settings


class Name(StrEnum):
    """A dimension, as commands name it."""

    MERCHANTS = "merchants"
    FX = "fx"


CATCH_UP = "The next `paystream dims refresh` brings every node that answers to the newest snapshot."

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
OfDimension = Annotated[Name, typer.Argument(help="Which dimension.", show_default=False)]


def _dimension(name: Name) -> Dimension:
    return MERCHANTS if name is Name.MERCHANTS else FX


def list_history(name: OfDimension, as_json: AsJson = False) -> None:
    """List the snapshots of a dimension: what was loaded when, from where, by whom.

    Transactions carry the number of the snapshot that they were enriched with (merchant_snapshot_id, fx_snapshot_id).
    Those kept can be compared and rolled back to; PAYSTREAM_DIMS_SNAPSHOTS_KEPT says how many are.

    Example: paystream dims history merchants
    """
    settings = load_settings()
    snapshots = history.list_snapshots(settings, _dimension(name))
    if as_json:
        print_json([asdict(snapshot) for snapshot in snapshots])
    elif is_terminal():
        names = ("", "id", "loaded (UTC)", "rows", "left out", "source", "SHA-256", "by", "forced", "kept")
        table = Table(*names, box=None)
        for snapshot in snapshots:
            table.add_row(
                "[green]●[/]" if snapshot.serving else "",
                str(snapshot.snapshot_id),
                f"{snapshot.loaded_at:%Y-%m-%d %H:%M}",
                f"{snapshot.rows:,}",
                f"{len(snapshot.rejected):,}" if snapshot.rejected else "-",
                snapshot.source,
                snapshot.checksum[:8],
                snapshot.loaded_by,
                ", ".join(snapshot.forced_gates) or "-",
                "yes" if snapshot.kept else "no",
            )
        console.print(table if snapshots else f"No snapshot of '{name}' was loaded yet.")
    else:
        for snapshot in snapshots:
            gates = ",".join(snapshot.forced_gates) or "none"
            counted = {"forced_gates": gates, "rejected": len(snapshot.rejected)}
            print_fields("dims_snapshot", {"dimension": name.value} | asdict(snapshot) | counted)
    if settings.clickhouse_cluster:
        _note_disagreement(settings, _dimension(name))


def _note_disagreement(settings: Settings, dimension: Dimension) -> None:
    nodes = find(settings)
    told = history.lagging(history.serving(nodes), dimension)
    told += map(str, nodes.away)
    if told:
        note(f"Snapshots of '{dimension.name}': {'; '.join(told)}. {CATCH_UP}")


def note_away(done: Refreshed) -> None:
    """Say which nodes a refresh or rollback went on without."""
    if done.away:
        addresses = ", ".join(f"'{address}'" for address in done.away)
        note(f"Refresh of '{done.dimension}': without {addresses}, which did not answer. {CATCH_UP}")


def compare_snapshots(
    name: OfDimension,
    before: Annotated[int, typer.Argument(min=1, help="The number of a snapshot.")],
    after: Annotated[int, typer.Argument(min=1, help="The number of another.")],
    as_json: AsJson = False,
) -> None:
    """Say what one snapshot has differently from another: how many rows, and the first twenty.

    Example: paystream dims compare merchants 3 4
    """
    dimension = _dimension(name)
    comparison = history.compare(load_settings(), dimension, before, after)
    counts = {name: getattr(comparison, name) for name in ("added", "removed", "changed", "unchanged")}
    if as_json:
        print_json(asdict(comparison))
    elif is_terminal():
        title = ", ".join(f"{count:,} {what}" for what, count in counts.items())
        table = Table(*dimension.key, f"in {before}", f"in {after}", box=None, title=title, title_justify="left")
        for change in comparison.shown:
            table.add_row(*map(str, change.key), _content(change.before), _content(change.after))
        console.print(table)
    else:
        print_fields("dims_compare", {"dimension": name.value, "before": before, "after": after} | counts)


def _content(values: tuple[Any, ...] | None) -> str:
    return "-" if values is None else ", ".join(map(str, values))


def roll_back_dimension(
    name: OfDimension,
    to: Annotated[int, typer.Option("--to", min=1, help="The snapshot that shall serve again.")],
    then_repair: ThenRepair = True,
    skip_away: SkipAway = False,
    as_json: AsJson = False,
) -> None:
    """Let an earlier snapshot of a dimension serve again, as a new snapshot, and repair the transactions concerned.

    The file that it takes the place of is refused from then on (--force older-snapshot lets it in again).

    Example: paystream dims rollback merchants --to 3
    """
    settings = load_settings()
    with errors.status(f"Rolling {name.value} back"):
        done = roll_back(settings, _dimension(name), to, skip_away=skip_away)
    note_away(done)
    serving = f"Snapshot {done.snapshot_id} of '{name.value}' serves, with the rows of {to}"
    fields = done.fields() | (repair_after(settings, serving, skip_away) if then_repair else {})
    if as_json:
        print_json(fields)
    elif is_terminal():
        console.print(
            f"{name.value}: snapshot {done.snapshot_id} serves, with the {done.rows:,} rows of snapshot {to}",
            highlight=False,
        )
        if then_repair:
            show_repaired(fields)
    else:
        print_fields("dims_rollback", fields)
