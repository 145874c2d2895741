"""The verdict: which thresholds held, and how a run is shown."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from loadtest.generator import Sent
from loadtest.probe import percentile
from loadtest.run import Result
from loadtest.workload import Thresholds, Workload

DEFINITIONS = {
    "latency": "from a canary's intended send time to the arrival of the first answer of a reader's query on "
    "transactions_current that contains it; both on the clock of the machine that runs the load test. Resolution: one "
    "round of asking, 40 ms or the query's own time, whichever is longer. Late by up to that, never early. A canary "
    "that was never seen counts as infinitely late.",
    "percentile": "nearest rank: the smallest value that at least that share of the canaries does not exceed.",
    "lateness": "from the intended send time of a message to its handover to the Kafka producer; whole milliseconds, "
    "rounded up.",
    "lost": "what the broker confirmed and is neither in transactions_current nor in quarantine: transactions, and "
    "messages sent malformed.",
    "duplicated": "transactions that transactions_current returns more than once.",
    "unexpected": "rows of transactions_current from this run's offsets that the generator did not send, or sent "
    "malformed.",
    "altered": "transactions of which a stored field is not the one sent, in the newest state sent, and messages sent "
    "malformed whose bytes in quarantine are not those sent.",
    "recovered": "transactions of which the broker confirmed no message and that are stored all the same.",
    "malformed_messages": "messages sent malformed on purpose, duplicates of them included.",
    "refused_as_planned": "messages sent malformed that are in quarantine with exactly the bytes sent.",
    "quarantined": "messages of this run's offsets in quarantine that were not sent malformed.",
    "pending": "rows without their merchant or their exchange rate although it is loaded.",
    "pending_as_planned": "rows of payments that were sent, on purpose, with a merchant or a currency that is not "
    "loaded, and that are marked so.",
    "state_messages": "messages that told of a further state of an earlier transaction.",
    "overtaken_messages": "those of them whose state was older than one sent before.",
    "rejected": "messages that the broker did not confirm.",
    "wrong_sums": "currencies in which the sum of the stored amounts is not exactly the sum of those sent.",
    "memory": "resident memory of the local stack's processes, summed, highest of a sample every half second.",
    "others_share": "of all processor time of this machine during the run, what programs without a part in it used.",
}


@dataclass(frozen=True)
class Threshold:
    """One thing that must hold. ``unit`` is ``s`` or empty."""

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
    """Whether a run passed. ``invalid`` says why it is no result at all, empty when it is one."""

    thresholds: list[Threshold]
    invalid: list[str]

    @property
    def word(self) -> Literal["pass", "fail", "invalid"]:
        """Return the verdict in one word."""
        if self.invalid:
            return "invalid"
        return "pass" if all(threshold.held for threshold in self.thresholds) else "fail"


def judge(workload: Workload, result: Result) -> Verdict:
    """Compare a run with its workload's thresholds."""
    limits = workload.thresholds
    found, sent = result.found, result.sent
    p95_s = percentile(result.seen.latencies_s, 95)
    thresholds = [
        Threshold("p95_seconds", "payment to queryable row, 95th percentile", p95_s, limits.p95_seconds, "s"),
        Threshold("lost", "lost", found.lost, limits.lost, ""),
        Threshold("duplicated", "counted twice", found.duplicated, limits.duplicated, ""),
        Threshold("unexpected", "never sent", found.unexpected, limits.unexpected, ""),
        Threshold("altered", "altered", found.altered, limits.altered, ""),
        Threshold("wrong_sums", "currencies with a wrong sum", len(found.wrong_sums), 0, ""),
        Threshold("quarantined", "refused though valid", found.quarantined, limits.quarantined, ""),
        Threshold("pending", "without merchant or rate", found.pending, limits.pending, ""),
        Threshold("rejected", "not confirmed by the broker", len(sent.rejected_keys), limits.rejected, ""),
    ]
    invalid = generator_problems(limits, sent)
    if found.foreign_messages:
        invalid.append(f"{found.foreign_messages:,} messages of other producers came between this run's")
    return Verdict(thresholds, invalid)


