"""``paystream loadtest faults``."""

import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.table import Table

from paystream.errors import UsageError
from paystream.loadtest.fault_run import Outcome, prepared_stack, run_fault
from paystream.loadtest.faults import FAULTS, Fault
from paystream.output import console, errors, is_terminal, print_fields, print_json
from paystream.settings import Settings


def faults(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[FAULT]...", help="Which ones; all of them by default.")
    ] = None,
    kills: Annotated[int, typer.Option(min=1, max=10_000, help="How many kills clickhouse-killed makes.")] = 20,
    nodes: Annotated[
        int | None, typer.Option(min=2, max=16, help="Break a cluster of so many nodes instead of one server.")
    ] = None,
    sets: Annotated[int, typer.Option(min=1, max=4, help="Sets of so many nodes; each holds all payments.")] = 1,
    away: Annotated[float, typer.Option(min=1, metavar="SECONDS", help="How long node-away leaves a node away.")] = 300,
    json: Annotated[str | None, typer.Option("--json", metavar="FILE", help="Write the results; - is stdout.")] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write the table for a document.")
    ] = None,
    list_them: Annotated[bool, typer.Option("--list", help="Say what faults there are.")] = False,
) -> None:
    """Break a pipeline while payments run through it, and prove that none is lost and none counted twice.

    Starts a local stack of its own in a temporary folder (Apache Kafka, ClickHouse, 80,000 merchants), so nothing of
    yours is touched. Exit code 1 when a payment is lost, counted twice or altered, when ingest takes more than 10 s to
    resume after a restart, or when a fault left no trace. Then the folder is kept.

    With --nodes the stack is a cluster, and what hits one server hits a node, chosen at random.

    Example: paystream loadtest faults clickhouse-killed both-killed --kills 5

    Example: paystream loadtest faults --nodes 2 --kills 50
    """
    if list_them:
        _list(nodes is not None)
        return
    if sets > 1 and nodes is None:
        raise UsageError("Option '--sets': sets are of a cluster's nodes. Say with --nodes how many each has.")
    chosen = _chosen(names or [], nodes is not None)
    outcomes: list[Outcome] = []
    failures: dict[str, str] = {}
    folder = Path(tempfile.mkdtemp(prefix="paystream-faults-"))
    try:
        with _stacks(folder, nodes or 0, sets) as stack_for:
            inflict = partial(_inflict, kills=kills, away_s=away)
            _run(chosen, stack_for, inflict, outcomes, failures, logs=not is_terminal() and json != "-")
    except KeyboardInterrupt:
        errors.print(f"Interrupted after {len(outcomes)} faults: no verdict.", highlight=False)
        shutil.rmtree(folder, ignore_errors=True)
        raise typer.Exit(130) from None
    if not failures:
        shutil.rmtree(folder, ignore_errors=True)
    document = {
        "verdict": "fail" if failures else "pass",
        "kills": sum(outcome.kills for outcome in outcomes),
        "failures": failures,
        "faults": [_document(outcome) for outcome in outcomes],
    }
    if json == "-":
        print_json(document)
    elif json is not None:
        Path(json).write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
    if markdown is not None:
        markdown.write_text(_markdown(outcomes, nodes is not None), encoding="utf-8")
    if is_terminal():
        _show(outcomes, failures, nodes is not None)
    elif json != "-":
        total = {name: document[name] for name in ("verdict", "kills")}
        print_fields("faults", total | {"failed": ",".join(failures) or "none"})
    if failures:
        errors.print(f"The stack's logs and data are kept in '{folder}'.", soft_wrap=True, highlight=False)
        raise typer.Exit(1)


def _chosen(names: list[str], on_cluster: bool) -> list[Fault]:
    known = {fault.name: fault for fault in FAULTS if on_cluster or not fault.needs_cluster}
    unknown = [name for name in names if name not in known]
    if unknown and unknown[0] in {fault.name for fault in FAULTS}:
        raise UsageError(f"Fault '{unknown[0]}': it is one of a cluster. Say with --nodes how many nodes that has.")
    if unknown:
        raise UsageError(f"Fault '{unknown[0]}': there is none of that name. Name some of: {', '.join(known)}.")
    return [fault for name, fault in known.items() if not names or name in names]


def _inflict(settings: Settings, fault: Fault, kills: int, away_s: float) -> Outcome:
    return run_fault(settings, fault, kills, lambda text: _progress(fault, text), away_s)


def _run(
    chosen: list[Fault],
    stack_for: Callable[[Fault | None], Settings | None],
    inflict: Callable[[Settings, Fault], Outcome],
    outcomes: list[Outcome],
    failures: dict[str, str],
    logs: bool,
) -> None:
    """Run each fault; add to ``outcomes``, and by name to ``failures`` what went wrong."""
    for fault in chosen:
        try:
            outcome = inflict(stack_for(fault), fault)
        # Whatever a broken pipeline throws is a result of that fault: the others shall still be tried.
        except Exception as error:
            failures[fault.name] = " ".join(str(error).split())[:500]
            errors.print(f"{fault.name}: {failures[fault.name]}", soft_wrap=True, markup=False, highlight=False)
            stack_for(None)
            continue
        outcomes.append(outcome)
        if broken := _broken(outcome):
            failures[fault.name] = "; ".join(broken)
        if logs:
            print_fields("fault", _fields(outcome))


