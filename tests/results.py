"""Results of load tests as `paystream loadtest run --json` writes them (format 2), made up, for tests of reports."""

import copy
import random
from itertools import pairwise
from typing import Any

from paystream.loadtest.document import BOUNDS_S, DEFINITIONS
from paystream.percentiles import percentile


def passing(seed: int = 1, seconds: int = 60, slower: float = 1.0) -> dict[str, Any]:
    """Return a run of today's volume in which everything held; ``slower`` stretches its latencies."""
    chance = random.Random(seed)
    by_second = [
        sorted(slower * (0.06 + 0.26 * chance.random() + 0.05 * chance.expovariate(1)) for _ in range(20))
        for _ in range(seconds)
    ]
    latencies = [latency for second in by_second for latency in second]
    edges = [0.0, *BOUNDS_S, float("inf")]
    counts = [sum(low < latency <= high for latency in latencies) for low, high in pairwise(edges)]
    wave = [0.5 + 0.5 * chance.random() for _ in range(seconds + 1)]
    visibility = _percentiles(latencies)
    meanings = {
        "lost": "lost",
        "duplicated": "counted twice",
        "unexpected": "never sent",
        "altered": "altered",
        "wrong_sums": "currencies with a wrong sum",
        "quarantined": "refused though valid",
        "pending": "without merchant or rate",
        "rejected": "not confirmed by the broker",
    }
    messages = 500 * seconds
    return {
        "format": 2,
        "verdict": "pass",
        "invalid": [],
        "partial": "",
        "thresholds": [
            {
                "name": "p95_seconds",
                "meaning": "payment to queryable row, 95th percentile",
                "measured": visibility["p95_s"],
                "limit": 0.6,
                "unit": "s",
                "held": True,
            },
            *(
                {"name": name, "meaning": meaning, "measured": 0, "limit": 0, "unit": "", "held": True}
                for name, meaning in meanings.items()
            ),
        ],
        "workload": {
            "name": "today",
            "description": "Today's volume for a minute.",
            "rate_per_second": 500,
            "duration_seconds": seconds,
            "duplicate_share": 0.01,
            "malformed_share": 0.0,
            "canaries_per_second": 20,
            "currencies": {"EUR": 40, "USD": 30, "GBP": 15},
            "drain_timeout_seconds": 60,
            "thresholds": {"p95_seconds": 0.6} | dict.fromkeys(meanings, 0),
        },
        "started_at": "2026-03-02T09:15:04.250000+00:00",
        "duration_s": seconds + 1.4,
        "seed": 4_817_203,
        "machine": {
            "cores": 2,
            "memory_bytes": 25_200_000_000,
            "python": "3.11.2",
            "clickhouse": "26.9.2.1",
            "paystream": "0.1.0",
        },
        "generator": {
            "sent": messages,
            "planned": messages,
            "rejected": 0,
            "first_error": "",
            "queue_full": 0,
            "lateness_p50_s": 0.003,
            "lateness_p99_s": 0.006,
            "lateness_max_s": 0.0161,
            "cpu_s": 4.8,
        },
        "visibility": visibility
        | {
            "canaries": len(latencies),
            "never_seen": 0,
            "query_p95_s": 0.019,
            "queries": 1_493,
            "failed_queries": 0,
            "histogram": {"bounds_s": BOUNDS_S, "counts": counts},
            "timeline": [
                {"at_s": at, "canaries": 20}
                | {name: _percentiles(second)[name] for name in ("p50_s", "p95_s", "max_s")}
                for at, second in enumerate(by_second)
            ],
        },
        "stages": {
            "created_to_kafka": _percentiles([0.02 * latency for latency in latencies]),
            "kafka_to_stored": _percentiles([0.85 * latency for latency in latencies]),
            "created_to_stored": _percentiles([0.88 * latency for latency in latencies]),
            "stored_to_visible": _percentiles([0.01 + 0.11 * latency for latency in latencies]),
        },
        "lag": {
            "peak": 178,
            "timeline": [{"at_s": at, "messages": int(178 * height)} for at, height in enumerate(wave)],
        },
        "parts": {
            "timeline": [
                {"at_s": at, "active": 6 + at % 11 + int(5 * wave[at]), "merges": int(2 * wave[at])}
                for at in range(seconds + 1)
            ],
            "at_start": 6,
            "at_end": 11,
            "peak": 20,
            "inserted": 5 * seconds,
            "merged_seconds": 3.1,
        },
        "bytes": {"wire_per_message": 236.4, "stored_per_row": 61.3},
        "usage": {
            "peak_memory_bytes": 634 << 20,
            "peak_memory_bytes_by_process": {"broker": 200 << 20, "clickhouse": 438 << 20},
            "cpu_s": {"broker": 5.2, "clickhouse": 21.3, "generator": 4.8, "load test": 6.1},
            "others_share": 0.02,
            "busy_share": 0.33,
            "timeline": [
                {
                    "at_s": at,
                    "cpu_share": {
                        "broker": 0.09 * height,
                        "clickhouse": 0.45 * height,
                        "generator": 0.08,
                        "load test": 0.1,
                    },
                    "memory_bytes": {
                        "broker": int((190 + 10 * at / seconds) * (1 << 20)),
                        "clickhouse": int((380 + 58 * height) * (1 << 20)),
                    },
                }
                for at, height in enumerate(wave)
            ],
        },
        "transactions": {
            "accepted": messages - 275,
            "stored": messages - 275,
            "lost": 0,
            "duplicated": 0,
            "unexpected": 0,
            "altered": 0,
            "recovered": 0,
            "malformed_messages": 0,
            "refused_as_planned": 0,
            "quarantined": 0,
            "quarantine_reasons": {},
            "money": {name: {"sent": "123.4000", "stored": "123.4000"} for name in ("EUR", "GBP", "USD")},
            "enrichment": {"ok": 8_905, "fx_provisional": messages - 275 - 8_905},
            "duplicate_messages": 275,
            "foreign_messages": 0,
            "rows_before_final": messages - 266,
            "duplicate_rows_before_final": 9,
        },
        "drain_s": 0.2,
        "definitions": dict(DEFINITIONS),
    }


