"""`paystream loadtest report A B`: differences, what got worse, and runs that are not comparable."""

import io
import json
import math

import pytest
import results
from rich.console import Console

from paystream.loadtest import report_compare
from paystream.loadtest.report_file import parse


def on_terminal(a, b):
    screen = io.StringIO()
    report_compare.show(Console(file=screen, width=140), parse(a), parse(b))
    return [" ".join(line.split()) for line in screen.getvalue().splitlines()]


def changed(**usage):
    document = results.passing()
    document["usage"] |= usage
    return document


def test_a_run_compared_with_itself_got_no_worse():
    lines = on_terminal(results.passing(), results.passing())
    assert lines[:2] == [
        f"{letter} PASS today: 30,000 messages at 500/s, 2026-03-02 09:15 UTC" for letter in ("A", "B")
    ]
    assert "nothing got worse in B" in lines
    assert not any(line.startswith("!") for line in lines)
    changes = report_compare.changes(parse(results.passing()), parse(results.passing()))
    assert all(change.difference == 0 for change in changes)
    assert {change.ratio for change in changes} == {1.0, None}


def test_each_figure_is_there_with_both_values_and_what_got_worse_is_marked():
    a, b = results.passing(), results.failing()
    lines = on_terminal(a, b)
    assert "! not the same workload: rate_per_second 500 and 5,000" in lines
    assert "lost 0 ✓ at most 0 3 ✗ at most 0 +3 - worse" in lines
    assert "counted twice 0 ✓ at most 0 0 ✓ at most 0 0 -" in lines
    assert "peak 178 48,211 +48,033 × 270.85 worse" in lines
    names = {change.key: change for change in report_compare.changes(parse(a), parse(b))}
    p99 = names["visibility.p99_s"]
    assert p99.difference == pytest.approx(b["visibility"]["p99_s"] - a["visibility"]["p99_s"])
    assert p99.ratio == pytest.approx(b["visibility"]["p99_s"] / a["visibility"]["p99_s"])
    assert p99.worse
    assert not names["usage.peak_memory_bytes"].worse
    backwards = {change.key for change in report_compare.changes(parse(b), parse(a)) if change.worse}
    assert "visibility.p99_s" not in backwards


@pytest.mark.parametrize(
    ("a", "b", "worse"),
    [
        (0.3, 0.329, False),  # 10 % are nothing
        (0.3, 0.331, True),
        (0.01, 0.019, False),  # nor are 10 ms
        (0.3, 0.1, False),
        (0.3, math.inf, True),
        (math.inf, math.inf, False),
        (math.inf, 0.3, False),
        (None, 0.3, False),
        (0.3, None, False),
    ],
)
def test_two_latencies_are_never_the_same(a, b, worse):
    tolerated = (report_compare.TOLERANCE, report_compare.TOLERANCE_S)
    assert report_compare.is_worse(a, b, "more", *tolerated) is worse


def test_one_more_lost_is_worse_however_many_were_lost_before():
    a, b = results.failing(), results.failing()
    next(threshold for threshold in a["thresholds"] if threshold["name"] == "lost")["measured"] = 1_000
    next(threshold for threshold in b["thresholds"] if threshold["name"] == "lost")["measured"] = 1_001
    worse = [change.key for change in report_compare.changes(parse(a), parse(b)) if change.worse]
    assert worse == ["thresholds.lost"]


def test_a_stricter_limit_is_no_other_workload_and_is_seen_beside_the_value():
    a, b = results.passing(), results.passing()
    b["thresholds"][0]["limit"] = b["workload"]["thresholds"]["p95_seconds"] = 0.5
    lines = on_terminal(a, b)
    assert not any(line.startswith("!") for line in lines)
    assert any("✓ at most 0.6 s" in line and "✓ at most 0.5 s" in line for line in lines)


def test_another_machine_and_runs_that_prove_nothing_are_said_to_be_so():
    a, b = results.passing(), results.interrupted()
    b["machine"]["cores"] = 8
    lines = on_terminal(a, b)
    assert any(line.startswith("! not the same machine: cores 2 and 8") for line in lines)
    assert "! B is not a result: ended early: Ctrl-C after 20 s of 60" in lines
    assert any(line.startswith("accepted 29,725 not measured - -") for line in lines)


def test_what_only_one_run_measured_is_listed():
    a, b = parse(changed(cpu_s={"x": 1})), parse(changed(cpu_s={"y": 2}))
    names = {change.key: change for change in report_compare.changes(a, b)}
    assert (names["usage.cpu_s.x"].a, names["usage.cpu_s.x"].b) == (1, None)
    assert (names["usage.cpu_s.y"].a, names["usage.cpu_s.y"].b) == (None, 2)


def test_the_exit_code_tells_only_whether_both_files_could_be_read(own_settings, paystream_here, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(results.passing()))
    (tmp_path / "b.json").write_text(json.dumps(results.failing()))
    files = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    code, out, err = paystream_here(own_settings, "loadtest", "report", *files)
    assert (code, err) == (0, [])
    first, *others = out.splitlines()
    assert first.startswith("comparison a=today b=ten_times verdict_a=pass verdict_b=fail warning=")
    assert "thresholds.lost" in first
    assert "figure name=thresholds.lost a=0 b=3 difference=3 worse=yes" in others
    code, out, err = paystream_here(own_settings, "loadtest", "report", *files, "--json")
    assert (code, err) == (0, [])
    document = json.loads(out)
    assert document["a"]["verdict"] == "pass"
    assert document["differing"] == ["not the same workload: rate_per_second 500 and 5,000"]
    assert {"name": "lag.peak", "unit": "", "a": 178, "b": 48211}.items() <= next(
        figure for figure in document["figures"] if figure["name"] == "lag.peak"
    ).items()
