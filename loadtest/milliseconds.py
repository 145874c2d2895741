"""Many latencies in little memory: counted by whole milliseconds, above a minute by whole seconds."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

FINE_MS = 60_000
LONGEST_S = 2 * 3600
"""Beyond, only the longest is told apart: a run waits for an hour at most."""

_PLACES = FINE_MS + LONGEST_S - FINE_MS // 1000 + 2


def _no_counts() -> NDArray[np.int64]:
    return np.zeros(_PLACES, dtype=np.int64)


@dataclass
class Milliseconds:
    """Durations rounded up, so never understated; below 0 counts as 0."""

    counts: NDArray[np.int64] = field(default_factory=_no_counts)
    longest_us: int = 0

    def add(self, durations_us: NDArray[np.int64]) -> None:
        """Count durations, given in microseconds."""
        if not len(durations_us):
            return
        self.longest_us = max(self.longest_us, int(durations_us.max()))
        milliseconds = np.maximum(0, -(-durations_us // 1000))
        coarse = FINE_MS + -(-(milliseconds - FINE_MS) // 1000)
        counts = np.bincount(np.minimum(np.where(milliseconds <= FINE_MS, milliseconds, coarse), _PLACES - 1))
        self.counts[: len(counts)] += counts

    def percentile_s(self, percent: float) -> float:
        """Return a percentile in seconds, rounded up but never above the longest: by the nearest rank; NaN of none."""
        total = self.counts.sum()
        if not total:
            return float("nan")
        place = int(np.searchsorted(np.cumsum(self.counts), total * percent / 100))
        rounded_s = place / 1000 if place <= FINE_MS else FINE_MS / 1000 + place - FINE_MS
        return self.longest_s if place == _PLACES - 1 else min(rounded_s, self.longest_s)

    @property
    def longest_s(self) -> float:
        """Return the longest in seconds, as it was; NaN of none."""
        return self.longest_us / 1e6 if self.counts.any() else float("nan")
