"""Other people's clients read a report from the local ClickHouse, by its native protocol and by HTTP."""

import subprocess
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path

import clickhouse_connect
import clickhouse_driver
import pytest
import sqlalchemy
from ingest import Ingest, ingest_schema
from payments import message

from paystream.clickhouse import connect
from paystream.devstack import maven
from paystream.errors import ServiceUnavailable
from paystream.settings import Settings

CLIENTS = Path(__file__).with_name("clients")
MISSING = maven.missing(CLIENTS / "pom.xml")
DAY = date(2025, 5, 6)
QUERY = (
    "SELECT merchant_name, currency, transactions, net FROM report_settlement_by_day"
    " WHERE day = '2025-05-06' ORDER BY merchant_name, currency"
)
SETTLEMENT = [
    ("Bakery", "EUR", 3, Decimal("30.0000")),
    ("Bakery", "JPY", 1, Decimal("1250.0000")),
    ("Café \"Zürich\", 'Süd'", "EUR", 1, Decimal("0.0000")),
]


@pytest.fixture(scope="module")
def database(clickhouse_server: Settings) -> Iterator[str]:
    """A database with six payments of a day in it, one of them delivered twice."""
    with ingest_schema(clickhouse_server) as ingest:
        fill(ingest)
        yield ingest.client.database


def fill(ingest: Ingest) -> None:
    ingest.load_merchants((1, "Bakery", "DE", "5462"), (2, "Café \"Zürich\", 'Süd'", "CH", "5812"))
    ingest.load_rates(("EUR", str(DAY), "1.1"))

    def paid(merchant_id: int, amount: str, currency: str, status: str) -> bytes:
        at = "2025-05-06T12:00:00Z"
        fields = {"amount": amount, "currency": currency, "status": status, "created_at": at, "updated_at": at}
        return message(merchant_id=merchant_id, **fields)

    twice = paid(1, "19.90", "EUR", "settled")
    ingest.deliver(twice, paid(1, "10.10", "EUR", "captured"), paid(1, "7.00", "EUR", "failed"), twice)
    ingest.deliver(paid(1, "1250", "JPY", "captured"), paid(2, "5.00", "EUR", "refunded"))
    ingest.complete_reports()


def test_clickhouse_driver_by_the_native_protocol(clickhouse_server: Settings, database: str) -> None:
    address = {"host": clickhouse_server.clickhouse_host, "port": clickhouse_server.clickhouse_native_port}
    with clickhouse_driver.Client(**address, database=database) as client:
        assert client.execute(QUERY) == SETTLEMENT


def test_clickhouse_connect_as_a_notebook_uses_it(clickhouse_server: Settings, database: str) -> None:
    address = {"host": clickhouse_server.clickhouse_host, "port": clickhouse_server.clickhouse_port}
    client = clickhouse_connect.get_client(**address, database=database)  # with a session, as it makes one by default
    assert client.query(QUERY).result_rows == SETTLEMENT
    assert client.query_arrow(QUERY).column("net").to_pylist() == [net for *_, net in SETTLEMENT]
    client.close()


def test_sqlalchemy_as_superset_uses_it(clickhouse_server: Settings, database: str) -> None:
    address = f"{clickhouse_server.clickhouse_host}:{clickhouse_server.clickhouse_port}"
    engine = sqlalchemy.create_engine(f"clickhousedb://default@{address}/{database}")
    with engine.connect() as connection:
        assert [tuple(row) for row in connection.execute(sqlalchemy.text(QUERY))] == SETTLEMENT
        # What a dataset is made from.
        assert "report_settlement_by_day" in sqlalchemy.inspect(connection).get_table_names(database)
        columns = sqlalchemy.inspect(connection).get_columns("report_settlement_by_day", database)
        assert {"day", "net", "complete_until"} <= {column["name"] for column in columns}
    engine.dispose()


def test_a_proxy_of_the_environment_is_not_in_the_way_to_loopback(
    clickhouse_server: Settings, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://somebody:secret@127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    for host in (clickhouse_server.clickhouse_host, "localhost"):
        settings = clickhouse_server.model_copy(update={"clickhouse_host": host, "clickhouse_database": database})
        with connect(settings) as client:
            assert client.command("SELECT 1") == 1
    away = clickhouse_server.model_copy(update={"clickhouse_host": "clickhouse.example.com"})
    says = r"by the proxy http://127\.0\.0\.1:1 of http_proxy \(no_proxy=clickhouse\.example\.com goes without it\)"
    with pytest.raises(ServiceUnavailable, match=says), connect(away):
        pass


@pytest.mark.skipif(MISSING is not None, reason=f"needs the JDBC driver. {MISSING}")
def test_jdbc_as_dbeaver_uses_it(clickhouse_server: Settings, database: str) -> None:
    url = f"jdbc:clickhouse://{clickhouse_server.clickhouse_host}:{clickhouse_server.clickhouse_port}/{database}"
    jars = maven.ensure_jars(CLIENTS / "pom.xml")
    command = [maven.find_java(), "-Xmx256m", "-cp", f"{jars}/*", str(CLIENTS / "ReadReport.java"), url, "default"]
    done = subprocess.run([*command, str(DAY)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [(name, currency, int(count), Decimal(net)) for name, currency, count, net in rows] == SETTLEMENT
