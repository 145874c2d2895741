"""``paystream loadtest``."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from statistics import median
from tempfile import NamedTemporaryFile
from typing import Annotated, Any

import orjson
import typer
from rich.live import Live
from rich.table import Table
from rich.text import Text

from loadtest.document import as_document
from loadtest.drain import FULL, PARTS, drain
from loadtest.fault_commands import faults
from loadtest.generate_command import generate
from loadtest.repair_command import repair
from loadtest.report_command import report
from loadtest.report_file import parse
from loadtest.report_text import as_fields, show_document
from loadtest.run import Progress
from loadtest.run import run as run_workload
from loadtest.workload import load, shipped
from paystream.errors import PaystreamError, UsageError
from paystream.output import console, errors, is_terminal, print_fields, print_json
from paystream.settings import load_settings

LOG_EVERY_S = 5

app = typer.Typer(help="Send payments at a fixed rate and check what becomes of them.", no_args_is_help=True)


app.command()(faults)
app.command()(repair)
app.command()(generate)
app.command()(report)


@app.command()
def run(
    workload: Annotated[str, typer.Argument(help="A shipped workload (`paystream loadtest list`) or a YAML file.")],
    json: Annotated[str | None, typer.Option("--json", metavar="FILE", help="Write the result; - is stdout.")] = None,
) -> None:
    """Run a workload against the configured pipeline and judge it: exit code 0 when every threshold held, else 1.

    Sends real messages to the topic; they stay stored. Nothing else may be sending to it meanwhile.

    Example: paystream loadtest run today
    """
    settings = load_settings()
    plan = load(workload)
    name = Path(workload).stem
    if json not in (None, "-"):
        _check_writable(Path(json))
    try:
        with _reporter(quiet=json == "-") as report:
            result = run_workload(settings, plan, report)
    except KeyboardInterrupt:
        errors.print(f"Load test '{name}' was interrupted before it sent anything: no result.", highlight=False)
        raise typer.Exit(130) from None
    document = as_document(name, plan, result)
    if json == "-":
        print_json(document)
    elif is_terminal():
        show_document(console, document)
    else:
        print_fields("loadtest", as_fields(parse(document)))
    if json not in (None, "-"):
        _write(Path(json), document)
    if early := result.ended_early:
        raise type(early)(f"Load test '{name}' ended early, so its result is partial: {early}")
    if document["verdict"] != "pass":
        raise typer.Exit(1)


@app.command("drain")
def drain_backlog(
    messages: Annotated[int, typer.Option(min=1000, max=100_000_000, help="How many wait in the topic.")] = 1_000_000,
    compare: Annotated[
        int, typer.Option(min=0, max=100, metavar="ROUNDS", help="Measure so often what parts cost; 3 has a median.")
    ] = 0,
    at_least: Annotated[float, typer.Option(help="Rows a second that must be reached.")] = 100_000,
    share_of_file: Annotated[float, typer.Option(help="Share of the rate from a file that must be reached.")] = 0.5,
    validation_cost: Annotated[float, typer.Option(help="Share of the rate that validation may cost.")] = 0.25,
    enrichment_cost: Annotated[float, typer.Option(help="Share of the rate that enrichment may cost.")] = 0.30,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Stop ingest, let a backlog build up, and time how fast it drains, beside the same messages from a file.

    With --compare, ingest stops again, and the same messages are read from the topic whole, without validation and
    quarantine, and without enrichment, in turns, into a database that is dropped again.
    Sends real messages, which stay stored. Needs the local stack, whose engine can read this machine's files.

    Example: paystream loadtest drain --compare 3
    """
    settings = load_settings()
    with errors.status(f"Draining a backlog of {messages:,} messages"):
        result = drain(settings, messages, compare)
    at_most = {"validation": validation_cost, "enrichment": enrichment_cost}
    costs = {part: result.comparison.cost(part) for part in PARTS} if result.comparison else {}
    held = {
        "kafka_rows_per_second": result.kafka_rows_per_second >= at_least,
        "share_of_file": result.share_of_file >= share_of_file,
        "visible": result.visible == messages,
    } | {f"{part}_cost": cost <= at_most[part] for part, cost in costs.items()}
    if as_json:
        print_json(asdict(result) | {"share_of_file": result.share_of_file, "costs": costs, "held": held})
    elif is_terminal():
        table = Table("", "", "measured", "limit", title=f"Backlog of {messages:,} messages", title_justify="left")
        marks = {name: "[green]✓[/]" if ok else "[red]✗[/]" for name, ok in held.items()}
        rate, file_rate = f"{result.kafka_rows_per_second:,.0f}/s", f"{result.file_rows_per_second:,.0f}/s"
        table.add_row(
            marks["kafka_rows_per_second"], "from first to last visible row", rate, f"at least {at_least:,.0f}/s"
        )
        table.add_row("", "the same messages from a file", file_rate, "")
        table.add_row(
            marks["share_of_file"], "share of that", f"{result.share_of_file:.0%}", f"at least {share_of_file:.0%}"
        )
        table.add_row(marks["visible"], "transactions a reader finds", f"{result.visible:,}", f"{messages:,}")
        if result.comparison:
            whole = median(result.comparison.rows_per_second[FULL])
            table.add_row("", "the same messages read again", f"{whole:,.0f}/s", "")
        for part, cost in costs.items():
            without = median(result.comparison.rows_per_second[f"without_{part}"])
            table.add_row("", f"without {PARTS[part].label}", f"{without:,.0f}/s", "")
            rounds = result.comparison.cost_by_round(part)
            measured = f"{cost:.0%} ({min(rounds):.0%} to {max(rounds):.0%})"
            table.add_row(
                marks[f"{part}_cost"], f"cost of {PARTS[part].label}", measured, f"at most {at_most[part]:.0%}"
            )
        console.print(table)
    else:
        fields = {
            "messages": messages,
            "verdict": "pass" if all(held.values()) else "fail",
            "kafka_rows_per_second": round(result.kafka_rows_per_second),
            "file_rows_per_second": round(result.file_rows_per_second),
            "share_of_file": f"{result.share_of_file:.2f}",
            "visible": result.visible,
            "first_row_after_seconds": f"{result.first_row_after_s:.2f}",
        } | {f"{part}_cost": f"{cost:.2f}" for part, cost in costs.items()}
        print_fields("drain", fields)
    if not all(held.values()):
        raise typer.Exit(1)


