"""The messages of a run: they obey the topic's contract, follow the schedule, and can be told from all others."""

import json
import math
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pytest

from loadtest.defects import DEFECTS
from loadtest.messages import (
    RESEND_WITHIN_S,
    Plan,
    contents,
    defects,
    due,
    halves,
    ids,
    intended_us,
    is_canary,
    is_duplicate,
    is_malformed,
    numbers_of,
    render,
)
from loadtest.probe import canaries

STARTED = datetime(2026, 12, 31, 23, 59, 50, 123456, tzinfo=UTC)  # the run crosses midnight, and a year


def make_plan(**changes):
    fields = {
        "seed": 20_261_231,
        "rate_per_second": 700,
        "messages": 14_000,
        "duplicate_share": 0.1,
        "canaries_per_second": 20,
        "merchants": list(range(1_000, 1_050)),
        "canary_merchant": 1_007,
        "currencies": {"EUR": 3, "USD": 1},
        "statuses": {"captured": 1, "failed": 1},
        "started_us": int(STARTED.timestamp()) * 1_000_000 + STARTED.microsecond,
    }
    return Plan(**fields | changes)


def all_numbers(plan):
    return np.arange(plan.messages)


@pytest.fixture(scope="module")
def plan():
    return make_plan()


@pytest.fixture(scope="module")
def rendered(plan):
    keys, values = render(plan, all_numbers(plan))
    return [(key.decode(), value, json.loads(value)) for key, value in zip(keys, values, strict=True)]


def test_every_message_obeys_the_contract_of_the_topic(plan, rendered):
    for key, _, message in rendered:
        assert set(message) == {
            "transaction_id", "merchant_id", "amount", "currency", "status", "created_at", "updated_at",
        }  # fmt: skip
        assert key == message["transaction_id"] == str(uuid.UUID(key))
        assert uuid.UUID(key).version == 4
        assert uuid.UUID(key).variant == uuid.RFC_4122
        assert message["merchant_id"] in plan.merchants
        assert Decimal(message["amount"]) > 0
        assert Decimal(message["amount"]).as_tuple().exponent == -2
        assert message["currency"] in plan.currencies
        assert message["status"] in plan.statuses
        assert message["created_at"] == message["updated_at"]


def test_messages_carry_their_intended_send_time(plan, rendered):
    for number in np.flatnonzero(~is_duplicate(plan, all_numbers(plan))).tolist():
        when = STARTED + timedelta(microseconds=number * 1_000_000 // 700)
        assert rendered[number][2]["created_at"] == when.isoformat(timespec="microseconds").replace("+00:00", "Z")


def test_the_schedule_does_not_depend_on_when_it_is_looked_at(plan):
    times = intended_us(plan, all_numbers(plan))
    for now_us in [plan.started_us - 1, plan.started_us, *(times[[1, 77, 13_999]] - 1), *times[[1, 77, 13_999]]]:
        assert due(plan, int(now_us)) == np.count_nonzero(times <= now_us)
    assert due(plan, plan.started_us + 10**12) == plan.messages


def test_a_duplicate_repeats_an_earlier_message_byte_for_byte(plan, rendered):
    first_seen: dict[str, int] = {}
    repeats = []
    for number, (key, value, _) in enumerate(rendered):
        if key in first_seen:
            original = first_seen[key]
            assert rendered[original][1] == value
            repeats.append((number, original))
        else:
            first_seen[key] = number
    assert [number for number, _ in repeats] == np.flatnonzero(is_duplicate(plan, all_numbers(plan))).tolist()
    # 10 % of what is not a canary, within five standard deviations.
    eligible = plan.messages - np.count_nonzero(is_canary(plan, all_numbers(plan)))
    assert abs(len(repeats) - eligible * 0.1) < 5 * math.sqrt(eligible * 0.1 * 0.9)
    distances = [number - original for number, original in repeats]
    assert min(distances) >= 1
    assert RESEND_WITHIN_S * 700 / 2 < max(distances) <= RESEND_WITHIN_S * 700 + 100


def test_the_checker_knows_the_fields_that_are_sent(plan, rendered):
    numbers = np.flatnonzero(~is_duplicate(plan, all_numbers(plan)))
    known = contents(plan, numbers)
    for place, number in enumerate(numbers):
        message = rendered[number][2]
        assert known.merchant_id[place] == message["merchant_id"]
        assert known.amount[place] == Decimal(message["amount"]) * 10_000
        assert list(plan.currencies)[known.currency[place]] == message["currency"]
        assert list(plan.statuses)[known.status[place]] == message["status"]
        for field, times_us in (("created_at", known.created_us), ("updated_at", known.updated_us)):
            at = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=int(times_us[place]))
            assert message[field] == at.isoformat(timespec="microseconds")[:-6] + "Z"


