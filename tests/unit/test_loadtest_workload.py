"""Workload files: what the shipped ones promise, and what a wrong one says."""

import pytest

from paystream.errors import UsageError
from paystream.loadtest.workload import load, plan_of, shipped

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
        ("hundred_times", 50000, 60, 0, 0),
        ("poison", 5000, 60, 0, 0.01),
        ("smoke", 200, 10, 0.05, 0),
        ("soak", 5000, 3600, 0.001, 0),
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


def test_the_shipped_day_keeps_its_promises():
    workload = load("daily")
    rates = workload.second_rates
    assert len(rates) == 600 and sum(rates) == workload.messages == 1_200_000
    assert 5_990 <= max(rates) <= 6_000 and 0 < min(rates) < 200
    assert workload.rate_text == f"{min(rates)} to {max(rates):,}/s"


@pytest.mark.parametrize(
    ("shape", "rates"),
    [
        ("{kind: ramp, to_per_second: 50}", [10, 20, 30, 40, 50]),
        ("{kind: steps, steps: [{after_seconds: 1, rate_per_second: 3}, {after_seconds: 4, rate_per_second: 1}]}",
         [10, 3, 3, 3, 1]),
        ("{kind: daily, peak_to_average: 1}", [10, 10, 10, 10, 10]),
        ("{kind: burst, burst_per_second: 99, every_seconds: 2, for_seconds: 1}", [10, 99, 10, 99, 10]),
    ],
    ids=["ramp", "steps", "daily", "burst"],
)  # fmt: skip
def test_a_shape_decides_what_each_second_sends(tmp_path, shape, rates):
    workload = load(written(tmp_path, shape=shape))
    plan = plan_of(workload, 1, [7], 7, [])
    assert plan.second_rates == rates
    assert workload.messages == plan.messages == sum(rates)
    assert plan.rate_per_second == sum(rates) // 5


def test_a_plan_holds_what_its_workload_says(tmp_path):
    fields = {
        "hot_merchants": "{count: 2, share: 0.5}", "late_share": 0.1, "late_by_seconds": 60, "state_share": 0.2,
        "out_of_order_share": 1, "unknown_merchant_share": 0.3, "pending_currency_share": 0.4, "payload_bytes": 300,
    }  # fmt: skip
    workload = load(written(tmp_path, **fields))
    plan = plan_of(workload, 1, [1, 2, 2**32 - 1], 1, ["KES"])
    assert (plan.hot_merchants, plan.hot_share, plan.zipf_exponent) == (2, 0.5, 0)
    assert (plan.late_share, plan.late_by_us, plan.state_share, plan.out_of_order_share) == (0.1, 60_000_000, 0.2, 1)
    assert (plan.pending_currencies, plan.pending_currency_share, plan.payload_bytes) == (["KES"], 0.4, 300)
    assert plan.unknown_merchants[:2] == [2**32 - 2, 2**32 - 3] and plan.unknown_merchant_share == 0.3
    assert workload.oldest_s == 120
    plain = plan_of(load(written(tmp_path)), 1, [1, 2], 1, ["KES"])
    assert (plain.unknown_merchants, plain.pending_currencies, plain.second_rates) == ([], [], [])


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
        (
            {"shape": "{kind: wave}"},
            "shape: Input tag 'wave' found using 'kind' does not match any of the expected tags",
        ),
        ({"shape": "{kind: ramp}"}, "shape.ramp.to_per_second: missing"),
        ({"shape": "{kind: ramp, to_per_second: 0}"}, "shape.ramp.to_per_second: should be greater than or equal to 1"),
        ({"shape": "{kind: ramp, to: 5}"}, "shape.ramp.to: no such field"),
        (
            {"shape": "{kind: steps, steps: [{after_seconds: 5, rate_per_second: 1}]}"},
            "shape.steps: after_seconds must",
        ),
        (
            {"shape": "{kind: daily, peak_to_average: 0.5}"},
            "shape.daily.peak_to_average: should be greater than or equal",
        ),
        (
            {"shape": "{kind: daily, peak_to_average: 2}", "rate_per_second": "600000"},
            "shape.peak_to_average: the peak would be above 1,000,000 a second",
        ),
        (
            {"shape": "{kind: burst, burst_per_second: 9, every_seconds: 5, for_seconds: 5}"},
            "shape.for_seconds: must be less than every_seconds",
        ),
        (
            {"shape": "{kind: ramp, to_per_second: 1000000}", "duration_seconds": "86400"},
            "shape: its rates make more than 1,000,000,000 messages",
        ),
        ({"payload_bytes": "200000"}, "payload_bytes: should be less than or equal to 100000"),
        ({"hot_merchants": "{count: 5}"}, "hot_merchants.share: missing"),
        ({"hot_merchants": "{count: 5, share: 0.5}", "zipf_exponent": "1"}, "hot_merchants and zipf_exponent: one or"),
        ({"late_share": "0.5"}, "late_share and late_by_seconds: both or neither"),
        ({"late_share": "0.5", "late_by_seconds": "300000000"}, "late_by_seconds: should be less than or equal to"),
        ({"out_of_order_share": "0.5"}, "out_of_order_share: is of the messages that state_share chooses, which is 0"),
        ({"state_share": "1"}, "state_share: should be less than or equal to 0.9 (it is 1)"),
        ({"unknown_merchant_share": "-1"}, "unknown_merchant_share: should be greater than or equal to 0 (it is -1)"),
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
    with pytest.raises(UsageError, match="daily, demo, hundred_times, poison, smoke, soak, ten_times, today"):
        load(name)
