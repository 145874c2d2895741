"""How `paystream quarantine` shows messages, of which nothing may reach a terminal raw, and how it reads times."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paystream.errors import UsageError
from paystream.quarantine.messages import parse_time, printable

NOW = datetime(2026, 5, 31, 14, 0, tzinfo=UTC)


@given(st.binary(max_size=300))
def test_any_bytes_become_one_short_printable_line(value: bytes) -> None:
    shown = printable(value)
    assert shown.isprintable()
    assert len(shown) <= 101


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b"plain", "plain"),
        (b"\x1b[31mred\x07\r\n\x00", r"\x1b[31mred\x07\r\n\x00"),
        (b"\xff\xfe", r"\xff\xfe"),
        ("Zürich €".encode(), "Zürich €"),
        ("\u202egnp.exe".encode(), r"\u202egnp.exe"),
        (rb"\x1b", r"\\x1b"),
        (b"x" * 101, "x" * 100 + "…"),
        (b"x" * 99 + b"\n", "x" * 99 + "…"),
    ],
)
def test_what_is_shown_of_bytes(value: bytes, shown: str) -> None:
    assert printable(value) == shown


def test_a_beginning_is_marked_as_one() -> None:
    assert printable(b"abc", size=3) == "abc"
    assert printable(b"abc", size=4) == "abc…"


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90m", NOW - timedelta(minutes=90)),
        ("7d", NOW - timedelta(days=7)),
        ("2026-05-30", datetime(2026, 5, 30, tzinfo=UTC)),
        ("2026-05-31T14:00", datetime(2026, 5, 31, 14, tzinfo=UTC)),
        ("2026-05-31T14:00:00.5+02:00", datetime(2026, 5, 31, 12, 0, 0, 500_000, tzinfo=UTC)),
        ("2026-05-31T14:00Z", datetime(2026, 5, 31, 14, tzinfo=UTC)),
    ],
)
def test_times_and_ages(text: str, moment: datetime) -> None:
    assert parse_time(text, NOW) == moment


@pytest.mark.parametrize(
    "text", ["", "yesterday", "-2h", "2w", "999999999d", "0001-01-01", "9999-12-31", "2h\x1b[0m", "٣h"]
)
def test_anything_else_is_refused_in_one_printable_line(text: str) -> None:
    with pytest.raises(UsageError, match="is not understood") as caught:
        parse_time(text, NOW)
    assert str(caught.value).isprintable()
