"""One turn of one pipeline: a new stack, a warm-up, two rates, a backlog, two crashes, and the highest rate held."""

import math
import signal
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from paystream.clickhouse import connect
from paystream.devstack import stack
from paystream.errors import PaystreamError
from paystream.loadtest.backlog import send
from paystream.loadtest.capacity import Step, find_capacity
from paystream.loadtest.document import as_document
from paystream.loadtest.drain import backlog_plan, rate_between, watch_stored
from paystream.loadtest.fault_run import prepared_stack
from paystream.loadtest.pipeline import Pipeline, feeding
from paystream.loadtest.run import Progress, Result, run
from paystream.loadtest.workload import Thresholds, Workload
from paystream.settings import Settings

RATES = (500, 5_000)
CRASH_RATE = 1_000
CRASH_AFTER_S = 10.0
CRASH_RUN_S = 40
CAPACITY_STEP_S = 20
CAPACITY_P95_S = 1.0
DRAIN_TIMEOUT_S = 300
LONGEST_WAIT_S = 120

Report = Callable[[str], None]


def turn(name: str, seconds: int, backlog: int, with_crashes: bool, with_capacity: bool, report: Report) -> dict:
    """Measure one pipeline on a stack of its own, and return the figures.

    Args:
        name: ``paystream``, or the engine's.
        seconds: how long each rate is sent.
        backlog: messages that wait to be drained; 0 leaves that out.
        with_crashes: whether its job and ClickHouse are killed.
        with_capacity: whether to look for the highest rate held.
        report: called with a few words on what is going on.

    What breaks is a figure too: it stands under ``failed``, and what was measured before stays.
    """
    figures: dict[str, Any] = {"pipeline": name, "started_at": datetime.now(UTC).isoformat(timespec="seconds")}
    try:
        with (
            tempfile.TemporaryDirectory(prefix="paystream-rivals-") as folder,
            prepared_stack(Path(folder) / "stack") as settings,
            feeding(settings, name) as pipeline,
        ):
            figures["installed_bytes"] = pipeline.job.engine.installed_bytes if pipeline.job else 0
            _measure(settings, pipeline, figures, seconds, backlog, with_crashes, with_capacity, report)
    except PaystreamError as error:
        figures["failed"] = str(error)
    return figures


def _measure(
    settings: Settings,
    pipeline: Pipeline,
    figures: dict[str, Any],
    seconds: int,
    backlog: int,
    with_crashes: bool,
    with_capacity: bool,
    report: Report,
) -> None:
    report("warming up")
    _run(settings, pipeline, _workload(RATES[-1], max(15, seconds // 2)))
    figures["rates"] = {}
    for rate in RATES:
        report(f"{rate:,}/s")
        workload = _workload(rate, seconds)
        figures["rates"][str(rate)] = _figures(workload, _run(settings, pipeline, workload))
    if backlog:
        report(f"draining {backlog:,} messages")
        figures["drain"] = _drain(settings, pipeline, backlog)
    if with_crashes:
        figures["crashes"] = {}
        if pipeline.job:
            report("kill -9 of the job")
            figures["crashes"]["job"] = _crash(settings, pipeline, lambda: _kill_job(pipeline))
        report("kill -9 of ClickHouse")
        figures["crashes"]["clickhouse"] = _crash(settings, pipeline, lambda: _kill_clickhouse(settings))
    if with_capacity:
        report("the highest rate")
        figures["capacity"] = _capacity(settings, pipeline)


def _workload(rate: int, seconds: int) -> Workload:
    """Payments as they come: 2% sent twice, 10% a further state, 0.1% malformed."""
    return Workload(
        description="Payments, some twice, some with a further state, a few malformed.",
        rate_per_second=rate,
        duration_seconds=seconds,
        duplicate_share=0.02,
        state_share=0.1,
        malformed_share=0.001,
        drain_timeout_seconds=LONGEST_WAIT_S,
        thresholds=Thresholds(p95_seconds=60),
    )


def _run(
    settings: Settings, pipeline: Pipeline, workload: Workload, report: Callable[[Progress], None] = lambda _: None
) -> Result:
    result = run(settings, workload, report, pipeline)
    if result.ended_early:
        raise result.ended_early
    return result


def _figures(workload: Workload, result: Result) -> dict[str, Any]:
    """Return what a run says: latencies, processor seconds a million messages, and whether every payment is right."""
    document = as_document("rivals", workload, result)
    seen, usage = document["visibility"], document["usage"]
    sent = result.sent.sent if result.sent else result.sent_at_least
    per_million = {process: round(spent_s / sent * 1e6, 1) for process, spent_s in usage["cpu_s"].items()}
    return {
        "sent": sent,
        **{percentile: seen[percentile] for percentile in ("p50_s", "p95_s", "p99_s", "max_s")},
        "cpu_s_per_million": per_million,
        "memory_bytes": usage["peak_memory_bytes_by_process"],
        "busy_share": usage["busy_share"],
        "problems": _problems(result),
    }


def _problems(result: Result) -> list[str]:
    unread = [f"{result.unread:,} messages not stored in {LONGEST_WAIT_S} s"] if result.unread else []
    return [*unread, *(result.transactions.problems if result.transactions else ["not checked"])]


def _drain(settings: Settings, pipeline: Pipeline, messages: int) -> dict[str, Any]:
    with connect(settings) as client, pipeline.open_topic(settings) as topic:
        plan = backlog_plan(settings, client, topic, messages, pipeline)
        with pipeline.stopped(client):
            send(settings, plan, "Backlog")
        started, began_at = time.monotonic(), datetime.now(UTC)
        first, last = watch_stored(client, messages, began_at, DRAIN_TIMEOUT_S)
    return {"rows_per_second": round(rate_between(first, last)), "first_row_after_s": round(first[0] - started, 2)}


def _crash(settings: Settings, pipeline: Pipeline, strike: Callable[[], None]) -> dict[str, Any]:
    """Send, strike meanwhile, and return the longest that a payment took, and whether every payment is right."""
    struck = False

    def tell(progress: Progress) -> None:
        nonlocal struck
        if progress.phase == "sending" and progress.elapsed_s > CRASH_AFTER_S and not struck:
            struck = True
            strike()

    result = _run(settings, pipeline, _workload(CRASH_RATE, CRASH_RUN_S), tell)
    return {"outage_s": round(max(result.seen.latencies_s, default=math.inf), 2), "problems": _problems(result)}


def _kill_job(pipeline: Pipeline) -> None:
    pipeline.job.kill()
    pipeline.job.start()


def _kill_clickhouse(settings: Settings) -> None:
    stack.kill(settings, "clickhouse", signal.SIGKILL)
    while "clickhouse" in stack.pids(settings):
        time.sleep(0.02)
    stack.start(settings, "kafka")


def _capacity(settings: Settings, pipeline: Pipeline) -> dict[str, Any]:
    """Return the highest rate with p95 within a second, a lag that does not grow, and every payment right."""
    workload = _workload(10_000, CAPACITY_STEP_S)
    workload = workload.model_copy(update={"thresholds": Thresholds(p95_seconds=CAPACITY_P95_S)})
    steps: list[Step] = []
    found = find_capacity(
        "rivals", workload, CAPACITY_STEP_S, lambda step: _run(settings, pipeline, step), steps.append
    )
    if found.stopped:
        raise found.stopped
    held = found.held
    return {
        "rate_per_second": held.rate_per_second if held else 0,
        "p95_s": held.document["visibility"]["p95_s"] if held else None,
        "not_held": found.limit.rate_per_second if found.limit else None,
        "why": found.limit.broken if found.limit else "",
    }
