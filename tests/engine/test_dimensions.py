"""Refreshing merchants and rates in the real engine: what is loaded, what is refused, and what a killed run leaves."""

import csv
import hashlib
import io
import json
import os
import random
import re
import subprocess
import sys
import uuid
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from ingest import OBJECTS, Ingest, Warehouse, warehouse_of
from kill_at_random import run_and_kill
from payments import message

from paystream import lock
from paystream.clickhouse import connect
from paystream.errors import CheckFailed, PaystreamError
from paystream.loader import sample
from paystream.loader.dimension import FX, MERCHANTS
from paystream.loader.fx import read_fx
from paystream.loader.merchants import read_merchants
from paystream.loader.refresh import Refreshed, refresh
from paystream.loader.source import read_source
from paystream.process import identity
from paystream.project import CHECKOUT
from paystream.settings import Settings

Paystream = Callable[..., subprocess.Popen]
PaystreamHere = Callable[..., tuple[int, str, list[str]]]


@pytest.fixture
def warehouse(clickhouse_server: Settings, tmp_path: Path) -> Iterator[Warehouse]:
    # Files of a few rows: what the gates make of them is in test_snapshots.py.
    with warehouse_of(clickhouse_server, tmp_path / "home", dims_row_fall_limit=1.0) as warehouse:
        yield warehouse


def finish(process: subprocess.Popen) -> tuple[int, str, list[str]]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err.splitlines()


def merchants_file(folder: Path, name: str, count: int = 3, first: int = 1) -> Path:
    """Write merchants that all bear one name."""
    path = folder / f"{name}.csv"
    rows = [f"{number},{name},DE,0742" for number in range(first, first + count)]
    path.write_text("\n".join(["merchant_id,merchant_name,country,category_code", *rows]) + "\n")
    return path


def load_merchants(settings: Settings, path: Path) -> Refreshed:
    source = read_source("Merchants file", path)
    return refresh(settings, MERCHANTS, source, read_merchants(source).columns)


def state(ingest: Ingest) -> dict[str, Any]:
    """Return all that a refresh may change."""
    return {
        "objects": ingest.rows("SELECT name, uuid FROM system.tables WHERE database = currentDatabase() ORDER BY name"),
        "snapshots": ingest.rows("SELECT * FROM dimension_snapshots ORDER BY dimension, snapshot_id"),
        "merchants": ingest.rows("SELECT * FROM merchants ORDER BY merchant_id"),
        "merchants_dict": ingest.rows("SELECT * FROM merchants_dict ORDER BY merchant_id"),
        "fx": ingest.rows("SELECT * FROM fx_rate_periods ORDER BY currency, valid_from"),
        "fx_dict": ingest.rows("SELECT * FROM fx_rates_dict ORDER BY currency, valid_from"),
    }


def leftovers(ingest: Ingest) -> list[str]:
    """Return what the database holds beside the schema."""
    schema = {Path(path).stem for path in OBJECTS}
    names = ingest.rows("SELECT name FROM system.tables WHERE database = currentDatabase() ORDER BY name")
    return [name for (name,) in names if name not in schema]


def test_merchants_from_the_command_line_then_the_same_file_again_then_another(
    warehouse: Warehouse, paystream: Paystream, tmp_path: Path
) -> None:
    settings, ingest = warehouse
    path = merchants_file(tmp_path, "Acme")
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()

    code, out, err = finish(paystream(settings, "dims", "refresh", "merchants", "--from", str(path)))
    assert (code, err) == (0, [])
    assert re.fullmatch(
        rf"dims_refresh dimension=merchants result=loaded snapshot_id=1 rows=3 checksum={checksum} rejected=0 "
        r"seconds=[\d.]+ repaired_rows=0 days_looked_at=0 repair_seconds=[\d.]+\n",
        out,
    )
    loaded = state(ingest)
    assert (
        loaded["merchants"] == loaded["merchants_dict"] == [(number, "Acme", "DE", "0742", 1) for number in (1, 2, 3)]
    )
    [snapshot] = ingest.rows("SELECT dimension, snapshot_id, source, checksum, row_count FROM dimension_snapshots")
    assert snapshot == ("merchants", 1, str(path), checksum, 3)
    assert ingest.value("SELECT loaded_by LIKE '_%@_%' AND loaded_at > now() - 100 FROM dimension_snapshots")
    assert leftovers(ingest) == []

    code, out, err = finish(paystream(settings, "dims", "refresh", "merchants", "--from", str(path), "--json"))
    assert (code, err) == (0, [])
    answer = json.loads(out)
    assert answer.pop("seconds") >= 0 and answer.pop("repair_seconds") >= 0
    assert answer == {
        "dimension": "merchants",
        "result": "unchanged",
        "snapshot_id": 1,
        "rows": 3,
        "checksum": checksum,
        "rejected": 0,
        "repaired_rows": 0,
        "days_looked_at": 0,
    }
    assert state(ingest) == loaded

    other = merchants_file(tmp_path, "Other", count=2, first=3)
    assert load_merchants(settings, other).snapshot_id == 2
    assert state(ingest)["merchants_dict"] == [(3, "Other", "DE", "0742", 2), (4, "Other", "DE", "0742", 2)]


