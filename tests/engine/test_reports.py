"""Every report against the nightly batch in plain Python (tests/batch.py), after each thing that befalls payments."""

import csv
import json
import random
import re
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import batch
import pyarrow.parquet
import pytest
from ingest import OBJECTS, Ingest, Warehouse, ingest_schema, warehouse_of
from payments import message, rfc3339

from paystream.clickhouse import connect
from paystream.loader.repair import repair
from paystream.percentiles import ledger_percentile_s
from paystream.project import CHECKOUT


@pytest.fixture
def warehouse(clickhouse_server, tmp_path) -> Iterator[Warehouse]:
    with warehouse_of(clickhouse_server, tmp_path) as made:
        yield made


@pytest.fixture
def ingest(warehouse: Warehouse) -> Ingest:
    return warehouse.ingest


MERCHANTS = {
    1: ("Bakery", "DE", "5462"),
    2: ("Garage", "FR", "7538"),
    3: ("Books", "DE", "5942"),
    4: ("Hotel", "FR", "7011"),
}
STATUSES = ["authorized", "captured", "settled", "refunded", "charged_back", "failed"]
MIDNIGHT = datetime(2025, 5, 6, tzinfo=UTC)


def load(ingest: Ingest, merchants: list[int], quotes: dict[str, dict[date, Decimal]], snapshot_id: int) -> None:
    ingest.load_merchants(*((number, *MERCHANTS[number]) for number in merchants), snapshot_id=snapshot_id)
    ingest.load_rates(
        *((currency, str(day), str(rate)) for currency, days in quotes.items() for day, rate in days.items()),
        snapshot_id=snapshot_id,
    )


def test_reports_equal_the_batch_after_duplicates_late_states_restated_rates_and_repaired_merchants(
    warehouse: Warehouse,
) -> None:
    ingest, dice = warehouse.ingest, random.Random(11)
    now = datetime.now(UTC)
    today, yesterday = now.date(), now.date() - timedelta(days=1)
    quotes = {
        "EUR": {date(2025, 5, 5): Decimal("1.123456789012"), yesterday: Decimal("1.1")},
        "USD": {date(2025, 5, 5): Decimal(1), yesterday: Decimal(1), today: Decimal(1)},
    }
    load(ingest, [1, 2, 3], quotes, 1)

    moments = [now, now - timedelta(minutes=40), now - timedelta(days=1), MIDNIGHT]
    sent: list[bytes] = []
    told: list[dict] = []
    for _ in range(400):
        created = dice.choice(moments) + timedelta(microseconds=dice.randrange(-3_000_000, 3_000_000))
        fields = {
            "transaction_id": str(uuid.UUID(int=dice.getrandbits(128))),
            "merchant_id": dice.choice([1, 2, 3, 4]),
            "amount": str(Decimal(dice.randrange(1, 10**7)).scaleb(-4)),
            "currency": dice.choice(["EUR", "USD", "JPY"]),
            "created_at": rfc3339(created),
        }
        told.append(fields)
        for step in range(dice.randrange(1, 4)):
            updated = rfc3339(created + timedelta(seconds=step))
            sent.append(message(**fields, status=dice.choice(STATUSES), updated_at=updated))
    everything = [*sent, *dice.sample(sent, 200), "not JSON", message(amount="-1")]
    dice.shuffle(everything)
    for start in range(0, len(everything), 97):
        ingest.deliver(*everything[start : start + 97])
    ingest.complete_reports()
    known = {number: MERCHANTS[number] for number in (1, 2, 3)}
    batch.compare(ingest.client, batch.payments(sent, known, quotes))

    # Later: refunds of old and new payments, an amount that was corrected, another currency; and everything once more.
    for fields in dice.sample(told, 120):
        changes = {"status": dice.choice(STATUSES), "updated_at": rfc3339(now + timedelta(minutes=1))}
        if dice.random() < 0.3:
            changes |= {"amount": "7.7777", "currency": "USD"}
        sent.append(message(**fields | changes))
    ingest.deliver(*sent)
    ingest.complete_reports()
    batch.compare(ingest.client, batch.payments(sent, known, quotes))

    # The fourth merchant becomes known; rates come that were missing or provisional.
    quotes["JPY"] = {date(2025, 5, 5): Decimal("0.0069"), yesterday: Decimal("0.007"), today: Decimal("0.0071")}
    quotes["EUR"] |= {date(2025, 5, 6): Decimal("1.13"), today: Decimal("1.0999")}
    load(ingest, [1, 2, 3, 4], quotes, 2)
    assert repair(warehouse.settings, every_day=True).rows > 100
    ingest.complete_reports()
    payments = batch.payments(sent, MERCHANTS, quotes)
    assert not [p for p in payments if p.enrichment_status.endswith("pending")]
    batch.compare(ingest.client, payments)

    # The same buckets computed by a refresh that has lost its place, as after rollup_progress was lost with a restart.
    compare_after_everything_is_computed_again(ingest, payments)


