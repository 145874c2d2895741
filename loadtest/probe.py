"""The probe: a reader that asks for the canaries until it sees them, and notes when.

A canary's latency runs from its intended send time to the moment at which the answer that contains it has arrived
here, both on this machine's clock. It is therefore late by up to one round of asking, never early.
"""

import math
import threading
import time
from collections import deque
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Self
from uuid import UUID

import numpy as np
from clickhouse_connect.driver.client import Client

from paystream.clickhouse import connect
from paystream.loadtest.canary import Sighting, canaries, look_up
from paystream.loadtest.milliseconds import Milliseconds
from paystream.loadtest.plan import Plan
from paystream.nodes import find
from paystream.percentiles import percentile
from paystream.settings import Settings

ASK_EVERY_S = 0.04
"""Each answer costs the engine about 10 ms of a processor: asking twice as often loads it more than it tells."""
MOST_IDS = 200
"""Ids in one query. When more are pending, they take turns."""

RETRY_AFTER_S = 0.5
STOP_TIMEOUT_S = 10


@dataclass(frozen=True)
class Seen:
    """What the probe saw.

    Attributes:
        missed_us: the intended send times of canaries that never showed.
        failed_s: for how long questions failed: each time from the first that did to the next that was answered.
    """

    sightings: list[Sighting]
    missed_us: list[int]
    query_p95_s: float
    queries: int
    failed_queries: int
    failed_s: float = 0.0

    @property
    def latencies_s(self) -> list[float]:
        """Return the latencies in seconds; those of canaries that never showed are infinite."""
        return [sighting.latency_s for sighting in self.sightings] + [math.inf] * len(self.missed_us)


class Probe:
    """A thread that watches for a run's canaries, on a connection of its own, between ``start`` and ``finish``.

    Of a cluster it asks one node until that fails, then the next, as a reader behind a load balancer does.
    """

    def __init__(self, settings: Settings, plan: Plan) -> None:
        self.plan = plan
        self._nodes = cycle([node.settings for node in find(settings).present])
        self._coming = canaries(plan)
        self._next = next(self._coming, None)
        self._pending: deque[tuple[UUID, int]] = deque()
        self._sightings: list[Sighting] = []
        self._query_seconds: list[float] = []
        self._failures = 0
        self._failed_s = 0.0
        self._failing_since: float | None = None
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
    def failures(self) -> int:
        """Return how many questions failed so far."""
        return self._failures

    def has_seen_since(self, intended_us: int) -> bool:
        """Return whether a canary that was due at this time or later was seen, in microseconds since 1970."""
        return any(sighting.intended_us >= intended_us for sighting in reversed(self._sightings))

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
            failed_s=self._failed_s,
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
                with connect(next(self._nodes), timeout_s=10) as client:
                    while not self._stop.is_set():
                        self._ask(client, offset_us)
                        self._note_failing(False)
            except Exception:  # what is tested may break; then canaries are seen late or never, and that is the result
                self._failures += 1
                self._note_failing(True)
                self._stop.wait(RETRY_AFTER_S)

    def _note_failing(self, failing: bool) -> None:
        now = time.monotonic()
        if self._failing_since is not None:
            self._failed_s += now - self._failing_since
        self._failing_since = now if failing else None

    def _ask(self, client: Client, offset_us: int) -> None:
        asked_us = time.monotonic_ns() // 1000 + offset_us
        self._take_coming(asked_us)
        wanted = dict(islice(self._pending, MOST_IDS))
        if wanted:
            sighted = look_up(client, self.plan.canary_merchant, wanted)
            answered_us = time.monotonic_ns() // 1000 + offset_us
            self._query_seconds.append((answered_us - asked_us) / 1e6)
            for _ in range(len(wanted)):
                canary, due_us = self._pending.popleft()
                if canary in sighted:
                    self._sightings.append(Sighting(canary, due_us, answered_us))
                    self._latencies.add(np.array([answered_us - due_us]))
                else:
                    self._pending.append((canary, due_us))
        spent_s = (time.monotonic_ns() // 1000 + offset_us - asked_us) / 1e6
        self._stop.wait(max(0.0, ASK_EVERY_S - spent_s))
