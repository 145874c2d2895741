"""Percentiles and the verdict: when a run passes, fails, or is no result."""

import math
from dataclasses import asdict, replace

import numpy as np
import orjson
import pytest
from runs import GOOD, STARTED_US, sightings

from paystream.loadtest.document import DEFINITIONS, as_document
from paystream.loadtest.milliseconds import Milliseconds
from paystream.loadtest.report_file import parse
from paystream.loadtest.report_text import as_fields
from paystream.loadtest.run import Interrupted
from paystream.loadtest.verdict import judge
from paystream.loadtest.workload import load
from paystream.percentiles import percentile


def with_found(**changes):
    return replace(GOOD, transactions=replace(GOOD.transactions, **changes))


def with_sent(**changes):
    return replace(GOOD, sent=replace(GOOD.sent, **changes))


def with_latencies(latencies):
    seen = [latency for latency in latencies if latency < math.inf]
    missed = [STARTED_US] * (len(latencies) - len(seen))
    return replace(GOOD, seen=replace(GOOD.seen, sightings=sightings(seen), missed_us=missed))


def test_canaries_that_never_show_count_as_infinitely_late():
    assert percentile([0.1] * 94 + [math.inf] * 6, 95) == math.inf
    assert percentile([0.1] * 95 + [math.inf] * 5, 95) == 0.1


def test_lateness_is_counted_in_bounded_memory_and_never_understated():
    late_us = np.random.default_rng(3).integers(-500, 3_000_000, 10_000)
    lateness = Milliseconds()
    for part in np.array_split(late_us, 7):
        lateness.add(part)
    ordered = sorted(late_us.tolist())
    for percent, place in ((50, 4_999), (99, 9_899), (100, 9_999)):
        assert ordered[place] / 1e6 <= lateness.percentile_s(percent) <= ordered[place] / 1e6 + 0.001
    assert lateness.percentile_s(100) == lateness.longest_s == late_us.max() / 1e6
    assert math.isnan(Milliseconds().percentile_s(50)) and math.isnan(Milliseconds().longest_s)


def test_above_a_minute_latencies_are_counted_by_seconds_and_beyond_two_hours_as_the_longest():
    seconds = [59.9995, 60, 60.2, 61, 899.5, 7_199.0, 90_000]
    counted = Milliseconds()
    counted.add(np.array([int(duration_s * 1e6) for duration_s in seconds]))
    told = [counted.percentile_s(100 * (place + 1) / len(seconds) - 0.01) for place in range(len(seconds))]
    assert told == [60.0, 60.0, 61.0, 61.0, 900.0, 7_199.0, 90_000.0]


def test_a_good_run_passes():
    verdict = judge(load("smoke"), GOOD)
    assert verdict.word == "pass"
    assert all(threshold.held for threshold in verdict.thresholds)


@pytest.mark.parametrize(
    ("result", "broken"),
    [
        (with_found(lost=1), "lost"),
        (with_found(duplicated=1), "duplicated"),
        (with_found(unexpected=1), "unexpected"),
        (with_found(altered=1), "altered"),
        (with_found(quarantined=1), "quarantined"),
        (with_found(money={"EUR": (123_400, 123_401)}), "wrong_sums"),
        (with_found(enrichment={"ok": 1_899, "merchant_pending": 1}), "pending"),
        (with_found(enrichment={"ok": 1_899, "fx_pending": 1}), "pending"),
        (with_sent(rejected_keys=["x"]), "rejected"),
        (with_latencies([6.0] * 4), "p95_seconds"),
        (with_latencies([0.1, math.inf]), "p95_seconds"),
        (replace(GOOD, unread=1), "unread"),
    ],
)
def test_each_threshold_can_fail_a_run(result, broken):
    verdict = judge(load("smoke"), result)
    assert verdict.word == "fail"
    assert [threshold.name for threshold in verdict.thresholds if not threshold.held] == [broken]
    assert verdict.word == "fail"
    document = as_document("smoke", load("smoke"), result)
    assert as_fields(parse(document))["broken"] == broken
    assert [threshold["name"] for threshold in document["thresholds"] if not threshold["held"]] == [broken]
    assert document["verdict"] == "fail"


def test_a_run_without_a_canary_has_not_held_its_latency_and_says_that_it_was_not_measured():
    document = as_document("smoke", load("smoke"), with_latencies([]))
    assert (document["verdict"], document["thresholds"][0]["held"]) == ("fail", False)
    assert "broken" not in as_fields(parse(document))


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (with_sent(lateness_p99_s=0.101), "the generator itself fell behind"),
        (with_sent(queue_full=3), "queue was full 3 times"),
        (with_sent(sent=1_999), "only 1,999 of 2,000"),
    ],
)
def test_a_run_whose_generator_did_not_keep_up_is_no_result(result, reason):
    verdict = judge(load("smoke"), result)
    assert verdict.word == "invalid"
    assert reason in verdict.invalid[0]
    assert reason in as_document("smoke", load("smoke"), result)["invalid"][0]


