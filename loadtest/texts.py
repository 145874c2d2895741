"""Ids and times as text, for thousands of messages at once.

By tables of digits: numpy's own conversions take longer than all the rest of a message together.
"""

import functools
from hashlib import shake_256

import numpy as np
from numpy.typing import NDArray

PADDING_BYTES = 1 << 20

_HEX = np.frombuffer(b"".join(b"%04x" % value for value in range(1 << 16)), dtype=np.uint32)
_TWO_DIGITS = np.frombuffer(b"".join(b"%02d" % value for value in range(100)), dtype=np.uint16)


def uuids(upper: NDArray[np.uint64], lower: NDArray[np.uint64]) -> list[bytes]:
    """Return UUIDs as RFC 9562 spells them, from their two halves."""
    words = np.stack((upper, lower), axis=1).astype(">u8").view(">u2")
    digits = _HEX[words].view(np.uint8)
    text = np.full((len(upper), 36), ord("-"), dtype=np.uint8)
    for begin, end, groups in ((0, 8, 0), (9, 13, 1), (14, 18, 2), (19, 23, 3), (24, 36, 4)):
        text[:, begin:end] = digits[:, begin - groups : end - groups]
    return text.view("S36").ravel().tolist()


def times(at_us: NDArray[np.int64]) -> list[bytes]:
    """Return moments, given in microseconds since 1970, as RFC 3339 with six decimals, without the zone's letter."""
    seconds, micros = np.divmod(at_us, 1_000_000)
    distinct, which = np.unique(seconds, return_inverse=True)
    whole = np.datetime_as_string(distinct.astype("datetime64[s]")).astype("S19").view(np.uint8).reshape(-1, 19)
    text = np.full((len(at_us), 26), ord("."), dtype=np.uint8)
    text[:, :19] = whole[which]
    for begin, pair in ((20, micros // 10_000), (22, micros // 100 % 100), (24, micros % 100)):
        text[:, begin : begin + 2] = _TWO_DIGITS[pair].view(np.uint8).reshape(-1, 2)
    return text.view("S26").ravel().tolist()


@functools.cache
def padding() -> bytes:
    """Return a text to cut padding from: hexadecimal digits, which a compressor in search of repeats can't shorten."""
    return shake_256(b"paystream").hexdigest(PADDING_BYTES // 2).encode()
