"""What message number i of a run is: its kind, its fields and its bytes, from the plan and i alone."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from paystream.loadtest import texts
from paystream.loadtest.canary import is_canary
from paystream.loadtest.defects import DEFECTS
from paystream.loadtest.ids import ids, numbers_within
from paystream.loadtest.plan import Numbers, Plan, Purpose, below, fraction, intended_us, random_numbers

RESEND_WITHIN_S = 10
"""A duplicate follows its original, and a further state its transaction, by at most this long at the mean rate."""

LONGEST_OVERTAKING_S = 60
"""Where states overtake each other, a payment is at most so much older than its first message."""

_SHORTEST_OVERTAKING_S = 1
_MOST_BETWEEN_STATES = 500_000
"""Messages. An overtaken state is a microsecond younger than its payment for each message that it is behind the first:
distinct, and within the shortest overtaking."""

PADDING_FIELD = b',"padding":"%b"}'
"""A field that ingest does not know and must ignore."""

TYPICAL_AMOUNT = 25.0
AMOUNT_SPREAD = 1.2
"""Median, and standard deviation of the logarithm, of the amounts: 2.5 % of payments are above 260, one in 65,536
above 4,000. They count minor units, as a currency has them: 25.00 euros, 2500 yen, 2.500 dinars."""

_DEFECT_NAMES = list(DEFECTS)

_VALUE = (
    b'{"transaction_id":"%b","merchant_id":%b,"amount":"%b","currency":"%b","status":"%b",'
    b'"created_at":"%bZ","updated_at":"%bZ"}'
)


@dataclass(frozen=True)
class Contents:
    """The fields that the checker compares. ``amount`` counts units of 1/10,000, ``currency`` is a place in the plan's
    ``all_currencies``, ``status`` one in its statuses, and the times are in microseconds since 1970."""

    merchant_id: NDArray[np.uint32]
    amount: NDArray[np.int64]
    currency: NDArray[np.int64]
    status: NDArray[np.int64]
    created_us: NDArray[np.int64]
    updated_us: NDArray[np.int64]


def is_duplicate(plan: Plan, numbers: Numbers) -> NDArray[np.bool_]:
    """Return which messages repeat an earlier one, byte for byte. Message 0 and canaries never do."""
    chosen = fraction(plan, Purpose.DUPLICATE, numbers) < plan.duplicate_share
    return chosen & (numbers > 0) & ~is_canary(plan, numbers)


def originals(plan: Plan, numbers: Numbers) -> Numbers:
    """Return the number of the message that each one repeats; its own for all that are not duplicates."""
    result = numbers.copy()
    repeats = np.flatnonzero(is_duplicate(plan, numbers))
    if len(repeats):
        result[repeats] = _earlier(plan, Purpose.DISTANCE, numbers[repeats], lambda there: is_duplicate(plan, there))
    return result


def is_state(plan: Plan, numbers: Numbers) -> NDArray[np.bool_]:
    """Return which messages carry a further state of an earlier transaction, of those that are not duplicates."""
    if not plan.state_share:
        return np.zeros(len(numbers), dtype=bool)
    chosen = fraction(plan, Purpose.STATE, numbers) < plan.state_share
    return chosen & (numbers > 0) & ~is_canary(plan, numbers)


def roots(plan: Plan, numbers: Numbers) -> Numbers:
    """Return the number of the message that began each one's transaction: from it are the id, the merchant,
    the amount, the currency and created_at."""
    result = originals(plan, numbers)
    states = np.flatnonzero(is_state(plan, result))
    if len(states):
        result[states] = _earlier(plan, Purpose.ROOT, result[states], lambda there: ~_may_have_states(plan, there))
    return result


def is_overtaken(plan: Plan, numbers: Numbers) -> NDArray[np.bool_]:
    """Return which further states are older than the one that the transaction's first message carried."""
    if not plan.out_of_order_share:
        return np.zeros(len(numbers), dtype=bool)
    chosen = is_state(plan, numbers) & (fraction(plan, Purpose.OVERTAKEN, numbers) < plan.out_of_order_share)
    chosen[chosen] = _made_before_us(plan, roots(plan, numbers[chosen])) > 0
    return chosen


def is_unknown_merchant(plan: Plan, numbers: Numbers) -> NDArray[np.bool_]:
    """Return which transactions, named by their first message, have a merchant that is not loaded."""
    return _chosen(plan, Purpose.UNKNOWN, numbers, plan.unknown_merchant_share)


def is_pending_currency(plan: Plan, numbers: Numbers) -> NDArray[np.bool_]:
    """Return which transactions, named by their first message, have a currency without a rate."""
    return _chosen(plan, Purpose.PENDING, numbers, plan.pending_currency_share)