def test_an_id_leads_back_to_its_message_and_no_other_id_does(plan, rendered):
    duplicates = is_duplicate(plan, all_numbers(plan))
    keys = [key for key, _, _ in rendered]
    originals = [number for number in range(plan.messages) if not duplicates[number]]
    assert numbers_of(plan, *halves([keys[number] for number in originals])).tolist() == originals

    strangers = [str(uuid.uuid4()) for _ in range(1_000)] + ["", "not an id", str(uuid.UUID(int=0))]
    strangers += [key.decode() for key in render(make_plan(seed=1), np.arange(1_000))[0]]
    assert set(numbers_of(plan, *halves(strangers)).tolist()) == {-1}
    # One bit away from an id of the run is not one of the run.
    near = [str(uuid.UUID(int=uuid.UUID(keys[0]).int ^ 1 << bit)) for bit in range(128)]
    assert set(numbers_of(plan, *halves(near)).tolist()) == {-1}
    # The id that a duplicate's number would have is never sent, and a number beyond the run has none.
    upper, lower = ids(plan, np.flatnonzero(duplicates))
    assert set(numbers_of(plan, upper, lower).tolist()) == {-1}
    upper, lower = ids(plan, np.array([plan.messages, plan.messages + 5]))
    assert numbers_of(plan, upper, lower).tolist() == [-1, -1]


def test_canaries_are_spread_evenly_and_known_in_advance(plan, rendered):
    marked = np.flatnonzero(is_canary(plan, all_numbers(plan))).tolist()
    assert Counter(number // 35 for number in marked) == dict.fromkeys(range(400), 1)
    assert len({number % 35 for number in marked}) == 35, "every phase of the flush interval is sampled"
    assert {rendered[number][2]["merchant_id"] for number in marked} == {plan.canary_merchant}
    expected = [(uuid.UUID(rendered[number][0]), rendered[number][2]["created_at"]) for number in marked]
    found = [
        (canary, datetime.fromtimestamp(at // 1_000_000, UTC) + timedelta(microseconds=at % 1_000_000))
        for canary, at in canaries(plan)
    ]
    assert found == [(canary, datetime.fromisoformat(at)) for canary, at in expected]


def test_amounts_and_choices_are_spread_as_stated():
    plan = make_plan(messages=100_000, rate_per_second=10_000, duplicate_share=0.0, canaries_per_second=1)
    found = contents(plan, all_numbers(plan))
    amounts = found.amount / 10_000
    assert 24 < np.median(amounts) < 26
    assert 0.02 < np.mean(amounts > 260) < 0.03
    assert 0.74 < np.mean(found.currency == 0) < 0.76
    share = np.array(list(Counter(found.merchant_id.tolist()).values())) / plan.messages
    assert len(share) == 50
    assert 0.016 < share.min() < share.max() < 0.024


def test_two_runs_share_no_id():
    one, other = (set(render(make_plan(seed=seed), np.arange(5_000))[0]) for seed in (7, 8))
    assert not one & other


@pytest.fixture(scope="module")
def poisoned():
    """A run with malformed messages, and those of its numbers whose bytes differ from the run without them."""
    plan = make_plan(malformed_share=0.2)
    keys, values = render(plan, all_numbers(plan))
    clean_keys, clean = render(make_plan(), all_numbers(plan))
    assert keys == clean_keys
    return plan, keys, values, [number for number, value in enumerate(values) if value != clean[number]]


def test_malformed_messages_are_a_share_of_all_but_canaries_and_nothing_else_changes(poisoned):
    plan, _, _, changed = poisoned
    duplicates, marked = is_duplicate(plan, all_numbers(plan)), is_canary(plan, all_numbers(plan))
    assert not marked[changed].any()
    of_their_own = [number for number in changed if not duplicates[number]]
    own = all_numbers(plan)[~duplicates]
    assert own[is_malformed(plan, own)].tolist() == of_their_own
    eligible = np.count_nonzero(~duplicates & ~marked)
    assert abs(len(of_their_own) - eligible * 0.2) < 5 * math.sqrt(eligible * 0.2 * 0.8)


def test_a_duplicate_of_a_malformed_message_repeats_it_byte_for_byte(poisoned):
    plan, keys, values, changed = poisoned
    first: dict[bytes, bytes] = {}
    assert all(first.setdefault(key, value) == value for key, value in zip(keys, values, strict=True))
    assert 100 < np.count_nonzero(is_duplicate(plan, np.array(changed))) < len(changed) / 4


def test_a_malformed_message_is_found_again_by_its_key(poisoned):
    plan, keys, _, changed = poisoned
    own = [number for number in changed if not is_duplicate(plan, np.array([number]))[0]]
    assert numbers_of(plan, *halves([keys[number].decode() for number in own])).tolist() == own


def test_each_defect_is_used_as_often_as_the_others_and_leaves_a_message_that_kafka_takes(poisoned):
    plan, _, values, changed = poisoned
    own = [number for number in changed if not is_duplicate(plan, np.array([number]))[0]]
    used = Counter(defects(plan, np.array(own)))
    assert used.keys() == DEFECTS.keys()
    typical = len(own) / len(DEFECTS)
    assert all(abs(count - typical) < 5 * math.sqrt(typical) for count in used.values())
    assert all(0 < len(values[number]) < 10_000 for number in changed)


def test_a_message_does_not_depend_on_those_rendered_with_it(poisoned):
    plan, keys, values, changed = poisoned
    some = np.array(changed[:200])
    assert render(plan, some) == ([keys[number] for number in some], [values[number] for number in some])
