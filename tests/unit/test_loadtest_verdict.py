"""Percentiles and the verdict: when a run passes, fails, or is no result."""

import io
import math
import random
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from rich.console import Console

from loadtest.checker import Found
from loadtest.generator import Sent, _Lateness
from loadtest.probe import Seen, percentile
from loadtest.run import Result
from loadtest.usage import Usage
from loadtest.verdict import as_dict, as_fields, judge, show
from loadtest.workload import load

GOOD = Result(
    started_at=datetime(2026, 1, 1, tzinfo=UTC),
    seed=1,
    sent=Sent(
        sent=2_000, planned=2_000, rejected_keys=[], first_error="", queue_full=0,
        lateness_p50_s=0.001, lateness_p99_s=0.01, lateness_max_s=0.02, cpu_s=1.0,
    ),
    seen=Seen(latencies_s=[0.1, 0.2, 0.3, 0.4], never_seen=0, query_p95_s=0.004, queries=99, failed_queries=0),
    found=Found(
        accepted=1_900, stored=1_900, lost=0, duplicated=0, unexpected=0, altered=0, recovered=0,
        malformed_messages=0, refused_as_planned=0, quarantined=0, quarantine_reasons={},
        money={"EUR": (123_400, 123_400)}, enrichment={"ok": 1_800, "fx_provisional": 100},
        duplicate_messages=100, foreign_messages=0, rows_before_final=1_950, duplicate_rows_before_final=50,
    ),
    drain_s=0.4,
    peak_lag=77,
    usage=Usage(600 << 20, {"broker": 200 << 20, "clickhouse": 400 << 20}, {"broker": 3.0}, 0.1, 0.5),
)  # fmt: skip


def with_found(**changes):
    return replace(GOOD, found=replace(GOOD.found, **changes))


def with_sent(**changes):
    return replace(GOOD, sent=replace(GOOD.sent, **changes))


def with_latencies(latencies):
    return replace(GOOD, seen=replace(GOOD.seen, latencies_s=latencies))


def test_percentile_is_the_nearest_rank():
    values = [15, 20, 35, 40, 50]  # the worked example of the method in the literature
    assert [percentile(values, percent) for percent in (5, 30, 40, 50, 100)] == [15, 20, 20, 35, 50]
    hundred = list(range(1, 101))
    random.Random(1).shuffle(hundred)
    assert [percentile(hundred, percent) for percent in (50, 95, 99, 100)] == [50, 95, 99, 100]
    assert percentile([7], 95) == 7
    assert math.isnan(percentile([], 95))


def test_canaries_that_never_show_count_as_infinitely_late():
    assert percentile([0.1] * 94 + [math.inf] * 6, 95) == math.inf
    assert percentile([0.1] * 95 + [math.inf] * 5, 95) == 0.1


def test_lateness_is_counted_in_bounded_memory_and_never_understated():
    late_us = np.random.default_rng(3).integers(-500, 3_000_000, 10_000)
    lateness = _Lateness()
    for part in np.array_split(late_us, 7):
        lateness.add(part)
    exact = sorted(late_us.tolist())[9_899] / 1e6
    assert exact <= lateness.percentile_s(99) <= exact + 0.001
    assert lateness.longest_us == late_us.max()


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
        (with_latencies([]), "p95_seconds"),
    ],
)
def test_each_threshold_can_fail_a_run(result, broken):
    verdict = judge(load("smoke"), result)
    assert verdict.word == "fail"
    assert [threshold.name for threshold in verdict.thresholds if not threshold.held] == [broken]
    assert as_fields("smoke", result, verdict)["broken"] == broken
    document = as_dict("smoke", load("smoke"), result, verdict)
    assert [one["name"] for one in document["thresholds"] if not one["held"]] == [broken]
    assert document["verdict"] == "fail"


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
    assert reason in as_fields("smoke", result, verdict)["invalid"]


def test_a_person_sees_the_thresholds_first_with_what_was_measured():
    result = with_found(lost=3, money={"EUR": (123_400, 100_000)})
    screen = io.StringIO()
    show(Console(file=screen, width=100), "smoke", load("smoke"), result, judge(load("smoke"), result))
    lines = screen.getvalue().splitlines()
    assert lines[0].startswith("FAIL  smoke: 2,000 messages at 200/s")
    assert [" ".join(line.split()) for line in lines[1:4]] == [
        "✓ payment to queryable row, 95th percentile 0.4 s at most 5 s",
        "✗ lost 3 at most 0",
        "✓ counted twice 0 at most 0",
    ]
    assert any("sum EUR" in line and "12.3400 sent" in line and "10.0000 stored" in line for line in lines)


def test_malformed_messages_that_were_refused_and_recovered_transactions_break_nothing_and_are_shown():
    result = with_found(
        malformed_messages=1_040, refused_as_planned=1_039, quarantine_reasons={"not_json": 1_039}, recovered=7
    )
    workload = load("smoke")
    verdict = judge(workload, result)
    assert verdict.word == "pass"
    screen = io.StringIO()
    show(Console(file=screen, width=100), "smoke", workload, result, verdict)
    lines = [" ".join(line.split()) for line in screen.getvalue().splitlines()]
    assert "malformed 1,040 sent 1,039 refused as planned, byte for byte" in lines
    assert "recovered 7 not confirmed by the broker, yet stored" in lines
    fields = as_fields("smoke", result, verdict)
    assert (fields["malformed_messages"], fields["refused_as_planned"], fields["recovered"]) == (1_040, 1_039, 7)
    assert fields["quarantined"] == 0
    document = as_dict("smoke", workload, result, verdict)
    names = ("malformed_messages", "refused_as_planned", "recovered", "quarantined")
    assert [document["transactions"][name] for name in names] == [1_040, 1_039, 7, 0]
    assert set(names) <= document["definitions"].keys()

    screen = io.StringIO()
    show(Console(file=screen, width=100), "smoke", workload, GOOD, judge(workload, GOOD))
    assert "malformed" not in screen.getvalue()
    assert "recovered" not in screen.getvalue()
