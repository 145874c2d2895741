"""What message number i of a run is: a pure function of the run's seed, so nothing needs to be remembered.

The generator renders messages from it, the probe knows from it which ids to look for, and the checker turns a stored
id back into its number. A run of any length is therefore checked exactly, in one byte a message.
"""

from dataclasses import asdict, dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from loadtest.defects import DEFECTS

Numbers = NDArray[np.int64]
"""Numbers of messages within a run, from 0, in the order of their intended send times."""

RESEND_WITHIN_S = 10
"""A duplicate follows its original by at most this long."""

TYPICAL_AMOUNT = 25.0
AMOUNT_SPREAD = 1.2
"""Median, and standard deviation of the logarithm, of the amounts: 2.5 % of payments are above 260, one in 65,536
above 4,000."""

_M60 = (1 << 60) - 1
_M62 = (1 << 62) - 1
_M64 = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_ROUNDS = (0xBF58476D1CE4E5B, 0x94D049BB133111B, 0x9E3779B97F4A7C1)
_DUPLICATE, _DISTANCE, _CANARY, _MERCHANT, _AMOUNT, _CURRENCY, _STATUS, _CHECK, _MALFORMED, _DEFECT = range(10)

_DEFECT_NAMES = list(DEFECTS)

_HEX = np.frombuffer(b"".join(b"%02x" % byte for byte in range(256)), dtype=np.uint8).reshape(256, 2)
_DASHES = (8, 13, 18, 23)
_DIGITS = np.setdiff1d(np.arange(36), _DASHES)

_VALUE = (
    b'{"transaction_id":"%b","merchant_id":%b,"amount":"%b","currency":"%b","status":"%b",'
    b'"created_at":"%bZ","updated_at":"%bZ"}'
)


@dataclass(frozen=True)
class Plan:
    """Everything that decides the bytes and the intended send time of each message of one run.

    ``rate_per_second`` counts all messages: duplicates, malformed ones and canaries included. ``started_us`` is
    the intended send time of message 0, in microseconds since 1970.
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
    def _merchant_texts(self) -> NDArray[np.bytes_]:
        return self.merchant_ids.astype("S10")

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, for another process to make the same plan from."""
        return asdict(self)


@dataclass(frozen=True)
class Contents:
    """The fields that the checker compares. ``amount`` counts units of 1/10,000, ``currency`` and ``status`` are places
    in the plan's, ``at_us`` is both created_at and updated_at, in microseconds since 1970."""

    merchant_id: NDArray[np.uint32]
    amount: NDArray[np.int64]
    currency: NDArray[np.int64]
    status: NDArray[np.int64]
    at_us: NDArray[np.int64]


def intended_us(plan: Plan, numbers: Numbers) -> NDArray[np.int64]:
    """Return the intended send times, in microseconds since 1970."""
    return plan.started_us + numbers * 1_000_000 // plan.rate_per_second