def compare_after_everything_is_computed_again(ingest: Ingest, payments: list[batch.Payment]) -> None:
    before = ingest.value("SELECT count() FROM merchant_slots FINAL")
    ingest.client.command("TRUNCATE TABLE rollup_progress")
    for view in (*batch.ROLLUPS, "rollup_progress_mv"):
        ingest.client.command(f"DETACH TABLE {view} SYNC")
    # A roll-up that was never refreshed has its row too, which nobody writes down as progress.
    state = "SELECT view, toUnixTimestamp(began_at), toUnixTimestamp(complete_until) FROM rollup_state ORDER BY view"
    assert ingest.rows(state) == [(view, 0, 0) for view in sorted(batch.ROLLUPS)]
    ingest.client.command("ATTACH TABLE rollup_progress_mv")
    note_progress(ingest)
    assert ingest.value("SELECT count() FROM rollup_progress") == 0
    for view in batch.ROLLUPS:
        ingest.client.command(f"ATTACH TABLE {view}")
    ingest.complete_reports()
    assert ingest.value("SELECT count() FROM merchant_slots FINAL") == before
    batch.compare(ingest.client, payments)


def note_progress(ingest: Ingest) -> None:
    ingest.client.command("SYSTEM REFRESH VIEW rollup_progress_mv")
    ingest.client.command("SYSTEM WAIT VIEW rollup_progress_mv")


OF_SHARDS = ["rollup_progress", "merchant_slots", "merchant_days", "volume_hours", "latency_minutes"]


@pytest.fixture
def shards(clickhouse_server) -> Iterator[tuple[Ingest, Ingest, Ingest]]:
    """Two databases, each with the roll-ups of its own payments, and one with the reports of both.

    As on a cluster a roll-up there has rows of each, and rollup_state too. Its tables are of the engine Merge where a
    cluster's are Distributed: tests/pipeline has the real one.
    """
    database = f"both_{uuid.uuid4().hex[:8]}"
    with ingest_schema(clickhouse_server) as one, ingest_schema(clickhouse_server) as other:
        names = [one.client.database, other.client.database]
        try:
            one.client.command(f"CREATE DATABASE {database}")
            with connect(clickhouse_server, database=database) as client:
                for table in OF_SHARDS:
                    client.command(
                        f"CREATE TABLE {table} AS {names[0]}.{table}"
                        f" ENGINE = Merge(REGEXP('^({'|'.join(names)})$'), '^{table}$')"
                    )
                both = " UNION ALL ".join(f"SELECT * FROM {name}.rollup_state" for name in names)
                client.command(f"CREATE VIEW rollup_state AS {both}")
                for path in OBJECTS[OBJECTS.index("sql/5_rollup/merchant_days_current.sql") :]:
                    client.command((CHECKOUT / path).read_text())
                yield one, other, Ingest(client)
        finally:
            one.client.command(f"DROP DATABASE IF EXISTS {database} SYNC")


