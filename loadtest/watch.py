"""Watches a run from outside, twice a second: lag, parts, merges, processor time, memory, and this machine's clock."""

import time
from contextlib import ExitStack
from dataclasses import dataclass, field

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from paystream.clickhouse import connect
from paystream.errors import PaystreamError
from paystream.loadtest.topic import Topic
from paystream.loadtest.usage import Meter, Usage, Used
from paystream.nodes import Nodes
from paystream.settings import Settings

MOST_POINTS = 600
"""Points of a timeline: what a plot can show. A longer run has them further apart."""

LOOK_EVERY_S = 0.5
RETRY_AFTER_S = 2
CLOCK_TOLERANCE_S = 0.05

_ENGINE = """
SELECT
    (SELECT count() FROM system.parts WHERE database = currentDatabase()
        AND table IN ('transactions', 'transactions_local') AND active),
    (SELECT count() FROM system.merges WHERE database = currentDatabase()
        AND table IN ('transactions', 'transactions_local')),
    (SELECT sum(value) FROM system.events WHERE event IN ('InsertedCompactParts', 'InsertedWideParts')),
    (SELECT sum(value) FROM system.events WHERE event = 'MergeTotalMilliseconds') / 1000,
    toUnixTimestamp(now()) - uptime()
"""

_ROW_BYTES = """
SELECT sum(bytes_on_disk), sum(rows)
FROM system.parts
WHERE database = currentDatabase() AND table IN ('transactions', 'transactions_local') AND active
  AND modification_time >= {began:DateTime('UTC')}
"""


@dataclass(frozen=True)
class Engine:
    """What ClickHouse says of itself, all nodes together: parts and merges of `transactions`; of all tables, since it
    started, parts inserted and seconds that merges took; and when the last node started, in seconds since 1970."""

    parts: int
    merges: int
    inserted: int
    merged_s: float
    started_s: int


@dataclass(frozen=True)
class Point:
    """One moment of a run, ``at_s`` seconds after message 0 was due. ``lag`` is the highest since the point before,
    ``cpu_share`` the mean since then, in shares of one core; ``engine`` is None where ClickHouse did not answer."""

    at_s: float
    lag: int
    engine: Engine | None
    cpu_share: dict[str, float]
    memory_bytes: dict[str, int]


@dataclass(frozen=True)
class Watched:
    """What a run looked like from outside.

    Attributes:
        clock_step_s: how far this machine's clock was set during the run.
        before: what ClickHouse said before the run.
        row_bytes: of a row on disk, in parts written since the run began; None where that could not be asked.
    """

    points: list[Point] = field(default_factory=list)
    peak_lag: int = 0
    usage: Usage | None = None
    clock_step_s: float = 0.0
    before: Engine | None = None
    row_bytes: float | None = None

    @property
    def peak_parts(self) -> int | None:
        """Return the most active parts of any point."""
        moments = [self.before, *(point.engine for point in self.points)]
        return max((engine.parts for engine in moments if engine), default=None)

    @property
    def after(self) -> Engine | None:
        """Return what ClickHouse said last."""
        return next((point.engine for point in reversed(self.points) if point.engine), None)


class Watch:
    """Notes what is seen between its creation and ``result``; ``started_us`` is to be set once it is known.

    Raises nothing where a node does not answer: what is tested may break, and then the timeline has a gap.
    """

    def __init__(self, nodes: Nodes, topic: Topic, meter: Meter, duration_s: float) -> None:
        self._asked = [Server(node.settings) for node in nodes.present]
        self._topic = topic
        self._meter = meter
        self.started_us = 0
        self._every_s = max(LOOK_EVERY_S, duration_s / MOST_POINTS)
        self._offset_s = time.time() - time.monotonic()
        self._clock_step_s = 0.0
        self._points: list[Point] = []
        self._peak_lag = self._lag = 0
        self._before = self._ask()
        self._last: tuple[float, Used] = (time.monotonic(), meter.sample())

    def look(self) -> int:
        """Note this moment, and return the lag.

        Raises:
            ServiceUnavailable: the broker does not answer.
        """
        lag = self._topic.lag()
        self._lag, self._peak_lag = max(self._lag, lag), max(self._peak_lag, lag)
        step_s = time.time() - time.monotonic() - self._offset_s
        if abs(step_s) > max(CLOCK_TOLERANCE_S, abs(self._clock_step_s)):
            self._clock_step_s = step_s
        used = self._meter.sample()
        if time.monotonic() - self._last[0] >= self._every_s - LOOK_EVERY_S / 10:
            self._note(used)
        return lag

    def _note(self, used: Used) -> None:
        now, (then, before) = time.monotonic(), self._last
        share = {name: (spent - before.cpu_s[name]) / (now - then) for name, spent in used.cpu_s.items()}
        at_s = now + self._offset_s - self.started_us / 1e6
        self._points.append(Point(at_s, self._lag, self._ask(), share, used.memory_bytes))
        self._last, self._lag = (now, used), 0

    def result(self) -> Watched:
        """Note the last moment, close the connections, and return what was seen."""
        self._note(self._meter.sample())
        watched = Watched(
            points=self._points,
            peak_lag=self._peak_lag,
            usage=self._meter.usage(),
            clock_step_s=self._clock_step_s,
            before=self._before,
            row_bytes=self._row_bytes(),
        )
        for node in self._asked:
            node.close()
        return watched

    def _ask(self) -> Engine | None:
        answers = [node.query(_ENGINE) for node in self._asked]
        if None in answers:
            return None
        *counts, started_s = zip(*answers, strict=True)
        return Engine(*map(sum, counts), max(started_s))

    def _row_bytes(self) -> float | None:
        answers = [node.query(_ROW_BYTES, began=int(self.started_us / 1e6)) for node in self._asked]
        size, rows = (sum(answer[place] for answer in answers if answer) for place in (0, 1))
        return size / rows if rows and None not in answers else None


class Server:
    """A ClickHouse server and the connection to it, which is opened again once it answers again."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection = ExitStack()
        self._client: Client | None = None
        self._retry_at = 0.0

    def close(self) -> None:
        self._connection.close()

    def query(self, query: str, **parameters: object) -> tuple | None:
        """Return the row that it answers; None where it does not, nor soon after."""
        if time.monotonic() < self._retry_at:
            return None
        try:
            if self._client is None:
                self._client = self._connection.enter_context(connect(self._settings, timeout_s=5))
            return self._client.query(query, parameters=parameters).result_rows[0]
        except (PaystreamError, ClickHouseError):
            self._connection.close()
            self._client, self._retry_at = None, time.monotonic() + RETRY_AFTER_S
            return None
