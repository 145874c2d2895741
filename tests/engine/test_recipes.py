"""The recipes of docs/recipes.md, walked with their commands in a new project until a payment shows the outcome."""

import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path

import pytest
from checkouts import Checkout, following
from databases import drop_database
from ingest import Ingest
from payments import message, rfc3339

from paystream import project
from paystream.clickhouse import connect
from paystream.loadtest.drain import QUEUE_STANDIN
from paystream.migrations import runner
from paystream.project import CHECKOUT
from paystream.settings import Settings

NOW = datetime.now(UTC)
DAYS = [NOW - timedelta(days=1), NOW]  # a day that is over has sums of its own

VOLUME_BY_CATEGORY = """\
-- One row: one day (UTC, by created_at) and one category of merchants ('' while the merchant is not known).
-- Written by: nobody (a view). Read by: analytics; filter by day.
-- Guarantee: as report_volume_by_hour, which it adds up.
CREATE VIEW report_volume_by_category AS
WITH (SELECT any(complete_until) FROM report_freshness WHERE report = 'report_volume_by_category') AS reached
SELECT
    toDate(hour) AS day,
    p.category_code AS category_code,
    sum(p.transactions) AS transactions,
    assumeNotNull(reached) AS complete_until
FROM volume_hours FINAL
ARRAY JOIN payments AS p
GROUP BY day, category_code
SETTINGS do_not_merge_across_partitions_select_final = 1
"""

OF_SHARDS = [f"WHERE day < first_open_day AND shards {number}" for number in ("<= 1", "> 1")]


class Walk:
    """A new project, the database that it is applied to, and the commands that every recipe ends with."""

    def __init__(self, folder: Path, settings: Settings, paystream_here: Callable) -> None:
        project.init(folder, "")
        self.files = Checkout(folder)
        self.settings = settings.model_copy(update={"project": folder})
        self.try_to = partial(paystream_here, self.settings)
        runner.up(self.settings)

    def run(self, *arguments: str) -> str:
        code, out, err = self.try_to(*arguments)
        assert (code, [line for line in err if line.startswith("error")]) == (0, []), (arguments, out, err)
        return out

    def apply(self, name: str, *options: str) -> None:
        """Check the edited files, write the next version, and run it."""
        self.run("migrate", "lint")
        self.run("migrate", "new", name)
        assert following(name) in self.run("migrate", "plan")
        self.run("migrate", "up", *options)
        self.run("migrate", "check")

    def ingest(self) -> Ingest:
        """Return a way to deliver messages without a broker: a Null table takes the Kafka table's place."""
        client = self.client
        client.command("DETACH TABLE transactions_parsed_mv SYNC")
        client.command("DROP TABLE transactions_queue SYNC")
        client.command(QUEUE_STANDIN)
        client.command("ATTACH TABLE transactions_parsed_mv")
        ingest = Ingest(client)
        ingest.load_merchants((1, "Bakery", "DE", "5462"))
        ingest.load_rates(("EUR", f"{DAYS[0]:%F}", "1.25"), ("EUR", f"{DAYS[1]:%F}", "1.25"))
        return ingest


@pytest.fixture
def walk(clickhouse_server: Settings, tmp_path: Path, free_port: Callable[[], int], paystream_here) -> Iterator[Walk]:
    name = f"recipes_{uuid.uuid4().hex[:12]}"
    changes = {"home": tmp_path / "home", "clickhouse_database": name, "kafka_brokers": f"127.0.0.1:{free_port()}"}
    settings = clickhouse_server.model_copy(update=changes | {"kafka_group": name})
    try:
        walk = Walk(tmp_path / "project", settings, paystream_here)
        with connect(settings) as walk.client:
            yield walk
    finally:
        drop_database(settings)


def deliver(ingest: Ingest, **fields: str) -> None:
    """Deliver a payment of 4.00 euros for each of the days."""
    standard = {"merchant_id": 1, "amount": "4.00", "currency": "EUR", "status": "captured"}
    for day in DAYS:
        times = {"created_at": rfc3339(day), "updated_at": rfc3339(day)}
        ingest.deliver(message(**standard | times | fields))


