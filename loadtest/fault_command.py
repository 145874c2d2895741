"""``paystream loadtest faults``."""

import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
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

    Example: paystream loadtest faults clickhouse-killed both-killed --kills 5
    """
    if list_them:
        _list()
        return
    chosen = _chosen(names or [])
    outcomes: list[Outcome] = []
    failures: dict[str, str] = {}
    folder = Path(tempfile.mkdtemp(prefix="paystream-faults-"))
    try:
        _run(chosen, kills, folder, outcomes, failures, logs=not is_terminal() and json != "-")
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
        markdown.write_text(_markdown(outcomes), encoding="utf-8")
    if is_terminal():
        _show(outcomes, failures)
    elif json != "-":
        total = {name: document[name] for name in ("verdict", "kills")}
        print_fields("faults", total | {"failed": ",".join(failures) or "none"})
    if failures:
        errors.print(f"The stack's logs and data are kept in '{folder}'.", soft_wrap=True, highlight=False)
        raise typer.Exit(1)


def _chosen(names: list[str]) -> list[Fault]:
    known = {fault.name: fault for fault in FAULTS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"Fault '{unknown[0]}': there is none of that name. Name some of: {', '.join(known)}.")
    return [fault for fault in FAULTS if not names or fault.name in names]


def _run(
    chosen: list[Fault], kills: int, folder: Path, outcomes: list[Outcome], failures: dict[str, str], logs: bool
) -> None:
    """Run each fault; add to ``outcomes``, and by name to ``failures`` what went wrong."""
    with _stacks(folder) as stack_for:
        for fault in chosen:
            try:
                settings = stack_for(fault)
                outcome = run_fault(settings, fault, kills, lambda text, fault=fault: _progress(fault, text))
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
def _stacks(folder: Path) -> Iterator[Callable[[Fault | None], Settings | None]]:
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
                settings = running.enter_context(prepared_stack(folder / f"stack{made}", fault.disk_mib))
                current = settings if fault.disk_mib is None else None
                return settings
            return None

        yield stack_for


def _broken(outcome: Outcome) -> list[str]:
    return [*outcome.problems, *([outcome.late] if outcome.late else [])]


def _progress(fault: Fault, text: str) -> None:
    if is_terminal():
        errors.print(f"[dim]{fault.name}: {text}[/]", highlight=False)


def _list() -> None:
    if is_terminal():
        table = Table("fault", "what is done", "payments/s")
        for fault in FAULTS:
            table.add_row(fault.name, fault.what, f"{fault.rate_per_second:,}")
        console.print(table)
    else:
        for fault in FAULTS:
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


def _cells(outcome: Outcome) -> list[str]:
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
        _longest(outcome.resumed_s),
        _longest(outcome.resumed_from_wait_s),
        f"{outcome.redelivered:,}",
        f"{outcome.duplicate_rows:,}",
    ]


def _longest(waits_s: list[float]) -> str:
    return f"{_seconds(max(waits_s))} s ({len(waits_s)})" if waits_s else "-"


def _show(outcomes: list[Outcome], failures: dict[str, str]) -> None:
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("")
    for place, name in enumerate(COLUMNS):
        table.add_column(name, justify="right" if place else "left")
    for outcome in outcomes:
        table.add_row("[bold red]✗[/]" if _broken(outcome) else "[green]✓[/]", *_cells(outcome))
    console.print(table)
    for name, problem in failures.items():
        console.print(f"[bold red]✗[/] {name}: {problem}", highlight=False, soft_wrap=True)


def _markdown(outcomes: list[Outcome]) -> str:
    lines = [COLUMNS, ["---"] + ["---:"] * (len(COLUMNS) - 1), *map(_cells, outcomes)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
