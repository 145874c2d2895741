"""Gates before a swap, and the snapshots that are kept after it: compared, and rolled back to."""

import json
import random
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from ingest import Ingest, Warehouse, warehouse_of
from kill_at_random import run_and_kill
from payments import message

from paystream.errors import CheckFailed, UsageError
from paystream.loader import history
from paystream.loader.dimension import FX, MERCHANTS, Dimension
from paystream.loader.history import Change
from paystream.loader.refresh import Refreshed, refresh, roll_back
from paystream.loader.source import GateFailed, Source
from paystream.settings import Settings

PaystreamHere = Callable[..., tuple[int, str, list[str]]]
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
DAY = date(2026, 10, 1)


@pytest.fixture
def warehouse(clickhouse_server: Settings, tmp_path: Path) -> Iterator[Warehouse]:
    with warehouse_of(clickhouse_server, tmp_path / "home") as warehouse:
        yield warehouse


def load_merchants(
    settings: Settings, names: dict[int, str], forced: tuple[str, ...] = (), **of_source: Any
) -> Refreshed:
    columns = {
        "merchant_id": list(names),
        "merchant_name": list(names.values()),
        "country": ["DE"] * len(names),
        "category_code": ["0742"] * len(names),
    }
    return refresh(settings, MERCHANTS, source(columns, **of_source), columns, forced=forced)


def load_rates(
    settings: Settings, rates: dict[tuple[str, date], str], forced: tuple[str, ...] = (), *, merge: bool = False
) -> Refreshed:
    columns = {
        "currency": [currency for currency, _ in rates],
        "rate_date": [day for _, day in rates],
        "rate": [Decimal(rate) for rate in rates.values()],
        "reporting_currency": [settings.reporting_currency] * len(rates),
    }
    return refresh(settings, FX, source(columns), columns, forced=forced, merge=merge)


def source(columns: dict[str, list], name: str = "a file", modified_at: datetime | None = None) -> Source:
    return Source("File", name, repr(columns).encode(), modified_at)


def serving(ingest: Ingest, dimension: Dimension) -> list[tuple]:
    columns = ", ".join(dimension.key + dimension.values)
    rows = [ingest.rows(f"SELECT {columns}, snapshot_id FROM {dimension.table} ORDER BY {columns}")]
    rows.append(
        ingest.rows(f"SELECT {columns}, snapshot_id FROM {dimension.dictionary} ORDER BY {columns}")
        if dimension is MERCHANTS
        else rows[0]
    )
    assert rows[0] == rows[1]
    return [tuple(row) for row in rows[0]]


MANY = {number: f"Merchant {number}" for number in range(1, 101)}


def test_a_file_that_lost_more_than_a_share_of_its_rows_is_refused(warehouse: Warehouse) -> None:
    settings, ingest = warehouse
    load_merchants(settings, MANY)
    before = serving(ingest, MERCHANTS)
    fewer = {number: name for number, name in MANY.items() if number <= 89}
    with pytest.raises(
        GateFailed, match=r"89 rows where 100 serve, a fall by 11\.0% \(at most 10%.*--force row-count"
    ) as caught:
        load_merchants(settings, fewer)
    assert (caught.value.gate, caught.value.exit_code) == ("row-count", 1)
    assert serving(ingest, MERCHANTS) == before
    assert load_merchants(settings, {number: name for number, name in MANY.items() if number <= 90}).snapshot_id == 2
    half = {number: name for number, name in MANY.items() if number <= 45}
    assert load_merchants(settings, half, forced=("row-count",)).snapshot_id == 3
    recorded = history.list_snapshots(settings, MERCHANTS)
    assert [snapshot.forced_gates for snapshot in recorded] == [[], [], ["row-count"]]
    tolerant = settings.model_copy(update={"dims_row_fall_limit": 1.0})
    assert load_merchants(tolerant, {1: "Only one"}).snapshot_id == 4


@pytest.mark.parametrize("new", ["0.5", "1.33", "0.88", "110"])
def test_a_rate_that_moves_too_far_in_a_day_is_refused(warehouse: Warehouse, new: str) -> None:
    settings, ingest = warehouse
    # A first load takes the past as it was, crises included.
    past = {("EUR", DAY): "1.0", ("EUR", DAY + timedelta(1)): "2.0", ("EUR", DAY + timedelta(4)): "1.1"}
    load_rates(settings, past)
    tomorrow = past | {("EUR", DAY + timedelta(5)): new}
    moved = f"{float(Decimal(new) / Decimal('1.1')) - 1:+.1%}"
    if new == "0.88":  # exactly the limit
        assert load_rates(settings, tomorrow).snapshot_id == 2
        return
    with pytest.raises(GateFailed, match="1 rate moved by more than 20%") as caught:
        load_rates(settings, tomorrow)
    assert str(caught.value).splitlines()[1].strip() == (
        f"EUR on 2026-10-06: from {Decimal('1.1'):.12f} to {Decimal(new):.12f} ({moved})"
    )
    assert [row[:3] for row in serving(ingest, FX)] == [(*key, Decimal(rate)) for key, rate in past.items()]
    assert load_rates(settings, tomorrow, forced=("rate-move",)).snapshot_id == 2
    # What was let in once is not asked about again.
    assert load_rates(settings, tomorrow | {("EUR", DAY + timedelta(6)): new}).snapshot_id == 3


