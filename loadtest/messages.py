"""What message number i of a run is: a pure function of the run's seed, so nothing needs to be remembered.

The generator renders messages from it, the probe knows from it which ids to look for, and the checker turns a stored
id back into its number. A run of any length is therefore checked exactly, in one byte a message.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from statistics import NormalDist
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from paystream.currencies import MINOR_UNITS
from paystream.loadtest import texts
from paystream.loadtest.defects import DEFECTS

Numbers = NDArray[np.int64]
"""Numbers of messages within a run, from 0, in the order of their intended send times."""

RESEND_WITHIN_S = 10
"""A duplicate follows its original, and a further state its transaction, by at most this long at the mean rate."""

LONGEST_OVERTAKING_S = 60
"""Where states overtake each other, a payment was made up to so long before its first message says so."""

_SHORTEST_OVERTAKING_S = 1
_MOST_BETWEEN_STATES = 500_000
"""Messages. An overtaken state is as many microseconds younger than its payment as it is messages behind the first one:
distinct, and within the shortest time that there is."""

PADDING_FIELD = b',"padding":"%b"}'
"""A field that ingest does not know and must ignore."""

TYPICAL_AMOUNT = 25.0
AMOUNT_SPREAD = 1.2
"""Median, and standard deviation of the logarithm, of the amounts: 2.5 % of payments are above 260, one in 65,536
above 4,000. They count minor units, as a currency has them: 25.00 euros, 2500 yen, 2.500 dinars."""

_M60 = (1 << 60) - 1
_M62 = (1 << 62) - 1
_M64 = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_ROUNDS = (0xBF58476D1CE4E5B, 0x94D049BB133111B, 0x9E3779B97F4A7C1)
_DUPLICATE, _DISTANCE, _CANARY, _MERCHANT, _AMOUNT, _CURRENCY, _STATUS, _CHECK, _MALFORMED, _DEFECT = range(10)
_LATE, _DELAY, _STATE, _ROOT, _OVERTAKEN, _OVERTAKING, _HOT, _UNKNOWN, _UNKNOWN_PLACE = range(10, 19)
_PENDING, _PENDING_PLACE, _PADDING = range(19, 22)

_DEFECT_NAMES = list(DEFECTS)

_VALUE = (
    b'{"transaction_id":"%b","merchant_id":%b,"amount":"%b","currency":"%b","status":"%b",'
    b'"created_at":"%bZ","updated_at":"%bZ"}'
)


@dataclass(frozen=True)
class Plan:
    """Everything that decides the bytes and the intended send time of each message of one run.

    Attributes:
        rate_per_second: of all messages: duplicates, malformed ones and canaries included; the mean where it varies.
        second_rates: how many messages each second sends; empty where the rate is constant.
        merchants: ids that are loaded; with ``hot_merchants``, so many of the first get ``hot_share`` of the payments.
        zipf_exponent: the merchant at place k of ``merchants``, counted from 1, gets a share as 1 / k to this power.
        late_by_us: late payments were made up to so long before they are sent.
        state_share: messages that tell of a further state of an earlier transaction.
        out_of_order_share: of those, the ones whose state is older than that of the transaction's first message.
        unknown_merchants: ids that are not loaded, which ``unknown_merchant_share`` of the payments name.
        pending_currencies: codes that have no rate, which ``pending_currency_share`` of the payments are in.
        payload_bytes: the least size of a valid message's value, reached by padding.
        started_us: the intended send time of message 0, in microseconds since 1970.
    """

    seed: int
    rate_per_second: int
    messages: int
    duplicate_share: float
    canaries_per_second: int
    merchants: list[int]
    canary_merchant: int
    currencies: dict[str, float]
    statuses: dict[str, float]
    malformed_share: float = 0.0
    started_us: int = 0
    second_rates: list[int] = field(default_factory=list)
    hot_merchants: int = 0
    hot_share: float = 0.0
    zipf_exponent: float = 0.0
    late_share: float = 0.0
    late_by_us: int = 0
    state_share: float = 0.0
    out_of_order_share: float = 0.0
    unknown_merchants: list[int] = field(default_factory=list)
    unknown_merchant_share: float = 0.0
    pending_currencies: list[str] = field(default_factory=list)
    pending_currency_share: float = 0.0
    payload_bytes: int = 0

    @property
    def peak_rate(self) -> int:
        """Return the highest number of messages in a second."""
        return max(self.second_rates, default=self.rate_per_second)

    @property
    def all_currencies(self) -> list[str]:
        """Return the currencies that ``Contents.currency`` counts."""
        return [*self.currencies, *self.pending_currencies]

    @cached_property
    def canary_stride(self) -> int:
        """Return how many messages share one canary, which is at a random place among them.

        At a fixed place, canaries would keep step with the pipeline's flush interval and sample one phase of it.
        """
        return max(1, self.rate_per_second // self.canaries_per_second)

    @cached_property
    def merchant_ids(self) -> NDArray[np.uint32]:
        """Return the merchants as an array."""
        return np.array(self.merchants, dtype=np.uint32)

    @cached_property
    def _all_merchant_ids(self) -> NDArray[np.uint32]:
        return np.array([*self.merchants, *self.unknown_merchants, self.canary_merchant], dtype=np.uint32)

    @cached_property
    def _merchant_texts(self) -> NDArray[np.bytes_]:
        return self._all_merchant_ids.astype("S10")

    @cached_property
    def _minor_units(self) -> NDArray[np.int64]:
        """The decimals of each of ``all_currencies``."""
        return np.array([MINOR_UNITS.get(code, 2) for code in self.all_currencies])

    @cached_property
    def _zipf_bounds(self) -> NDArray[np.float64]:
        bounds = np.cumsum(np.arange(1, len(self.merchants) + 1) ** -self.zipf_exponent)
        return bounds / bounds[-1]

    @cached_property
    def _rates(self) -> NDArray[np.int64]:
        """The rate of each second, and one more for what lies beyond the end."""
        return np.array([*self.second_rates, 1], dtype=np.int64)

    @cached_property
    def _sent_before(self) -> NDArray[np.int64]:
        """How many messages are to be sent before each second, and before the end."""
        return np.concatenate(([0], np.cumsum(self._rates[:-1])))

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, for another process to make the same plan from."""
        return asdict(self)


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


