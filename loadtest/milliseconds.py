"""Many latencies in little memory: counted by whole milliseconds, above a minute by whole seconds."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from paystream.percentiles import bucket_of

FINE_MS = 60_000
LONGEST_S = 2 * 3600
"""Beyond, only the longest is told apart: a run waits for an hour at most."""

_BUCKETS = FINE_MS + LONGEST_S - FINE_MS // 1000 + 2


@dataclass
class Milliseconds:
    """Durations rounded up, so never understated; below 0 counts as 0."""

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_BUCKETS, dtype=np.int64))
    longest_us: int = 0

    def add(self, durations_us: NDArray[np.int64]) -> None:
        """Count durations, given in microseconds."""
        if not len(durations_us):
            return
        self.longest_us = max(self.longest_us, int(durations_us.max()))
        milliseconds = np.maximum(0, -(-durations_us // 1000))
        coarse = FINE_MS + -(-(milliseconds - FINE_MS) // 1000)
        counts = np.bincount(np.minimum(np.where(milliseconds <= FINE_MS, milliseconds, coarse), _BUCKETS - 1))
        self.counts[: len(counts)] += counts

    def percentile_s(self, percent: float) -> float:
        """Return a percentile in seconds, rounded up but never above the longest; NaN of none."""
        if not self.counts.any():
            return float("nan")
        bucket = bucket_of(self.counts, percent)
        rounded_s = bucket / 1000 if bucket <= FINE_MS else FINE_MS / 1000 + bucket - FINE_MS
        return self.longest_s if bucket == _BUCKETS - 1 else min(rounded_s, self.longest_s)

    @property
    def longest_s(self) -> float:
        """Return the longest in seconds, as it was; NaN of none."""
        return self.longest_us / 1e6 if self.counts.any() else float("nan")
