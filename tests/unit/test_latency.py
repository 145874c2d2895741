"""Percentiles from counts by time, against the exact ones."""

import math
import random

import pytest

from paystream.status.latency import BUCKETS, quantile_s


def counted(latencies_ms: list[int]) -> list[int]:
    """Count as ledger_mv.sql does."""
    counts = [0] * BUCKETS
    for one in latencies_ms:
        counts[min(BUCKETS - 1, math.floor(8 * math.log2(one + 1)))] += 1
    return counts


@pytest.mark.parametrize("share", [0.01, 0.5, 0.95, 0.99, 1])
@pytest.mark.parametrize("spread", [(0.2, 0.5), (3, 1), (120, 2)])
def test_within_nine_percent_of_the_exact_one(share: float, spread: tuple[float, float]) -> None:
    chance = random.Random(7)
    median_s, sigma = spread
    latencies = [int(min(3_500_000, chance.lognormvariate(math.log(median_s * 1000), sigma))) for _ in range(20_000)]
    exact = sorted(latencies)[max(0, math.ceil(share * len(latencies)) - 1)] / 1000
    # Below some milliseconds a bucket is narrower than the millisecond that Kafka's timestamps have.
    assert quantile_s(counted(latencies), share) == pytest.approx(exact, rel=0.0906, abs=0.001)


def test_no_payments_have_no_latency() -> None:
    assert quantile_s([0] * BUCKETS, 0.95) is None
    assert quantile_s([], 0.95) is None  # what the engine says of no rows at all


def test_what_is_too_late_to_count_is_not_made_up() -> None:
    assert quantile_s(counted([10**9]), 0.5) == pytest.approx(3840, rel=0.01)
    assert quantile_s(counted([0]), 1) < 0.001