def generator_problems(limits: Thresholds, sent: Sent) -> list[str]:
    """Return why a run says nothing of the pipeline, since the generator did not send as it should have."""
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


def as_dict(name: str, workload: Workload, result: Result, verdict: Verdict) -> dict[str, Any]:
    """Return everything about a run, for a JSON file. What could not be measured is null."""
    sent = asdict(result.sent)
    rejected = sent.pop("rejected_keys")
    return {
        "verdict": verdict.word,
        "invalid": verdict.invalid,
        "thresholds": [asdict(threshold) | {"held": threshold.held} for threshold in verdict.thresholds],
        "workload": {"name": name} | workload.model_dump(),
        "started_at": result.started_at.isoformat(),
        "seed": result.seed,
        "generator": sent | {"rejected": len(rejected)},
        "visibility": latency_summary(result)
        | {
            "canaries": len(result.seen.latencies_s),
            "never_seen": result.seen.never_seen,
            "query_p95_s": result.seen.query_p95_s,
            "queries": result.seen.queries,
            "failed_queries": result.seen.failed_queries,
        },
        "transactions": asdict(result.found)
        | {
            "money": {
                currency: {"sent": _decimal(amounts[0]), "stored": _decimal(amounts[1])}
                for currency, amounts in result.found.money.items()
            }
        },
        "drain_s": result.drain_s,
        "peak_lag": result.peak_lag,
        "usage": asdict(result.usage),
        "definitions": DEFINITIONS,
    }


def as_fields(name: str, result: Result, verdict: Verdict) -> dict[str, Any]:
    """Return the most telling values, for one line of a log."""
    fields: dict[str, Any] = {"workload": name, "verdict": verdict.word}
    if verdict.invalid:
        fields["invalid"] = "; ".join(verdict.invalid)
    fields |= {f"{key.removesuffix('_s')}_seconds": _number(value) for key, value in latency_summary(result).items()}
    fields |= {one.name: int(one.measured) for one in verdict.thresholds if one.unit == ""}
    fields |= {
        "sent": result.sent.sent,
        "stored": result.found.stored,
        "recovered": result.found.recovered,
        "duplicate_messages": result.found.duplicate_messages,
        "malformed_messages": result.found.malformed_messages,
        "refused_as_planned": result.found.refused_as_planned,
        "generator_lateness_p99_seconds": _number(result.sent.lateness_p99_s),
        "peak_lag": result.peak_lag,
    }
    if result.usage.peak_memory_bytes:
        fields["peak_memory_mib"] = result.usage.peak_memory_bytes >> 20
    fields["others_cpu_share"] = result.usage.others_share
    broken = [one.name for one in verdict.thresholds if not one.held]
    return fields | ({"broken": ",".join(broken)} if broken else {})


