"""Repairing transactions in the real engine: exactly the rows concerned, whatever else happens meanwhile."""

import json
import random
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest
from ingest import Ingest, Warehouse, warehouse_of
from kill_at_random import run_and_kill
from payments import message

from paystream.loader import repair as repairing
from paystream.loader.repair import preview, repair
from paystream.settings import Settings

DAY = date(2026, 10, 1)  # a Thursday
ENRICHMENT = (
    "merchant_name, merchant_country, merchant_category_code, merchant_snapshot_id, fx_rate, fx_rate_date, "
    "amount_reporting, reporting_currency, fx_snapshot_id, enrichment_status"
)


@pytest.fixture
def warehouse(clickhouse_server: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Warehouse]:
    # Nothing is under way here when a dictionary changes.
    monkeypatch.setattr(repairing, "SETTLE_S", 0.0)
    with warehouse_of(clickhouse_server, tmp_path / "home") as warehouse:
        yield warehouse


def at(day: date, hour: int = 12) -> str:
    return f"{day}T{hour:02}:00:00Z"


def pay(ingest: Ingest, **fields: Any) -> str:
    transaction_id = str(uuid.uuid4())
    ingest.deliver(message(transaction_id=transaction_id, **fields))
    return transaction_id


def row(ingest: Ingest, transaction_id: str, columns: str) -> tuple:
    [stored] = ingest.rows(
        f"SELECT {columns} FROM transactions_current WHERE transaction_id = {{id:UUID}}", id=transaction_id
    )
    return stored


def everything(ingest: Ingest) -> dict[uuid.UUID, tuple]:
    return {key: rest for key, *rest in ingest.rows("SELECT transaction_id, * FROM transactions_current")}


def test_the_reporting_currency_is_repaired_without_a_quote(warehouse: Warehouse) -> None:
    settings, ingest = warehouse
    ingest.load_merchants((7, "Known", "DE", "5411"))
    # As stored by a version that took a quote for it; of two days, of which the file will quote neither.
    early = pay(ingest, merchant_id=7, currency="USD", created_at=at(date(2019, 6, 1)), amount="12.34")
    late = pay(ingest, merchant_id=7, currency="USD", created_at=at(DAY + timedelta(30)), amount="56.78")
    status = "fx_rate, amount_reporting, reporting_currency, enrichment_status"
    assert row(ingest, early, status) == row(ingest, late, status) == (None, None, "", "fx_pending")
    ingest.load_rates(("EUR", str(DAY), "1.1"), ("EUR", str(DAY + timedelta(60)), "1.2"), snapshot_id=2)
    assert repair(settings).rows == 2
    assert row(ingest, early, status) == (1, Decimal("12.34"), "USD", "ok")
    assert row(ingest, late, status) == (1, Decimal("56.78"), "USD", "ok")