def test_a_correction_of_the_past_is_measured_against_what_it_was(warehouse: Warehouse) -> None:
    settings, _ = warehouse
    load_rates(settings, {("EUR", DAY): "1.0", ("EUR", DAY + timedelta(1)): "1.1"})
    with pytest.raises(GateFailed, match="1 rate moved"):
        load_rates(settings, {("EUR", DAY): "2.0", ("EUR", DAY + timedelta(1)): "1.1"})
    assert load_rates(settings, {("EUR", DAY): "1.15", ("EUR", DAY + timedelta(1)): "1.1"}).snapshot_id == 2
    # After a gap there is no move "in a day", and a new currency has nothing to be compared with.
    later = {("EUR", DAY): "1.15", ("EUR", DAY + timedelta(1)): "1.1", ("EUR", DAY + timedelta(30)): "9"}
    assert load_rates(settings, later).snapshot_id == 3
    assert load_rates(settings, later | {("GBP", DAY + timedelta(30)): "7"}).snapshot_id == 4


def test_an_older_snapshot_than_the_one_that_serves_is_refused(warehouse: Warehouse) -> None:
    settings, ingest = warehouse
    load_merchants(settings, {1: "Old"}, modified_at=NOON)
    load_merchants(settings, {1: "New"}, modified_at=NOON + timedelta(hours=1))
    before = serving(ingest, MERCHANTS)
    with pytest.raises(GateFailed, match="it was snapshot 1, which 2 has replaced"):
        load_merchants(settings, {1: "Old"}, modified_at=NOON + timedelta(hours=2))
    with pytest.raises(GateFailed, match="it is of 2026-11-01 12:59:59 UTC, and what serves is of 2026-11-01 13:00:00"):
        load_merchants(settings, {1: "Other"}, modified_at=NOON + timedelta(hours=1, seconds=-1))
    assert serving(ingest, MERCHANTS) == before
    assert load_merchants(settings, {1: "Old"}, forced=("older-snapshot",), modified_at=NOON).snapshot_id == 3

    load_rates(settings, {("EUR", DAY): "1.0", ("EUR", DAY + timedelta(1)): "1.1"})
    with pytest.raises(GateFailed, match="its newest quote is of 2026-10-01, and what serves has 2026-10-02"):
        load_rates(settings, {("EUR", DAY): "1.0", ("GBP", DAY): "1.1"})


def test_a_days_rates_are_added_to_those_that_serve(warehouse: Warehouse) -> None:
    settings, ingest = warehouse
    load_rates(settings, {("EUR", DAY): "1.0", ("GBP", DAY): "1.2"})
    day_after = {("EUR", DAY + timedelta(1)): "1.01", ("GBP", DAY): "1.25"}
    assert load_rates(settings, day_after, merge=True).rows == 3
    assert [row[:3] for row in serving(ingest, FX)] == [
        ("EUR", DAY, Decimal("1.0")),
        ("EUR", DAY + timedelta(1), Decimal("1.01")),
        ("GBP", DAY, Decimal("1.25")),
    ]
    assert load_rates(settings, day_after, merge=True).result == "unchanged"
    in_euro = settings.model_copy(update={"reporting_currency": "EUR"})
    before = serving(ingest, FX)
    with pytest.raises(CheckFailed, match="these rows are in EUR, and those that serve are in USD"):
        load_rates(in_euro, {("GBP", DAY + timedelta(2)): "1.2"}, merge=True)
    assert serving(ingest, FX) == before


