"""A report on a terminal: a table where it fits, its columns as lines where it does not; nothing is ever cut."""

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from rich.console import Console

from paystream.reports import command
from paystream.reports.report import Asked, Rows, find_report

MOMENT = datetime(2026, 11, 25, 12, tzinfo=UTC)
COLUMNS = ("day", "merchant_id", "merchant_name", "currency", "status", "amount", "amount_reporting", "complete_until")
DAY = date(2026, 11, 25)


def rows(count: int) -> Rows:
    made = [
        (DAY, number, f"Shop number {number}", "EUR", "captured", Decimal(1234567 + number), None, MOMENT)
        for number in range(count)
    ]
    return Rows(COLUMNS, made, more=False)


@pytest.fixture
def show(monkeypatch, capsys):
    def shown(rows: Rows, width: int, terminal: bool = True, limit: int | None = None) -> list[str]:
        monkeypatch.setattr(command, "console", Console(width=width))
        monkeypatch.setattr(command, "is_terminal", lambda: terminal)
        command._show(Asked(find_report("merchant_by_day"), DAY, DAY), rows, MOMENT, limit)
        return capsys.readouterr().out.splitlines()

    return shown


def test_a_table_that_fits(show) -> None:
    lines = show(rows(9), 120)
    assert [line for line in lines if "Shop number 8" in line and "1,234,575.00" in line]
    assert all(len(line) <= 120 for line in lines)
    assert not any("…" in line or "--limit" in line for line in lines)


@pytest.mark.parametrize(("width", "fitting"), [(60, 2), (70, 3), (36, 1)])
def test_what_is_too_wide_has_a_column_for_each_row_that_fits(show, width: int, fitting: int) -> None:
    lines = show(rows(9), width)
    [names] = [line for line in lines if "merchant name" in line]
    assert names.count("Shop number") == fitting
    [amounts] = [line for line in lines if "│ amount  " in line]
    assert amounts.count("1,234,5") == fitting
    assert f"The first {fitting} rows;" in " ".join(lines).replace("first row;", "first 1 rows;")


def test_all_that_were_asked_for_are_shown(show) -> None:
    lines = show(rows(9), 60, limit=9)
    text = "\n".join(lines)
    assert all(f"Shop number {number} " in text for number in range(9))
    assert "--limit" not in text


def test_a_file_or_pipe_gets_the_whole_table(show) -> None:
    lines = show(rows(3), 20, terminal=False)
    assert [line for line in lines if "Shop number 2" in line and "1,234,569.00" in line]


def test_nothing_to_show(show) -> None:
    assert "No payments of those days." in show(rows(0), 80)
