"""Every report against the nightly batch in plain Python (tests/batch.py), after all that happens to payments."""

import random
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import batch
import pytest
from ingest import ROLLUPS, Ingest, Warehouse, warehouse_of
from payments import message, rfc3339

from loader.repair import repair
from paystream.latency import quantile_s


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


def compare(ingest: Ingest, found: list[batch.Payment]) -> None:
    for report, (recompute, key, values) in batch.REPORTS.items():
        width = key.count(",") + 1
        # The client gives times in UTC without saying so.
        said = key.replace("hour", "formatDateTime(hour, '%FT%TZ')")
        rows = {row[:width]: row[width:] for row in ingest.rows(f"SELECT {said}, {values} FROM {report}")}
        assert rows == recompute(found), report
    days = sorted({p.day for p in found})
    for first, last in [(days[0], days[-1]), (days[-1], days[-1])]:
        assert ingest.rows(
            "SELECT place, merchant_id, net_reporting"
            " FROM report_merchant_ranking(first_day = {first:Date}, last_day = {last:Date})",
            first=first,
            last=last,
        ) == batch.report_merchant_ranking(found, first, last)


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
    compare(ingest, batch.payments(sent, known, quotes))

    # Later: refunds of old and new payments, an amount that was corrected, another currency; and everything once more.
    for fields in dice.sample(told, 120):
        changes = {"status": dice.choice(STATUSES), "updated_at": rfc3339(now + timedelta(minutes=1))}
        if dice.random() < 0.3:
            changes |= {"amount": "7.7777", "currency": "USD"}
        sent.append(message(**fields | changes))
    ingest.deliver(*sent)
    ingest.complete_reports()
    compare(ingest, batch.payments(sent, known, quotes))

    # The fourth merchant becomes known; rates come that were missing or provisional.
    quotes["JPY"] = {date(2025, 5, 5): Decimal("0.0069"), yesterday: Decimal("0.007"), today: Decimal("0.0071")}
    quotes["EUR"] |= {date(2025, 5, 6): Decimal("1.13"), today: Decimal("1.0999")}
    load(ingest, [1, 2, 3, 4], quotes, 2)
    assert repair(warehouse.settings, every_day=True).rows > 100
    ingest.complete_reports()
    found = batch.payments(sent, MERCHANTS, quotes)
    assert not [p for p in found if p.enrichment_status.endswith("pending")]
    compare(ingest, found)

    # The same buckets computed by a refresh that has lost its place, as after rollup_progress was lost with a restart.
    compare_after_everything_is_computed_again(ingest, found)


def compare_after_everything_is_computed_again(ingest: Ingest, found: list[batch.Payment]) -> None:
    before = ingest.value("SELECT count() FROM merchant_slots FINAL")
    ingest.client.command("TRUNCATE TABLE rollup_progress")
    for view in (*ROLLUPS, "rollup_progress_mv"):
        ingest.client.command(f"DETACH TABLE {view} SYNC")
    assert ingest.value("SELECT count() FROM rollup_state") == 0
    for view in (*ROLLUPS, "rollup_progress_mv"):
        ingest.client.command(f"ATTACH TABLE {view}")
    ingest.complete_reports()
    assert ingest.value("SELECT count() FROM merchant_slots FINAL") == before
    compare(ingest, found)


def test_latency_by_minute_equals_the_ledger(ingest: Ingest) -> None:
    for size in (3, 40):
        ingest.deliver(*(message() for _ in range(size)))
    ingest.complete_reports()
    expected: dict = {}
    for read_at, topic, messages, timed, late, counts in ingest.rows(
        "SELECT read_at, kafka_topic, messages, timed, late, latency_histogram FROM ingest_ledger"
    ):
        row = expected.setdefault((read_at.replace(second=0, microsecond=0), topic), [0, 0, 0, [0] * 176])
        row[:3] = [row[0] + messages, row[1] + timed, row[2] + late]
        row[3] = [a + b for a, b in zip(row[3], counts, strict=True)]
    found = ingest.rows(
        "SELECT minute, kafka_topic, messages, timed, late, p50_s, p95_s, p99_s FROM report_latency_by_minute"
    )
    assert {(row[0], row[1]): row[2:5] for row in found} == {key: tuple(row[:3]) for key, row in expected.items()}
    for minute, topic, *_, p50_s, p95_s, p99_s in found:
        counts = expected[minute, topic][3]
        for share, told in ((0.5, p50_s), (0.95, p95_s), (0.99, p99_s)):
            assert told == pytest.approx(quantile_s(counts, share))


def test_before_any_payment_reports_are_empty_and_say_up_to_when(ingest: Ingest) -> None:
    ingest.complete_reports()
    for report in batch.REPORTS:
        assert ingest.rows(f"SELECT * FROM {report}") == []
    assert ingest.value("SELECT now() - min(complete_until) FROM report_freshness") < 60