def test_snapshots_are_listed_compared_and_rolled_back_to(warehouse: Warehouse) -> None:
    settings, ingest = warehouse
    load_merchants(settings, {1: "One", 2: "Two", 3: "Three", 4: "Four"}, name="first.csv", modified_at=NOON)
    load_merchants(settings, {1: "One", 2: "Zwei", 4: "Four", 5: "Five"}, name="second.csv")
    first, second = history.list_snapshots(settings, MERCHANTS)
    assert (first.snapshot_id, first.rows, first.source, first.serving, first.kept) == (1, 4, "first.csv", False, True)
    assert (second.snapshot_id, second.source, second.serving, second.kept) == (2, "second.csv", True, True)
    comparison = history.compare(settings, MERCHANTS, 1, 2)
    assert (comparison.added, comparison.removed, comparison.changed, comparison.unchanged) == (1, 1, 1, 2)
    assert comparison.shown == [
        Change((2,), ("Two", "DE", "0742"), ("Zwei", "DE", "0742")),
        Change((3,), ("Three", "DE", "0742"), None),
        Change((5,), None, ("Five", "DE", "0742")),
    ]
    done = roll_back(settings, MERCHANTS, 1)
    assert done == Refreshed("merchants", "rolled_back", 3, 4, first.checksum)
    assert serving(ingest, MERCHANTS) == [
        (number, name, "DE", "0742", 3) for number, name in {1: "One", 2: "Two", 3: "Three", 4: "Four"}.items()
    ]
    assert history.compare(settings, MERCHANTS, 1, 3).unchanged == 4
    # Cron that delivers the withdrawn file again is told; the file of the snapshot that serves again is no change.
    with pytest.raises(
        GateFailed, match=r"it was snapshot 2, which 3 has replaced \(`paystream dims rollback merchants --to 2`"
    ):
        load_merchants(settings, {1: "One", 2: "Zwei", 4: "Four", 5: "Five"}, name="second.csv")
    same = load_merchants(settings, {1: "One", 2: "Two", 3: "Three", 4: "Four"}, name="first.csv", modified_at=NOON)
    assert (same.result, same.snapshot_id) == ("unchanged", 3)


def test_what_cannot_be_rolled_back_to_is_said(warehouse: Warehouse) -> None:
    settings, ingest = warehouse
    settings = settings.model_copy(update={"dims_snapshots_kept": 2})
    for number in range(1, 5):
        load_merchants(settings, {1: f"Name {number}"})
    assert [snapshot.kept for snapshot in history.list_snapshots(settings, MERCHANTS)] == [False, False, True, True]
    assert ingest.rows("SELECT DISTINCT snapshot_id FROM merchants_history ORDER BY snapshot_id") == [(3,), (4,)]
    for snapshot_id, says in [(1, "is not kept any more"), (9, "does not exist"), (4, "serves already")]:
        with pytest.raises(UsageError, match=says):
            roll_back(settings, MERCHANTS, snapshot_id)
    with pytest.raises(UsageError, match="Snapshot 2 of 'merchants' is not kept any more"):
        history.compare(settings, MERCHANTS, 2, 3)
    assert serving(ingest, MERCHANTS) == [(1, "Name 4", "DE", "0742", 4)]


def test_rates_in_another_reporting_currency_are_not_rolled_back_to(warehouse: Warehouse) -> None:
    settings, ingest = warehouse
    load_rates(settings.model_copy(update={"reporting_currency": "EUR"}), {("GBP", DAY): "1.2"})
    load_rates(settings, {("GBP", DAY): "1.3"})
    before = serving(ingest, FX)
    with pytest.raises(UsageError, match="Snapshot 1 of 'fx' is in EUR, and PAYSTREAM_REPORTING_CURRENCY is USD"):
        roll_back(settings, FX, 1)
    assert serving(ingest, FX) == before


def test_a_rate_that_was_rolled_back_is_taken_out_of_the_rows_again(
    warehouse: Warehouse, paystream_here: PaystreamHere
) -> None:
    settings, ingest = warehouse
    load_merchants(settings, {7: "Known"})
    load_rates(settings, {("EUR", DAY): "1.1"})
    ingest.deliver(message(merchant_id=7, created_at=f"{DAY}T12:00:00Z", amount="100"))
    load_rates(settings, {("EUR", DAY): "1.2"})
    money = "SELECT amount_reporting, fx_snapshot_id FROM transactions_current"
    assert paystream_here(settings, "dims", "repair")[0] == 0
    assert ingest.rows(money) == [(Decimal("120"), 2)]
    code, out, err = paystream_here(settings, "dims", "rollback", "fx", "--to", "1", "--json")
    assert (code, err) == (0, [])
    answer = json.loads(out)
    assert (answer["result"], answer["snapshot_id"], answer["repaired_rows"]) == ("rolled_back", 3, 1)
    assert ingest.rows(money) == [(Decimal("110"), 3)]


