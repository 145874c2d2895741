"""``paystream loadtest rivals``."""

from datetime import date
from pathlib import Path
from typing import Annotated, Any

import orjson
import psutil
import typer
from rich.table import Table

from paystream.errors import UsageError
from paystream.loadtest import rivals_page
from paystream.loadtest.pipeline import OWN, engine_of
from paystream.loadtest.rivals_run import turn
from paystream.output import console, errors, is_terminal, print_fields
from paystream.project import CHECKOUT
from paystream.rivals.engines import ENGINES
from paystream.signals import sigterm_interrupts

FORMAT = "rivals-1"


def rivals(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[PIPELINE]...", help="Which ones; all of them by default.")
    ] = None,
    turns: Annotated[int, typer.Option(min=1, max=20, help="How often each is measured, in turns.")] = 5,
    seconds: Annotated[int, typer.Option(min=5, max=3600, help="How long each rate is sent.")] = 60,
    backlog: Annotated[
        int, typer.Option(min=0, max=100_000_000, help="Messages to drain in the first turn; 0 leaves that out.")
    ] = 1_000_000,
    crashes: Annotated[bool, typer.Option(help="Kill each job and ClickHouse in the first turn.")] = True,
    capacity: Annotated[bool, typer.Option(help="Look for each one's highest rate in the first turn.")] = True,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures.")] = None,
    figures: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="Measure nothing: show the figures of an earlier run.")
    ] = None,
    page: Annotated[
        bool, typer.Option("--page", help="Write them into docs/rivals.md and docs/architecture.md, with plots.")
    ] = False,
) -> None:
    """Measure the engines that one would put in front of ClickHouse: the same topic, dimensions, table and verdict.

    Flink, Spark Structured Streaming, Kafka Streams and a consumer by hand, each on a new local stack and one at a
    time, beside Paystream itself. What they are made of is fetched from PyPI and Maven Central. One that breaks or
    never catches up "did not hold"; the others go on. Exit code 1 when one lost a payment or counted one twice.

    Example: paystream loadtest rivals --turns 1 --seconds 30

    Example: paystream loadtest rivals flink --turns 1 --no-capacity

    Example: paystream loadtest rivals --from rivals/results.json --page
    """
    if figures is not None:
        results = _read(figures)
    else:
        chosen = names or [OWN, *ENGINES]
        for name in chosen:
            if name != OWN:
                engine_of(name)
        results = {
            "format": FORMAT,
            "measured_on": date.today().isoformat(),
            "machine": {"cores": psutil.cpu_count(), "memory_bytes": psutil.virtual_memory().total},
            "seconds": seconds,
            "turns": [],
        }
        try:
            with sigterm_interrupts(), errors.status("Rivals") as status:
                for number in range(turns):
                    for name in chosen:
                        is_first = number == 0

                        def tell(text: str, name: str = name, number: int = number) -> None:
                            status.update(f"{name}, turn {number + 1} of {turns}: {text}")

                        measured = turn(
                            name, seconds, backlog if is_first else 0, crashes and is_first, capacity and is_first, tell
                        )
                        results["turns"].append(measured)
                        if failed := measured.get("failed"):
                            errors.print(f"{name}: {failed}", soft_wrap=True, markup=False, highlight=False)
                        # An interruption costs a turn, not the run.
                        _write(json, results)
        except KeyboardInterrupt:
            errors.print(f"Interrupted after {len(results['turns'])} turns.", highlight=False)
            raise typer.Exit(130) from None
    _show(results)
    if page:
        _write_page(results)
    if any(rivals_page.wrong(measured) for measured in results["turns"]):
        raise typer.Exit(1)


def _read(path: Path) -> dict[str, Any]:
    try:
        results = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise UsageError(f"Figures '{path}': they cannot be read: {error}. Name a file written with --json.") from error
    if not isinstance(results, dict) or results.get("format") != FORMAT:
        raise UsageError(f"Figures '{path}': not those of rivals. Name a file that `loadtest rivals --json` wrote.")
    return results


def _write(path: Path | None, results: dict[str, Any]) -> None:
    if path is None:
        return
    try:
        path.write_bytes(orjson.dumps(results, option=orjson.OPT_INDENT_2) + b"\n")
    except OSError as error:
        raise UsageError(f"Figures '{path}': they cannot be written: {error}. Name another file.") from error


def _show(results: dict[str, Any]) -> None:
    header, *lines = [rivals_page.header(results), *rivals_page.rows(results)]
    if is_terminal():
        table = Table(*header)
        for line in lines:
            table.add_row(*(cell.replace("**", "") for cell in line))
        console.print(table)
        return
    for place, name in enumerate(rivals_page.by_pipeline(results), 1):
        print_fields("rival", {"name": name} | {line[0]: line[place].replace("**", "") for line in lines})


def _write_page(results: dict[str, Any]) -> None:
    if CHECKOUT is None:
        raise UsageError("Pages: they are in Paystream's repository only. Clone it, and run this there.")
    from paystream.loadtest.rivals_plots import write_plots

    docs = CHECKOUT / "docs"
    rivals_page.GENERATED.write(docs / "rivals.md", rivals_page.markdown(results))
    rivals_page.GENERATED.write(docs / "architecture.md", rivals_page.summary(results))
    write_plots(results, docs / "images")