def intended_us(plan: Plan, numbers: Numbers) -> NDArray[np.int64]:
    """Return the intended send times, in microseconds since 1970."""
    if not plan.second_rates:
        return plan.started_us + numbers * 1_000_000 // plan.rate_per_second
    # A second without messages has the same count before it as the next, which is the one to find: hence "right".
    seconds = np.searchsorted(plan._sent_before, numbers, side="right") - 1
    within_us = (numbers - plan._sent_before[seconds]) * 1_000_000 // plan._rates[seconds]
    return plan.started_us + seconds * 1_000_000 + within_us


def last_intended_us(plan: Plan, sent: int) -> int:
    """Return when the last of so many messages was to be sent, in microseconds since 1970."""
    return int(intended_us(plan, np.array([sent - 1]))[0])


def due(plan: Plan, now_us: int) -> int:
    """Return how many messages should have been sent by now."""
    elapsed_us = now_us - plan.started_us
    if elapsed_us < 0:
        return 0
    before, rate, count = 0, plan.rate_per_second, plan.messages
    if plan.second_rates:
        second, elapsed_us = divmod(elapsed_us, 1_000_000)
        if second >= len(plan.second_rates):
            return plan.messages
        rate = count = plan.second_rates[second]
        before = int(plan._sent_before[second])
    # The smallest count whose next message is intended after this microsecond; the rounding is that of intended_us.
    return before + min(count, -(-(elapsed_us + 1) * rate // 1_000_000))


def is_canary(plan: Plan, numbers: Numbers) -> NDArray[np.bool_]:
    """Return which messages are canaries."""
    stride = plan.canary_stride
    place = (_random(plan, _CANARY, numbers // stride) % np.uint64(stride)).astype(np.int64)
    return numbers % stride == place


def is_duplicate(plan: Plan, numbers: Numbers) -> NDArray[np.bool_]:
    """Return which messages repeat an earlier one, byte for byte. Message 0 and canaries never do."""
    chosen = _fraction(plan, _DUPLICATE, numbers) < plan.duplicate_share
    return chosen & (numbers > 0) & ~is_canary(plan, numbers)


def originals(plan: Plan, numbers: Numbers) -> Numbers:
    """Return the number of the message that each one repeats; its own for all that are not duplicates."""
    result = numbers.copy()
    repeats = np.flatnonzero(is_duplicate(plan, numbers))
    if len(repeats):
        result[repeats] = _earlier(plan, _DISTANCE, numbers[repeats], lambda there: is_duplicate(plan, there))
    return result


def is_state(plan: Plan, numbers: Numbers) -> NDArray[np.bool_]:
    """Return which messages tell of a further state of an earlier transaction, of those that are not duplicates."""
    if not plan.state_share:
        return np.zeros(len(numbers), dtype=bool)
    chosen = _fraction(plan, _STATE, numbers) < plan.state_share
    return chosen & (numbers > 0) & ~is_canary(plan, numbers)


def roots(plan: Plan, numbers: Numbers) -> Numbers:
    """Return the number of the message that first tells of each one's transaction: from it are the id, the merchant,
    the amount, the currency and created_at."""
    result = originals(plan, numbers)
    states = np.flatnonzero(is_state(plan, result))
    if len(states):
        result[states] = _earlier(plan, _ROOT, result[states], lambda there: ~_may_have_states(plan, there))
    return result


def is_overtaken(plan: Plan, numbers: Numbers) -> NDArray[np.bool_]:
    """Return which further states are older than the one that the transaction's first message told of."""
    if not plan.out_of_order_share:
        return np.zeros(len(numbers), dtype=bool)
    chosen = is_state(plan, numbers) & (_fraction(plan, _OVERTAKEN, numbers) < plan.out_of_order_share)
    chosen[chosen] = _made_before_us(plan, roots(plan, numbers[chosen])) > 0
    return chosen


def is_unknown_merchant(plan: Plan, numbers: Numbers) -> NDArray[np.bool_]:
    """Return whose merchant is not loaded, by the message that first tells of a transaction."""
    return _chosen(plan, _UNKNOWN, numbers, plan.unknown_merchant_share)


def is_pending_currency(plan: Plan, numbers: Numbers) -> NDArray[np.bool_]:
    """Return whose currency has no rate, by the message that first tells of a transaction."""
    return _chosen(plan, _PENDING, numbers, plan.pending_currency_share)


def is_malformed(plan: Plan, numbers: Numbers) -> NDArray[np.bool_]:
    """Return which messages ingest must refuse, of those that are not duplicates. Canaries and further states never.

    A duplicate of a malformed message is malformed as well, since it repeats the bytes.
    """
    if not plan.malformed_share:
        return np.zeros(len(numbers), dtype=bool)
    refused = _chosen(plan, _MALFORMED, numbers, plan.malformed_share)
    if plan.state_share:
        # Message 0 is what the first of the states can be of.
        refused &= (numbers > 0) & ~is_state(plan, numbers)
    return refused


def defects(plan: Plan, numbers: Numbers) -> list[str]:
    """Return what is wrong with malformed messages, as the names in ``DEFECTS``."""
    places = _random(plan, _DEFECT, numbers) % np.uint64(len(DEFECTS))
    return [_DEFECT_NAMES[place] for place in places.tolist()]


def contents(plan: Plan, numbers: Numbers) -> Contents:
    """Return the fields of messages that are neither duplicates nor malformed."""
    first = roots(plan, numbers)
    created_us, updated_us = _times_us(plan, numbers, first)
    currencies = _currency_places(plan, first)
    decimals = plan._minor_units[currencies]
    return Contents(
        merchant_id=plan._all_merchant_ids[_merchant_places(plan, first)],
        amount=_MINOR_AMOUNTS[_amount_places(plan, first)] * 10 ** (4 - decimals),
        currency=currencies,
        status=_weighted(plan, _STATUS, numbers, plan.statuses),
        created_us=created_us,
        updated_us=updated_us,
    )


def halves_sql(uuid: str) -> tuple[str, str]:
    """Return the SQL of the two halves of a UUID, as ``ids`` gives them."""
    upper, lower = (f"byteSwap(reinterpretAsUInt64(substring(UUIDToNum({uuid}), {at}, 8)))" for at in (1, 9))
    return upper, lower


def ids(plan: Plan, numbers: Numbers) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return the transaction ids that messages with these roots carry, as the two halves of version 4 UUIDs.

    The 60 free bits of the upper half are the number, scrambled by a bijection; the 62 of the lower half are a check
    value of it, so that ``numbers_of`` takes no other id for one of this run.
    """
    scrambled = (numbers.astype(np.uint64) + np.uint64(plan.seed & _M60)) & np.uint64(_M60)
    for multiplier in _ROUNDS:
        scrambled = (scrambled * np.uint64(multiplier)) & np.uint64(_M60)
        scrambled ^= scrambled >> np.uint64(30)
    upper = ((scrambled >> np.uint64(12)) << np.uint64(16)) | np.uint64(0x4000) | (scrambled & np.uint64(0xFFF))
    return upper, _lower_halves(plan, numbers)


def numbers_of(plan: Plan, upper: NDArray[np.uint64], lower: NDArray[np.uint64]) -> Numbers:
    """Return the numbers of the messages that first told of these transactions, -1 for an id not of this run."""
    scrambled = ((upper >> np.uint64(16)) << np.uint64(12)) | (upper & np.uint64(0xFFF))
    for multiplier in reversed(_ROUNDS):
        scrambled = scrambled ^ (scrambled >> np.uint64(30))
        scrambled = (scrambled * np.uint64(pow(multiplier, -1, 1 << 60))) & np.uint64(_M60)
    numbers = ((scrambled - np.uint64(plan.seed & _M60)) & np.uint64(_M60)).astype(np.int64)
    ours = (upper >> np.uint64(12)) & np.uint64(0xF) == 4
    ours &= (numbers < plan.messages) & (lower == _lower_halves(plan, numbers))
    numbers[~ours] = -1
    # The bijection gives the number of a duplicate or a further state an id too, which is never sent.
    found = numbers[ours]
    numbers[ours] = np.where(is_duplicate(plan, found) | is_state(plan, found), -1, found)
    return numbers


def id_of(upper: int, lower: int) -> UUID:
    """Put the two halves of an id together."""
    return UUID(int=int(upper) << 64 | int(lower))


def halves(texts: list[str]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Take ids as text apart; what is not a UUID becomes the nil one, which no run contains."""
    values = []
    for text in texts:
        try:
            values.append(UUID(text).int)
        except ValueError:
            values.append(0)
    upper = np.array([value >> 64 for value in values], dtype=np.uint64)
    return upper, np.array([value & _M64 for value in values], dtype=np.uint64)


def render(plan: Plan, numbers: Numbers) -> tuple[list[bytes], list[bytes]]:
    """Return the keys and the values of messages, ready to be sent.

    A malformed message has its own transaction id as key too: by it the checker finds it in quarantine.
    """
    told = originals(plan, numbers)
    first = roots(plan, told) if plan.state_share else told
    keys = texts.uuids(*ids(plan, first))
    created_us, updated_us = _times_us(plan, told, first)
    created = texts.times(created_us)
    currencies = _currency_places(plan, first)
    decimals = plan._minor_units[currencies]
    values = [
        _VALUE % fields
        for fields in zip(
            keys,
            plan._merchant_texts[_merchant_places(plan, first)].tolist(),
            _amount_texts(_amount_places(plan, first), decimals),
            _names(plan.all_currencies)[currencies].tolist(),
            _names(plan.statuses)[_weighted(plan, _STATUS, told, plan.statuses)].tolist(),
            created,
            created if updated_us is created_us else texts.times(updated_us),
            strict=True,
        )
    ]
    if plan.payload_bytes:
        begins = (_random(plan, _PADDING, told) % np.uint64(texts.PADDING_BYTES - plan.payload_bytes)).tolist()
        values = [_padded(value, plan.payload_bytes, begin) for value, begin in zip(values, begins, strict=True)]
    malformed = np.flatnonzero(is_malformed(plan, told))
    for place, defect in zip(malformed.tolist(), defects(plan, told[malformed]), strict=True):
        values[place] = DEFECTS[defect](values[place])
    return keys, values


def _padded(value: bytes, size: int, begin: int) -> bytes:
    missing = size - len(value) - len(PADDING_FIELD % b"") + 1
    if missing < 1:
        return value
    return value[:-1] + PADDING_FIELD % texts.padding()[begin : begin + missing]


def _earlier(plan: Plan, purpose: int, numbers: Numbers, unfit: Callable[[Numbers], NDArray[np.bool_]]) -> Numbers:
    """Return for each number a fit one before it, chosen at random and then the next below; 0 is always fit."""
    reach = np.minimum(numbers, min(RESEND_WITHIN_S * plan.rate_per_second, _MOST_BETWEEN_STATES)).astype(np.uint64)
    there = numbers - 1 - (_random(plan, purpose, numbers) % reach).astype(np.int64)
    moving = np.arange(len(there))
    while len(moving := moving[(there[moving] > 0) & unfit(there[moving])]):
        there[moving] -= 1
    return there


def _may_have_states(plan: Plan, numbers: Numbers) -> NDArray[np.bool_]:
    others = is_duplicate(plan, numbers) | is_state(plan, numbers) | is_malformed(plan, numbers)
    return ~others & ~is_canary(plan, numbers)


def _chosen(plan: Plan, purpose: int, numbers: Numbers, share: float) -> NDArray[np.bool_]:
    """Choose a share of all but the canaries."""
    if not share:
        return np.zeros(len(numbers), dtype=bool)
    return (_fraction(plan, purpose, numbers) < share) & ~is_canary(plan, numbers)


def _times_us(plan: Plan, numbers: Numbers, first: Numbers) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return created_at and updated_at of messages that are no duplicates, in microseconds since 1970.

    The very same array twice where they are equal.
    """
    first_us = intended_us(plan, first)
    if plan.late_share:
        delays = _random(plan, _DELAY, first) % np.uint64(max(1, plan.late_by_us)) + np.uint64(1)
        first_us = first_us - np.where(_chosen(plan, _LATE, first, plan.late_share), delays.astype(np.int64), 0)
    if not plan.state_share:
        return first_us, first_us
    created_us = first_us - _made_before_us(plan, first)
    updated_us = np.where(is_state(plan, numbers), intended_us(plan, numbers), first_us)
    overtaken = is_overtaken(plan, numbers)
    updated_us[overtaken] = (created_us + numbers - first)[overtaken]
    return created_us, updated_us


def _made_before_us(plan: Plan, first: Numbers) -> NDArray[np.int64]:
    """Return by how long payments were made before the state of their first message was reached."""
    if not plan.out_of_order_share:
        return np.zeros(len(first), dtype=np.int64)
    seconds = np.uint64(LONGEST_OVERTAKING_S - _SHORTEST_OVERTAKING_S)
    times_us = _random(plan, _OVERTAKING, first) % (seconds * np.uint64(1_000_000))
    times_us += np.uint64(_SHORTEST_OVERTAKING_S * 1_000_000)
    return np.where(is_canary(plan, first), 0, times_us.astype(np.int64))


def _random(plan: Plan, purpose: int, numbers: Numbers) -> NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea, Flood 2014), started at a place of its own for each purpose."""
    start = ((plan.seed ^ (purpose + 1) * _GOLDEN) * 0xD1342543DE82EF95) & _M64
    value = numbers.astype(np.uint64) * np.uint64(_GOLDEN) + np.uint64(start)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _fraction(plan: Plan, purpose: int, numbers: Numbers) -> NDArray[np.float64]:
    return (_random(plan, purpose, numbers) >> np.uint64(11)).astype(np.float64) / (1 << 53)


def _lower_halves(plan: Plan, numbers: Numbers) -> NDArray[np.uint64]:
    return (_random(plan, _CHECK, numbers) & np.uint64(_M62)) | np.uint64(1 << 63)


def _merchant_places(plan: Plan, first: Numbers) -> NDArray[np.int64]:
    """Return places in the plan's merchants, followed by the unknown ones and the canaries'."""
    count = len(plan.merchants)
    if plan.zipf_exponent:
        places = np.searchsorted(plan._zipf_bounds, _fraction(plan, _MERCHANT, first), side="right")
    else:
        places = (_random(plan, _MERCHANT, first) % np.uint64(count)).astype(np.int64)
    if plan.hot_merchants:
        # Both from the same number: one among the first few, or one of the others.
        few = min(plan.hot_merchants, count)
        many = max(1, count - few)
        hot = (_fraction(plan, _HOT, first) < plan.hot_share) | (few == count)
        places = np.where(hot, places % few, few + places % many)
    if plan.unknown_merchant_share:
        unknown = (_random(plan, _UNKNOWN_PLACE, first) % np.uint64(len(plan.unknown_merchants))).astype(np.int64)
        places = np.where(is_unknown_merchant(plan, first), count + unknown, places)
    places[is_canary(plan, first)] = count + len(plan.unknown_merchants)
    return places


def _currency_places(plan: Plan, first: Numbers) -> NDArray[np.int64]:
    places = _weighted(plan, _CURRENCY, first, plan.currencies)
    if plan.pending_currency_share:
        pending = (_random(plan, _PENDING_PLACE, first) % np.uint64(len(plan.pending_currencies))).astype(np.int64)
        places = np.where(is_pending_currency(plan, first), len(plan.currencies) + pending, places)
    return places


def _amount_places(plan: Plan, numbers: Numbers) -> NDArray[np.int64]:
    return (_random(plan, _AMOUNT, numbers) >> np.uint64(48)).astype(np.int64)


def _weighted(plan: Plan, purpose: int, numbers: Numbers, weights: dict[str, float]) -> NDArray[np.int64]:
    bounds = np.cumsum(list(weights.values()))
    return np.searchsorted(bounds / bounds[-1], _fraction(plan, purpose, numbers), side="right")


def _names(names: Iterable[str]) -> NDArray[np.bytes_]:
    return np.array([name.encode() for name in names])


def _minor_amounts() -> NDArray[np.int64]:
    normal = NormalDist(np.log(TYPICAL_AMOUNT), AMOUNT_SPREAD)
    logarithms = [normal.inv_cdf((place + 0.5) / 65536) for place in range(65536)]
    return np.maximum(1, np.round(np.exp(logarithms) * 100)).astype(np.int64)


# Looked up, not computed by message: vectorised logarithms may differ in the last bit with the length of the array.
_MINOR_AMOUNTS = _minor_amounts()


def _amount_texts(places: NDArray[np.int64], decimals: NDArray[np.int64]) -> list[bytes]:
    found = _texts_with(2)[places]
    for other in np.unique(decimals[decimals != 2]).tolist():
        found[decimals == other] = _texts_with(other)[places[decimals == other]]
    return found.tolist()


@cache
def _texts_with(decimals: int) -> NDArray[np.bytes_]:
    minor = _MINOR_AMOUNTS.tolist()
    if not decimals:
        return np.array([b"%d" % units for units in minor], dtype="S16")
    form = f"%d.%0{decimals}d".encode()
    return np.array([form % divmod(units, 10**decimals) for units in minor], dtype="S16")