def test_merchants_with_unknown_codes_are_left_out_and_what_served_for_them_goes_on(
    warehouse: Warehouse, paystream_here: PaystreamHere, tmp_path: Path
) -> None:
    settings, ingest = warehouse
    load_merchants(settings, merchants_file(tmp_path, "Before", count=2))
    path = merchants_file(tmp_path, "After", count=1000)
    path.write_text(path.read_text().replace("\n2,After,DE,0742", "\n2,After,QQ,0742"))
    cause = "column country: 'QQ' is not an ISO 3166-1 country code of two capital letters"

    code, out, err = paystream_here(settings, "dims", "refresh", "merchants", "--from", str(path), "--no-repair")
    assert code == 0 and " result=loaded snapshot_id=2 rows=1000 " in out and " rejected=1 " in out
    assert err[0].startswith(f"note: Merchants file '{path}': 1 row left out for codes that no list has; what served")
    assert err[1:] == [f"  line 3, merchant 2, {cause}"]
    served = ingest.rows("SELECT merchant_name, country FROM merchants_dict WHERE merchant_id IN (1, 2, 1000)")
    assert sorted(served) == [("After", "DE"), ("After", "DE"), ("Before", "DE")]
    assert ingest.rows("SELECT rejected FROM dimension_snapshots WHERE snapshot_id = 2") == [
        ([{"place": "line 3", "key": "2", "cause": cause}],)
    ]
    assert json.loads(paystream_here(settings, "dims", "history", "merchants", "--json")[1])[1]["rejected"] == [
        {"place": "line 3", "key": "2", "cause": cause}
    ]
    _, out, _ = paystream_here(settings, "dims", "refresh", "merchants", "--from", str(path), "--no-repair")
    assert " result=unchanged snapshot_id=2 rows=1000 " in out and " rejected=1 " in out

    # A merchant that never served is not there. Once its code is known, the same file loads it.
    path.write_text(path.read_text().replace("\n999,After,DE", "\n1999,After,QQ"))
    limit = {"PAYSTREAM_DIMS_REJECTED_SHARE_LIMIT": "0.002"}
    _, out, _ = paystream_here(settings, "dims", "refresh", "merchants", "--from", str(path), "--no-repair", **limit)
    assert " snapshot_id=3 rows=999 " in out and " rejected=2 " in out
    assert ingest.rows("SELECT merchant_name FROM merchants_dict WHERE merchant_id IN (2, 999, 1999)") == [("Before",)]
    known = {"PAYSTREAM_DIMS_FURTHER_COUNTRIES": "QQ"}
    _, out, err = paystream_here(settings, "dims", "refresh", "merchants", "--from", str(path), "--no-repair", **known)
    assert " result=loaded snapshot_id=4 rows=1000 " in out and " rejected=0 " in out and err == []

    code, _, err = paystream_here(settings, "dims", "rollback", "merchants", "--to", "3", "--no-repair")
    assert code == 0 and ingest.value("SELECT length(rejected) FROM dimension_snapshots WHERE snapshot_id = 5") == 2


