"""The transaction ids of a run: version 4 UUIDs that hold the number of a message, so that it can be read back."""

from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from paystream.loadtest.plan import Numbers, Plan, Purpose, random_numbers

_M60 = (1 << 60) - 1
_M62 = (1 << 62) - 1
_M64 = (1 << 64) - 1
_ROUNDS = (0xBF58476D1CE4E5B, 0x94D049BB133111B, 0x9E3779B97F4A7C1)


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


def numbers_within(plan: Plan, upper: NDArray[np.uint64], lower: NDArray[np.uint64]) -> Numbers:
    """Return the numbers that ids hold, -1 for an id that is not of this run."""
    scrambled = ((upper >> np.uint64(16)) << np.uint64(12)) | (upper & np.uint64(0xFFF))
    for multiplier in reversed(_ROUNDS):
        scrambled = scrambled ^ (scrambled >> np.uint64(30))
        scrambled = (scrambled * np.uint64(pow(multiplier, -1, 1 << 60))) & np.uint64(_M60)
    numbers = ((scrambled - np.uint64(plan.seed & _M60)) & np.uint64(_M60)).astype(np.int64)
    ours = (upper >> np.uint64(12)) & np.uint64(0xF) == 4
    ours &= (numbers < plan.messages) & (lower == _lower_halves(plan, numbers))
    numbers[~ours] = -1
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


def halves_sql(uuid: str) -> tuple[str, str]:
    """Return the SQL of the two halves of a UUID, as ``ids`` gives them."""
    upper, lower = (f"byteSwap(reinterpretAsUInt64(substring(UUIDToNum({uuid}), {at}, 8)))" for at in (1, 9))
    return upper, lower


def _lower_halves(plan: Plan, numbers: Numbers) -> NDArray[np.uint64]:
    return (random_numbers(plan, Purpose.CHECK, numbers) & np.uint64(_M62)) | np.uint64(1 << 63)
