"""``paystream loadtest generate``, ``drain`` and ``repair``: benchmarks of one part of the pipeline each."""

import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.table import Table

from paystream.loadtest.drain import FULL, PARTS, Drain, drain
from paystream.loadtest.fault_run import prepared_stack
from paystream.loadtest.generate import generate as generate_workload
from paystream.loadtest.repair_run import RepairRun, repair_under_load
from paystream.loadtest.verdict import generator_problems
from paystream.loadtest.workload import load
from paystream.output import console, errors, is_terminal, print_fields, print_json
from paystream.settings import load_settings

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def generate(
    workload: Annotated[str, typer.Argument(help="A shipped workload (`paystream loadtest list`) or a YAML file.")],
    as_json: AsJson = False,
) -> None:
    """Send a workload to a topic of its own, and say whether the generator kept up: exit code 0 when it did, else 1.

    Tells what this machine can generate. Nobody reads the messages, and the topic is deleted afterwards.

    Example: paystream loadtest generate hundred_times
    """
    settings = load_settings()
    wanted = load(workload)
    name = Path(workload).stem
    with errors.status(f"Generating {name}") as status:
        result = generate_workload(
            settings, wanted, lambda sent: status.update(f"Generating {name}: {sent:,} of {wanted.messages:,}")
        )
    sent = result.sent
    problems = generator_problems(wanted.thresholds, sent)
    if sent.rejected_keys:
        problems.append(f"the broker did not confirm {len(sent.rejected_keys):,} messages: {sent.first_error}")
    fields = {
        "workload": name,
        "verdict": "fail" if problems else "pass",
        "sent": sent.sent,
        "seconds": round(result.seconds, 1),
        "per_second": round(sent.sent / result.seconds),
        "lateness_p50_seconds": sent.lateness_p50_s,
        "lateness_p99_seconds": sent.lateness_p99_s,
        "lateness_max_seconds": round(sent.lateness_max_s, 3),
        "cpu_seconds": round(sent.cpu_s, 3),
        "cpu_seconds_per_million": round(result.cpu_s_per_million, 2),
        "per_second_and_core": round(result.per_core),
    }
    if as_json:
        print_json(fields | {"problems": problems})
    elif is_terminal():
        table = Table(show_header=False, title=f"{name}, the generator alone", title_justify="left")
        table.add_row("sent", f"{sent.sent:,} of {sent.planned:,} in {result.seconds:.1f} s ({wanted.rate_text})")
        late = f"p50 {sent.lateness_p50_s:.3g} s  p99 {sent.lateness_p99_s:.3g} s  max {sent.lateness_max_s:.3g} s"
        table.add_row("late by", late)
        table.add_row("processor", f"{sent.cpu_s:.1f} s, {result.cpu_s_per_million:.2f} s a million messages")
        table.add_row("one core alone", f"{result.per_core:,.0f} messages/s")
        console.print(table)
        for problem in problems:
            console.print(f"[red]✗[/] {problem}", highlight=False, soft_wrap=True)
    else:
        print_fields("generate", fields | ({"problems": "; ".join(problems)} if problems else {}))
    if problems:
        raise typer.Exit(1)


