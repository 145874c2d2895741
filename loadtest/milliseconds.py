"""Many latencies in little memory: counted by whole milliseconds."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

LONGEST_MS = 60_000
"""Above a minute, only the longest is told apart."""


def _no_counts() -> NDArray[np.int64]:
    return np.zeros(LONGEST_MS + 1, dtype=np.int64)


@dataclass
class Milliseconds:
    """Durations rounded up to whole milliseconds, so never understated; below 0 counts as 0."""

    counts: NDArray[np.int64] = field(default_factory=_no_counts)
    longest_us: int = 0

    def add(self, durations_us: NDArray[np.int64]) -> None:
        """Count durations, given in microseconds."""
        if not len(durations_us):
            return
        self.longest_us = max(self.longest_us, int(durations_us.max()))
        counts = np.bincount(np.clip(-(-durations_us // 1000), 0, LONGEST_MS))
        self.counts[: len(counts)] += counts

    def percentile_s(self, percent: float) -> float:
        """Return the smallest whole millisecond, in seconds, that ``percent`` % do not exceed; NaN of none."""
        total = self.counts.sum()
        if not total:
            return float("nan")
        place = int(np.searchsorted(np.cumsum(self.counts), total * percent / 100))
        return self.longest_us / 1e6 if place == LONGEST_MS else place / 1000

    @property
    def longest_s(self) -> float:
        """Return the longest in seconds, as it was; NaN of none."""
        return self.longest_us / 1e6 if self.counts.any() else float("nan")