def test_reports_add_up_what_each_shard_has(shards: tuple[Ingest, Ingest, Ingest]) -> None:
    *each, both = shards
    dice = random.Random(12)
    now = datetime.now(UTC)
    today, yesterday = now.date(), now.date() - timedelta(days=1)
    quotes = {"EUR": {date(2025, 5, 5): Decimal("1.123456789012"), yesterday: Decimal("1.1")}}
    known = {number: MERCHANTS[number] for number in (1, 2, 3)}
    renamed = {number: (f"New {name}", *rest) for number, (name, *rest) in known.items()}
    moments = [now, now - timedelta(minutes=40), now - timedelta(days=1), MIDNIGHT]
    sent: list[bytes] = []
    for snapshot_id, (ingest, merchants) in enumerate(zip(each, (renamed, known), strict=True)):
        # Of the same merchants and days in each; the first enriches with the newer snapshot.
        ingest.load_merchants(*((number, *row) for number, row in merchants.items()), snapshot_id=2 - snapshot_id)
        ingest.load_rates(
            *(("EUR", str(day), str(rate)) for day, rate in quotes["EUR"].items()), snapshot_id=2 - snapshot_id
        )
        own = []
        for _ in range(300):
            created = dice.choice(moments) + timedelta(microseconds=dice.randrange(-3_000_000, 3_000_000))
            fields = {
                "transaction_id": str(uuid.UUID(int=dice.getrandbits(128))),
                "merchant_id": dice.choice([1, 2, 3, 4]),
                "amount": str(Decimal(dice.randrange(1, 10**7)).scaleb(-4)),
                "currency": dice.choice(["EUR", "JPY"]),
                "created_at": rfc3339(created),
            }
            own.append(message(**fields, status=dice.choice(STATUSES), updated_at=rfc3339(created)))
        ingest.deliver(*own, *own[:50])
        sent += own
    for ingest in each:
        ingest.complete_reports()
        note_progress(ingest)
    payments = batch.payments(sent, renamed, quotes)
    batch.compare(both.client, payments)
    of_a_day = "SELECT count() AS n FROM merchant_days FINAL WHERE notEmpty(payments) GROUP BY day, merchant_id"
    assert both.value(f"SELECT max(n) FROM ({of_a_day})") == len(each)
    named = {(p.day, p.merchant_id): p.merchant_name for p in payments}
    for report in ("report_merchant_by_day", "report_settlement_by_day"):
        rows = both.rows(f"SELECT DISTINCT day, merchant_id, merchant_name FROM {report}")
        assert sorted(rows) == sorted((*key, name) for key, name in named.items())
    compare_latency(both, [row for ingest in each for row in ingest.rows(LEDGER)])
    assert today in {day for (day,) in both.rows("SELECT DISTINCT day FROM report_latency_by_minute")}

    # Complete until that which is further behind is; one that says nothing holds all back, and no payment is lost.
    behind = "SELECT report, complete_until FROM report_freshness ORDER BY report"
    least = "SELECT view, min(complete_until) FROM rollup_state GROUP BY view HAVING count() = 2"
    rollups = dict(both.rows(least))
    assert dict(both.rows(behind))["report_volume_by_hour"] == rollups["volume_hours_mv"]
    assert dict(both.rows(behind))["report_settlement_by_day"] == min(
        rollups["merchant_slots_mv"], rollups["merchant_days_mv"]
    )
    # What the engine says of refreshes is read in their own database alone, so this takes all that the other one told.
    each[1].client.command("DETACH TABLE rollup_progress_mv SYNC")
    each[1].client.command("TRUNCATE TABLE rollup_progress")
    assert both.value("SELECT max(toUnixTimestamp(complete_until)) FROM report_freshness") == 0
    batch.compare(both.client, payments)


LEDGER = "SELECT read_at, kafka_topic, messages, timed, late, latency_histogram FROM ingest_ledger"