def test_late_merchants_and_rates_repair_exactly_their_rows(warehouse: Warehouse) -> None:
    settings, ingest = warehouse
    ingest.load_merchants((7, "Known", "DE", "5411"))
    ingest.load_rates(("EUR", str(DAY), "1.1"), ("JPY", str(DAY), "0.007"))
    fine = pay(ingest, merchant_id=7, currency="EUR", created_at=at(DAY), amount="3")
    late_merchant = pay(ingest, merchant_id=8, currency="EUR", created_at=at(DAY), amount="10")
    late_rate = pay(ingest, merchant_id=7, currency="EUR", created_at=at(DAY + timedelta(1)), amount="100.05")
    both = pay(ingest, merchant_id=8, currency="EUR", created_at=at(DAY + timedelta(1)), amount="1")
    corrected = pay(ingest, merchant_id=7, currency="JPY", created_at=at(DAY), amount="5000")
    unknown = pay(ingest, merchant_id=9, currency="XAF", created_at=at(DAY), amount="4")
    assert row(ingest, late_rate, "enrichment_status, fx_rate") == ("fx_provisional", Decimal("1.1"))
    before = everything(ingest)

    ingest.load_merchants((7, "Renamed", "DE", "5411"), (8, "Late", "FR", "5812"), snapshot_id=2)
    ingest.load_rates(
        ("EUR", str(DAY), "1.1"), ("EUR", str(DAY + timedelta(1)), "1.2345"), ("JPY", str(DAY), "0.008"), snapshot_id=2
    )
    moves = preview(settings)
    assert everything(ingest) == before
    done = repair(settings)
    assert done.rows == 4

    status = "merchant_name, fx_rate, fx_rate_date, amount_reporting, enrichment_status, enrichment_revision"
    assert row(ingest, late_merchant, status) == ("Late", Decimal("1.1"), DAY, Decimal("11"), "ok", 1)
    assert row(ingest, late_rate, status) == (
        "Known",  # by default a row keeps the merchant as it was known when it was paid
        Decimal("1.2345"),
        DAY + timedelta(1),
        (Decimal("100.05") * Decimal("1.2345")).quantize(Decimal("0.0001"), ROUND_HALF_UP),
        "ok",
        1,
    )
    assert row(ingest, both, status) == ("Late", Decimal("1.2345"), DAY + timedelta(1), Decimal("1.2345"), "ok", 1)
    assert row(ingest, corrected, status) == ("Known", Decimal("0.008"), DAY, Decimal("40"), "ok", 1)
    assert row(ingest, corrected, "fx_snapshot_id, merchant_snapshot_id") == (2, 1)
    after = everything(ingest)
    for untouched in (fine, unknown):
        assert after[uuid.UUID(untouched)] == before[uuid.UUID(untouched)]
    assert row(ingest, unknown, "fx_rate, amount_reporting, enrichment_status") == (None, None, "merchant_pending")
    # Where a row came from, and when it could first be read, stay as they were.
    kept = "kafka_topic, kafka_partition, kafka_offset, kafka_timestamp, ingested_at < enriched_at, ingested_at"
    assert row(ingest, both, kept)[4] == 1
    assert row(ingest, fine, kept)[4] == 0

    # What was announced is what happened: rows, amounts and the sum in the reporting currency.
    assert [(move.day, move.currency, move.rows, move.amount) for move in moves] == [
        (DAY + timedelta(1), "EUR", 2, Decimal("101.05")),
        (DAY, "EUR", 1, Decimal("10")),
        (DAY, "JPY", 1, Decimal("5000")),
    ]
    assert [(move.reporting_before, move.reporting_after) for move in moves] == [
        (
            (Decimal("100.05") * Decimal("1.1")).quantize(Decimal("0.0001")) + Decimal("1.1"),
            (Decimal("100.05") * Decimal("1.2345")).quantize(Decimal("0.0001"), ROUND_HALF_UP) + Decimal("1.2345"),
        ),
        (Decimal("11"), Decimal("11")),
        (Decimal("35"), Decimal("40")),
    ]
    assert preview(settings) == []
    again = repair(settings)
    assert (again.rows, again.days) == (0, 0)


def test_what_is_repaired_equals_what_a_payment_of_today_would_get(warehouse: Warehouse) -> None:
    settings, ingest = warehouse
    chance = random.Random(5)
    currencies = ["EUR", "USD", "JPY", "GBP", "XAF"]

    def load(snapshot_id: int, merchants: int, last_day: int) -> None:
        ingest.load_merchants(
            *((number, f"M{number}", "DE", "5411") for number in range(1, merchants)), snapshot_id=snapshot_id
        )
        rates = [
            (currency, str(DAY + timedelta(day)), f"{chance.uniform(0.001, 2):.12f}")
            for currency in currencies[:-1]
            for day in range(last_day)
            if chance.random() < 0.6
        ]
        ingest.load_rates(*rates, snapshot_id=snapshot_id)

    load(1, merchants=10, last_day=12)
    messages = [
        message(
            transaction_id=str(uuid.UUID(int=chance.getrandbits(128))),
            merchant_id=chance.randint(1, 30),
            currency=chance.choice(currencies),
            created_at=at(DAY + timedelta(chance.randint(0, 30)), chance.randint(0, 23)),
            amount=f"{chance.uniform(0.01, 100000):.4f}",
        )
        for _ in range(500)
    ]
    ingest.deliver(*messages)
    for restate in (0, 1):
        assert ingest.value(f"SELECT count() FROM transactions_to_repair(restate_merchants = {restate})") == 0

    load(2, merchants=20, last_day=31)
    done = repair(settings.model_copy(update={"dims_merchant_changes": "restate"}))
    assert 300 < done.rows < 500
    values = ENRICHMENT.replace("merchant_snapshot_id, ", "").replace("fx_snapshot_id, ", "")
    mine = dict(ingest.rows(f"SELECT transaction_id, ({values}) FROM transactions_current"))
    ingest.client.command("TRUNCATE TABLE transactions")
    ingest.deliver(*messages)
    anew = dict(ingest.rows(f"SELECT transaction_id, ({values}) FROM transactions_current"))
    assert len(anew) == 500
    # A rate that the new snapshot does not have is kept, not taken away.
    lost = {key for key, value in anew.items() if value[3] is None and mine[key][3] is not None}
    assert {key: mine[key] for key in anew if key not in lost} == {
        key: value for key, value in anew.items() if key not in lost
    }


