"""``paystream loadtest run``."""

import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.live import Live
from rich.text import Text

from paystream.errors import PaystreamError, UsageError
from paystream.files import whole_file
from paystream.loadtest import capacity_view
from paystream.loadtest.capacity import Step
from paystream.loadtest.capacity import find_capacity as search
from paystream.loadtest.document import as_document
from paystream.loadtest.pipeline import OWN, feeding
from paystream.loadtest.report_file import parse
from paystream.loadtest.report_text import as_fields, show_document
from paystream.loadtest.run import Progress, Result
from paystream.loadtest.run import run as run_workload
from paystream.loadtest.workload import Workload, load
from paystream.output import console, errors, is_terminal, print_fields
from paystream.settings import load_settings
from paystream.signals import sigterm_interrupts

LOG_EVERY_S = 5


def run(
    workload: Annotated[str, typer.Argument(help="A shipped workload (`paystream loadtest list`) or a YAML file.")],
    json: Annotated[str | None, typer.Option("--json", metavar="FILE", help="Write the result; - is stdout.")] = None,
    find_capacity: Annotated[
        bool, typer.Option("--find-capacity", help="Look for the highest rate held, from the workload's own on.")
    ] = False,
    step_seconds: Annotated[
        int, typer.Option(min=5, max=1000, help="With --find-capacity: how long each rate is sent.")
    ] = 30,
    pipeline: Annotated[
        str,
        typer.Option(metavar="NAME", help="What stores the payments: paystream, or an engine of rivals/."),
    ] = OWN,
) -> None:
    """Run a workload against the configured pipeline and judge it: exit code 0 when every threshold held, else 1.

    Sends real messages to the topic; they stay stored. Nothing else may be sending to it meanwhile. Ctrl-C or SIGTERM
    ends the sending; what was sent is checked, and the result says that it is partial (exit code 130).

    Example: paystream loadtest run today
    """
    settings = load_settings()
    plan = load(workload)
    name = Path(workload).stem
    if json not in (None, "-"):
        _check_writable(Path(json))
    try:
        with sigterm_interrupts(), feeding(settings, pipeline) as fed, _reporter(quiet=json == "-") as report:
            if find_capacity:
                _find_capacity(name, plan, step_seconds, lambda step: run_workload(settings, step, report, fed), json)
                return
            result = run_workload(settings, plan, report, fed)
    except KeyboardInterrupt:
        errors.print(f"Load test '{name}' was interrupted before it sent anything: no result.", highlight=False)
        raise typer.Exit(130) from None
    document = as_document(name, plan, result)
    undelivered = _deliver(json, document)
    if json != "-" and is_terminal():
        show_document(console, document)
    elif json != "-":
        print_fields("loadtest", as_fields(parse(document)))
    if undelivered:
        raise undelivered
    if early := result.ended_early:
        raise type(early)(f"Load test '{name}' ended early, so its result is partial: {early}")
    if document["verdict"] != "pass":
        raise typer.Exit(1)


def _find_capacity(
    name: str, plan: Workload, step_seconds: int, run_step: Callable[[Workload], Result], json: str | None
) -> None:
    logs = json != "-" and not is_terminal()

    def tell(step: Step) -> None:
        if logs:
            print_fields("capacity_step", capacity_view.step_fields(step))

    capacity = search(name, plan, step_seconds, run_step, tell)
    undelivered = _deliver(json, capacity_view.as_json(name, capacity))
    if json != "-" and is_terminal():
        console.print(capacity_view.answer(name, capacity), soft_wrap=True, highlight=False)
        console.print(capacity_view.table(capacity))
    elif json != "-":
        print_fields("capacity", capacity_view.answer_fields(name, capacity))
    if undelivered:
        raise undelivered
    if early := capacity.stopped:
        raise type(early)(f"Search for the capacity of '{name}' ended early: {early}")
    if not capacity.held:
        raise typer.Exit(1)


@contextmanager
def _reporter(quiet: bool) -> Iterator[Callable[[Progress], None]]:
    if is_terminal():
        # Redrawn here alone: a thread that redraws would take the interpreter from the probe.
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
                # A reader that has gone, or a log on a full disk, is no reason to lose the run.
                with suppress(OSError):
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
    """Find out before a minute of sending whether the result can be written."""
    existed = path.exists()
    try:
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise UsageError(
            f"Result file '{path}' cannot be written: {error.strerror}. Name another one with --json."
        ) from error


def _deliver(json: str | None, document: dict[str, Any]) -> PaystreamError | None:
    """Write a result; if that fails, write it elsewhere, since nobody wants to repeat an hour for a full disk.

    Return the error that says where it is, to be raised once the verdict has been shown.
    """
    if json is None:
        return None
    content = orjson.dumps(document, default=str, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS) + b"\n"
    try:
        if json == "-":
            sys.stdout.buffer.write(content)
            sys.stdout.flush()
        else:
            with whole_file(Path(json)) as file:
                file.write(content)
    except OSError as error:
        return PaystreamError(f"Result file '{json}' cannot be written: {error.strerror}. {_keep(content)}")
    return None


def _keep(content: bytes) -> str:
    handle, name = tempfile.mkstemp(prefix="loadtest-", suffix=".json")
    try:
        with open(handle, "wb") as instead:
            instead.write(content)
    except OSError:
        Path(name).unlink(missing_ok=True)
        return "All that is left of the result is what was printed. Make room, then run again."
    return f"It is in '{name}' instead."