def test_latency_by_minute_equals_the_ledger(ingest: Ingest) -> None:
    for size in (3, 40):
        ingest.deliver(*(message() for _ in range(size)))
    ingest.complete_reports()
    compare_latency(ingest, ingest.rows(LEDGER))


def compare_latency(ingest: Ingest, ledger: Sequence[Sequence[Any]]) -> None:
    expected: dict = {}
    for read_at, topic, messages, timed, late, counts in ledger:
        row = expected.setdefault((read_at.replace(second=0, microsecond=0), topic), [0, 0, 0, [0] * 176])
        row[:3] = [row[0] + messages, row[1] + timed, row[2] + late]
        row[3] = [a + b for a, b in zip(row[3], counts, strict=True)]
    rows = ingest.rows(
        "SELECT minute, kafka_topic, messages, timed, late, p50_s, p95_s, p99_s FROM report_latency_by_minute"
    )
    assert {(row[0], row[1]): row[2:5] for row in rows} == {key: tuple(row[:3]) for key, row in expected.items()}
    for minute, topic, *_, p50_s, p95_s, p99_s in rows:
        counts = expected[minute, topic][3]
        for percent, told in ((50, p50_s), (95, p95_s), (99, p99_s)):
            assert told == pytest.approx(ledger_percentile_s(counts, percent))


def test_before_any_payment_reports_are_empty_and_say_up_to_when(ingest: Ingest) -> None:
    ingest.complete_reports()
    for report in batch.REPORTS:
        assert ingest.rows(f"SELECT * FROM {report}") == []
    assert ingest.value("SELECT now() - min(complete_until) FROM report_freshness") < 60


@pytest.fixture
def some(warehouse: Warehouse) -> Warehouse:
    """Thirty payments of now, all reports complete."""
    load(warehouse.ingest, [1, 2], {"EUR": {datetime.now(UTC).date(): Decimal("1.25")}}, 1)
    warehouse.ingest.deliver(
        *(message(merchant_id=1 + n % 2, amount="4.00", currency="EUR", status="captured") for n in range(30))
    )
    warehouse.ingest.complete_reports()
    return warehouse


def test_the_commands(some: Warehouse, paystream_here, tmp_path) -> None:
    settings, ingest = some
    code, out, err = paystream_here(settings, "report")
    assert (code, err, len(out.splitlines())) == (0, [], 7)
    code, out, err = paystream_here(settings, "report", "settlement-by-day", "--format", "json")
    rows = json.loads(out)
    assert [(row["merchant_id"], row["transactions"], row["net"], row["net_reporting"]) for row in rows] == [
        (1, 15, "60.0000", "75.0000"),
        (2, 15, "60.0000", "75.0000"),
    ]
    file = tmp_path / "ranking.parquet"
    code, out, err = paystream_here(settings, "report", "merchant_ranking", "--out", str(file), "--day", "today")
    assert (code, err) == (0, [])
    assert pyarrow.parquet.read_table(file).to_pydict()["net_reporting"] == [Decimal(75), Decimal(75)]
    assert [file.name for file in tmp_path.iterdir() if "ranking" in file.name] == ["ranking.parquet"]
    code, out, err = paystream_here(settings, "report", "merchant_by_day", "--merchant", "2", "--format", "csv")
    assert (code, err, len(out.splitlines())) == (0, [], 2)
    # A merchant without payments has an empty report; one that nobody knows is a mistake, as is a day to come.
    ingest.load_merchants((1, "Bakery", "DE", "5462"), (9, "Empty", "DE", "5462"))
    code, out, err = paystream_here(settings, "report", "merchant_by_day", "--merchant", "9", "--format", "csv")
    assert (code, err, len(out.splitlines())) == (0, [], 1)
    for arguments, complaint in [
        (("merchant_by_day", "--merchant", "77"), "Merchant '77': it is not among the merchants"),
        (("volume_by_hour", "--merchant", "1"), "Report 'volume_by_hour': it has no merchants"),
        (("volume_by_hour", "--day", "2999-01-01"), "Day '2999-01-01': it has not begun"),
        (("volume_by_hour", "--day", "2026-02-30"), "Day '2026-02-30': not a day"),
        (("volume_by_hour", "--month", "November"), "Month 'November': not a month"),
        (("volume_by_hour", "--month", "9999-12"), "Day '9999-12-01': it has not begun"),
        (("volume_by_hour", "--day", ""), "Day '': not a day"),
        (("volume_by_hour", "--from", "2026-02-03", "--to", "2026-02-01"), "the first is after the last"),
        (("volume_by_hour", "--day", "today", "--month", "2026-11"), "one of them"),
        (("volumes_by_hour",), "Did you mean 'volume_by_hour'?"),
        (("volume_by_hour", "--out", str(tmp_path / "volume.xml")), "its name does not say what to write"),
        (("volume_by_hour", "--out", str(tmp_path / "no" / "volume.csv")), "there is no folder"),
        (("volume_by_hour", "--format", "parquet"), "Name a file with --out"),
    ]:
        code, out, err = paystream_here(settings, "report", *arguments)
        assert (code, out) == (2, ""), arguments
        assert complaint in " ".join(err), arguments


