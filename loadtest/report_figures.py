"""The figures of a run in one list, from which the terminal, the page and the comparison of two runs are made."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from paystream.loadtest.report_file import Percentiles, ResultFile

Unit = Literal["s", "bytes", "share", ""]

NOT_MEASURED = "not measured"
PERCENTILES = {"p50_s": "p50", "p95_s": "p95", "p99_s": "p99", "p999_s": "p99.9", "max_s": "max"}


@dataclass(frozen=True)
class Figure:
    """One number of a run.

    Attributes:
        key: where it stands in the result file.
        label: what it is called within its group.
        value: None where it was not measured; infinite for a percentile that too few canaries reached.
        unit: ``s``, ``bytes``, ``share`` (of 1), or empty for a count.
        bad: which way is worse; empty where neither is.
    """

    key: str
    label: str
    value: float | None
    unit: Unit = ""
    bad: Literal["more", "less", ""] = ""


@dataclass(frozen=True)
class Group:
    """Figures that belong together. ``latency``: they are the five percentiles, and can share a table."""

    title: str
    figures: list[Figure]
    latency: bool = False


def groups(result: ResultFile) -> list[Group]:
    """Return all figures of a run, except for the thresholds'. Those about latency come first."""
    visibility, generator, found = result.visibility, result.generator, result.transactions
    lag, parts, size_of = result.lag, result.parts, result.bytes_
    usage, machine = result.usage, result.machine
    seen = {name: result.latency(getattr(visibility, name)) for name in PERCENTILES}
    return [
        Group("payment to queryable", _percentiles("visibility", seen), latency=True),
        *(
            Group(title, _percentiles(f"stages.{name}", _values(getattr(result.stages, name))), latency=True)
            for name, title in STAGES.items()
        ),
        Group(
            "canaries",
            [
                Figure("visibility.canaries", "watched", visibility.canaries),
                Figure("visibility.never_seen", "never seen", visibility.never_seen, bad="more"),
            ],
        ),
        Group(
            "reader's query",
            [
                Figure("visibility.query_p95_s", "p95", visibility.query_p95_s, "s", "more"),
                Figure("visibility.queries", "asked", visibility.queries),
                Figure("visibility.failed_queries", "failed", visibility.failed_queries, bad="more"),
            ],
        ),
        Group(
            "generator",
            [
                Figure("generator.planned", "planned", generator.planned),
                Figure("generator.sent", "sent", generator.sent),
                Figure("generator.lateness_p50_s", "late by, p50", generator.lateness_p50_s, "s", "more"),
                Figure("generator.lateness_p99_s", "late by, p99", generator.lateness_p99_s, "s", "more"),
                Figure("generator.lateness_max_s", "late by, max", generator.lateness_max_s, "s", "more"),
                Figure("generator.cpu_s", "processor time", generator.cpu_s, "s", "more"),
            ],
        ),
        Group(
            "transactions",
            [
                Figure("transactions.accepted", "accepted", found.accepted),
                Figure("transactions.stored", "stored", found.stored),
                Figure("transactions.recovered", "recovered", found.recovered),
            ],
        ),
        Group(
            "duplicates",
            [
                Figure("transactions.duplicate_messages", "sent", found.duplicate_messages),
                Figure(
                    "transactions.duplicate_rows_before_final",
                    "in the table, not merged yet",
                    found.duplicate_rows_before_final,
                ),
            ],
        ),
        Group(
            "malformed",
            [
                Figure("transactions.malformed_messages", "sent", found.malformed_messages),
                Figure("transactions.refused_as_planned", "refused, kept whole", found.refused_as_planned),
            ],
        ),
        Group(
            "further states",
            [
                Figure("transactions.state_messages", "sent", found.state_messages),
                Figure("transactions.overtaken_messages", "overtaken", found.overtaken_messages),
            ],
        ),
        Group(
            "pending as planned",
            [Figure("transactions.pending_as_planned", "rows", found.pending_as_planned)],
        ),
        Group("enrichment", _each("transactions.enrichment", found.enrichment)),
        Group("quarantine", _each("transactions.quarantine_reasons", found.quarantine_reasons)),
        Group(
            "lag",
            [
                Figure("lag.peak", "peak", lag.peak, bad="more"),
                Figure("drain_s", "none left after", result.drain_s, "s", "more"),
            ],
        ),
        Group(
            "parts",
            [
                Figure("parts.at_start", "at the start", parts.at_start),
                Figure("parts.at_end", "at the end", parts.at_end, bad="more"),
                Figure("parts.peak", "peak", parts.peak, bad="more"),
                Figure("parts.inserted", "inserted", parts.inserted, bad="more"),
                Figure("parts.merged_seconds", "time in merges", parts.merged_seconds, "s", "more"),
            ],
        ),
        Group(
            "bytes",
            [
                Figure("bytes.wire_per_message", "a message on the wire", size_of.wire_per_message, "bytes", "more"),
                Figure("bytes.stored_per_row", "a row on disk", size_of.stored_per_row, "bytes", "more"),
            ],
        ),
        Group(
            "memory",
            [
                Figure("usage.peak_memory_bytes", "peak, together", usage.peak_memory_bytes or None, "bytes", "more"),
                *_each("usage.peak_memory_bytes_by_process", usage.peak_memory_bytes_by_process, "bytes", "more"),
            ],
        ),
        Group("processor time", _each("usage.cpu_s", usage.cpu_s, "s", "more")),
        Group(
            "machine",
            [
                Figure("usage.busy_share", "busy", usage.busy_share, "share"),
                Figure("usage.others_share", "by other programs", usage.others_share, "share"),
                Figure("machine.clickhouse_ahead_s", "ClickHouse's clock ahead", machine.clickhouse_ahead_s, "s"),
            ],
        ),
    ]  # fmt: skip


