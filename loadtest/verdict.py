"""The verdict: which thresholds held."""

import math
from dataclasses import dataclass
from typing import Literal

from paystream.loadtest.generator import Sent
from paystream.loadtest.run import Result
from paystream.loadtest.workload import Thresholds, Workload
from paystream.percentiles import percentile


@dataclass(frozen=True)
class Threshold:
    """One thing that must hold. ``unit`` is ``s`` or empty; ``measured`` is NaN where the run ended before that."""

    name: str
    meaning: str
    measured: float
    limit: float
    unit: Literal["s", ""]

    @property
    def held(self) -> bool:
        """Return whether the measured value is within the limit; one that could not be measured is not."""
        return self.measured <= self.limit


@dataclass(frozen=True)
class Verdict:
    """Whether a run passed. ``invalid`` says why it is no result at all, empty when it is one; ``partial`` why it ended
    early, empty when it did not."""

    thresholds: list[Threshold]
    invalid: list[str]
    partial: str = ""

    @property
    def word(self) -> Literal["pass", "fail", "invalid", "partial"]:
        """Return the verdict in one word."""
        if self.partial:
            return "partial"
        if self.invalid:
            return "invalid"
        return "pass" if all(threshold.held for threshold in self.thresholds) else "fail"


def judge(workload: Workload, result: Result) -> Verdict:
    """Compare a run with its workload's thresholds."""
    limits = workload.thresholds
    transactions, sent = result.transactions, result.sent
    p95_s = percentile(result.seen.latencies_s, 95)
    thresholds = [
        Threshold("p95_seconds", "payment to queryable row, 95th percentile", p95_s, limits.p95_seconds, "s"),
        *(
            Threshold(name, meaning, count(transactions) if transactions else math.nan, limit, "")
            for name, meaning, count, limit in (
                ("lost", "lost", lambda checked: checked.lost, limits.lost),
                ("duplicated", "counted twice", lambda checked: checked.duplicated, limits.duplicated),
                ("unexpected", "never sent", lambda checked: checked.unexpected, limits.unexpected),
                ("altered", "altered", lambda checked: checked.altered, limits.altered),
                ("wrong_sums", "currencies with a wrong sum", lambda checked: len(checked.wrong_sums), 0),
                ("quarantined", "refused though valid", lambda checked: checked.quarantined, limits.quarantined),
                ("pending", "without merchant or rate", lambda checked: checked.pending, limits.pending),
            )
        ),
        Threshold(
            "rejected",
            "not confirmed by the broker",
            len(sent.rejected_keys) if sent else math.nan,
            limits.rejected,
            "",
        ),
    ]
    if limits.parts is not None:
        peak = result.watched.peak_parts
        measured = math.nan if peak is None else peak
        thresholds.append(Threshold("parts", "active parts of transactions, at the peak", measured, limits.parts, ""))
    if transactions:
        meaning = f"unread {workload.drain_timeout_seconds:,} s after the last was sent"
        thresholds.append(Threshold("unread", meaning, result.unread, 0, ""))
    partial = str(result.ended_early) if result.ended_early else ""
    invalid = generator_problems(limits, sent) if sent and not partial else []
    if transactions and transactions.foreign_messages:
        invalid.append(f"{transactions.foreign_messages:,} messages of other producers came between this run's")
    if step_s := result.watched.clock_step_s:
        invalid.append(
            f"this machine's clock was set by {step_s:+.3f} s during the run, so times before and after do not compare"
        )
    return Verdict(thresholds, invalid, partial)


def generator_problems(limits: Thresholds, sent: Sent) -> list[str]:
    """Return why a run says nothing about the pipeline: in what the generator did not send as planned."""
    problems = []
    lateness_limit = limits.generator_lateness_p99_seconds
    if sent.lateness_p99_s > lateness_limit:
        problems.append(
            f"the generator itself fell behind: 1% of the messages went out {sent.lateness_p99_s:.3f} s late or more "
            f"({lateness_limit:g} s are allowed)"
        )
    if sent.queue_full:
        problems.append(f"the producer's queue was full {sent.queue_full:,} times, since the broker took no more")
    if sent.sent < sent.planned:
        problems.append(f"only {sent.sent:,} of {sent.planned:,} messages could be sent")
    return problems
