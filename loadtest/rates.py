"""Shapes of load: how many messages each second of a run sends. Pure functions of the workload's figures.

A rate is constant within a second, so that the intended send time of any message follows from a table with one entry a
second, whatever the shape and however long the run.
"""

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


def ramp(seconds: int, first: int, last: int) -> list[int]:
    """Return rates that rise or fall evenly from the first second's to the last one's."""
    return np.rint(np.linspace(first, last, seconds)).astype(int).tolist()


def steps(seconds: int, first: int, changes: list[tuple[int, int]]) -> list[int]:
    """Return rates that change at once: each change is the second from which its rate holds, and that rate."""
    places = [(0, first), *changes, (seconds, 0)]
    return [rate for (begin, rate), (end, _) in pairwise(places) for _ in range(begin, end)]


def bursts(seconds: int, base: int, burst: int, every: int, length: int) -> list[int]:
    """Return the base rate, except for the burst's in the last ``length`` seconds of each ``every`` seconds."""
    return [burst if second % every >= every - length else base for second in range(seconds)]


def daily(seconds: int, average: int, peak_to_average: float) -> list[int]:
    """Return a day compressed into the run: quiet at both ends, the peak in the middle.

    The curve is exp(k cos x), the density of von Mises' distribution, whose peak is e^k / I0(k) times its average. So
    it is above 0 at night whatever the ratio. The rates sum up to ``average * seconds``.
    """
    concentration = _concentration(peak_to_average)
    middle = (np.arange(seconds) + 0.5) / seconds
    curve = np.exp(concentration * (np.cos(2 * math.pi * (middle - 0.5)) - 1))
    return _whole(curve * (average * seconds / curve.sum()))


def _concentration(peak_to_average: float) -> float:
    low, high = 0.0, 700.0  # e^700 is still a double
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if math.exp(middle) / float(np.i0(middle)) < peak_to_average else (low, middle)
    return low


def _whole(rates: NDArray[np.float64]) -> list[int]:
    """Return whole numbers with the same running total, to the nearest message."""
    return np.diff(np.rint(np.cumsum(rates)), prepend=0).astype(int).tolist()
