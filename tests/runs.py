"""A measured run, made up, for tests of what is made of one."""

from datetime import UTC, datetime
from uuid import UUID

from paystream.loadtest.canary import Sighting
from paystream.loadtest.checker import Found, Stages
from paystream.loadtest.generator import Sent
from paystream.loadtest.plan import Plan
from paystream.loadtest.probe import Seen
from paystream.loadtest.run import Result
from paystream.loadtest.usage import Usage
from paystream.loadtest.watch import Engine, Point, Watched

STARTED_US = 1_767_225_600_000_000  # 2026-01-01


def sightings(latencies_s: list[float]) -> list[Sighting]:
    """Return canaries due every half second."""
    dues = [STARTED_US + number * 500_000 for number in range(len(latencies_s))]
    return [
        Sighting(UUID(int=number), due, due + round(latency * 1e6))
        for number, (due, latency) in enumerate(zip(dues, latencies_s, strict=True))
    ]


def point(at_s: float, lag: int = 9, parts: int = 6) -> Point:
    """Return a moment of a run."""
    return Point(
        at_s, lag, Engine(parts, 1, 40, 2.5, STARTED_US // 1_000_000 - 900), {"broker": 0.1}, {"broker": 200 << 20}
    )


GOOD = Result(
    started_at=datetime(2026, 1, 1, tzinfo=UTC),
    duration_s=10.4,
    plan=Plan(
        seed=1, rate_per_second=200, messages=2_000, duplicate_share=0.05, canaries_per_second=20, merchants=[1],
        canary_merchant=1, currencies={"EUR": 1}, statuses={"captured": 1}, started_us=STARTED_US,
    ),
    sent_at_least=2_000,
    sent=Sent(
        sent=2_000, planned=2_000, rejected_keys=[], first_error="", queue_full=0, lateness_p50_s=0.001,
        lateness_p99_s=0.01, lateness_max_s=0.02, cpu_s=1.0, wire_bytes_each=123.5,
    ),
    seen=Seen(sightings([0.1, 0.2, 0.3, 0.4]), missed_us=[], query_p95_s=0.004, queries=99, failed_queries=0),
    watched=Watched(
        points=[point(0.5), point(1.0, lag=77, parts=11), point(1.5)],
        peak_lag=77,
        usage=Usage(600 << 20, {"broker": 200 << 20, "clickhouse": 400 << 20}, {"broker": 3.0}, 0.1, 0.5),
        before=Engine(5, 0, 10, 2.0, STARTED_US // 1_000_000 - 900),
        row_bytes=61.5,
    ),
    stages=Stages(),
    visible_s=[0.01, 0.02, 0.03, 0.04],
    transactions=Found(
        accepted=1_900, stored=1_900, lost=0, duplicated=0, unexpected=0, altered=0, recovered=0,
        malformed_messages=0, refused_as_planned=0, quarantined=0, quarantine_reasons={},
        money={"EUR": (123_400, 123_400)}, enrichment={"ok": 1_800, "fx_provisional": 100},
        duplicate_messages=100, foreign_messages=0, rows_before_final=1_950, duplicate_rows_before_final=50,
    ),
    drain_s=0.4,
    clickhouse="26.9",
)  # fmt: skip