def is_malformed(plan: Plan, numbers: Numbers) -> NDArray[np.bool_]:
    """Return which messages ingest must refuse, of those that are not duplicates. Canaries and further states never.

    A duplicate of a malformed message is malformed as well, since it repeats the bytes.
    """
    if not plan.malformed_share:
        return np.zeros(len(numbers), dtype=bool)
    refused = _chosen(plan, Purpose.MALFORMED, numbers, plan.malformed_share)
    if plan.state_share:
        # Message 0 stays valid: a further state always has a transaction before it.
        refused &= (numbers > 0) & ~is_state(plan, numbers)
    return refused


def defects(plan: Plan, numbers: Numbers) -> list[str]:
    """Return what is wrong with malformed messages, as the names in ``DEFECTS``."""
    places = below(len(DEFECTS), plan, Purpose.DEFECT, numbers)
    return [_DEFECT_NAMES[place] for place in places.tolist()]


def contents(plan: Plan, numbers: Numbers) -> Contents:
    """Return the fields of messages that are neither duplicates nor malformed."""
    first = roots(plan, numbers)
    created_us, updated_us = _times_us(plan, numbers, first)
    currencies = _currency_places(plan, first)
    decimals = plan.minor_units[currencies]
    return Contents(
        merchant_id=plan.all_merchant_ids[_merchant_places(plan, first)],
        amount=_MINOR_AMOUNTS[_amount_places(plan, first)] * 10 ** (4 - decimals),
        currency=currencies,
        status=_weighted(plan, Purpose.STATUS, numbers, plan.statuses),
        created_us=created_us,
        updated_us=updated_us,
    )


def numbers_of(plan: Plan, upper: NDArray[np.uint64], lower: NDArray[np.uint64]) -> Numbers:
    """Return the numbers of the messages that began these transactions, -1 for an id that none of them has."""
    numbers = numbers_within(plan, upper, lower)
    ours = np.flatnonzero(numbers >= 0)
    # The number of a duplicate or of a further state makes an id too, which is never sent.
    never_sent = is_duplicate(plan, numbers[ours]) | is_state(plan, numbers[ours])
    numbers[ours[never_sent]] = -1
    return numbers


def render(plan: Plan, numbers: Numbers) -> tuple[list[bytes], list[bytes]]:
    """Return the keys and the values of messages, ready to be sent.

    A malformed message has its own transaction id as key too: by it the checker finds it in quarantine.
    """
    source = originals(plan, numbers)
    first = roots(plan, source) if plan.state_share else source
    keys = texts.uuids(*ids(plan, first))
    created_us, updated_us = _times_us(plan, source, first)
    created = texts.times(created_us)
    currencies = _currency_places(plan, first)
    decimals = plan.minor_units[currencies]
    values = [
        _VALUE % fields
        for fields in zip(
            keys,
            plan.merchant_texts[_merchant_places(plan, first)].tolist(),
            _amount_texts(_amount_places(plan, first), decimals),
            _names(plan.all_currencies)[currencies].tolist(),
            _names(plan.statuses)[_weighted(plan, Purpose.STATUS, source, plan.statuses)].tolist(),
            created,
            created if updated_us is created_us else texts.times(updated_us),
            strict=True,
        )
    ]
    if plan.payload_bytes:
        begins = below(texts.PADDING_BYTES - plan.payload_bytes, plan, Purpose.PADDING, source).tolist()
        values = [_padded(value, plan.payload_bytes, begin) for value, begin in zip(values, begins, strict=True)]
    malformed = np.flatnonzero(is_malformed(plan, source))
    for place, defect in zip(malformed.tolist(), defects(plan, source[malformed]), strict=True):
        values[place] = DEFECTS[defect](values[place])
    return keys, values


def _padded(value: bytes, size: int, begin: int) -> bytes:
    missing = size - len(value) - len(PADDING_FIELD % b"") + 1
    if missing < 1:
        return value
    return value[:-1] + PADDING_FIELD % texts.padding()[begin : begin + missing]


def _earlier(plan: Plan, purpose: Purpose, numbers: Numbers, unfit: Callable[[Numbers], NDArray[np.bool_]]) -> Numbers:
    """Return for each number a fit one before it: one at random, or the next fit one below that; 0 is always fit."""
    reach = np.minimum(numbers, min(RESEND_WITHIN_S * plan.rate_per_second, _MOST_BETWEEN_STATES))
    there = numbers - 1 - below(reach, plan, purpose, numbers)
    moving = np.arange(len(there))
    while len(moving := moving[(there[moving] > 0) & unfit(there[moving])]):
        there[moving] -= 1
    return there


def _may_have_states(plan: Plan, numbers: Numbers) -> NDArray[np.bool_]:
    others = is_duplicate(plan, numbers) | is_state(plan, numbers) | is_malformed(plan, numbers)
    return ~others & ~is_canary(plan, numbers)