def test_a_name_that_a_spreadsheet_would_take_for_a_formula(warehouse: Warehouse, paystream_here) -> None:
    settings, ingest = warehouse
    names = ['=HYPERLINK("http://example.com","Prize")', "+1 Shop", "-Minus", "@at", "Tea - and = Coffee"]
    ingest.load_merchants(*((number, name, "DE", "5462") for number, name in enumerate(names, start=1)))
    ingest.deliver(*(message(merchant_id=number) for number in range(1, 6)))
    assert paystream_here(settings, "rollup", "rebuild")[0] == 0

    def written(*options: str) -> list[str]:
        code, out, _ = paystream_here(settings, "report", "settlement_by_day", "--from", "2026-01-01", *options)
        assert code == 0
        return [row["merchant_name"] for row in csv.DictReader(out.splitlines())]

    # For machines as it is, in the same order.
    assert written("--format", "csv") == written("--format", "csv", "--no-spreadsheet") == names
    assert written("--format", "csv", "--spreadsheet") == [*(f"'{name}" for name in names[:4]), names[4]]


def test_drift_is_found_and_mended(warehouse: Warehouse, paystream_here) -> None:
    settings, ingest = warehouse
    # Of an hour ago, as in a table that was filled before it had roll-ups. What was written within the last minute is
    # computed again anyway, and not compared.
    ingest.client.command(
        "INSERT INTO transactions (transaction_id, created_at, merchant_id, amount, currency, status, updated_at,"
        " enrichment_status, ingested_at) SELECT generateUUIDv4(), now() - 3600, 1 + number % 2, 4, 'EUR', 'captured',"
        " now() - 3600, 'merchant_pending', now() - 3600 FROM numbers(30)"
    )
    assert paystream_here(settings, "rollup", "rebuild")[0] == 0
    ingest.complete_reports()
    assert paystream_here(settings, "audit", "--reports")[0] == 0
    assert ingest.rows("SELECT sum(transactions), sum(amount) FROM report_merchant_by_day") == [(30, Decimal(120))]
    ingest.client.command(
        "INSERT INTO merchant_slots SELECT * REPLACE ("
        " arrayMap(p -> tuple(p.1, p.2, p.3, p.4, p.5, p.6, p.7 + 1, p.8, p.9), payments) AS payments,"
        " refreshed_at + 1 AS refreshed_at) FROM merchant_slots FINAL WHERE merchant_id = 2"
    )
    code, out, err = paystream_here(settings, "audit", "--reports", "--json")
    document = json.loads(out)
    assert (code, document["verdict"]) == (1, "drift")
    differences = {
        (example["rollup"], example["merchant_id"], example["transactions"]) for example in document["examples"]
    }
    # Just after midnight the hour before is of a day that is over.
    assert differences - {("merchant_days", 2, 1)} == {("merchant_slots", 2, -1), ("volume_hours", 0, 1)}
    assert "See 'Reports differ' in docs/runbook.md" in " ".join(err)
    code, out, err = paystream_here(settings, "rollup", "rebuild")
    assert (code, out.split()[1:3]) == (0, ["days=1", "rows=30"])
    assert paystream_here(settings, "audit", "--reports")[0] == 0


