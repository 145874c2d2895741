"""The search for the highest rate held, on pipelines whose limit is known."""

from dataclasses import replace

import pytest
from runs import GOOD, point, sightings

from loadtest import capacity_view
from loadtest.capacity import find_capacity, lag_grows
from loadtest.report_file import parse
from loadtest.run import Interrupted
from loadtest.workload import MOST_PER_SECOND, load
from paystream.errors import UsageError

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
    found, tried = search(limit)
    assert found.held.rate_per_second <= limit < found.limit.rate_per_second
    assert found.limit.rate_per_second <= max(1.1 * found.held.rate_per_second, found.held.rate_per_second + 1)
    assert len(tried) == len(set(tried)) <= 20
    assert found.limit.broken == "threshold: p95_seconds"


def test_a_pipeline_that_holds_nothing_and_one_that_holds_everything():
    found, tried = search(0)
    assert found.held is None and tried[-1] == 1
    assert "no rate was held. 1/s was not" in capacity_view.answer("today", found)
    found, tried = search(10**9)
    assert found.held.rate_per_second == MOST_PER_SECOND and found.limit is None
    assert capacity_view.answer_fields("today", found)["because"] == "the search ended before"


def test_the_evidence_of_each_rate_is_a_whole_result():
    found, tried = search(3_000)
    document = capacity_view.as_json("today", found)
    results = [parse(one) for one in document["steps"]]
    assert [one.workload["rate_per_second"] for one in results] == tried
    assert {one.workload["duration_seconds"] for one in results} == {30}
    assert document["answer"]["rate_per_second"] == found.held.rate_per_second
    assert [row for row in capacity_view.table(found).columns[1]._cells] == [f"{rate:,}/s" for rate in sorted(tried)]
    assert capacity_view.step_fields(found.limit)["broken"] == "threshold: p95_seconds"


def test_a_run_that_ended_early_ends_the_search_and_is_no_limit():
    found, tried = search(10**9, ended_early=Interrupted("Ctrl-C 3 s into a run of 30 s"))
    assert (len(tried), found.held, found.limit) == (1, None, None)
    assert isinstance(found.ended_early, Interrupted)


def test_a_rate_at_which_lag_grows_is_not_held():
    growing = replace(GOOD.watched, points=[point(at, lag=100 * at) for at in range(31)])
    found, _ = search(10**9, workload=TODAY.model_copy(update={"rate_per_second": 1}), watched=growing)
    assert found.held is None and found.steps[0].broken == "lag grew"


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