def _chosen(plan: Plan, purpose: Purpose, numbers: Numbers, share: float) -> NDArray[np.bool_]:
    """Choose a share of all but the canaries."""
    if not share:
        return np.zeros(len(numbers), dtype=bool)
    return (fraction(plan, purpose, numbers) < share) & ~is_canary(plan, numbers)


def _times_us(plan: Plan, numbers: Numbers, first: Numbers) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return created_at and updated_at of messages that are no duplicates, in microseconds since 1970.

    The very same array twice where they are equal.
    """
    first_us = intended_us(plan, first)
    if plan.late_share:
        delays = below(max(1, plan.late_by_us), plan, Purpose.DELAY, first) + 1
        first_us = first_us - np.where(_chosen(plan, Purpose.LATE, first, plan.late_share), delays, 0)
    if not plan.state_share:
        return first_us, first_us
    created_us = first_us - _made_before_us(plan, first)
    updated_us = np.where(is_state(plan, numbers), intended_us(plan, numbers), first_us)
    overtaken = is_overtaken(plan, numbers)
    updated_us[overtaken] = (created_us + numbers - first)[overtaken]
    return created_us, updated_us


def _made_before_us(plan: Plan, first: Numbers) -> NDArray[np.int64]:
    """Return how long before the state of their first message payments were made."""
    if not plan.out_of_order_share:
        return np.zeros(len(first), dtype=np.int64)
    shortest_us, longest_us = _SHORTEST_OVERTAKING_S * 1_000_000, LONGEST_OVERTAKING_S * 1_000_000
    times_us = shortest_us + below(longest_us - shortest_us, plan, Purpose.OVERTAKING, first)
    return np.where(is_canary(plan, first), 0, times_us)


def _merchant_places(plan: Plan, first: Numbers) -> NDArray[np.int64]:
    """Return places in ``Plan.all_merchant_ids``."""
    count = len(plan.merchants)
    if plan.zipf_exponent:
        places = np.searchsorted(plan.zipf_bounds, fraction(plan, Purpose.MERCHANT, first), side="right")
    else:
        places = below(count, plan, Purpose.MERCHANT, first)
    if plan.hot_merchants:
        # Both from the same number: one among the first few, or one of the others.
        few = min(plan.hot_merchants, count)
        many = max(1, count - few)
        hot = (fraction(plan, Purpose.HOT, first) < plan.hot_share) | (few == count)
        places = np.where(hot, places % few, few + places % many)
    if plan.unknown_merchant_share:
        unknown = below(len(plan.unknown_merchants), plan, Purpose.UNKNOWN_PLACE, first)
        places = np.where(is_unknown_merchant(plan, first), count + unknown, places)
    places[is_canary(plan, first)] = count + len(plan.unknown_merchants)
    return places


def _currency_places(plan: Plan, first: Numbers) -> NDArray[np.int64]:
    places = _weighted(plan, Purpose.CURRENCY, first, plan.currencies)
    if plan.pending_currency_share:
        pending = below(len(plan.pending_currencies), plan, Purpose.PENDING_PLACE, first)
        places = np.where(is_pending_currency(plan, first), len(plan.currencies) + pending, places)
    return places


def _amount_places(plan: Plan, numbers: Numbers) -> NDArray[np.int64]:
    return (random_numbers(plan, Purpose.AMOUNT, numbers) >> np.uint64(48)).astype(np.int64)


def _weighted(plan: Plan, purpose: Purpose, numbers: Numbers, weights: dict[str, float]) -> NDArray[np.int64]:
    bounds = np.cumsum(list(weights.values()))
    return np.searchsorted(bounds / bounds[-1], fraction(plan, purpose, numbers), side="right")


def _names(names: Iterable[str]) -> NDArray[np.bytes_]:
    return np.array([name.encode() for name in names])


def _minor_amounts() -> NDArray[np.int64]:
    normal = NormalDist(np.log(TYPICAL_AMOUNT), AMOUNT_SPREAD)
    logarithms = [normal.inv_cdf((place + 0.5) / 65536) for place in range(65536)]
    return np.maximum(1, np.round(np.exp(logarithms) * 100)).astype(np.int64)


# Looked up, not computed by message: vectorised logarithms may differ in the last bit with the length of the array.
_MINOR_AMOUNTS = _minor_amounts()


def _amount_texts(places: NDArray[np.int64], decimals: NDArray[np.int64]) -> list[bytes]:
    amounts = _texts_with(2)[places]
    for other in np.unique(decimals[decimals != 2]).tolist():
        amounts[decimals == other] = _texts_with(other)[places[decimals == other]]
    return amounts.tolist()


@cache
def _texts_with(decimals: int) -> NDArray[np.bytes_]:
    minor = _MINOR_AMOUNTS.tolist()
    if not decimals:
        return np.array([b"%d" % units for units in minor], dtype="S16")
    form = f"%d.%0{decimals}d".encode()
    return np.array([form % divmod(units, 10**decimals) for units in minor], dtype="S16")
