"""Percentiles from the counts that the ledger keeps of each block: see ``latency_histogram`` in ingest_ledger.sql."""

from collections.abc import Sequence

BUCKETS = 176
PER_DOUBLING = 8


def quantile_s(counts: Sequence[int], share: float) -> float | None:
    """Return the latency in seconds that this share of the messages stayed within; None when there are none.

    Off by at most 9 %, the width of a bucket: within one, messages are taken to be spread evenly. Whatever took longer
    than the last bucket begins (64 minutes) is reported as that.
    """
    rank = share * sum(counts)
    if rank <= 0:
        return None
    passed = 0
    for bucket, count in enumerate(counts):
        if count and passed + count >= rank:
            low = _lowest_ms(bucket)
            if bucket == BUCKETS - 1:
                return low / 1000
            return (low + (rank - passed) / count * (_lowest_ms(bucket + 1) - low)) / 1000
        passed += count
    return _lowest_ms(BUCKETS - 1) / 1000


def _lowest_ms(bucket: int) -> float:
    return 2 ** (bucket / PER_DOUBLING) - 1