def failing() -> dict[str, Any]:
    """Return a slower run at ten times the rate that lost payments, and in which a currency's sum is wrong."""
    document = passing(seed=2, slower=3.5)
    document["verdict"] = "fail"
    document["workload"] |= {
        "name": "ten_times",
        "description": "Ten times today's volume for a minute.",
        "rate_per_second": 5_000,
    }
    document["generator"] |= {"sent": 300_000, "planned": 300_000}
    for name, value in {"p95_seconds": document["visibility"]["p95_s"], "lost": 3, "wrong_sums": 1}.items():
        threshold = next(threshold for threshold in document["thresholds"] if threshold["name"] == name)
        threshold |= {"measured": value, "held": False}
    document["transactions"]["money"]["EUR"] = {"sent": "123.4000", "stored": "100.0000"}
    document["lag"]["peak"] = 48_211
    return document


def interrupted() -> dict[str, Any]:
    """Return a run that ended before anything could be checked: most of it null, some of it absent."""
    document = passing(seconds=20)
    document |= {
        "verdict": "partial",
        "partial": "Ctrl-C after 20 s of 60",
        "stages": None,
        "parts": {"timeline": [], "at_start": 6, "at_end": None, "peak": None},
        "transactions": None,
        "drain_s": None,
        "duration_s": None,
    }
    for threshold in document["thresholds"][1:]:
        threshold |= {"measured": None, "held": False}
    del document["bytes"]
    document["usage"] = {"timeline": [{"at_s": 0, "cpu_share": {"broker": None}, "memory_bytes": None}]}
    return document


def invalid() -> dict[str, Any]:
    """Return a run whose generator fell behind."""
    return passing() | {
        "verdict": "invalid",
        "invalid": ["the generator itself fell behind: 1% of the messages went out 2.300 s late or more"],
    }


def without(document: dict[str, Any], *path: str) -> dict[str, Any]:
    """Return a copy that lacks one key."""
    changed = copy.deepcopy(document)
    place = changed
    for name in path[:-1]:
        place = place[name]
    del place[path[-1]]
    return changed


def _percentiles(values: list[float]) -> dict[str, float]:
    names = {"p50_s": 50, "p95_s": 95, "p99_s": 99, "p999_s": 99.9, "max_s": 100}
    return {name: round(percentile(values, percent), 6) for name, percent in names.items()}
