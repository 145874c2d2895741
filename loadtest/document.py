"""A run as the document that `paystream loadtest run --json` writes, and that every report is made of."""

import math
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from itertools import pairwise
from typing import Any

import psutil

from paystream.loadtest.milliseconds import Milliseconds
from paystream.loadtest.report_file import FORMAT
from paystream.loadtest.run import Result
from paystream.loadtest.verdict import Verdict, judge
from paystream.loadtest.watch import MOST_POINTS, Watched
from paystream.loadtest.workload import Workload
from paystream.percentiles import percentile

BOUNDS_S = [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0]
"""Bounds of the histogram's bars, in seconds."""

PERCENTS = {"p50_s": 50, "p95_s": 95, "p99_s": 99, "p999_s": 99.9, "max_s": 100}

DEFINITIONS = {
    "latency": "from a canary's intended send time to the arrival of the first answer of a reader's query on "
    "transactions_current that contains it; both on the clock of the machine that runs the load test. Resolution: one "
    "round of asking, 40 ms or the query's own time, whichever is longer. Late by up to that, never early. A canary "
    "that was never seen counts as infinitely late.",
    "percentile": "nearest rank: the smallest value that at least that share of the canaries (of stages: of the rows) "
    "does not exceed. Of stages and of lateness it is in whole milliseconds, rounded up, above a minute in seconds.",
    "canaries": "payments whose way is timed: ordinary ones, spread evenly over the messages. Those under way when a "
    "run ended early are left out.",
    "queries": "how often the reader asked for canaries, at most 200 at a time; query_p95_s is from asking to the "
    "answer's arrival, failed ones are those that ClickHouse refused or did not answer.",
    "duration_s": "from the time at which message 0 was due until all were read, or the run ended.",
    "drain_s": "from the time at which the last message was due until the consumer group had committed all of them.",
    "queue_full": "how often the Kafka producer took no more messages.",
    "lateness": "from the intended send time of a message to its handover to the Kafka producer; whole milliseconds, "
    "rounded up.",
    "created_to_kafka": "from the intended send time that a stored row carries to its message's Kafka timestamp: with "
    "Kafka's default, the moment at which the producer took it over, on the load test's clock. Only rows that "
    "came from one message, of payments made when they were sent; whole milliseconds, rounded up.",
    "kafka_to_stored": "from the message's Kafka timestamp to ingested_at, ClickHouse's clock when it read the block. "
    "Every row. Both times are whole milliseconds, rounded down, so a stage is exact to one. Batching, the broker, and "
    "waiting for the block to close are in it; writing the block is in the next stage.",
    "created_to_stored": "both together, of the rows of created_to_kafka.",
    "stored_to_visible": "from ingested_at of a canary's row to the answer that contains it: writing the block, and up "
    "to one round of asking. ClickHouse's clock against the load test's.",
    "clickhouse_ahead_s": "ClickHouse's clock minus the load test's, when the run began: what stages that end or begin "
    "with ingested_at are wrong by. Exact to half of what one question took, some milliseconds.",
    "lag": "messages in the topic beyond the consumer group's committed offsets; looked at every half second, and a "
    "point of the timeline is the highest since the point before.",
    "parts": "active parts of transactions, and merges of it under way, at each point. Inserted parts and time in "
    "merges are of all tables of the engine, from the run's beginning to its last point.",
    "wire_per_message": "bytes that the producer sent to brokers, compressed and with the protocol's own, by message.",
    "stored_per_row": "bytes on disk by row, all columns and indexes, in parts of transactions that were written "
    "during the run, merged ones included.",
    "cpu": "processor seconds of each process, user and system, from before message 0 until all was read; the timeline "
    "is the mean since the point before, in shares of one core. 'generator' includes the Kafka client's threads, 'load "
    "test' is the probe and what watches.",
    "lost": "what the broker confirmed and is neither in transactions_current nor in quarantine: transactions, and "
    "messages sent malformed. What was still unread when the wait for it ended is among it, and counted as unread too.",
    "unread": "messages that the consumer group had not committed when the workload's time for that was over.",
    "accepted": "valid transactions of which the broker confirmed at least one message.",
    "stored": "rows of transactions_current from this run's offsets.",
    "duplicate_messages": "messages that repeated an earlier one, byte for byte.",
    "duplicate_rows_before_final": "rows in the table that a reader does not get: duplicates, and states left behind.",
    "enrichment": "rows of transactions_current by enrichment_status.",
    "quarantine_reasons": "messages of this run's offsets in quarantine, by reason.",
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
    "state_messages": "messages that carried a further state of an earlier transaction.",
    "overtaken_messages": "those of them whose state was older than one sent before.",
    "rejected": "messages that the broker did not confirm.",
    "wrong_sums": "currencies in which the sum of the stored amounts is not exactly the sum of those sent.",
    "memory": "resident memory of the local stack's processes (broker and ClickHouse), each and summed; highest of a "
    "sample every half second.",
    "busy_share": "share of this machine's processor time that was used during the run, by any program.",
    "others_share": "share of this machine's processor time that programs without a part in the run used.",
}