def test_any_row_can_be_asked_which_records_it_was_computed_with(warehouse: Warehouse) -> None:
    settings, ingest = warehouse
    load_merchants(settings, {7: "Known"}, name="m1.csv")
    load_rates(settings, {("EUR", DAY): "1.1"})
    ingest.deliver(message(merchant_id=7, created_at=f"{DAY + timedelta(2)}T12:00:00Z"))
    load_merchants(settings, {7: "Renamed"}, name="m2.csv")
    load_rates(settings, {("EUR", DAY): "1.15"})
    # As docs/dimensions.md gives it.
    assert ingest.rows(
        """
        SELECT m.merchant_name, m.country, m.category_code, s.source, f.rate, f.rate_date
        FROM transactions_current AS t
        LEFT JOIN merchants_history AS m ON m.snapshot_id = t.merchant_snapshot_id AND m.merchant_id = t.merchant_id
        LEFT JOIN dimension_snapshots AS s ON s.dimension = 'merchants' AND s.snapshot_id = t.merchant_snapshot_id
        LEFT JOIN fx_rates_history AS f
            ON f.snapshot_id = t.fx_snapshot_id AND f.currency = t.currency AND f.rate_date = t.fx_rate_date
        """
    ) == [("Known", "DE", "0742", "m1.csv", Decimal("1.1"), DAY)]


def test_the_commands_say_what_there_is(warehouse: Warehouse, paystream_here: PaystreamHere) -> None:
    settings, _ = warehouse
    assert paystream_here(settings, "dims", "history", "merchants") == (0, "", [])
    load_merchants(settings, {1: "One"}, name="a.csv")
    load_merchants(settings, {1: "Uno"}, name="b.csv")
    code, out, err = paystream_here(settings, "dims", "history", "merchants")
    assert (code, err) == (0, [])
    lines = out.splitlines()
    assert len(lines) == 2 and lines[1].startswith("dims_snapshot dimension=merchants snapshot_id=2 loaded_at=")
    assert "source=b.csv" in lines[1] and lines[1].endswith("serving=True kept=True")
    code, out, err = paystream_here(settings, "dims", "compare", "merchants", "1", "2")
    assert (code, out, err) == (
        0,
        "dims_compare dimension=merchants before=1 after=2 added=0 removed=0 changed=1 unchanged=0\n",
        [],
    )
    code, out, err = paystream_here(settings, "dims", "rollback", "merchants", "--to", "7")
    assert (code, out) == (2, "") and "Snapshot 7 of 'merchants' does not exist." in err[0]


def test_a_gate_that_does_not_exist_is_named_with_those_that_do(
    warehouse: Warehouse, paystream_here: PaystreamHere, tmp_path: Path
) -> None:
    path = tmp_path / "m.csv"
    path.write_text("merchant_id,merchant_name,country,category_code\n1,A,DE,0742\n")
    code, out, err = paystream_here(
        warehouse.settings, "dims", "refresh", "merchants", "--from", str(path), "--force", "everything"
    )
    assert (code, out, len(err)) == (2, "", 1)
    for gate in ("unknown-codes", "row-count", "rate-move", "older-snapshot"):
        assert gate in err[0]


ROLL_BACK_WHEN_READY = """
import sys
from paystream.loader.dimension import MERCHANTS
from paystream.loader.refresh import roll_back
from paystream.settings import load_settings
settings = load_settings()
print("ready", flush=True)
roll_back(settings, MERCHANTS, int(sys.argv[1]))
"""


def test_a_rollback_killed_at_any_moment_leaves_the_old_or_the_new(warehouse: Warehouse, tmp_path: Path) -> None:
    settings, ingest = warehouse
    load_merchants(settings, {number: "Good" for number in range(1, 3001)})
    load_merchants(settings, {number: "Bad" for number in range(1, 3001)})
    chance = random.Random(7)
    longest_s, killed, to = 0.0, 0, 1
    for number in range(8):
        after_s = 60 if number == 0 else chance.uniform(0, longest_s)
        was_killed, worked_s = run_and_kill(
            ROLL_BACK_WHEN_READY, str(to), settings=settings, folder=tmp_path, after_s=after_s
        )
        longest_s = max(longest_s, worked_s)
        killed += was_killed
        for holder in ("merchants", "merchants_dict"):
            assert len(ingest.rows(f"SELECT merchant_name, snapshot_id FROM {holder} GROUP BY ALL")) == 1
        assert ingest.value("SELECT count() FROM merchants") == 3000
        # The next one settles what the killed one left: every recorded snapshot is whole, and one serves.
        load_merchants(settings, {row: f"Round {number}" for row in range(1, 3001)})
        snapshots = history.list_snapshots(settings, MERCHANTS)
        assert [row.snapshot_id for row in snapshots] == list(range(1, len(snapshots) + 1))
        assert all(row.kept for row in snapshots) and snapshots[-1].serving
        to = len(snapshots) - 1
    assert killed >= 4