def test_the_banks_history_gives_the_rate_of_any_day_and_follows_the_reporting_currency(
    warehouse: Warehouse, paystream_here: PaystreamHere, tmp_path: Path
) -> None:
    settings, ingest = warehouse
    path = tmp_path / "fx.zip"
    sample.write_fx(path)
    code, out, err = paystream_here(settings, "dims", "refresh", "fx", "--from", str(path))
    assert (code, err) == (0, [])
    assert out.startswith("dims_refresh dimension=fx result=loaded snapshot_id=1 rows=")

    text = zipfile.ZipFile(path).read("eurofxref-hist.csv").decode()
    history = {date.fromisoformat(row.pop("Date")): row for row in csv.DictReader(io.StringIO(text))}
    chance = random.Random(4)
    days = [date(1999, 1, 1) + timedelta(chance.randrange(10_150)) for _ in range(300)]
    questions = [(chance.choice(["EUR", "USD", "JPY", "GBP", "IDR", "TRL", "HRK", "CNY"]), day) for day in days]
    answers = ingest.rows(
        "SELECT dictGetOrNull('fx_rates_dict', ('rate', 'rate_date'), tuple(q.1), q.2) AS fx, fx.1, fx.2 "
        "FROM (SELECT arrayJoin({questions:Array(Tuple(String, Date))}) AS q)",
        questions=questions,
    )
    known = 0
    for (currency, day), (_, rate, rate_date) in zip(questions, answers, strict=True):
        # The last day up to this one on which both were quoted; a quote holds for ten days at most.
        for quoted in (day - timedelta(back) for back in range(11)):
            row = history.get(quoted, {})
            quote = "1" if currency == "EUR" else row.get(currency, "N/A")
            if row.get("USD", "N/A") != "N/A" and quote != "N/A":
                known += 1
                assert rate_date == quoted
                assert rate == Decimal(round(Fraction(row["USD"]) / Fraction(quote) * 10**12)).scaleb(-12)
                break
        else:
            assert (rate, rate_date) == (None, None), (currency, day)
    assert 150 < known < 300

    assert paystream_here(settings, "dims", "refresh", "fx", "--from", str(path))[1].split()[2] == "result=unchanged"
    in_euro = settings.model_copy(update={"reporting_currency": "EUR"})
    out = paystream_here(in_euro, "dims", "refresh", "fx", "--from", str(path))[1]
    assert out.split()[2:4] == ["result=loaded", "snapshot_id=2"]
    assert ingest.rows("SELECT DISTINCT reporting_currency, snapshot_id FROM fx_rates_dict") == [("EUR", 2)]


def test_amounts_on_random_days_are_converted_as_the_banks_file_says(warehouse: Warehouse, tmp_path: Path) -> None:
    settings, ingest = warehouse
    path = tmp_path / "fx.zip"
    sample.write_fx(path)
    source = read_source("FX file", path)
    refresh(settings, FX, source, read_fx(source, settings.reporting_currency).columns)
    text = zipfile.ZipFile(path).read("eurofxref-hist.csv").decode()
    history = {date.fromisoformat(row.pop("Date")): row for row in csv.DictReader(io.StringIO(text))}
    newest = max(history)
    chance = random.Random(9)
    expected, messages = {}, []
    for number in range(400):
        transaction_id = uuid.UUID(int=number + 1)
        currency = chance.choice(["EUR", "USD", "JPY", "GBP", "IDR", "HRK", "RUB", "CNY", "TRY"])
        # The contract lets payments be 96 months old; up to a week after the newest quote is provisional.
        day = newest + timedelta(7) - timedelta(chance.randrange(90 * 30))
        amount = Decimal(chance.randrange(1, 10**12)).scaleb(-4)
        fields = {"currency": currency, "created_at": f"{day}T10:00:00Z", "amount": f"{amount:f}"}
        messages.append(message(transaction_id=str(transaction_id), **fields))
        expected[transaction_id] = (None, None)
        for quoted in (day - timedelta(back) for back in range(11)):
            row = history.get(quoted, {})
            quote = "1" if currency == "EUR" else row.get(currency, "N/A")
            if row.get("USD", "N/A") != "N/A" and quote != "N/A":
                rate = Decimal(round(Fraction(row["USD"]) / Fraction(quote) * 10**12)).scaleb(-12)
                expected[transaction_id] = (quoted, (amount * rate).quantize(Decimal("0.0001"), ROUND_HALF_UP))
                break
    ingest.deliver(*messages)
    stored = ingest.rows("SELECT transaction_id, fx_rate_date, amount_reporting FROM transactions_current")
    assert {key: (day, amount) for key, day, amount in stored} == expected
    assert 300 < sum(day is not None for day, _ in expected.values()) < 400


