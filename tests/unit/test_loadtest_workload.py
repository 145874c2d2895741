"""Workload files: what the shipped ones promise, and what a wrong one says."""

import pytest

from loadtest.workload import load, shipped
from paystream.errors import UsageError

MINIMAL = {
    "description": "of a test",
    "rate_per_second": "10",
    "duration_seconds": "5",
    "thresholds": "{p95_seconds: 1}",
}


def written(tmp_path, **changes):
    lines = [f"{name}: {value}" for name, value in (MINIMAL | changes).items() if value is not None]
    file = tmp_path / "mine.yaml"
    file.write_text("\n".join(lines))
    return str(file)


@pytest.mark.parametrize(
    ("name", "rate", "seconds", "duplicates", "malformed"),
    [
        ("demo", 500, 60, 0.01, 0),
        ("poison", 5000, 60, 0, 0.01),
        ("smoke", 200, 10, 0.05, 0),
        ("ten_times", 5000, 60, 0, 0),
        ("today", 500, 60, 0, 0),
    ],
)
def test_shipped_workloads(name, rate, seconds, duplicates, malformed):
    workload = load(name)
    assert name in shipped()
    assert (workload.rate_per_second, workload.duration_seconds) == (rate, seconds)
    assert (workload.duplicate_share, workload.messages) == (duplicates, rate * seconds)
    assert workload.malformed_share == malformed
    thresholds = workload.thresholds
    assert (thresholds.lost, thresholds.duplicated, thresholds.unexpected, thresholds.quarantined) == (0, 0, 0, 0)


def test_a_workload_of_ones_own(tmp_path):
    workload = load(written(tmp_path, currencies="{NOK: 1}"))
    assert (workload.messages, workload.currencies) == (50, {"NOK": 1})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rate_per_secnd": "5"}, "rate_per_secnd: no such field"),
        ({"thresholds": "{p95_seconds: 1, losst: 0}"}, "thresholds.losst: no such field"),
        ({"rate_per_second": None}, "rate_per_second: missing"),
        ({"thresholds": "{}"}, "thresholds.p95_seconds: missing"),
        ({"rate_per_second": "0"}, "rate_per_second: should be greater than or equal to 1 (it is 0)"),
        ({"rate_per_second": "-5"}, "rate_per_second: should be greater than or equal to 1 (it is -5)"),
        ({"rate_per_second": "10000000"}, "rate_per_second: should be less than or equal to 1000000"),
        ({"rate_per_second": "'10'"}, "rate_per_second: should be a valid integer (it is '10')"),
        ({"rate_per_second": "yes"}, "rate_per_second: should be a valid integer (it is True)"),
        ({"duplicate_share": "1.5"}, "duplicate_share: should be less than or equal to 0.9 (it is 1.5)"),
        ({"malformed_share": "0.91"}, "malformed_share: should be less than or equal to 0.9 (it is 0.91)"),
        ({"malformed_share": "-0.1"}, "malformed_share: should be greater than or equal to 0 (it is -0.1)"),
        ({"duplicate_share": ".nan"}, "duplicate_share: should be a finite number"),
        ({"thresholds": "{p95_seconds: .inf}"}, "thresholds.p95_seconds: should be a finite number"),
        ({"currencies": "{}"}, "currencies: Dictionary should have at least 1 item"),
        ({"currencies": "{EUR: 0}"}, "currencies.EUR: should be greater than 0 (it is 0)"),
        ({"rate_per_second": "1000000", "duration_seconds": "86400"}, "above 1,000,000,000 messages"),
        ({"description": "a: b: c"}, "not readable as YAML"),
    ],
)
def test_a_wrong_field_is_named_in_one_line(tmp_path, changes, said):
    file = written(tmp_path, **changes)
    with pytest.raises(UsageError) as caught:
        load(file)
    message = str(caught.value)
    assert message.startswith(f"Workload '{file}': ")
    assert said in message
    assert "\n" not in message


def test_all_wrong_fields_are_named_at_once(tmp_path):
    with pytest.raises(UsageError, match=r"duration_seconds: .*; speed: no such field"):
        load(written(tmp_path, duration_seconds="0", speed="1"))


def test_a_field_given_twice_is_refused(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("rate_per_second: 5\nrate_per_second: 5000\n")
    with pytest.raises(UsageError, match="field 'rate_per_second' appears twice"):
        load(str(file))


@pytest.mark.parametrize("text", ["", "- 1\n- 2\n", "just a sentence"])
def test_a_file_without_fields_is_refused(tmp_path, text):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match="not a list of `field: value` lines"):
        load(str(file))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a: \x00"])
def test_a_file_that_is_not_text_is_refused(tmp_path, content):
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(UsageError, match="not readable as YAML"):
        load(str(file))


@pytest.mark.parametrize("name", ["tomorrow", "absent.yaml", "."])
def test_an_unknown_workload_lists_the_shipped_ones(name):
    with pytest.raises(UsageError, match="demo, poison, smoke, ten_times, today"):
        load(name)