def drain_backlog(
    messages: Annotated[int, typer.Option(min=1000, max=100_000_000, help="How many wait in the topic.")] = 1_000_000,
    compare: Annotated[
        int, typer.Option(min=0, max=100, metavar="ROUNDS", help="Measure what each part costs, in so many rounds.")
    ] = 0,
    at_least: Annotated[float, typer.Option(help="Rows a second that must be reached.")] = 100_000,
    share_of_file: Annotated[float, typer.Option(help="Share of the rate from a file that must be reached.")] = 0.5,
    validation_cost: Annotated[float, typer.Option(help="Share of the rate that validation may cost.")] = 0.25,
    enrichment_cost: Annotated[float, typer.Option(help="Share of the rate that enrichment may cost.")] = 0.30,
    as_json: AsJson = False,
) -> None:
    """Stop ingest, let a backlog build up, and time how fast it drains, beside the same messages from a file.

    With --compare, ingest stops again, and the same messages are read from the topic in turns: by the whole pipeline,
    without validation and quarantine, and without enrichment, into a database that is dropped afterwards.
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
        limits = {
            "kafka_rows_per_second": f"at least {at_least:,.0f}/s",
            "share_of_file": f"at least {share_of_file:.0%}",
            "visible": f"{messages:,}",
        } | {f"{part}_cost": f"at most {limit:.0%}" for part, limit in at_most.items()}
        console.print(_drain_table(result, held, limits))
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


def _drain_table(result: Drain, held: dict[str, bool], limits: dict[str, str]) -> Table:
    table = Table("", "", "measured", "limit", title=f"Backlog of {result.messages:,} messages", title_justify="left")

    def add(label: str, measured: str, name: str = "") -> None:
        mark = "" if not name else "[green]✓[/]" if held[name] else "[red]✗[/]"
        table.add_row(mark, label, measured, limits.get(name, ""))

    add("from first to last visible row", f"{result.kafka_rows_per_second:,.0f}/s", "kafka_rows_per_second")
    add("the same messages from a file", f"{result.file_rows_per_second:,.0f}/s")
    add("share of that", f"{result.share_of_file:.0%}", "share_of_file")
    add("transactions a reader finds", f"{result.visible:,}", "visible")
    if comparison := result.comparison:
        add("the same messages read again", f"{median(comparison.rows_per_second[FULL]):,.0f}/s")
        for name, part in PARTS.items():
            rounds = comparison.cost_by_round(name)
            add(f"without {part.label}", f"{median(comparison.rows_per_second[f'without_{name}']):,.0f}/s")
            measured = f"{comparison.cost(name):.0%} ({min(rounds):.0%} to {max(rounds):.0%})"
            add(f"cost of {part.label}", measured, f"{name}_cost")
    return table


def repair(
    rows: Annotated[int, typer.Option(min=100, max=100_000_000, help="How many payments came too early.")] = 1_000_000,
    rate: Annotated[int, typer.Option(min=50, max=50_000, help="Payments a second that arrive meanwhile.")] = 500,
    at_most: Annotated[float, typer.Option(help="Seconds that the repair may take.")] = 60,
    p95: Annotated[float, typer.Option(help="Seconds that payments may take meanwhile, 95th percentile.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Store payments ahead of their merchants and rates, load those, and time the repair while others arrive.

    Starts a local stack of its own in a temporary folder, so nothing of yours is touched. Exit code 1 when it takes too
    long, when a payment is left unrepaired, or when one of those arriving is lost, counted twice or altered.

    Example: paystream loadtest repair --rows 1000000
    """
    folder = Path(tempfile.mkdtemp(prefix="paystream-repair-"))
    try:
        with errors.status("Starting a stack") as status, prepared_stack(folder / "stack") as settings:
            result = repair_under_load(settings, rows, rate, lambda text: status.update(f"Repair under load: {text}"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    payments = result.found
    checks = {
        "seconds": (result.seconds <= at_most, f"{result.seconds:.1f} s", f"at most {at_most:g} s"),
        "p95_during_s": (result.p95_during_s <= p95, f"{result.p95_during_s:.3f} s", f"at most {p95:g} s"),
        "left": (result.left == 0, f"{result.left:,}", "0"),
        "lost": (payments.lost == 0, f"{payments.lost:,}", "0"),
        "duplicated": (payments.duplicated == 0, f"{payments.duplicated:,}", "0"),
        "altered": (payments.altered + payments.unexpected == 0, f"{payments.altered + payments.unexpected:,}", "0"),
    }
    verdict = "pass" if all(held for held, *_ in checks.values()) else "fail"
    if as_json:
        document = asdict(result) | {"verdict": verdict}
        document["found"].pop("money")
        print_json(document)
    elif is_terminal():
        console.print(_repair_table(result, checks))
        console.print(f"before the repair: 95th percentile {result.p95_before_s:.3f} s", highlight=False)
    else:
        fields = {
            "verdict": verdict,
            "late": result.late,
            "repaired": result.repaired,
            "seconds": f"{result.seconds:.1f}",
            "p95_before_seconds": f"{result.p95_before_s:.3f}",
            "p95_during_seconds": f"{result.p95_during_s:.3f}",
            "canaries_during": result.canaries_during,
            "left": result.left,
            "lost": payments.lost,
            "duplicated": payments.duplicated,
        }
        print_fields("loadtest_repair", fields)
    if verdict == "fail":
        raise typer.Exit(1)


def _repair_table(result: RepairRun, checks: dict[str, tuple[bool, str, str]]) -> Table:
    labels = {
        "seconds": f"repair of {result.repaired:,} rows",
        "p95_during_s": "payment to queryable row meanwhile, 95th percentile",
        "left": "payments left pending or provisional",
        "lost": "lost",
        "duplicated": "counted twice",
        "altered": "altered or never sent",
    }
    table = Table("", "", "measured", "limit", box=None)
    for name, (held, measured, limit) in checks.items():
        table.add_row("[green]✓[/]" if held else "[bold red]✗[/]", labels[name], measured, limit)
    return table