def test_a_weekend_becomes_final_with_mondays_quote(warehouse: Warehouse) -> None:
    settings, ingest = warehouse
    ingest.load_merchants((7, "Known", "DE", "5411"))
    friday, saturday, monday = DAY + timedelta(1), DAY + timedelta(2), DAY + timedelta(4)
    ingest.load_rates(("EUR", str(friday), "1.5"))
    weekend = pay(ingest, merchant_id=7, created_at=at(saturday), amount="2")
    assert row(ingest, weekend, "enrichment_status, amount_reporting") == ("fx_provisional", Decimal("3"))
    ingest.load_rates(("EUR", str(friday), "1.5"), ("EUR", str(monday), "1.6"), snapshot_id=2)
    assert repair(settings).rows == 1
    assert row(ingest, weekend, "enrichment_status, amount_reporting, fx_rate_date, fx_snapshot_id") == (
        "ok",
        Decimal("3"),
        friday,
        2,
    )


def test_nothing_redelivered_undoes_a_repair_and_a_later_state_wins(warehouse: Warehouse) -> None:
    settings, ingest = warehouse
    ingest.load_merchants()
    ingest.load_rates(("EUR", str(DAY), "1.1"))
    transaction_id = str(uuid.uuid4())
    fields = {"transaction_id": transaction_id, "merchant_id": 8, "created_at": at(DAY), "amount": "10"}
    old = message(**fields, status="authorized", updated_at=at(DAY, 13))
    [offset] = ingest.deliver(old)
    ingest.load_merchants((8, "Late", "FR", "5812"), snapshot_id=2)
    assert repair(settings).rows == 1
    columns = "merchant_name, status, enrichment_status, enrichment_revision"
    # As old consumers would write it, who still had the old dictionary.
    ingest.load_merchants()
    ingest.deliver(old, first_offset=offset)
    assert row(ingest, transaction_id, columns) == ("Late", "authorized", "ok", 1)
    ingest.client.command("OPTIMIZE TABLE transactions FINAL")
    assert row(ingest, transaction_id, columns) == ("Late", "authorized", "ok", 1)
    ingest.deliver(message(**fields, status="captured", updated_at=at(DAY, 14)))
    assert row(ingest, transaction_id, columns) == ("", "captured", "merchant_pending", 0)
    ingest.load_merchants((8, "Late", "FR", "5812"), snapshot_id=3)
    assert repair(settings).rows == 1
    assert row(ingest, transaction_id, columns) == ("Late", "captured", "ok", 1)


def test_a_repair_never_takes_away(warehouse: Warehouse) -> None:
    settings, ingest = warehouse
    settings = settings.model_copy(update={"dims_merchant_changes": "restate"})
    ingest.load_merchants((7, "Known", "DE", "5411"))
    ingest.load_rates(("EUR", str(DAY), "1.1"), ("GBP", str(DAY), "1.3"))
    kept = pay(ingest, merchant_id=7, currency="GBP", created_at=at(DAY + timedelta(1)))
    before = row(ingest, kept, ENRICHMENT)
    assert before[-1] == "fx_provisional"
    # The newest file has neither the merchant nor the currency, and counts in another currency.
    ingest.load_merchants((1, "Other", "DE", "5411"), snapshot_id=2)
    ingest.load_rates(("EUR", str(DAY), "1.1"), snapshot_id=2)
    assert repair(settings, every_day=True).rows == 0
    ingest.client.command("INSERT INTO fx_rates VALUES ('GBP', '2026-10-02', '1.2', 'EUR', 3)")
    ingest.client.command("SYSTEM RELOAD DICTIONARY fx_rates_dict")
    assert repair(settings, every_day=True).rows == 0
    assert row(ingest, kept, ENRICHMENT) == before