def test_the_document_holds_what_was_measured_and_reads_back():
    document = as_document("smoke", load("smoke"), GOOD)
    result = parse(orjson.loads(orjson.dumps(document)))
    assert (result.verdict, result.seed, result.generator.rejected) == ("pass", 1, 0)
    assert result.visibility.p999_s == 0.4 and result.stages.stored_to_visible.p50_s == 0.02
    assert result.stages.kafka_to_stored.p50_s is None
    assert [(second.at_s, second.canaries, second.max_s) for second in result.visibility.timeline] == [
        (0, 2, 0.2),
        (1, 2, 0.4),
    ]
    histogram = result.visibility.histogram
    assert dict(zip(histogram.bounds_s, histogram.counts, strict=False)) == {
        bound: {0.1: 1, 0.2: 1, 0.3: 1, 0.4: 1}.get(bound, 0) for bound in histogram.bounds_s
    }
    parts = result.parts
    assert (parts.at_start, parts.at_end, parts.peak, parts.inserted, parts.merged_seconds) == (5, 6, 11, 30, 0.5)
    assert (result.bytes_.wire_per_message, result.bytes_.stored_per_row) == (123.5, 61.5)
    assert [point.messages for point in result.lag.timeline] == [9, 77, 9]
    assert document["transactions"]["money"] == {"EUR": {"sent": "12.3400", "stored": "12.3400"}}
    assert set(document["transactions"]) <= {*DEFINITIONS, *asdict(GOOD.transactions)}


def test_what_was_never_seen_is_counted_in_its_second_and_above_all_bounds():
    seen = replace(GOOD.seen, missed_us=[STARTED_US + 1_700_000])
    document = as_document("smoke", load("smoke"), replace(GOOD, seen=seen))
    assert document["visibility"]["histogram"]["counts"][-1] == document["visibility"]["never_seen"] == 1
    assert [second["canaries"] for second in document["visibility"]["timeline"]] == [2, 3]
    assert document["visibility"]["max_s"] == math.inf


def test_a_timeline_is_bounded_however_long_the_run():
    day = [replace(sighting, intended_us=STARTED_US + 86_399_000_000) for sighting in sightings([0.1])]
    document = as_document("smoke", load("smoke"), replace(GOOD, seen=replace(GOOD.seen, sightings=day)))
    [point] = document["visibility"]["timeline"]
    assert point["at_s"] == 599 * 144


def test_a_run_that_ended_early_is_partial_and_keeps_what_was_measured():
    early = replace(
        GOOD, sent=None, sent_at_least=700, transactions=None, drain_s=None, ended_early=Interrupted("Ctrl-C")
    )
    result = parse(orjson.loads(orjson.dumps(as_document("smoke", load("smoke"), early))))
    assert (result.verdict, result.partial, result.invalid) == ("partial", "Ctrl-C", [])
    assert (result.generator.sent, result.generator.planned, result.transactions.stored) == (700, 2_000, None)
    held = {threshold.name: threshold.held for threshold in result.thresholds}
    assert held.pop("p95_seconds") and not any(held.values())
    assert result.visibility.p95_s == 0.4


def test_a_run_during_which_the_clock_was_set_is_no_result():
    verdict = judge(load("smoke"), replace(GOOD, watched=replace(GOOD.watched, clock_step_s=-3.2)))
    assert verdict.word == "invalid"
    assert verdict.invalid == [
        "this machine's clock was set by -3.200 s during the run, so times before and after do not compare"
    ]


def test_an_engine_that_was_started_anew_makes_no_difference_of_counts():
    before = replace(GOOD.watched.before, started_s=GOOD.watched.before.started_s - 3_600)
    watched = replace(GOOD.watched, before=before)
    parts = as_document("smoke", load("smoke"), replace(GOOD, watched=watched))["parts"]
    assert (parts["inserted"], parts["merged_seconds"], parts["peak"]) == (None, None, 11)


@pytest.mark.parametrize(("limit", "held"), [(11, True), (10, False)])
def test_parts_are_bounded_where_a_workload_says_so(limit, held):
    workload = load("smoke")
    workload = workload.model_copy(update={"thresholds": workload.thresholds.model_copy(update={"parts": limit})})
    [threshold] = [threshold for threshold in judge(workload, GOOD).thresholds if threshold.name == "parts"]
    assert (threshold.measured, threshold.held) == (11, held)
