"""The probe: a reader that asks for the canaries until it sees them, and notes when.

A canary's latency runs from its intended send time to the moment at which the answer that contains it has arrived
here, both on this machine's clock. It is therefore late by up to one round of asking, never early.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self
from uuid import UUID

import numpy as np
from clickhouse_connect.driver.client import Client

from paystream.clickhouse import connect
from paystream.loadtest.messages import Plan, id_of, ids, intended_us, is_canary
from paystream.loadtest.milliseconds import Milliseconds
from paystream.settings import Settings

ASK_EVERY_S = 0.04
"""Each answer costs the engine about 10 ms of a processor: asking twice as often loads it more than it tells."""
CHUNK = 50_000
"""Messages whose canaries are worked out at a time, in some milliseconds: a run of hours begins without delay."""

MOST_IDS = 200
"""Ids in one query. When more are pending, they take turns."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
RETRY_AFTER_S = 0.5
STOP_TIMEOUT_S = 10

QUERY = """
SELECT transaction_id
FROM transactions FINAL  -- as transactions_current has it, whose two dozen columns cost 3 ms more to analyse
WHERE toDate(created_at) IN {days:Array(Date)}
  AND merchant_id = {merchant_id:UInt32}
  AND transaction_id IN {pending:Array(UUID)}
  -- Leaves out all parts but the newest: the same at any number of stored rows.
  AND created_at BETWEEN {earliest:DateTime64(6, 'UTC')} AND {latest:DateTime64(6, 'UTC')}
SETTINGS
    do_not_merge_across_partitions_select_final = 1,
    optimize_move_to_prewhere_if_final = 1,  -- of what a transaction never changes, so no older state shows
    max_threads = 1                          -- some rows: a second thread would only take a core from ingest
"""


@dataclass(frozen=True)
class Sighting:
    """A canary's intended send time and the arrival of the first answer with it, in microseconds since 1970."""

    transaction_id: UUID
    intended_us: int
    seen_us: int

    @property
    def latency_s(self) -> float:
        return (self.seen_us - self.intended_us) / 1e6


@dataclass(frozen=True)
class Seen:
    """What the probe saw. ``missed_us``: the intended send times of canaries that never showed."""

    sightings: list[Sighting]
    missed_us: list[int]
    query_p95_s: float
    queries: int
    failed_queries: int

    @property
    def latencies_s(self) -> list[float]:
        """Return the latencies in seconds; those of canaries that never showed are infinite."""
        return [one.latency_s for one in self.sightings] + [math.inf] * len(self.missed_us)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least ``percent`` % of the values do not exceed (nearest rank); NaN of none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def canaries(plan: Plan) -> Iterator[tuple[UUID, int]]:
    """Yield the canaries' ids with their intended send times in microseconds since 1970, in that order."""
    for first in range(0, plan.messages, CHUNK):
        numbers = np.arange(first, min(first + CHUNK, plan.messages))
        numbers = numbers[is_canary(plan, numbers)]
        upper, lower = ids(plan, numbers)
        times = intended_us(plan, numbers).tolist()
        for halves, at in zip(zip(upper, lower, strict=True), times, strict=True):
            yield id_of(*halves), at


class Probe:
    """A thread that watches for a run's canaries, on a connection of its own, between ``start`` and ``finish``."""

    def __init__(self, settings: Settings, plan: Plan) -> None:
        self.plan = plan
        self._settings = settings
        self._merchant_id = plan.canary_merchant
        self._coming = canaries(plan)
        self._next = next(self._coming, None)
        self._pending: deque[tuple[UUID, int]] = deque()
        self._sightings: list[Sighting] = []
        self._query_seconds: list[float] = []
        self._failures = 0
        self._latencies = Milliseconds()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="visibility probe", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    @property
    def sightings(self) -> list[Sighting]:
        """Return the canaries seen so far, in the order in which they were seen."""
        return list(self._sightings)

    @property
    def seen(self) -> int:
        """Return how many canaries were seen so far."""
        return len(self._sightings)

    @property
    def p95_s(self) -> float:
        """Return the 95th percentile of the latencies so far, in seconds; NaN before the first."""
        return self._latencies.percentile_s(95)

    def await_all(self, wait_s: float, sent_until_us: int) -> None:
        """Wait up to ``wait_s`` for the canaries that were sent and are still to be seen."""
        deadline = time.monotonic() + wait_s
        while self._thread.is_alive() and time.monotonic() < deadline and self._awaits(sent_until_us):
            time.sleep(ASK_EVERY_S)

    def finish(self, sent_until_us: int) -> Seen:
        """Stop, and return what was seen. Canaries intended after ``sent_until_us`` were not sent and do not count."""
        self._stop.set()
        self._thread.join(STOP_TIMEOUT_S)
        self._take_coming(sent_until_us)
        return Seen(
            sightings=self.sightings,
            # A thread that hangs in a query may still change what is pending.
            missed_us=[at for _, at in list(self._pending) if at <= sent_until_us],
            query_p95_s=percentile(self._query_seconds, 95),
            queries=len(self._query_seconds),
            failed_queries=self._failures,
        )

    def _awaits(self, sent_until_us: int) -> bool:
        coming = self._next
        return bool(coming and coming[1] <= sent_until_us) or any(at <= sent_until_us for _, at in list(self._pending))

    def _take_coming(self, until_us: int) -> None:
        while self._next and self._next[1] <= until_us:
            self._pending.append(self._next)
            self._next = next(self._coming, None)

    def _watch(self) -> None:
        offset_us = time.time_ns() // 1000 - time.monotonic_ns() // 1000
        while not self._stop.is_set():
            try:
                with connect(self._settings, timeout_s=10) as client:
                    while not self._stop.is_set():
                        self._ask(client, offset_us)
            except Exception:  # what is tested may break; then canaries are seen late or never, and that is the result
                self._failures += 1
                self._stop.wait(RETRY_AFTER_S)

    def _ask(self, client: Client, offset_us: int) -> None:
        asked_us = time.monotonic_ns() // 1000 + offset_us
        self._take_coming(asked_us)
        wanted = {
            self._pending[place][0]: self._pending[place][1] for place in range(min(MOST_IDS, len(self._pending)))
        }
        if wanted:
            moments = [EPOCH + timedelta(microseconds=at) for at in (min(wanted.values()), max(wanted.values()))]
            parameters = {
                "days": sorted({datetime.fromtimestamp(at / 1e6, UTC).date() for at in wanted.values()}),
                "earliest": moments[0],
                "latest": moments[1],
                "merchant_id": self._merchant_id,
                "pending": list(wanted),
            }
            rows = client.query(QUERY, parameters=parameters).result_rows
            answered_us = time.monotonic_ns() // 1000 + offset_us
            self._query_seconds.append((answered_us - asked_us) / 1e6)
            found = {transaction_id for (transaction_id,) in rows}
            for _ in range(len(wanted)):
                canary = self._pending.popleft()
                if canary[0] in found:
                    self._sightings.append(Sighting(*canary, answered_us))
                    self._latencies.add(np.array([answered_us - canary[1]]))
                else:
                    self._pending.append(canary)
        spent_s = (time.monotonic_ns() // 1000 + offset_us - asked_us) / 1e6
        self._stop.wait(max(0.0, ASK_EVERY_S - spent_s))