def test_a_payment_is_enriched_with_what_was_loaded(
    warehouse: Warehouse, paystream_here: PaystreamHere, tmp_path: Path
) -> None:
    settings, ingest = warehouse
    rates = tmp_path / "fx.csv"
    today = date.today()
    rates.write_text(f"Date,USD,JPY,\n{today - timedelta(1)},1.25,160,\n")
    for dimension, path in [("merchants", merchants_file(tmp_path, "Tierarzt Nord")), ("fx", rates)]:
        assert paystream_here(settings, "dims", "refresh", dimension, "--from", str(path))[0] == 0
    ingest.deliver(message(merchant_id=2, amount="1000", currency="JPY"))
    assert ingest.rows(
        "SELECT merchant_name, merchant_country, merchant_category_code, merchant_snapshot_id, fx_rate, "
        "amount_reporting, reporting_currency, fx_snapshot_id FROM transactions_current"
    ) == [("Tierarzt Nord", "DE", "0742", 1, Decimal("0.0078125"), Decimal("7.8125"), "USD", 1)]


def test_a_refused_refresh_changes_nothing(warehouse: Warehouse, paystream_here: PaystreamHere, tmp_path: Path) -> None:
    settings, ingest = warehouse
    load_merchants(settings, merchants_file(tmp_path, "Acme"))
    before = state(ingest)
    bad = tmp_path / "bad.csv"
    bad.write_text("merchant_id,merchant_name,country,category_code\n1,Good,DE,0742\n-2,Bad,DE,0742\n3,Bad,ZZ,742\n")
    code, out, err = paystream_here(settings, "dims", "refresh", "merchants", "--from", str(bad))
    assert (code, out) == (1, "")
    assert err == [
        f"error: Merchants file '{bad}': 3 problems in 3 rows (listed below). "
        "Nothing was changed. Correct it and run again.",
        "  line 3, column merchant_id: '-2' is not a whole number from 1 to 4294967295 in plain digits",
        "  line 4, column country: 'ZZ' is not an ISO 3166-1 country code of two capital letters",
        "  line 4, column category_code: '742' is not an ISO 18245 merchant category code of four digits",
    ]
    bad.write_text("<html><body>503 Service Unavailable</body></html>")
    for dimension in ("merchants", "fx"):
        code, out, err = paystream_here(settings, "dims", "refresh", dimension, "--from", str(bad))
        assert (code, out, len(err)) == (1, "", 1)
    assert state(ingest) == before