def as_document(name: str, workload: Workload, result: Result) -> dict[str, Any]:
    """Return everything about a run, judged. What could not be measured is None or not finite, so null in JSON."""
    verdict = judge(workload, result)
    watched = result.watched
    return {
        "format": FORMAT,
        "verdict": verdict.word,
        "invalid": verdict.invalid,
        "partial": verdict.partial,
        "thresholds": _thresholds(verdict),
        "workload": {"name": name} | workload.model_dump(),
        "started_at": result.started_at.isoformat(),
        "duration_s": round(result.duration_s, 3),
        "seed": result.plan.seed,
        "machine": {
            "cores": psutil.cpu_count(),
            "memory_bytes": psutil.virtual_memory().total,
            "python": platform.python_version(),
            "clickhouse": result.clickhouse,
            "clickhouse_ahead_s": result.clickhouse_ahead_s,
            "paystream": version("paystream"),
        },
        "generator": _generator(result),
        "visibility": _visibility(result),
        "stages": {
            "created_to_kafka": _of_milliseconds(result.stages.created_to_kafka),
            "kafka_to_stored": _of_milliseconds(result.stages.kafka_to_stored),
            "created_to_stored": _of_milliseconds(result.stages.created_to_stored),
            "stored_to_visible": _percentiles(result.visible_s),
        },
        "lag": {
            "peak": watched.peak_lag,
            "timeline": [{"at_s": round(point.at_s, 1), "messages": point.lag} for point in watched.points],
        },
        "parts": _parts(watched),
        "bytes": {
            "wire_per_message": result.sent.wire_bytes_each if result.sent else None,
            "stored_per_row": watched.row_bytes,
        },
        "usage": asdict(watched.usage)
        | {
            "timeline": [
                {
                    "at_s": round(point.at_s, 1),
                    "cpu_share": {name: round(share, 3) for name, share in point.cpu_share.items()},
                    "memory_bytes": point.memory_bytes,
                }
                for point in watched.points
            ]
        },
        "transactions": _transactions(result),
        "drain_s": result.drain_s,
        "definitions": DEFINITIONS,
    }


def _thresholds(verdict: Verdict) -> list[dict[str, Any]]:
    def number(measured: float, unit: str) -> float:
        return measured if unit or math.isnan(measured) else int(measured)

    return [
        asdict(threshold) | {"held": threshold.held, "measured": number(threshold.measured, threshold.unit)}
        for threshold in verdict.thresholds
    ]


def _generator(result: Result) -> dict[str, Any]:
    if result.sent is None:
        return {"sent": result.sent_at_least, "planned": result.plan.messages}
    sent = asdict(result.sent)
    del sent["wire_bytes_each"]
    return sent | {"rejected": len(sent.pop("rejected_keys"))}


def _visibility(result: Result) -> dict[str, Any]:
    seen = result.seen
    return _percentiles(seen.latencies_s) | {
        "canaries": len(seen.latencies_s),
        "never_seen": len(seen.missed_us),
        "query_p95_s": seen.query_p95_s,
        "queries": seen.queries,
        "failed_queries": seen.failed_queries,
        "histogram": {"bounds_s": BOUNDS_S, "counts": _histogram(seen.latencies_s)},
        "timeline": _latency_timeline(result),
    }


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    return {name: percentile(values, percent) for name, percent in PERCENTS.items()}


def _of_milliseconds(counted: Milliseconds) -> dict[str, float]:
    percentiles = {name: counted.percentile_s(percent) for name, percent in PERCENTS.items() if name != "max_s"}
    return percentiles | {"max_s": counted.longest_s}


def _histogram(latencies_s: Sequence[float]) -> list[int]:
    edges = [-math.inf, *BOUNDS_S, math.inf]
    return [sum(low < latency_s <= high for latency_s in latencies_s) for low, high in pairwise(edges)]


def _latency_timeline(result: Result) -> list[dict[str, Any]]:
    """Return the latencies by the second, or the longer time, in which their payments were due."""
    started_us = result.plan.started_us
    timed = [(sighting.intended_us, sighting.latency_s) for sighting in result.seen.sightings]
    timed += [(at, math.inf) for at in result.seen.missed_us]
    if not timed:
        return []
    longest_s = (max(timed)[0] - started_us) // 1_000_000 + 1
    width_s = -(-longest_s // MOST_POINTS)
    buckets: dict[int, list[float]] = {}
    for due_us, latency_s in timed:
        buckets.setdefault((due_us - started_us) // 1_000_000 // width_s * width_s, []).append(latency_s)
    return [
        {
            "at_s": at_s,
            "canaries": len(latencies),
            "p50_s": percentile(latencies, 50),
            "p95_s": percentile(latencies, 95),
            "max_s": max(latencies),
        }
        for at_s, latencies in sorted(buckets.items())
    ]


def _parts(watched: Watched) -> dict[str, Any]:
    before, after = watched.before, watched.after
    # Where the engine was started anew meanwhile, its counts began again: then the difference says nothing.
    lasted = before and after and abs(after.started_s - before.started_s) <= 2
    return {
        "at_start": before.parts if before else None,
        "at_end": after.parts if after else None,
        "peak": watched.peak_parts,
        "inserted": after.inserted - before.inserted if lasted else None,
        "merged_seconds": round(after.merged_s - before.merged_s, 1) if lasted else None,
        "timeline": [
            {"at_s": round(point.at_s, 1), "active": point.engine.parts, "merges": point.engine.merges}
            for point in watched.points
            if point.engine
        ],
    }


def _transactions(result: Result) -> dict[str, Any] | None:
    if result.transactions is None:
        return None
    money = {
        currency: {"sent": _decimal(sent), "stored": _decimal(stored)}
        for currency, (sent, stored) in result.transactions.money.items()
    }
    return asdict(result.transactions) | {"money": money}


def _decimal(amount: int) -> str:
    sign = "-" if amount < 0 else ""
    return f"{sign}{abs(amount) // 10_000}.{abs(amount) % 10_000:04d}"