def test_add_a_report(walk: Walk) -> None:
    (walk.files.root / "sql/4_report/report_volume_by_category.sql").write_text(VOLUME_BY_CATEGORY)
    line = "        ('report_volume_by_hour', hours),\n"
    walk.files.edit("report_freshness", (line, line + line.replace("by_hour", "by_category")))
    walk.apply("volume_by_category")

    ingest = walk.ingest()
    deliver(ingest)
    ingest.complete_reports()
    found = ingest.rows(
        "SELECT day, category_code, transactions FROM report_volume_by_category WHERE complete_until >= {now:DateTime}"
        " ORDER BY day",
        now=NOW,
    )
    assert found == [(day.date(), "5462", 1) for day in DAYS]
    listed = walk.run("report")
    assert 'name=volume_by_category row="as report_volume_by_category says in sql/4_report"' in listed
    days = ("--from", f"{DAYS[0]:%F}", "--to", f"{DAYS[1]:%F}")
    printed = walk.run("report", "volume_by_category", *days).splitlines()
    assert [line.split(",")[:3] for line in printed[1:]] == [[f'"{day:%F}"', '"5462"', "1"] for day in DAYS]


def test_add_a_currency(walk: Walk) -> None:
    walk.files.edit("transactions_parsed_mv", ("'ZMW', 'ZWG',\n", "'ZMW', 'ZWG', 'XQZ',\n"))
    walk.apply("currency_xqz")

    ingest = walk.ingest()
    deliver(ingest, currency="XQZ")
    assert ingest.value("SELECT count() FROM quarantine") == 0
    assert ingest.rows("SELECT DISTINCT enrichment_status FROM transactions_current") == [("fx_pending",)]
    rates = walk.files.root / "rates.csv"
    rates.write_text("date,currency,rate_to_reporting\n" + "".join(f"{day:%F},XQZ,0.5\n" for day in DAYS))
    refresh = ("dims", "refresh", "fx", "--from", str(rates))
    code, _, err = walk.try_to(*refresh)
    assert (code, "'XQZ' is not an ISO 4217 currency code" in err[-1]) == (1, True), err
    walk.run(*refresh, "--force", "unknown-codes")
    assert ingest.rows("SELECT DISTINCT enrichment_status, toFloat64(amount_reporting) FROM transactions_current") == [
        ("ok", 2.0)
    ]


def test_add_a_status(walk: Walk) -> None:
    """One that counts as taken and kept, with a count of its own in the settlement."""
    files = walk.files
    files.edit("transactions_parsed_mv", ("'charged_back', 'failed')", "'charged_back', 'failed', 'disputed')"))
    for path in files.root.glob("sql/[45]_*/*.sql"):
        text = path.read_text()
        for statuses in ("'captured', 'settled')", "'captured', 'settled', 'refunded', 'charged_back')"):
            text = text.replace(f"({statuses}", f"('disputed', {statuses}")
        path.write_text(text)
    last, summed = "        failed                 UInt64,\n", "p.status = 'failed', p.transactions, 0), own),\n"
    counted = f"                arraySum(p -> if({summed}"
    files.edit(
        "merchant_days",
        (last, last + last.replace("failed  ", "disputed")),
        (counted, counted + counted.replace("failed", "disputed")),
        ("    by_currency  ", "    settlement   "),
    )
    column, added_up = "    b.failed AS failed,\n", "    sum(b.failed) AS failed,\n"
    open_days = "    sumIf(p.transactions, p.status = 'failed') AS failed,\n"
    files.edit(
        "merchant_days_by_currency",
        (column, column + column.replace("failed", "disputed")),
        (added_up, added_up + added_up.replace("failed", "disputed")),
        (open_days, open_days + open_days.replace("failed", "disputed")),
        *[(f"ARRAY JOIN by_currency AS b\n{where}", f"ARRAY JOIN settlement AS b\n{where}") for where in OF_SHARDS],
    )
    files.edit("report_settlement_by_day", ("    failed,\n", "    failed,\n    disputed,\n"))
    walk.apply("status_disputed", "--allow-destructive")

    ingest = walk.ingest()
    deliver(ingest, status="disputed")
    assert ingest.value("SELECT count() FROM quarantine") == 0
    assert ingest.rows("SELECT status FROM transactions_current") == [("disputed",)] * 2
    ingest.complete_reports()
    columns = "transactions, disputed, failed, gross, net, net_reporting"
    assert ingest.rows(f"SELECT day, {columns} FROM report_settlement_by_day ORDER BY day") == [
        (day.date(), 1, 1, 0, Decimal(4), Decimal(4), Decimal(5)) for day in DAYS
    ]
    assert ingest.rows("SELECT sum(gross_reporting), sum(net_reporting) FROM report_volume_by_hour") == [(10, 10)]


def test_the_page_has_these_recipes() -> None:
    headings = [line for line in (CHECKOUT / "docs/recipes.md").read_text().splitlines() if line.startswith("## ")]
    assert headings == ["## Add a report", "## Add a currency", "## Add a transaction status"]