@pytest.mark.parametrize(("policy", "name"), [("keep", "Old name"), ("restate", "New name")])
def test_whether_a_changed_merchant_restates_the_past_is_a_setting(
    warehouse: Warehouse, policy: str, name: str
) -> None:
    settings, ingest = warehouse
    settings = settings.model_copy(update={"dims_merchant_changes": policy})
    other = settings.model_copy(update={"dims_merchant_changes": "restate" if policy == "keep" else "keep"})

    def load(snapshot_id: int, **names: str) -> None:
        merchants = [(int(number[1:]), text, "DE", "5411") for number, text in names.items()]
        ingest.load_merchants(*merchants, snapshot_id=snapshot_id)
        ingest.client.command("INSERT INTO merchants_history SELECT * FROM merchants")

    load(1, m7="Old name", m8="Same")
    ingest.load_rates(("EUR", str(DAY), "1.1"), ("EUR", str(DAY + timedelta(40)), "1.1"))
    paid = [pay(ingest, merchant_id=7, created_at=at(DAY + timedelta(day))) for day in (0, 40)]
    same = pay(ingest, merchant_id=8, created_at=at(DAY))
    assert repair(settings).rows == 0
    before = row(ingest, same, "*")
    load(2, m7="New name", m8="Same")
    done = repair(settings)
    assert done.rows == (2 if policy == "restate" else 0)
    assert [row(ingest, payment, "merchant_name, merchant_snapshot_id") for payment in paid] == [
        (name, 2 if policy == "restate" else 1)
    ] * 2
    # Back and forth: what came in between under the other name is restated as well.
    load(3, m7="Third name", m8="Same")
    between = pay(ingest, merchant_id=7, created_at=at(DAY))
    load(4, m7="New name", m8="Same")
    assert repair(settings).rows == (1 if policy == "restate" else 0)
    assert row(ingest, between, "merchant_name") == ("New name" if policy == "restate" else "Third name",)
    assert row(ingest, same, "*") == before
    # The policy can be changed: what was kept is then restated.
    assert repair(other).rows == (0 if policy == "restate" else 3)


def test_only_days_whose_rates_or_merchants_changed_are_looked_at(warehouse: Warehouse) -> None:
    settings, ingest = warehouse
    ingest.load_merchants((7, "Known", "DE", "5411"))
    quotes = [("EUR", str(DAY + timedelta(day)), "1.1") for day in range(10)]
    ingest.load_rates(*quotes)
    for day in range(10):
        pay(ingest, merchant_id=7, created_at=at(DAY + timedelta(day)))
    pay(ingest, merchant_id=8, created_at=at(DAY + timedelta(3)))
    assert repair(settings).days == 10
    assert repair(settings).days == 0
    quotes[5] = ("EUR", str(DAY + timedelta(5)), "1.2")
    ingest.load_rates(*quotes, snapshot_id=2)
    assert [move.day for move in preview(settings)] == [DAY + timedelta(5)]
    assert (done := repair(settings)).days == 1 and done.rows == 1
    ingest.load_merchants((7, "Known", "DE", "5411"), (8, "Late", "DE", "5411"), snapshot_id=2)
    assert (done := repair(settings)).days == 1 and done.rows == 1
    assert repair(settings, every_day=True).days == 10


def test_rates_that_came_and_went_are_taken_out_again(warehouse: Warehouse) -> None:
    settings, ingest = warehouse
    ingest.load_merchants((7, "Known", "DE", "5411"))
    ingest.load_rates(("EUR", str(DAY), "1.1"))
    pay(ingest, merchant_id=7, created_at=at(DAY))
    assert repair(settings).days == 1
    # A wrong snapshot, of which no repair took notice, and the right one again: the day's rates are those of before.
    ingest.load_rates(("EUR", str(DAY), "9.9"), snapshot_id=2)
    wrong = pay(ingest, merchant_id=7, created_at=at(DAY))
    ingest.load_rates(("EUR", str(DAY), "1.1"), snapshot_id=3)
    assert repair(settings).rows == 1
    assert row(ingest, wrong, "fx_rate, fx_snapshot_id") == (Decimal("1.1"), 3)


def test_late_merchants_are_filled_in_before_there_are_any_rates(warehouse: Warehouse) -> None:
    settings, ingest = warehouse
    ingest.load_merchants()
    ingest.load_rates()
    paid = pay(ingest, merchant_id=8, created_at=at(DAY))
    assert repair(settings).rows == 0
    ingest.load_merchants((8, "Late", "FR", "5812"), snapshot_id=2)
    assert repair(settings).rows == 1
    assert row(ingest, paid, "merchant_name, enrichment_status") == ("Late", "fx_pending")


