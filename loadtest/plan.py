"""The plan of a run: everything that decides its messages. Each is a pure function of the plan and of its number.

So nothing has to be remembered: the generator renders messages from the plan, the probe knows from it which ids to
look for, and the checker turns a stored id back into a number. A run of any length is checked exactly, in one byte a
message.
"""

from dataclasses import asdict, dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paystream.currencies import MINOR_UNITS

Numbers = NDArray[np.int64]
"""Numbers of messages within a run, from 0, in the order of their intended send times."""

Purpose = IntEnum(
    "Purpose",
    "DUPLICATE DISTANCE CANARY MERCHANT AMOUNT CURRENCY STATUS CHECK MALFORMED DEFECT "
    "LATE DELAY STATE ROOT OVERTAKEN OVERTAKING HOT UNKNOWN UNKNOWN_PLACE PENDING PENDING_PLACE PADDING",
    start=0,
)
"""What a random number is for. Their order decides what each seed gives: add new ones at the end."""

_GOLDEN = 0x9E3779B97F4A7C15
_M64 = (1 << 64) - 1


@dataclass(frozen=True)
class Plan:
    """Everything that decides the bytes and the intended send time of each message of one run.

    Attributes:
        rate_per_second: of all messages: duplicates, malformed ones and canaries included; the mean where it varies.
        second_rates: how many messages each second sends; empty where the rate is constant.
        merchants: ids that are loaded; with ``hot_merchants``, so many of the first get ``hot_share`` of the payments.
        canary_merchant: the merchant of all canaries; see loadtest/canary.py.
        zipf_exponent: the merchant at place k of ``merchants``, counted from 1, gets a share as 1 / k to this power.
        late_by_us: late payments were made up to so long before they are sent.
        state_share: messages that carry a further state of an earlier transaction.
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
    def all_merchant_ids(self) -> NDArray[np.uint32]:
        """Return the loaded merchants, then the unknown ones, then the canaries'."""
        return np.array([*self.merchants, *self.unknown_merchants, self.canary_merchant], dtype=np.uint32)

    @cached_property
    def merchant_texts(self) -> NDArray[np.bytes_]:
        """Return ``all_merchant_ids`` as text."""
        return self.all_merchant_ids.astype("S10")

    @cached_property
    def minor_units(self) -> NDArray[np.int64]:
        """Return the decimals of each of ``all_currencies``."""
        return np.array([MINOR_UNITS.get(code, 2) for code in self.all_currencies])

    @cached_property
    def zipf_bounds(self) -> NDArray[np.float64]:
        """Return the share of the payments that each merchant and all before it get together."""
        bounds = np.cumsum(np.arange(1, len(self.merchants) + 1) ** -self.zipf_exponent)
        return bounds / bounds[-1]

    @cached_property
    def _rates(self) -> NDArray[np.int64]:
        """Return the rate of each second, and one more for what lies beyond the end."""
        return np.array([*self.second_rates, 1], dtype=np.int64)

    @cached_property
    def _sent_before(self) -> NDArray[np.int64]:
        """Return how many messages are to be sent before each second, and before the end."""
        return np.concatenate(([0], np.cumsum(self._rates[:-1])))

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, for another process to make the same plan from."""
        return asdict(self)


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


def random_numbers(plan: Plan, purpose: Purpose, numbers: Numbers) -> NDArray[np.uint64]:
    """Return a random number for each message: SplitMix64 (Steele, Lea, Flood 2014), seeded by plan and purpose."""
    start = ((plan.seed ^ (purpose + 1) * _GOLDEN) * 0xD1342543DE82EF95) & _M64
    value = numbers.astype(np.uint64) * np.uint64(_GOLDEN) + np.uint64(start)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def fraction(plan: Plan, purpose: Purpose, numbers: Numbers) -> NDArray[np.float64]:
    """Return random numbers from 0 to below 1."""
    return (random_numbers(plan, purpose, numbers) >> np.uint64(11)).astype(np.float64) / (1 << 53)


def below(count: int | NDArray[np.int64], plan: Plan, purpose: Purpose, numbers: Numbers) -> NDArray[np.int64]:
    """Return random whole numbers from 0 to below ``count``."""
    return (random_numbers(plan, purpose, numbers) % np.uint64(count)).astype(np.int64)