def due(plan: Plan, now_us: int) -> int:
    """Return how many messages should have been sent by now."""
    elapsed_us = now_us - plan.started_us
    if elapsed_us < 0:
        return 0
    # The smallest count whose next message is intended after this microsecond; the rounding is that of intended_us.
    return min(plan.messages, -(-(elapsed_us + 1) * plan.rate_per_second // 1_000_000))


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
        here = numbers[repeats]
        reach = np.minimum(here, RESEND_WITHIN_S * plan.rate_per_second).astype(np.uint64)
        there = here - 1 - (_random(plan, _DISTANCE, here) % reach).astype(np.int64)
        while (again := is_duplicate(plan, there)).any():
            there[again] -= 1
        result[repeats] = there
    return result


def is_malformed(plan: Plan, numbers: Numbers) -> NDArray[np.bool_]:
    """Return which messages ingest must refuse, of those that are not duplicates. Canaries are never.

    A duplicate of a malformed message is malformed as well, since it repeats the bytes.
    """
    if not plan.malformed_share:
        return np.zeros(len(numbers), dtype=bool)
    return (_fraction(plan, _MALFORMED, numbers) < plan.malformed_share) & ~is_canary(plan, numbers)


def defects(plan: Plan, numbers: Numbers) -> list[str]:
    """Return what is wrong with malformed messages, as the names in ``DEFECTS``."""
    places = _random(plan, _DEFECT, numbers) % np.uint64(len(DEFECTS))
    return [_DEFECT_NAMES[place] for place in places.tolist()]


def contents(plan: Plan, numbers: Numbers) -> Contents:
    """Return the fields of messages that are neither duplicates nor malformed."""
    merchant = plan.merchant_ids[_merchant_places(plan, numbers)]
    merchant[is_canary(plan, numbers)] = plan.canary_merchant
    return Contents(
        merchant_id=merchant,
        amount=_AMOUNT_CENTS[_amount_places(plan, numbers)] * 100,
        currency=_weighted(plan, _CURRENCY, numbers, plan.currencies),
        status=_weighted(plan, _STATUS, numbers, plan.statuses),
        at_us=intended_us(plan, numbers),
    )


def ids(plan: Plan, numbers: Numbers) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return the transaction ids of messages that are not duplicates, as the two halves of version 4 UUIDs.

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
    """Return the numbers of the messages that carry these transaction ids, -1 for an id not of this run."""
    scrambled = ((upper >> np.uint64(16)) << np.uint64(12)) | (upper & np.uint64(0xFFF))
    for multiplier in reversed(_ROUNDS):
        scrambled = scrambled ^ (scrambled >> np.uint64(30))
        scrambled = (scrambled * np.uint64(pow(multiplier, -1, 1 << 60))) & np.uint64(_M60)
    numbers = ((scrambled - np.uint64(plan.seed & _M60)) & np.uint64(_M60)).astype(np.int64)
    ours = (upper >> np.uint64(12)) & np.uint64(0xF) == 4
    ours &= (numbers < plan.messages) & (lower == _lower_halves(plan, numbers))
    numbers[~ours] = -1
    # The bijection gives a duplicate's number an id too, which is never sent.
    numbers[ours] = np.where(is_duplicate(plan, numbers[ours]), -1, numbers[ours])
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
    upper, lower = ids(plan, told)
    raw = np.stack((upper, lower), axis=1).astype(">u8").view(np.uint8).reshape(len(told), 16)
    text = np.full((len(told), 36), ord("-"), dtype=np.uint8)
    text[:, _DIGITS] = _HEX[raw].reshape(len(told), 32)
    keys = text.view("S36").ravel().tolist()

    merchants = plan._merchant_texts[_merchant_places(plan, told)]
    merchants[is_canary(plan, told)] = b"%d" % plan.canary_merchant
    times = np.datetime_as_string(intended_us(plan, told).astype("datetime64[us]")).astype("S26").tolist()
    values = [
        _VALUE % fields
        for fields in zip(
            keys,
            merchants.tolist(),
            _AMOUNT_TEXTS[_amount_places(plan, told)].tolist(),
            _names(plan.currencies)[_weighted(plan, _CURRENCY, told, plan.currencies)].tolist(),
            _names(plan.statuses)[_weighted(plan, _STATUS, told, plan.statuses)].tolist(),
            times,
            times,
            strict=True,
        )
    ]
    malformed = np.flatnonzero(is_malformed(plan, told))
    for place, defect in zip(malformed.tolist(), defects(plan, told[malformed]), strict=True):
        values[place] = DEFECTS[defect](values[place])
    return keys, values


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


def _merchant_places(plan: Plan, numbers: Numbers) -> NDArray[np.int64]:
    return (_random(plan, _MERCHANT, numbers) % np.uint64(len(plan.merchants))).astype(np.int64)


def _amount_places(plan: Plan, numbers: Numbers) -> NDArray[np.int64]:
    return (_random(plan, _AMOUNT, numbers) >> np.uint64(48)).astype(np.int64)


def _weighted(plan: Plan, purpose: int, numbers: Numbers, weights: dict[str, float]) -> NDArray[np.int64]:
    bounds = np.cumsum(list(weights.values()))
    return np.searchsorted(bounds / bounds[-1], _fraction(plan, purpose, numbers), side="right")


def _names(weights: dict[str, float]) -> NDArray[np.bytes_]:
    return np.array([name.encode() for name in weights])


def _amounts() -> NDArray[np.int64]:
    normal = NormalDist(np.log(TYPICAL_AMOUNT), AMOUNT_SPREAD)
    logarithms = [normal.inv_cdf((place + 0.5) / 65536) for place in range(65536)]
    return np.maximum(1, np.round(np.exp(logarithms) * 100)).astype(np.int64)


# Looked up, not computed by message: vectorised logarithms may differ in the last bit with the length of the array.
_AMOUNT_CENTS = _amounts()
_AMOUNT_TEXTS = np.array([b"%d.%02d" % divmod(cents, 100) for cents in _AMOUNT_CENTS.tolist()])