@contextmanager
def _stacks(folder: Path, nodes: int, sets: int) -> Iterator[Callable[[Fault | None], Settings | None]]:
    """Yield a function that returns the stack for a fault, the running one if it can be used again; None ends that one.

    A fault that needs a disk of its own gets a new stack, and so does the next one after a fault that failed.
    """
    with ExitStack() as running:
        current: Settings | None = None
        made = 0

        def stack_for(fault: Fault | None) -> Settings | None:
            nonlocal current, made
            if fault and current and fault.disk_mib is None:
                return current
            running.close()
            current = None
            if fault:
                made += 1
                home = folder / f"stack{made}"
                settings = running.enter_context(prepared_stack(home, fault.disk_mib, nodes, sets))
                current = settings if fault.disk_mib is None else None
                return settings
            return None

        yield stack_for


def _broken(outcome: Outcome) -> list[str]:
    return [*outcome.problems, *([outcome.late] if outcome.late else [])]


def _progress(fault: Fault, text: str) -> None:
    if is_terminal():
        errors.print(f"[dim]{fault.name}: {text}[/]", highlight=False)


def _list(on_cluster: bool) -> None:
    known = [fault for fault in FAULTS if on_cluster or not fault.needs_cluster]
    if is_terminal():
        table = Table("fault", "what is done", "payments/s")
        for fault in known:
            table.add_row(fault.name, fault.what, f"{fault.rate_per_second:,}")
        console.print(table)
    else:
        for fault in known:
            print_fields("fault", {"name": fault.name, "what": fault.what, "rate_per_second": fault.rate_per_second})


def _fields(outcome: Outcome) -> dict[str, Any]:
    payments = outcome.found
    return {
        "name": outcome.name,
        "verdict": "fail" if _broken(outcome) else "pass",
        "kills": outcome.kills,
        "sent": outcome.sent.sent,
        "lost": payments.lost,
        "duplicated": payments.duplicated,
        "unexpected": payments.unexpected,
        "recovered": payments.recovered,
        "refused_as_planned": payments.refused_as_planned,
        "outage_seconds": _seconds(outcome.outage_s),
        "reads_failed_seconds": _seconds(outcome.reads_failed_s),
        "restart_seconds": _seconds(max(outcome.restart_s, default=math.nan)),
        "resumed_seconds": _seconds(max(outcome.resumed_s, default=math.nan)),
        "resumed_restarts": len(outcome.resumed_s),
        "resumed_from_wait_seconds": _seconds(max(outcome.resumed_from_wait_s, default=math.nan)),
        "resumed_from_wait_restarts": len(outcome.resumed_from_wait_s),
        "redelivered": outcome.redelivered,
        "duplicate_rows_before_final": outcome.duplicate_rows,
        "audit": outcome.audit,
        "bite": outcome.bite,
    }


def _document(outcome: Outcome) -> dict[str, Any]:
    fields = asdict(outcome)
    fields["sent"]["rejected"] = len(fields["sent"].pop("rejected_keys"))
    fields["found"].pop("money")
    return fields | {"problems": _broken(outcome)}


def _seconds(value: float) -> str:
    return "none" if math.isnan(value) else "never" if math.isinf(value) else f"{value:.1f}"


COLUMNS = (
    "fault", "kills", "sent", "lost", "twice", "unexpected", "recovered", "outage", "resumed", "from wait", "again",
    "before FINAL",
)  # fmt: skip


READS_FAILED = "reads failed"
"""A column of a cluster's table, after "outage": one server does not answer while it is away."""


def _columns(on_cluster: bool) -> list[str]:
    after = COLUMNS.index("outage") + 1
    return [*COLUMNS[:after], *([READS_FAILED] if on_cluster else []), *COLUMNS[after:]]


def _cells(outcome: Outcome, on_cluster: bool) -> list[str]:
    payments = outcome.found
    return [
        outcome.name,
        str(outcome.kills),
        f"{outcome.sent.sent:,}",
        f"{payments.lost:,}",
        f"{payments.duplicated:,}",
        f"{payments.unexpected:,}",
        f"{payments.recovered:,}",
        f"{_seconds(outcome.outage_s)} s",
        *([f"{_seconds(outcome.reads_failed_s)} s"] if on_cluster else []),
        _longest(outcome.resumed_s),
        _longest(outcome.resumed_from_wait_s),
        f"{outcome.redelivered:,}",
        f"{outcome.duplicate_rows:,}",
    ]


def _longest(waits_s: list[float]) -> str:
    return f"{_seconds(max(waits_s))} s ({len(waits_s)})" if waits_s else "-"


def _show(outcomes: list[Outcome], failures: dict[str, str], on_cluster: bool) -> None:
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("")
    for place, name in enumerate(_columns(on_cluster)):
        table.add_column(name, justify="right" if place else "left")
    for outcome in outcomes:
        table.add_row("[bold red]✗[/]" if _broken(outcome) else "[green]✓[/]", *_cells(outcome, on_cluster))
    console.print(table)
    for name, problem in failures.items():
        console.print(f"[bold red]✗[/] {name}: {problem}", highlight=False, soft_wrap=True)


def _markdown(outcomes: list[Outcome], on_cluster: bool) -> str:
    columns = _columns(on_cluster)
    rows = [_cells(outcome, on_cluster) for outcome in outcomes]
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 1), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