def show(console: Console, name: str, workload: Workload, result: Result, verdict: Verdict) -> None:
    """Print the verdict and the details for a person: what had to hold first."""
    found, sent, seen = result.found, result.sent, result.seen
    styles = {"pass": "bold green", "fail": "bold red", "invalid": "bold yellow"}
    title = f"{verdict.word.upper()}  {name}: {sent.sent:,} messages at {workload.rate_text}"
    console.print(Text(title, style=styles[verdict.word]))
    for reason in verdict.invalid:
        console.print(f"[yellow]![/] not a result: {reason}", highlight=False, soft_wrap=True)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    for one in verdict.thresholds:
        mark = Text("✓", "green") if one.held else Text("✗", "bold red")
        table.add_row(mark, one.meaning, _shown(one.measured, one.unit), f"at most {_shown(one.limit, one.unit)}")
    console.print(table)

    details = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    details.add_column(style="dim")
    details.add_column(overflow="fold")
    latency = "  ".join(
        f"{key.removesuffix('_s')} {_shown(value, 's')}" for key, value in latency_summary(result).items()
    )
    details.add_row("payment to queryable", f"{latency}  ({len(seen.latencies_s):,} canaries)")
    details.add_row("reader's query", f"p95 {seen.query_p95_s * 1000:.1f} ms  ({seen.queries:,} queries)")
    details.add_row(
        "generator",
        f"late by p50 {_shown(sent.lateness_p50_s, 's')}  p99 {_shown(sent.lateness_p99_s, 's')}  "
        f"max {_shown(sent.lateness_max_s, 's')}  cpu {sent.cpu_s:.1f} s",
    )
    if sent.first_error:
        details.add_row("broker's first refusal", sent.first_error)
    details.add_row(
        "duplicates",
        f"{found.duplicate_messages:,} sent  {found.duplicate_rows_before_final:,} in the table, not merged yet  "
        f"{found.duplicated:,} visible",
    )
    if found.malformed_messages:
        planned = f"{found.malformed_messages:,} sent  {found.refused_as_planned:,} refused as planned, byte for byte"
        details.add_row("malformed", planned)
    details.add_row("stored", f"{found.stored:,} rows of {found.accepted:,} transactions")
    if found.state_messages:
        states = f"{found.state_messages:,} further ones sent  {found.overtaken_messages:,} of them overtaken"
        details.add_row("states", states)
    if found.pending_as_planned:
        details.add_row(
            "pending as planned", f"{found.pending_as_planned:,} rows, their merchant or rate is not loaded"
        )
    if found.recovered:
        details.add_row("recovered", f"{found.recovered:,} not confirmed by the broker, yet stored")
    details.add_row("enrichment", "  ".join(f"{status} {rows:,}" for status, rows in sorted(found.enrichment.items())))
    if found.quarantine_reasons:
        reasons = "  ".join(f"{reason} {count:,}" for reason, count in sorted(found.quarantine_reasons.items()))
        details.add_row("quarantine", reasons)
    if not found.wrong_sums:
        details.add_row("sums", f"exact in {', '.join(found.money)}")
    for currency in found.wrong_sums:
        amount_sent, amount_stored = found.money[currency]
        details.add_row(f"sum {currency}", f"{_money(amount_sent)} sent, {_money(amount_stored)} stored")
    if result.drain_s is None:
        drained = f"not 0 within {workload.drain_timeout_seconds} s of the end"
    else:
        drained = f"0 after {result.drain_s:.1f} s"
    details.add_row("lag", f"at most {result.peak_lag:,} messages, {drained}")
    usage = result.usage
    if usage.peak_memory_bytes:
        parts = ", ".join(f"{name} {size >> 20:,}" for name, size in usage.peak_memory_bytes_by_process.items())
        details.add_row("memory", f"at most {usage.peak_memory_bytes >> 20:,} MiB ({parts})")
    details.add_row("processor seconds", "  ".join(f"{name} {seconds:g}" for name, seconds in usage.cpu_s.items()))
    details.add_row("machine", f"{usage.busy_share:.0%} busy, of which {usage.others_share:.0%} by other programs")
    console.print()
    console.print(details)


def latency_summary(result: Result) -> dict[str, float]:
    """Return the canaries' percentiles in seconds."""
    latencies = result.seen.latencies_s
    summary = {f"p{percent}_s": percentile(latencies, percent) for percent in (50, 95, 99)}
    return summary | {"max_s": max(latencies, default=math.nan)}


def _shown(value: float, unit: str) -> str:
    if unit == "s":
        return f"{value:.3g} s" if math.isfinite(value) else "never"
    return f"{int(value):,}"


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "never"


def _decimal(units: int) -> str:
    return f"{units // 10_000}.{units % 10_000:04d}"


def _money(units: int) -> str:
    return f"{units // 10_000:,}.{units % 10_000:04d}"
