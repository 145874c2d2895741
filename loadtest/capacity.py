"""The highest rate that a pipeline holds: runs of a workload at rising rates, then between the last two."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from paystream.errors import CheckFailed, PaystreamError, UsageError
from paystream.loadtest.document import as_document
from paystream.loadtest.run import Interrupted, Result
from paystream.loadtest.watch import Point
from paystream.loadtest.workload import MOST_MESSAGES, MOST_PER_SECOND, Workload

CLOSE_ENOUGH = 1.1
"""The search ends when the lowest rate that was not held is at most so many times the highest that was."""

LAG_ALLOWANCE_S = 0.5
"""A block that is being read counts as lag too: growth is what goes beyond this much of the rate."""


@dataclass(frozen=True)
class Step:
    """A run at one rate. ``broken`` says why the rate was not held, and is empty when it was."""

    rate_per_second: int
    broken: str
    document: dict[str, Any]


@dataclass(frozen=True)
class Capacity:
    """What a search found.

    Attributes:
        steps: every run, in order.
        stopped: why the search ended before it had an answer.
        held: the run at the highest rate that was held; None when none was.
        limit: the run at the lowest rate above it that was not held; None when the search ended before.
    """

    steps: list[Step]
    stopped: PaystreamError | None = None

    @property
    def held(self) -> Step | None:
        held = [step for step in self.steps if not step.broken]
        return max(held, key=lambda step: step.rate_per_second, default=None)

    @property
    def limit(self) -> Step | None:
        floor = self.held.rate_per_second if self.held else 0
        above = [step for step in self.steps if step.broken and step.rate_per_second > floor]
        return min(above, key=lambda step: step.rate_per_second, default=None)


def find_capacity(
    name: str, workload: Workload, step_s: int, run: Callable[[Workload], Result], report: Callable[[Step], None]
) -> Capacity:
    """Double the rate until it is not held, or halve it until it is; then close in on the limit between the two.

    A rate is held when the run passes, all thresholds and a generator that kept up included, and lag does not grow.

    Args:
        name: the workload's.
        workload: what to send, beginning at its rate.
        step_s: how long each run sends.
        run: runs a workload.
        report: called with each run once it has ended.

    Raises:
        UsageError: the workload's rate is not constant.
        ServiceUnavailable, CheckFailed: as ``run`` raises them, before the first run has ended; later the search stops.
    """
    if workload.shape is not None:
        raise UsageError(
            f"Workload '{name}': its rate is a {workload.shape.kind}, and a capacity is a constant rate. "
            "Take `shape` out, or name a workload without."
        )
    if MOST_PER_SECOND * step_s > MOST_MESSAGES:
        raise UsageError(f"Step of {step_s:,} s: too long at {MOST_PER_SECOND:,}/s. Give at most 1,000.")
    steps: list[Step] = []
    lowest, highest = 0, MOST_PER_SECOND + 1
    rate = workload.rate_per_second
    while not steps or highest > max(lowest + 1, lowest * CLOSE_ENOUGH):
        tried = workload.model_copy(update={"rate_per_second": rate, "duration_seconds": step_s})
        try:
            result = run(tried)
        except (PaystreamError, KeyboardInterrupt) as error:
            if not steps:
                raise
            return Capacity(
                steps, error if isinstance(error, PaystreamError) else Interrupted("Ctrl-C between two runs")
            )
        document = as_document(name, tried, result)
        if stopped := result.ended_early or _disturbed(document, result):
            return Capacity(steps, stopped)
        steps.append(Step(rate, _broken(document, result, rate, step_s), document))
        report(steps[-1])
        lowest, highest = (lowest, rate) if steps[-1].broken else (rate, highest)
        if highest > MOST_PER_SECOND:
            rate = min(rate * 2, MOST_PER_SECOND)
        elif not lowest:
            rate = rate // 2
        else:
            rate = _rounded((lowest * highest) ** 0.5)
        if rate in (0, lowest, highest):
            break
    return Capacity(steps)


def _disturbed(document: dict[str, Any], result: Result) -> PaystreamError | None:
    """Return why a run says nothing about the rate: the clock was set, or other producers sent messages."""
    transactions = result.transactions
    if result.watched.clock_step_s or (transactions and transactions.foreign_messages):
        return CheckFailed(f"{document['invalid'][-1]}. Run it again")
    return None


def _broken(document: dict[str, Any], result: Result, rate: int, step_s: int) -> str:
    if document["invalid"]:
        return document["invalid"][0]
    if result.unread:
        return f"{result.unread:,} messages were not read in time"
    broken = [threshold["name"] for threshold in document["thresholds"] if not threshold["held"]]
    if broken:
        return f"threshold: {', '.join(broken)}"
    return "lag grew" if lag_grows(result.watched.points, rate, step_s) else ""


def lag_grows(points: list[Point], rate: int, sending_s: float) -> bool:
    """Return whether more was unread in the last third of sending than in the first: medians, and beyond half a second
    of the rate, or twice what it was."""
    first = [point.lag for point in points if 0 <= point.at_s < sending_s / 3]
    last = [point.lag for point in points if sending_s * 2 / 3 <= point.at_s <= sending_s]
    if not first or not last:
        return False
    before, after = median(first), median(last)
    return after > max(2 * before, before + LAG_ALLOWANCE_S * rate)


def _rounded(rate: float) -> int:
    """Return a rate with two significant digits, or a whole one."""
    digits = max(0, len(str(int(rate))) - 2)
    return round(rate / 10**digits) * 10**digits