def test_deleted_payments_are_drift_until_a_rebuild_and_gone_after_it(warehouse: Warehouse, paystream_here) -> None:
    settings, ingest = warehouse
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    # Of one merchant alone, in half hours of its own; and of two, of which one goes.
    ingest.client.command(
        "INSERT INTO transactions (transaction_id, created_at, merchant_id, amount, currency, status, updated_at,"
        " enrichment_status, ingested_at) SELECT generateUUIDv4(),"
        f" toDateTime('{yesterday} 03:10:00', 'UTC') + if(number < 100, 0, 7200), if(number < 100, 79999, number % 2),"
        " 4, 'EUR', 'captured', now() - 3600, 'merchant_pending', now() - 3600 FROM numbers(130)"
    )
    assert paystream_here(settings, "rollup", "rebuild")[0] == 0
    ingest.complete_reports()
    assert paystream_here(settings, "audit", "--reports")[0] == 0
    levels = {
        "report_merchant_by_day": "SELECT sum(transactions), sum(amount) FROM report_merchant_by_day",
        "report_volume_by_hour": "SELECT sum(transactions) FROM report_volume_by_hour",
        "report_currency_exposure_by_day": "SELECT sum(transactions) FROM report_currency_exposure_by_day",
        "merchant_slots": "SELECT sum(p.transactions) FROM merchant_slots FINAL ARRAY JOIN payments AS p",
    }
    assert [ingest.rows(sql)[0][0] for sql in levels.values()] == [130] * 4

    ingest.client.command("DELETE FROM transactions WHERE merchant_id IN (79999, 1)")
    code, out, _ = paystream_here(settings, "audit", "--reports", "--json")
    document = json.loads(out)
    assert (code, document["verdict"]) == (1, "drift")
    assert (79999, -100) in {(example["merchant_id"], example["transactions"]) for example in document["examples"]}
    assert paystream_here(settings, "rollup", "rebuild", "--from", str(yesterday), "--to", str(yesterday))[0] == 0
    assert [ingest.rows(sql)[0][0] for sql in levels.values()] == [15] * 4
    assert ingest.rows(levels["report_merchant_by_day"]) == [(15, Decimal(60))]
    assert paystream_here(settings, "audit", "--reports")[0] == 0

    ingest.client.command("DELETE FROM transactions WHERE 1")  # nothing is left that says which days there were
    assert paystream_here(settings, "audit", "--reports")[0] == 1
    assert paystream_here(settings, "rollup", "rebuild")[0] == 0
    assert [ingest.rows(sql)[0][0] for sql in levels.values()] == [0] * 4
    assert paystream_here(settings, "audit", "--reports")[0] == 0


def test_the_roles_of_a_server_name_what_exists(ingest: Ingest) -> None:
    text = re.sub(r"--.*", "", (CHECKOUT / "access" / "roles.sql").read_text())
    statements = [statement.strip() for statement in text.split(";") if statement.strip()]
    assert len(statements) > 30
    names = {name for (name,) in ingest.rows("SELECT name FROM system.tables WHERE database = currentDatabase()")}
    for statement in statements:
        assert ingest.value("SELECT formatQuerySingleLine({text:String})", text=statement)
        for name in re.findall(r"ON paystream\.(\w+)(?![\w*])", statement):
            # Those of a cluster are made of the same names.
            assert re.sub("_(local|(to_)?shards)$", "", name) in names, statement
