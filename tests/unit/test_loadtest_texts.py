"""Ids and times as text, against the standard library's."""

import uuid
from datetime import UTC, datetime, timedelta

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from paystream.loadtest import texts


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)), min_size=1, max_size=20))
def test_ids_are_spelled_as_the_standard_library_spells_them(halves):
    upper, lower = (np.array(half, dtype=np.uint64) for half in zip(*halves, strict=True))
    assert texts.uuids(upper, lower) == [
        str(uuid.UUID(int=upper_half << 64 | lower_half)).encode() for upper_half, lower_half in halves
    ]


@given(st.lists(st.integers(0, 4_102_444_800_000_000), min_size=1, max_size=20))
def test_times_are_spelled_as_the_standard_library_spells_them(moments):
    expected = [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=moment) for moment in moments]
    assert texts.times(np.array(moments)) == [
        moment.isoformat(timespec="microseconds").removesuffix("+00:00").encode() for moment in expected
    ]


def test_nothing_makes_no_text():
    none = np.zeros(0, dtype=np.int64)
    assert texts.times(none) == texts.uuids(none.astype(np.uint64), none.astype(np.uint64)) == []
