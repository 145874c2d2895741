"""Shapes of load: how many messages each second sends, and that the schedule of any of them is exact."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paystream.loadtest import rates
from paystream.loadtest.plan import Plan, due, intended_us

STARTED_US = 1_790_000_000_123_456


def make_plan(second_rates, rate=1):
    return Plan(
        seed=1, rate_per_second=rate, messages=sum(second_rates) or rate * 3, second_rates=second_rates,
        duplicate_share=0, canaries_per_second=1, merchants=[1], canary_merchant=1, currencies={"EUR": 1},
        statuses={"captured": 1}, started_us=STARTED_US,
    )  # fmt: skip


def test_a_ramp_goes_evenly_from_one_rate_to_the_other():
    assert rates.ramp(5, 100, 500) == [100, 200, 300, 400, 500]
    assert rates.ramp(3, 500, 100) == [500, 300, 100]


def test_steps_hold_from_their_second_on():
    assert rates.steps(6, 10, [(2, 30), (5, 20)]) == [10, 10, 30, 30, 30, 20]


def test_bursts_come_at_the_end_of_each_period():
    assert rates.bursts(7, 1, 9, every=3, length=1) == [1, 1, 9, 1, 1, 9, 1]
    assert rates.bursts(5, 1, 9, every=5, length=2) == [1, 1, 1, 9, 9]


@pytest.mark.parametrize("ratio", [1.0, 1.5, 3.0, 10.0])
def test_a_day_has_the_average_and_the_peak_that_it_should(ratio):
    day = rates.daily(1_000, 5_000, ratio)
    assert sum(day) == 5_000_000
    assert max(day) == pytest.approx(5_000 * ratio, rel=0.001)
    assert day[500] == max(day) or day[499] == max(day)
    assert all(abs(early - late) <= 1 for early, late in zip(day, reversed(day), strict=True))
    assert min(day) >= (0 if ratio > 5 else 1)
    rising = np.diff(day[:500])
    assert (rising >= -1).all(), "no second peak"


@given(st.lists(st.integers(0, 40) | st.integers(900, 1_000), min_size=1, max_size=12).filter(any))
def test_each_second_sends_what_it_should_evenly_and_due_is_the_inverse(second_rates):
    plan = make_plan(second_rates)
    times = intended_us(plan, np.arange(plan.messages)) - STARTED_US
    assert Counter((times // 1_000_000).tolist()) == {n: rate for n, rate in enumerate(second_rates) if rate}
    assert (np.diff(times) > 0).all()
    for second, rate in enumerate(second_rates):
        assert times[times // 1_000_000 == second].tolist() == [
            second * 1_000_000 + place * 1_000_000 // rate for place in range(rate)
        ]
    moments = sorted({-1, 0, *times[:50].tolist(), *(times[-50:] - 1).tolist(), len(second_rates) * 1_000_000, 10**12})
    assert [due(plan, STARTED_US + moment) for moment in moments] == [
        int(np.count_nonzero(times <= moment)) for moment in moments
    ]


def test_a_shape_that_is_constant_has_the_schedule_of_a_constant_rate():
    shaped, constant = make_plan([7, 7, 7]), make_plan([], rate=7)
    numbers = np.arange(21)
    assert intended_us(shaped, numbers).tolist() == intended_us(constant, numbers).tolist()
    assert intended_us(shaped, np.array([21])).tolist() == intended_us(constant, np.array([21])).tolist()
    assert shaped.peak_rate == constant.peak_rate == 7