STAGES = {
    "created_to_kafka": "created to Kafka",
    "kafka_to_stored": "Kafka to stored",
    "created_to_stored": "created to stored",
    "stored_to_visible": "stored to visible",
}


def shown(value: float | None, unit: str) -> str:
    """Return a figure for a person's eye, with its unit."""
    if value is None:
        return NOT_MEASURED
    if not math.isfinite(value):
        return "never"
    if unit == "s":
        return f"{seconds(value)} s"
    if unit == "bytes":
        return size(value)
    if unit == "share":
        return f"{value:.0%}"
    return f"{value:,.0f}"


def seconds(value: float) -> str:
    """Return seconds with three digits, without an exponent and never finer than a tenth of a millisecond."""
    if not value:
        return "0"
    if abs(value) >= 99.95:
        return f"{value:,.0f}"
    digits = 3 if abs(value) < 0.9995 else 2 if abs(value) < 9.995 else 1
    if 0 < abs(value) < 0.0095:
        digits = 4
    return f"{value:.{digits}f}"


def size(value: float) -> str:
    """Return a number of bytes in the unit that keeps it short."""
    for unit, bytes_each in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if abs(value) >= bytes_each:
            return f"{value / bytes_each:,.{0 if abs(value) >= 10 * bytes_each else 1}f} {unit}"
    return f"{value:,.0f} B" if value else "0"


def sums(result: ResultFile) -> str:
    """Say in which currencies the stored sums are those sent, and where they are not."""
    money = result.transactions.money
    wrong = [f"{name} {one.sent} sent, {one.stored} stored" for name, one in money.items() if one.sent != one.stored]
    exact = [name for name, one in money.items() if one.sent == one.stored]
    return "; ".join(wrong + ([f"exact in {', '.join(exact)}"] if exact else [])) or NOT_MEASURED


def headline(result: ResultFile) -> str:
    """Return what was run, in some words."""
    sent, rate = result.generator.sent, result.workload.get("rate_per_second")
    words = [f"{sent:,} messages" if sent is not None else f"messages {NOT_MEASURED}"]
    if isinstance(rate, int | float):
        shape = result.workload.get("shape")
        words.append(f"at {rate:,}/s" + (f" ({shape.get('kind')})" if isinstance(shape, Mapping) else ""))
    return " ".join(words)


def flat(workload: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return a workload's fields as one level, ``thresholds.lost``, values as text."""
    fields: dict[str, str] = {}
    for name, value in workload.items():
        if isinstance(value, Mapping):
            fields |= flat(value, f"{prefix}{name}.")
        else:
            fields[f"{prefix}{name}"] = _text(value)
    return fields


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def _values(percentiles: Percentiles) -> dict[str, float | None]:
    return {name: getattr(percentiles, name) for name in PERCENTILES}


def _percentiles(key: str, values: Mapping[str, float | None]) -> list[Figure]:
    return [Figure(f"{key}.{name}", label, values[name], "s", "more") for name, label in PERCENTILES.items()]


def _each(
    key: str, values: Mapping[str, float | None], unit: Unit = "", bad: Literal["more", "less", ""] = ""
) -> list[Figure]:
    return [Figure(f"{key}.{name}", name, value, unit, bad) for name, value in sorted(values.items())]
