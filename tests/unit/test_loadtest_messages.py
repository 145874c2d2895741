"""The messages of a run: they obey the topic's contract, follow the schedule, and can be told from all others."""

import json
import math
import re
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pytest

from paystream.loadtest.canary import canaries, is_canary
from paystream.loadtest.defects import DEFECTS
from paystream.loadtest.ids import halves, ids
from paystream.loadtest.messages import (
    RESEND_WITHIN_S,
    contents,
    defects,
    is_duplicate,
    is_malformed,
    is_pending_currency,
    is_unknown_merchant,
    numbers_of,
    originals,
    render,
    roots,
)
from paystream.loadtest.plan import Plan, due, intended_us

DECIMALS = {"KWD": 3, "XOF": 0}
AMOUNT = {0: "[0-9]+", 2: r"[0-9]+\.[0-9]{2}", 3: r"[0-9]+\.[0-9]{3}"}
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
        assert -Decimal(message["amount"]).as_tuple().exponent == DECIMALS.get(message["currency"], 2)
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
    known = [
        (canary, datetime.fromtimestamp(at // 1_000_000, UTC) + timedelta(microseconds=at % 1_000_000))
        for canary, at in canaries(plan)
    ]
    assert known == [(canary, datetime.fromisoformat(at)) for canary, at in expected]


def test_amounts_and_choices_are_spread_as_stated():
    plan = make_plan(messages=100_000, rate_per_second=10_000, duplicate_share=0.0, canaries_per_second=1)
    fields = contents(plan, all_numbers(plan))
    amounts = fields.amount[fields.currency == 0] / 10_000
    assert 24 < np.median(amounts) < 26
    assert 0.02 < np.mean(amounts > 260) < 0.03
    assert 0.74 < np.mean(fields.currency == 0) < 0.76
    share = np.array(list(Counter(fields.merchant_id.tolist()).values())) / plan.messages
    assert len(share) == 50
    assert 0.016 < share.min() < share.max() < 0.024


def test_two_runs_share_no_id():
    first, second = (set(render(make_plan(seed=seed), np.arange(5_000))[0]) for seed in (7, 8))
    assert not first & second


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


MESSY = {
    "duplicate_share": 0.05,
    "malformed_share": 0.05,
    "late_share": 0.1,
    "late_by_us": 3 * 86_400_000_000,
    "state_share": 0.3,
    "out_of_order_share": 0.4,
    "unknown_merchants": [4_000_000_000, 4_000_000_001],
    "unknown_merchant_share": 0.1,
    "pending_currencies": ["KWD", "XOF"],
    "pending_currency_share": 0.1,
    "payload_bytes": 400,
}


def us(text):
    return (datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def is_valid(plan, value):
    """Judge by the topic's contract alone, as strictly as these messages are uniform."""

    def once(pairs):
        if len({name for name, _ in pairs}) < len(pairs):
            raise ValueError
        return dict(pairs)

    try:
        message = json.loads(value, object_pairs_hook=once)
    except ValueError:
        return False
    wanted = {"transaction_id", "merchant_id", "amount", "currency", "status", "created_at", "updated_at", "padding"}
    return (
        isinstance(message, dict)
        and set(message) == wanted
        and isinstance(message["transaction_id"], str)
        and type(message["merchant_id"]) is int
        and 0 < message["merchant_id"] < 2**32
        and isinstance(message["amount"], str)
        and message["currency"] in {*plan.currencies, *plan.pending_currencies}
        and re.fullmatch(AMOUNT[DECIMALS.get(message["currency"], 2)], message["amount"]) is not None
        and message["status"] in plan.statuses
        and message["created_at"][:5] in ("2026-", "2027-")
    )


@pytest.fixture(scope="module")
def messy():
    """A run with everything in it; what it sent, and of what is valid and no duplicate the number and the fields."""
    plan = make_plan(**MESSY)
    keys, values = render(plan, all_numbers(plan))
    first_sent = {}
    for number, value in enumerate(values):
        first_sent.setdefault(value, number)
    new = [(number, json.loads(value)) for value, number in first_sent.items() if is_valid(plan, value)]
    return plan, keys, values, new


def near(count, eligible, share):
    return abs(count - eligible * share) < 5 * math.sqrt(eligible * share * (1 - share))


def test_the_states_of_a_transaction_share_all_but_status_and_updated_at(messy):
    plan, keys, _, new = messy
    states = {}
    for number, message in new:
        assert keys[number].decode() == message["transaction_id"]
        states.setdefault(message["transaction_id"], []).append((number, message))
    further = overtaken = 0
    for told in states.values():
        root_number, root = told[0]
        for field in ("merchant_id", "amount", "currency", "created_at"):
            assert len({message[field] for _, message in told}) == 1
        times = [us(message["updated_at"]) for _, message in told]
        assert len(set(times)) == len(times), "which state is the newest must be beyond doubt"
        assert all(us(root["created_at"]) <= time <= us(root["created_at"]) + 4 * 86_400_000_000 for time in times)
        for (number, message), time in zip(told[1:], times[1:], strict=True):
            sent_us = plan.started_us + number * 1_000_000 // 700
            assert time == sent_us or us(message["created_at"]) < time < times[0]
            assert number - root_number <= RESEND_WITHIN_S * 700 + 200
            further += 1
            overtaken += time < times[0]
    canaries_and_duplicates = np.count_nonzero(
        is_canary(plan, all_numbers(plan)) | is_duplicate(plan, all_numbers(plan))
    )
    assert near(further, plan.messages - canaries_and_duplicates, 0.3)
    assert near(overtaken, further, 0.4)


def test_the_checker_knows_every_field_of_a_messy_run(messy):
    plan, _, _, new = messy
    numbers = np.array([number for number, _ in new])
    known = contents(plan, numbers)
    currencies = [*plan.currencies, *plan.pending_currencies]
    unknown, pending = is_unknown_merchant(plan, numbers), is_pending_currency(plan, numbers)
    by_id = {}
    for place, (number, message) in enumerate(new):
        assert known.merchant_id[place] == message["merchant_id"]
        assert known.amount[place] == Decimal(message["amount"]) * 10_000
        assert currencies[known.currency[place]] == message["currency"]
        assert list(plan.statuses)[known.status[place]] == message["status"]
        assert known.created_us[place] == us(message["created_at"])
        assert known.updated_us[place] == us(message["updated_at"])
        first = by_id.setdefault(message["transaction_id"], number)
        assert roots(plan, np.array([number])).tolist() == [first]
        if first == number:
            assert unknown[place] == (message["merchant_id"] in plan.unknown_merchants)
            assert pending[place] == (message["currency"] in plan.pending_currencies)
    ids_and_numbers = numbers_of(plan, *halves(list(by_id)))
    assert ids_and_numbers.tolist() == list(by_id.values())


def test_canaries_are_ordinary_payments_whatever_else_is_sent(messy):
    plan, _, values, _ = messy
    marked = np.flatnonzero(is_canary(plan, all_numbers(plan))).tolist()
    assert len(marked) == 400
    for number in marked:
        message = json.loads(values[number])
        sent_us = plan.started_us + number * 1_000_000 // 700
        assert us(message["created_at"]) == us(message["updated_at"]) == sent_us
        assert (message["merchant_id"], message["currency"] in plan.currencies) == (plan.canary_merchant, True)


def test_late_and_pending_payments_are_as_many_as_they_should_be(messy):
    plan, _, _, new = messy
    firsts = {}
    for number, message in new:
        firsts.setdefault(message["transaction_id"], (number, message))
    own = [(number, message) for number, message in firsts.values() if not is_canary(plan, np.array([number]))[0]]
    delays = [plan.started_us + number * 1_000_000 // 700 - us(message["updated_at"]) for number, message in own]
    late = [delay for delay in delays if delay]
    assert near(len(late), len(own), 0.1)
    assert min(late) > 0 and 2.5 * 86_400_000_000 < max(late) <= 3 * 86_400_000_000
    assert near(sum(message["merchant_id"] in plan.unknown_merchants for _, message in own), len(own), 0.1)
    assert near(sum(message["currency"] in plan.pending_currencies for _, message in own), len(own), 0.1)


def test_what_is_not_valid_in_a_messy_run_is_what_is_planned_to_be_malformed(messy):
    plan, _, values, _ = messy
    refused = np.array([not is_valid(plan, value) for value in values])
    assert is_malformed(plan, originals(plan, all_numbers(plan))).tolist() == refused.tolist()
    # Further states are never malformed.
    own = np.count_nonzero(~is_duplicate(plan, all_numbers(plan)) & ~is_canary(plan, all_numbers(plan)))
    assert near(np.count_nonzero(refused & ~is_duplicate(plan, all_numbers(plan))), own * 0.7, 0.05)


def test_a_messy_message_does_not_depend_on_those_rendered_with_it(messy):
    plan, keys, values, _ = messy
    for some in (np.arange(9_000, 9_100), np.array([13_999]), np.arange(5_000, 5_500, 7)):
        assert render(plan, some) == ([keys[number] for number in some], [values[number] for number in some])


@pytest.mark.parametrize("size", [0, 100, 230, 400, 100_000])
def test_messages_are_padded_to_the_size_that_was_asked_for(size):
    plan = make_plan(payload_bytes=size)
    _, values = render(plan, np.arange(300))
    _, plain = render(make_plan(), np.arange(300))
    for value, short in zip(values, plain, strict=True):
        # Too little to add a field is left as it is.
        assert len(value) == (size if len(short) + len(',"padding":"x"') <= size else len(short))
        padding = json.loads(value).pop("padding", "")
        assert json.loads(value) == json.loads(short) | ({"padding": padding} if padding else {})
    assert values == [short for short in plain] or len(set(value[-50:] for value in values)) > 200


def test_every_message_may_be_of_a_few_merchants_or_follow_zipfs_law():
    numbers = np.arange(100_000)
    merchants = list(range(1, 1_001))
    base = {"merchants": merchants, "messages": 100_000, "canaries_per_second": 1, "duplicate_share": 0}

    def shares(**changes):
        told = contents(make_plan(**base | changes), numbers).merchant_id
        ordinary = told[~is_canary(make_plan(**base | changes), numbers)]
        return np.bincount(ordinary, minlength=1_001)[1:] / len(ordinary)

    hot = shares(hot_merchants=10, hot_share=0.6)
    assert 0.59 < hot[:10].sum() < 0.61
    assert 0.05 < hot[:10].min() < hot[:10].max() < 0.07
    assert hot[10:].max() < 0.002
    zipf = shares(zipf_exponent=1.0)
    harmonic = sum(1 / place for place in merchants)
    for place in (1, 2, 10, 100):
        assert zipf[place - 1] == pytest.approx(1 / place / harmonic, rel=0.15)
    assert np.count_nonzero(shares()) == 1_000
    few = contents(
        make_plan(merchants=[5, 6], canary_merchant=5, hot_merchants=2, hot_share=0.1, duplicate_share=0), numbers
    )
    assert set(few.merchant_id.tolist()) == {5, 6}