def test_a_dictionary_that_lags_behind_its_table_leaves_the_days_open(warehouse: Warehouse) -> None:
    settings, ingest = warehouse
    ingest.load_merchants()
    ingest.load_rates(("EUR", str(DAY), "1.1"))
    pay(ingest, merchant_id=8, created_at=at(DAY))
    # As between a refresh's exchange and its reload.
    ingest.client.command("INSERT INTO merchants VALUES (8, 'Late', 'FR', '5812', 2)")
    assert repair(settings).rows == 0
    ingest.client.command("SYSTEM RELOAD DICTIONARY merchants_dict")
    assert repair(settings).rows == 1


def test_batches_are_bounded_and_together_complete(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, ingest = warehouse
    monkeypatch.setattr(repairing, "BATCH_ROWS", 50)
    ingest.load_merchants()
    ingest.load_rates(("EUR", str(DAY), "1.1"))
    for merchant in range(1, 31):
        ingest.deliver(
            *(
                message(transaction_id=str(uuid.uuid4()), merchant_id=merchant, created_at=at(DAY))
                for _ in range(1 + merchant * 3)
            )
        )
    total = sum(1 + merchant * 3 for merchant in range(1, 31))
    ingest.load_merchants(*((number, f"M{number}", "DE", "5411") for number in range(1, 31)), snapshot_id=2)
    steps: list[int] = []
    done = repair(settings, report=lambda progress: steps.append(progress.rows))
    assert done.rows == total == steps[-1]
    sizes = [after - before for before, after in zip([0, *steps], steps, strict=False)]
    # A merchant is never split; none of these alone has more than 91 rows.
    assert max(sizes) <= 91 and len(sizes) > total / 100
    assert ingest.value("SELECT count() FROM transactions_current WHERE enrichment_status = 'ok'") == total


REPAIR_WHEN_READY = """
import sys
from paystream.loader import repair as repairing
from paystream.loader.repair import repair
from paystream.settings import load_settings
repairing.SETTLE_S = 0.0
repairing.BATCH_ROWS = 500
settings = load_settings()
print("ready", flush=True)
print(repair(settings).rows, flush=True)
"""


def fill(ingest: Ingest, rows: int, merchants: int) -> None:
    """Store pending payments straight through ingest's own views."""
    chance = random.Random(rows)
    for start in range(0, rows, 5000):
        ingest.deliver(
            *(
                message(
                    transaction_id=str(uuid.UUID(int=chance.getrandbits(128))),
                    merchant_id=chance.randint(1, merchants),
                    created_at=at(DAY + timedelta(number % 5)),
                )
                for number in range(start, min(rows, start + 5000))
            )
        )


def test_a_repair_killed_at_any_moment_can_be_run_again(warehouse: Warehouse, tmp_path: Path) -> None:
    settings, ingest = warehouse
    ingest.load_rates(("EUR", str(DAY), "1.1"))
    ingest.load_merchants()
    fill(ingest, rows=10_000, merchants=100)
    before = ingest.value("SELECT count() FROM transactions_current")
    chance = random.Random(3)
    longest_s, killed = 0.0, 0
    for number in range(1, 9):
        # Each round fills in what the round before did not know: other merchants, and a rate for other days.
        ingest.load_merchants(
            *((merchant_id, f"M{merchant_id}", "DE", "5411") for merchant_id in range(1, 12 * number + 1)),
            snapshot_id=number,
        )
        ingest.load_rates(("EUR", str(DAY), f"1.{number}"), snapshot_id=number)
        after_s = 60 if number == 1 else chance.uniform(0, longest_s)
        was_killed, worked_s = run_and_kill(REPAIR_WHEN_READY, settings=settings, folder=tmp_path, after_s=after_s)
        longest_s = max(longest_s, worked_s)
        killed += was_killed
        repair(settings)
        assert preview(settings, every_day=True) == []
        assert ingest.value("SELECT count() FROM transactions_current") == before
        known = "merchant_name = if(merchant_id <= {limit:UInt32}, concat('M', toString(merchant_id)), '')"
        assert ingest.value(f"SELECT countIf({known}) FROM transactions_current", limit=12 * number) == before
        assert ingest.rows("SELECT DISTINCT fx_rate FROM transactions_current") == [(Decimal(f"1.{number}"),)]
    assert killed >= 4
    left = "SELECT name FROM system.tables WHERE database = currentDatabase() AND name LIKE 'transactions_repair%'"
    assert ingest.rows(left) == []


def test_repairs_at_once_do_no_harm_and_one_waits_for_the_other(warehouse: Warehouse) -> None:
    settings, ingest = warehouse
    ingest.load_rates(("EUR", str(DAY), "1.1"))
    ingest.load_merchants()
    fill(ingest, rows=5_000, merchants=10)
    ingest.load_merchants(*((number, f"M{number}", "DE", "5411") for number in range(1, 11)), snapshot_id=2)
    with ThreadPoolExecutor(3) as threads:
        done = list(threads.map(lambda _: repair(settings), range(3)))
    assert sorted(number.rows for number in done) == [0, 0, 5_000]
    assert ingest.value("SELECT count() FROM transactions_current WHERE merchant_name != ''") == 5_000


def test_a_repair_while_payments_and_their_states_arrive(warehouse: Warehouse) -> None:
    settings, ingest = warehouse
    ingest.load_rates(("EUR", str(DAY), "1.1"))
    ingest.load_merchants()
    ids = [str(uuid.uuid4()) for _ in range(3_000)]
    ingest.deliver(
        *(
            message(
                transaction_id=transaction_id,
                merchant_id=8,
                status="authorized",
                created_at=at(DAY),
                updated_at=at(DAY, 13),
            )
            for transaction_id in ids
        )
    )
    ingest.load_merchants((8, "Late", "FR", "5812"), snapshot_id=2)

    def settle() -> None:
        for start in range(0, 3_000, 100):
            ingest.deliver(
                *(
                    message(
                        transaction_id=transaction_id,
                        merchant_id=8,
                        status="settled",
                        created_at=at(DAY),
                        updated_at=at(DAY, 14),
                    )
                    for transaction_id in ids[start : start + 100]
                )
            )

    with ThreadPoolExecutor(1) as threads:
        settling = threads.submit(settle)
        while not settling.done():
            repair(settings, every_day=True)
        settling.result()
    assert ingest.rows("SELECT status, merchant_name, count() FROM transactions_current GROUP BY ALL") == [
        ("settled", "Late", 3_000)
    ]


def test_the_last_revision_is_not_passed(warehouse: Warehouse) -> None:
    settings, ingest = warehouse
    ingest.load_merchants((7, "Known", "DE", "5411"))
    ingest.load_rates(("EUR", str(DAY), "1.1"))
    paid = pay(ingest, merchant_id=7, created_at=at(DAY))
    names = ", ".join(repairing._columns(ingest.client, "transactions"))
    ingest.client.command(
        f"INSERT INTO transactions ({names}) SELECT {names} "
        "FROM (SELECT * REPLACE (4095 AS enrichment_revision) FROM transactions)"
    )
    ingest.load_rates(("EUR", str(DAY), "1.2"), snapshot_id=2)
    assert repair(settings).rows == 0
    assert row(ingest, paid, "fx_rate, enrichment_revision") == (Decimal("1.1"), 4095)


def test_the_command_says_what_it_would_do_and_what_it_did(
    warehouse: Warehouse, paystream_here: Callable[..., tuple[int, str, list[str]]]
) -> None:
    settings, ingest = warehouse
    nothing = paystream_here(settings, "dims", "repair", "--dry-run")
    assert nothing == (0, "dims_repair status=dry_run rows=0\n", [])
    ingest.load_merchants()
    ingest.load_rates(("EUR", str(DAY), "1.1"))
    pay(ingest, merchant_id=8, created_at=at(DAY), amount="10")
    ingest.load_merchants((8, "Late", "FR", "5812"), snapshot_id=2)
    ingest.load_rates(("EUR", str(DAY), "1.2"), snapshot_id=2)
    code, out, err = paystream_here(settings, "dims", "repair", "--dry-run", "--json")
    assert (code, err) == (0, [])
    assert json.loads(out) == [
        {
            "day": str(DAY),
            "currency": "EUR",
            "rows": 1,
            "amount": "10.0000",
            "reporting_before": "11.0000",
            "reporting_after": "12.0000",
        }
    ]
    code, out, err = paystream_here(settings, "dims", "repair")
    assert (code, err) == (0, [])
    assert out.startswith("dims_repair repaired_rows=1 days_looked_at=1 repair_seconds=")
    assert paystream_here(settings, "dims", "repair")[1].startswith("dims_repair repaired_rows=0 days_looked_at=0 ")


def test_without_a_schema_the_command_says_what_to_do(
    warehouse: Warehouse, paystream_here: Callable[..., tuple[int, str, list[str]]]
) -> None:
    settings, ingest = warehouse
    ingest.client.command("DROP VIEW transactions_to_repair")
    code, out, err = paystream_here(settings, "dims", "repair")
    assert (code, out) == (2, "")
    assert "transactions_to_repair does not exist" in err[0] and "paystream migrate up" in err[0]
