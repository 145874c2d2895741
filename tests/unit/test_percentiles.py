"""Percentiles: of lists by the method's worked example, of counts against the exact ones."""

import math
import random

import pytest

from paystream.percentiles import LEDGER_BUCKETS, bucket_of, ledger_percentile_s, percentile


def counted(latencies_ms: list[int]) -> list[int]:
    """Count as ledger_mv.sql does."""
    counts = [0] * LEDGER_BUCKETS
    for latency_ms in latencies_ms:
        counts[min(LEDGER_BUCKETS - 1, math.floor(8 * math.log2(latency_ms + 1)))] += 1
    return counts


def test_percentile_is_the_nearest_rank() -> None:
    values = [15, 20, 35, 40, 50]  # the worked example of the method in the literature
    assert [percentile(values, percent) for percent in (5, 30, 40, 50, 100)] == [15, 20, 20, 35, 50]
    hundred = list(range(1, 101))
    random.Random(1).shuffle(hundred)
    assert [percentile(hundred, percent) for percent in (50, 95, 99, 100)] == [50, 95, 99, 100]
    assert percentile([7], 95) == 7
    assert math.isnan(percentile([], 95))


def test_counted_values_have_their_percentile_in_the_bucket_of_the_nearest_rank() -> None:
    counts = [0, 1, 1, 0, 1, 1, 1]  # the same example: 15, 20, 35, 40 and 50 in buckets 1, 2, 4, 5 and 6
    assert [bucket_of(counts, percent) for percent in (0, 5, 30, 40, 50, 100)] == [1, 1, 2, 2, 4, 6]


@pytest.mark.parametrize("percent", [1, 50, 95, 99, 100])
@pytest.mark.parametrize("spread", [(0.2, 0.5), (3, 1), (120, 2)])
def test_within_nine_percent_of_the_exact_one(percent: float, spread: tuple[float, float]) -> None:
    chance = random.Random(7)
    median_s, sigma = spread
    latencies = [int(min(3_500_000, chance.lognormvariate(math.log(median_s * 1000), sigma))) for _ in range(20_000)]
    exact = sorted(latencies)[max(0, math.ceil(percent * len(latencies) / 100) - 1)] / 1000
    # Below some milliseconds a bucket is narrower than the millisecond that Kafka's timestamps have.
    assert ledger_percentile_s(counted(latencies), percent) == pytest.approx(exact, rel=0.0906, abs=0.001)


def test_no_payments_have_no_latency() -> None:
    assert ledger_percentile_s([0] * LEDGER_BUCKETS, 95) is None
    assert ledger_percentile_s([], 95) is None  # what the engine says of no rows at all


def test_what_is_too_late_to_count_is_not_made_up() -> None:
    assert ledger_percentile_s(counted([10**9]), 50) == pytest.approx(3840, rel=0.01)
    assert ledger_percentile_s(counted([0]), 100) < 0.001
