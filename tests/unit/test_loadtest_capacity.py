"""The search for the highest rate held, on pipelines whose limit is known."""

from dataclasses import replace

import pytest
from runs import GOOD, point, sightings

from paystream.errors import CheckFailed, UsageError
from paystream.loadtest import capacity_view
from paystream.loadtest.capacity import find_capacity, lag_grows
from paystream.loadtest.report_file import parse
from paystream.loadtest.run import Interrupted
from paystream.loadtest.workload import MOST_PER_SECOND, load

TODAY = load("today")


def pipeline(limit, tried, **changes):
    """A function that runs a workload against a pipeline whose latency is beyond the threshold above a rate."""

    def run(workload):
        tried.append(workload.rate_per_second)
        latency_s = 0.2 if workload.rate_per_second <= limit else 2.0
        return replace(GOOD, seen=replace(GOOD.seen, sightings=sightings([latency_s] * 4)), **changes)

    return run


def search(limit, workload=TODAY, **changes):
    tried = []
    return find_capacity("today", workload, 30, pipeline(limit, tried, **changes), lambda step: None), tried


@pytest.mark.parametrize("limit", [1, 7, 499, 500, 501, 3_000, 41_000, 999_999])
def test_the_rate_found_is_held_and_a_tenth_more_is_not(limit):
    capacity, tried = search(limit)
    assert capacity.held.rate_per_second <= limit < capacity.limit.rate_per_second
    assert capacity.limit.rate_per_second <= max(1.1 * capacity.held.rate_per_second, capacity.held.rate_per_second + 1)
    assert len(tried) == len(set(tried)) <= 20
    assert capacity.limit.broken == "threshold: p95_seconds"


def test_a_pipeline_that_holds_nothing_and_one_that_holds_everything():
    capacity, tried = search(0)
    assert capacity.held is None and tried[-1] == 1
    assert "no rate was held. 1/s was not" in capacity_view.answer("today", capacity)
    capacity, tried = search(10**9)
    assert capacity.held.rate_per_second == MOST_PER_SECOND and capacity.limit is None
    assert capacity_view.answer_fields("today", capacity)["because"] == "the search ended before"


def test_the_evidence_of_each_rate_is_a_whole_result():
    capacity, tried = search(3_000)
    document = capacity_view.as_json("today", capacity)
    results = [parse(step) for step in document["steps"]]
    assert [result.workload["rate_per_second"] for result in results] == tried
    assert {result.workload["duration_seconds"] for result in results} == {30}
    assert document["answer"]["rate_per_second"] == capacity.held.rate_per_second
    assert [row for row in capacity_view.table(capacity).columns[1]._cells] == [f"{rate:,}/s" for rate in sorted(tried)]
    assert capacity_view.step_fields(capacity.limit)["broken"] == "threshold: p95_seconds"


def broken_at(number, what):
    """A pipeline that holds every rate, until its run of that number, from 0, does something else."""
    held = pipeline(10**9, [])
    count = iter(range(100))

    def run(workload):
        return what(held(workload)) if next(count) == number else held(workload)

    return run


def raising(error):
    def give_up(result):
        raise error

    return give_up


CLOCK_SET = replace(GOOD.watched, clock_step_s=3.0)
FOREIGN = replace(GOOD.transactions, foreign_messages=3)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (lambda result: replace(result, ended_early=Interrupted("Ctrl-C 3 s into a run")), "Ctrl-C 3 s into a run"),
        (raising(KeyboardInterrupt()), "Ctrl-C"),
        (raising(CheckFailed("Table 'transactions_queue': it is detached")), "it is detached"),
        (lambda result: replace(result, watched=CLOCK_SET), "clock was set by"),
        (lambda result: replace(result, transactions=FOREIGN), "messages of other producers"),
    ],
)
def test_what_is_no_limit_stops_the_search_and_keeps_the_runs_before(what, said):
    capacity = find_capacity("today", TODAY, 30, broken_at(2, what), lambda step: None)
    assert [step.rate_per_second for step in capacity.steps] == [500, 1_000]
    assert (capacity.held.rate_per_second, capacity.limit) == (1_000, None)
    assert said in str(capacity.stopped)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UsageError("no schema")])
def test_what_fails_before_the_first_run_has_ended_is_an_error(error):
    with pytest.raises(type(error)):
        find_capacity("today", TODAY, 30, broken_at(0, raising(error)), lambda step: None)


def test_what_was_not_read_in_time_is_said_to_be_so_and_not_to_be_lost():
    late = replace(GOOD, unread=2_134, drain_s=None, transactions=replace(GOOD.transactions, lost=2_134))
    capacity = find_capacity("today", TODAY, 30, broken_at(1, lambda result: late), lambda step: None)
    assert capacity.limit.broken == "2,134 messages were not read in time"


def test_a_rate_at_which_lag_grows_is_not_held():
    growing = replace(GOOD.watched, points=[point(at, lag=100 * at) for at in range(31)])
    capacity, _ = search(10**9, workload=TODAY.model_copy(update={"rate_per_second": 1}), watched=growing)
    assert capacity.held is None and capacity.steps[0].broken == "lag grew"


@pytest.mark.parametrize(
    ("lags", "grows"),
    [
        ([50] * 30, False),
        ([50] * 15 + [900] + [50] * 14, False),  # one hiccup
        ([40, 60] * 15, False),
        ([100] * 10 + [400] * 10 + [699] * 10, True),
        ([100] * 20 + [599] * 10, False),  # within half a second of the rate
        ([2_000] * 10 + [3_500] * 20, False),  # less than twice
        ([2_000] * 10 + [4_500] * 20, True),
        ([], False),
    ],
)
def test_growth_is_told_from_a_hiccup(lags, grows):
    assert lag_grows([point(at, lag) for at, lag in enumerate(lags)], rate=1_000, sending_s=30) is grows


def test_a_rate_that_changes_has_no_capacity():
    with pytest.raises(UsageError, match="its rate is a daily, and a capacity is a constant rate"):
        find_capacity("daily", load("daily"), 30, pipeline(1, []), lambda step: None)
