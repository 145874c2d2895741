"""The figures of a run in one list, from which the terminal, the page and the comparison of two runs are made."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from typing import Any, Literal

from paystream.loadtest.report_file import ResultFile

Unit = Literal["s", "bytes", "share", ""]
Worse = Literal["more", ""]

NOT_MEASURED = "not measured"
EACH = "each"
"""In the place of a label: a figure for each entry, labelled with its key."""

PERCENTILES = {"p50_s": "p50", "p95_s": "p95", "p99_s": "p99", "p999_s": "p99.9", "max_s": "max"}


@dataclass(frozen=True)
class Figure:
    """One number of a run.

    Attributes:
        key: where it stands in the result file.
        label: what it is called within its group.
        value: None where it was not measured; infinite for a percentile that too few canaries reached.
        unit: ``s``, ``bytes``, ``share`` (of 1), or empty for a count.
        bad: ``more`` where more is worse; empty where neither way is.
    """

    key: str
    label: str
    value: float | None
    unit: Unit = ""
    bad: Worse = ""


@dataclass(frozen=True)
class Group:
    """Figures that belong together. ``latency``: they are the five percentiles, and can share a table."""

    title: str
    figures: list[Figure]
    latency: bool = False


STAGES = {
    "created_to_kafka": "created to Kafka",
    "kafka_to_stored": "Kafka to stored",
    "created_to_stored": "created to stored",
    "stored_to_visible": "stored to visible",
}

FIGURES: dict[str, list[tuple[str, str, Unit, Worse]]] = {
    "canaries": [("visibility.canaries", "watched", "", ""), ("visibility.never_seen", "never seen", "", "more")],
    "reader's query": [
        ("visibility.query_p95_s", "p95", "s", "more"),
        ("visibility.queries", "asked", "", ""),
        ("visibility.failed_queries", "failed", "", "more"),
    ],
    "generator": [
        ("generator.planned", "planned", "", ""),
        ("generator.sent", "sent", "", ""),
        ("generator.lateness_p50_s", "late by, p50", "s", "more"),
        ("generator.lateness_p99_s", "late by, p99", "s", "more"),
        ("generator.lateness_max_s", "late by, max", "s", "more"),
        ("generator.cpu_s", "processor time", "s", "more"),
    ],
    "transactions": [
        ("transactions.accepted", "accepted", "", ""),
        ("transactions.stored", "stored", "", ""),
        ("transactions.recovered", "recovered", "", ""),
    ],
    "duplicates": [
        ("transactions.duplicate_messages", "sent", "", ""),
        ("transactions.duplicate_rows_before_final", "in the table, not merged yet", "", ""),
    ],
    "malformed": [
        ("transactions.malformed_messages", "sent", "", ""),
        ("transactions.refused_as_planned", "refused, kept whole", "", ""),
    ],
    "further states": [
        ("transactions.state_messages", "sent", "", ""),
        ("transactions.overtaken_messages", "overtaken", "", ""),
    ],
    "pending as planned": [("transactions.pending_as_planned", "rows", "", "")],
    "enrichment": [("transactions.enrichment", EACH, "", "")],
    "quarantine": [("transactions.quarantine_reasons", EACH, "", "")],
    "lag": [("lag.peak", "peak", "", "more"), ("drain_s", "none left after", "s", "more")],
    "parts": [
        ("parts.at_start", "at the start", "", ""),
        ("parts.at_end", "at the end", "", "more"),
        ("parts.peak", "peak", "", "more"),
        ("parts.inserted", "inserted", "", "more"),
        ("parts.merged_seconds", "time in merges", "s", "more"),
    ],
    "bytes": [
        ("bytes.wire_per_message", "a message on the wire", "bytes", "more"),
        ("bytes.stored_per_row", "a row on disk", "bytes", "more"),
    ],
    "memory": [
        ("usage.peak_memory_bytes", "peak, together", "bytes", "more"),
        ("usage.peak_memory_bytes_by_process", EACH, "bytes", "more"),
    ],
    "processor time": [("usage.cpu_s", EACH, "s", "more")],
    "machine": [
        ("usage.busy_share", "busy", "share", ""),
        ("usage.others_share", "by other programs", "share", ""),
        ("machine.clickhouse_ahead_s", "ClickHouse's clock ahead", "s", ""),
    ],
}
"""By group: where a figure stands in the result file, its label, its unit, and whether more is worse."""


def groups(result: ResultFile) -> list[Group]:
    """Return all figures of a run, except for the thresholds'. Those about latency come first."""
    document = result.model_dump(by_alias=True)
    seen = {name: result.latency(document["visibility"][name]) for name in PERCENTILES}
    return [
        Group("payment to queryable", _percentiles("visibility", seen), latency=True),
        *(
            Group(title, _percentiles(f"stages.{name}", document["stages"][name]), latency=True)
            for name, title in STAGES.items()
        ),
        *(
            Group(title, [figure for row in rows for figure in _figures(document, *row)])
            for title, rows in FIGURES.items()
        ),
    ]


def _figures(document: Mapping[str, Any], key: str, label: str, unit: Unit, bad: Worse) -> list[Figure]:
    value = reduce(getitem, key.split("."), document)
    if label == EACH:
        return [Figure(f"{key}.{name}", name, amount, unit, bad) for name, amount in sorted(value.items())]
    return [Figure(key, label, value, unit, bad)]


def shown(value: float | None, unit: str) -> str:
    """Return a figure as text for a person, with its unit."""
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
    texts, exact = [], []
    for currency, total in result.transactions.money.items():
        if total.sent == total.stored:
            exact.append(currency)
        else:
            texts.append(f"{currency} {total.sent} sent, {total.stored} stored")
    return "; ".join(texts + ([f"exact in {', '.join(exact)}"] if exact else [])) or NOT_MEASURED


def headline(result: ResultFile) -> str:
    """Return what was run, in a few words."""
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


def _percentiles(key: str, values: Mapping[str, float | None]) -> list[Figure]:
    return [Figure(f"{key}.{name}", label, values[name], "s", "more") for name, label in PERCENTILES.items()]
