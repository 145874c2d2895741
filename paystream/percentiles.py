"""How a percentile is computed, p95 for example: of a list of values, and of values that were only counted.

By nearest rank: the p-th percentile is the smallest value that at least p % of the values do not exceed. It is always
one of the values, never a number between two of them. This is definition 1 of R. J. Hyndman and Y. Fan, "Sample
Quantiles in Statistical Packages", The American Statistician 50 (4), 1996.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

LEDGER_BUCKETS = 176
_PER_DOUBLING = 8


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile of values in any order; NaN of none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def bucket_of(counts: ArrayLike, percent: float) -> int:
    """Return the bucket that holds a percentile of counted values, of which there must be some.

    ``counts`` has how many values fell into each bucket, in ascending order.
    """
    passed = np.cumsum(counts)
    return int(np.searchsorted(passed, max(1, passed[-1] * percent / 100)))


def ledger_percentile_s(counts: Sequence[int], percent: float) -> float | None:
    """Return a percentile, in seconds, of latencies that are counted as in the ledger; None of none.

    ``counts`` is a ``latency_histogram`` of sql/2_store/ingest_ledger.sql. Latencies are taken to be spread evenly
    within their bucket, so the answer is off by at most 9 %, a bucket's width. Whatever took longer than 64 minutes,
    where the last bucket begins, is reported as that. sql/4_report/report_latency_by_minute.sql computes the same.
    """
    total = sum(counts)
    if not total:
        return None
    bucket = bucket_of(counts, percent)
    lower_ms, upper_ms = (2 ** (edge / _PER_DOUBLING) - 1 for edge in (bucket, bucket + 1))
    if bucket == LEDGER_BUCKETS - 1:
        return lower_ms / 1000
    share = (total * percent / 100 - sum(counts[:bucket])) / counts[bucket]
    return (lower_ms + share * (upper_ms - lower_ms)) / 1000