@app.command("list")
def list_workloads(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False) -> None:
    """List the workloads that come with Paystream.

    Example: paystream loadtest list
    """
    workloads = {name: load(name) for name in shipped()}
    if as_json:
        print_json([{"name": name} | workload.model_dump() for name, workload in workloads.items()])
    elif is_terminal():
        table = Table("workload", "rate", "seconds", "duplicates", "p95 at most", "what it is")
        for name, one in workloads.items():
            table.add_row(
                name,
                one.rate_text,
                str(one.duration_seconds),
                f"{one.duplicate_share:.0%}",
                f"{one.thresholds.p95_seconds:g} s",
                one.description,
            )
        console.print(table)
    else:
        for name, one in workloads.items():
            fields = {
                "name": name,
                "rate_per_second": one.rate_per_second,
                "duration_seconds": one.duration_seconds,
                "duplicate_share": one.duplicate_share,
                "p95_seconds": one.thresholds.p95_seconds,
            }
            print_fields("workload", fields)


@contextmanager
def _reporter(quiet: bool) -> Iterator[Callable[[Progress], None]]:
    if is_terminal():
        # Refreshed by us alone: a thread that redraws would take the interpreter from the probe.
        with Live(console=errors, auto_refresh=False, transient=True) as live:
            yield lambda progress: live.update(_line(progress), refresh=True)
    elif quiet:
        yield lambda progress: None
    else:
        last_logged = -math.inf

        def log(progress: Progress) -> None:
            nonlocal last_logged
            if time.monotonic() - last_logged >= LOG_EVERY_S:
                last_logged = time.monotonic()
                p95 = "none" if math.isnan(progress.p95_s) else f"{progress.p95_s:.3f}"
                fields = {
                    "phase": progress.phase,
                    "elapsed_seconds": f"{progress.elapsed_s:.0f}",
                    "sent": progress.sent,
                    "planned": progress.planned,
                    "canaries_seen": progress.seen,
                    "p95_seconds": p95,
                    "lag": progress.lag,
                }
                print_fields("progress", fields)

        yield log


def _line(progress: Progress) -> Text:
    if progress.phase == "waiting":
        return Text(f"waiting for the pipeline to be ready and idle: {progress.lag:,} messages unread")
    rate = progress.sent / progress.elapsed_s if progress.elapsed_s > 1 else 0
    p95 = "-" if math.isnan(progress.p95_s) else f"{progress.p95_s:.2f} s"
    done = int(20 * progress.sent / progress.planned)
    facts = [f" {progress.phase}", f"{progress.elapsed_s:.0f} s", f"{progress.sent:,} sent"]
    if progress.phase == "sending":
        facts.append(f"{rate:,.0f}/s")
    facts += [f"p95 {p95}", f"lag {progress.lag:,}"]
    bar = [("━" * done, "green"), ("━" * (20 - done), "dim")]
    return Text.assemble(*bar, "  ".join(facts), no_wrap=True, overflow="ellipsis")


def _check_writable(path: Path) -> None:
    """Find out before a minute of sending that the result could not be kept."""
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        raise UsageError(
            f"Result file '{path}' cannot be written: {error.strerror}. Name another one with --json."
        ) from error


def _write(path: Path, document: dict[str, Any]) -> None:
    """Write a result; where that fails, elsewhere, since nobody wants to run an hour again for a full disk."""
    content = orjson.dumps(document, default=str, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS) + b"\n"
    try:
        path.write_bytes(content)
    except OSError as error:
        kept = "All that is left of the result is what was printed."
        with suppress(OSError), NamedTemporaryFile("wb", prefix="loadtest-", suffix=".json", delete=False) as instead:
            instead.write(content)
            kept = f"It is in '{instead.name}' instead."
        raise PaystreamError(f"Result file '{path}' cannot be written: {error.strerror}. {kept}") from error