def test_wrong_use_and_an_absent_clickhouse_get_one_line(
    warehouse: Warehouse, paystream_here: PaystreamHere, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    settings, ingest = warehouse
    path = str(merchants_file(tmp_path, "Acme"))
    (tmp_path / "empty").mkdir()
    no_database = settings.model_copy(update={"clickhouse_database": "not_there"})
    no_server = settings.model_copy(update={"clickhouse_port": free_port()})
    for given, file, exit_code, says in [
        (settings, str(tmp_path / "missing.csv"), 2, "no such file or directory"),
        (settings, str(tmp_path / "empty"), 2, "there is no file in that folder"),
        (settings, "ftp://example.com/m.csv", 2, "its scheme is not http, https or s3"),
        (settings, f"http://127.0.0.1:{free_port()}/m.csv", 3, "connection refused"),
        (settings, None, 2, "merchants_dict does not exist in database"),
        (no_database, path, 2, "paystream migrate up"),
        (no_server, path, 3, "cannot be reached"),
    ]:
        if file is None:
            ingest.client.command("DROP DICTIONARY merchants_dict")  # a schema of which a part is missing
        code, out, err = paystream_here(given, "dims", "refresh", "merchants", "--from", file or path)
        assert (code, out, len(err)) == (exit_code, "", 1), err
        assert says in err[0]


@pytest.mark.parametrize(
    ("selection", "says"),
    [
        ("merchant_id != 5", "the dictionary merchants_dict is not what merchants holds"),
        ("NOT throwIf(merchant_id = 5, 'five')", "ClickHouse refused a statement"),
    ],
)
def test_a_dictionary_that_does_not_take_the_new_rows_keeps_the_old_ones_everywhere(
    warehouse: Warehouse, tmp_path: Path, selection: str, says: str
) -> None:
    settings, ingest = warehouse
    definition = (CHECKOUT / "dictionaries" / "merchants_dict.sql").read_text()
    query = (
        "QUERY 'SELECT merchant_id, merchant_name, country, category_code, snapshot_id "
        f"FROM {ingest.client.database}.merchants WHERE {selection.replace(chr(39), chr(92) + chr(39))}'"
    )
    ingest.client.command("DROP DICTIONARY merchants_dict")
    ingest.client.command(definition.replace("TABLE 'merchants'", query))
    load_merchants(settings, merchants_file(tmp_path, "Four", count=4))
    before = state(ingest)
    with pytest.raises(PaystreamError, match=says) as caught:
        load_merchants(settings, merchants_file(tmp_path, "Five", count=5))
    assert caught.value.exit_code == 1
    assert state(ingest) == before
    assert load_merchants(settings, merchants_file(tmp_path, "Three", count=3)).snapshot_id == 2


def test_a_dictionary_that_lost_its_rows_is_loaded_again_by_the_same_file(warehouse: Warehouse, tmp_path: Path) -> None:
    settings, ingest = warehouse
    path = merchants_file(tmp_path, "Acme")
    load_merchants(settings, path)
    before = state(ingest)
    with connect(settings) as client:
        client.command("CREATE TABLE away AS merchants")
        client.command("EXCHANGE TABLES merchants AND away")
        client.command("SYSTEM RELOAD DICTIONARY merchants_dict")
        client.command("EXCHANGE TABLES merchants AND away")
        client.command("DROP TABLE away SYNC")
    assert state(ingest)["merchants_dict"] == []
    assert load_merchants(settings, path).result == "unchanged"
    assert state(ingest) == before


def test_a_second_refresh_gives_way_to_a_running_one(
    warehouse: Warehouse, paystream: Paystream, tmp_path: Path
) -> None:
    settings, ingest = warehouse
    path = merchants_file(tmp_path, "Acme")
    rates = tmp_path / "fx.csv"
    rates.write_text("Date,USD\n2024-01-02,1.1\n")
    with connect(settings) as client, lock.locked(client, "merchants_refresh", "Test", like="dimension_snapshots"):
        code, out, err = finish(paystream(settings, "dims", "refresh", "merchants", "--from", str(path)))
        assert (code, out, len(err)) == (1, "", 1)
        assert re.search(rf"another one is running, process {os.getpid()} of .* on .*, since 20.* UTC\.", err[0])
        assert state(ingest)["merchants"] == []
        # The dimensions do not wait for each other.
        assert finish(paystream(settings, "dims", "refresh", "fx", "--from", str(rates)))[0] == 0
    assert load_merchants(settings, path).result == "loaded"
    assert leftovers(ingest) == []


def test_refreshes_at_once_never_mix(warehouse: Warehouse, tmp_path: Path) -> None:
    settings, ingest = warehouse
    paths = [merchants_file(tmp_path, f"Run {number}", count=500) for number in range(6)]

    def attempt(path: Path) -> Refreshed | None:
        try:
            return load_merchants(settings, path)
        except CheckFailed as error:
            assert "Run" in str(error) and "again" in str(error)
            return None

    with ThreadPoolExecutor(3) as threads:
        done = [refreshed for refreshed in threads.map(attempt, paths) if refreshed]
    assert done
    recorded = ingest.rows("SELECT snapshot_id, checksum FROM dimension_snapshots ORDER BY snapshot_id")
    assert sorted((refreshed.snapshot_id, refreshed.checksum) for refreshed in done) == recorded
    assert [snapshot_id for snapshot_id, _ in recorded] == list(range(1, len(done) + 1))
    serving = ingest.rows("SELECT DISTINCT merchant_name, snapshot_id FROM merchants_dict")
    assert serving == ingest.rows("SELECT DISTINCT merchant_name, snapshot_id FROM merchants")
    [(name, snapshot_id)] = serving
    assert recorded[-1] == (snapshot_id, hashlib.sha256((tmp_path / f"{name}.csv").read_bytes()).hexdigest())
    assert leftovers(ingest) == []


def test_another_machines_lock_is_respected_until_it_expires(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, ingest = warehouse
    path = merchants_file(tmp_path, "Acme")
    owner = {"token": "0" * 12, "host": "elsewhere", "user": "cron", **identity(1), "boot": "another"}
    ingest.client.command(f"CREATE TABLE merchants_refresh AS dimension_snapshots COMMENT '{json.dumps(owner)}'")
    ingest.client.command("CREATE TABLE merchants_staging_000000000000 AS merchants")
    before = state(ingest)
    with pytest.raises(CheckFailed, match=r"another one is running, process 1 of cron on elsewhere, since 20.* UTC"):
        load_merchants(settings, path)
    assert state(ingest) == before
    monkeypatch.setattr(lock, "EXPIRES_S", -1)
    assert load_merchants(settings, path).result == "loaded"
    assert leftovers(ingest) == []


def test_a_swap_that_a_killed_refresh_did_not_record_is_recorded_by_the_next(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    settings, ingest = warehouse
    load_merchants(settings, merchants_file(tmp_path, "Old"))
    path = merchants_file(tmp_path, "New")
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    # What is there right after the exchange: the new rows live, the dictionary with the old ones, the record pending.
    gone = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = {"token": "a" * 12, "host": os.uname().nodename, "user": "cron", **identity(gone.pid)}
    gone.communicate(b"\n")
    for statement in [
        f"CREATE TABLE merchants_refresh AS dimension_snapshots COMMENT '{json.dumps(owner)}'",
        "INSERT INTO merchants_refresh (dimension, snapshot_id, source, checksum, row_count, loaded_by) "
        f"VALUES ('merchants', 2, 'killed.csv', '{checksum}', 3, 'cron@here')",
        "CREATE TABLE merchants_staging_aaaaaaaaaaaa AS merchants",
        "INSERT INTO merchants_staging_aaaaaaaaaaaa SELECT merchant_id, 'New', 'DE', '0742', 2 FROM merchants",
        "EXCHANGE TABLES merchants AND merchants_staging_aaaaaaaaaaaa",
    ]:
        ingest.client.command(statement)
    assert load_merchants(settings, path) == Refreshed("merchants", "unchanged", 2, 3, checksum)
    assert ingest.rows("SELECT DISTINCT merchant_name, snapshot_id FROM merchants_dict") == [("New", 2)]
    assert ingest.rows("SELECT snapshot_id, source FROM dimension_snapshots ORDER BY snapshot_id") == [
        (1, str(tmp_path / "Old.csv")),
        (2, "killed.csv"),
    ]
    assert leftovers(ingest) == []


REFRESH_WHEN_READY = """
import sys
from pathlib import Path
from paystream.loader.dimension import MERCHANTS
from paystream.loader.merchants import read_merchants
from paystream.loader.refresh import refresh
from paystream.loader.source import read_source
from paystream.settings import load_settings
source = read_source("Merchants file", Path(sys.argv[1]))
columns = read_merchants(source).columns
settings = load_settings()
print("ready", flush=True)
refresh(settings, MERCHANTS, source, columns)
"""


def test_a_refresh_killed_at_any_moment_leaves_the_old_or_the_new_and_the_next_one_cleans_up(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    settings, ingest = warehouse
    load_merchants(settings, merchants_file(tmp_path, "Round 0", count=2000))
    chance = random.Random(11)
    names = "SELECT merchant_name, snapshot_id, count() FROM {} GROUP BY 1, 2"
    longest_s = 0.0
    for number in range(1, 10):
        path = merchants_file(tmp_path, f"Round {number}", count=2000)
        # The first two run to their end, to know how long there is something to interrupt.
        after_s = 60 if number <= 2 else chance.uniform(0, longest_s)
        _, worked_s = run_and_kill(REFRESH_WHEN_READY, str(path), settings=settings, folder=tmp_path, after_s=after_s)
        longest_s = max(longest_s, worked_s)
        old, new = (f"Round {number - 1}", number, 2000), (f"Round {number}", number + 1, 2000)
        for holder in ("merchants", "merchants_dict"):
            assert ingest.rows(names.format(holder)) in ([old], [new])

        assert load_merchants(settings, path).snapshot_id == number + 1
        for holder in ("merchants", "merchants_dict"):
            assert ingest.rows(names.format(holder)) == [new]
        assert ingest.rows("SELECT snapshot_id FROM dimension_snapshots ORDER BY 1") == [
            (snapshot_id,) for snapshot_id in range(1, number + 2)
        ]
        assert leftovers(ingest) == []
