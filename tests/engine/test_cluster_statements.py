"""The statements for a cluster, as far as one process can try them.

The engine parses every one. And on a cluster of a single shard, which is this process itself, they are run without what
needs a Keeper: ``ON CLUSTER`` and ``Replicated`` are taken out, the Distributed tables stay.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator

import pytest
from clickhouse_connect.driver.client import Client
from ingest import QUEUE_STANDIN, Ingest
from server_process import running_server

from migrations.cluster import cluster_of, render
from migrations.history import object_name, read_history
from paystream.clickhouse import connect
from paystream.settings import REPOSITORY, Settings

CLUSTER = cluster_of("payments", "clustered")
CONFIGURATION = """<clickhouse>
    <tcp_port>9000</tcp_port>
    <remote_servers><payments><shard><replica><host>127.0.0.1</host><port>9000</port></replica></shard></payments></remote_servers>
</clickhouse>"""
MESSAGE = {
    "transaction_id": "11111111-1111-4111-8111-111111111111",
    "merchant_id": 1,
    "amount": "10.00",
    "currency": "EUR",
    "status": "captured",
    "created_at": "2024-05-01T12:00:00Z",
    "updated_at": "2024-05-01T12:00:00Z",
}


def rendered() -> list[str]:
    history = read_history()
    up = [statement for version in history for statement in version.statements]
    down = [statement for version in reversed(history) for statement in reversed(version.rollbacks)]
    return [text for statement in up + down for text in render(statement, CLUSTER)]


@pytest.fixture(scope="module")
def client(clickhouse_server: Settings) -> Iterator[Client]:
    with connect(clickhouse_server, database="") as client:
        yield client


def test_the_engine_parses_every_statement_and_finds_the_cluster_in_it(client: Client) -> None:
    for statement in rendered():
        if object_name(statement).startswith("SELECT"):
            continue  # a step that does nothing
        formatted = client.query("SELECT formatQuery({text:String})", parameters={"text": statement}).first_row[0]
        assert "ON CLUSTER payments" in formatted, statement
        assert client.query(f"EXPLAIN AST {statement}").result_rows
        stored = re.search(r"ENGINE = (\w*MergeTree)", formatted)
        assert not stored or stored[1].startswith("Replicated"), statement


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE IF NOT EXISTS transactions (transaction_id UUID) ENGINE MergeTree() ORDER BY transaction_id",
        "CREATE TABLE `odd name` (x UInt8 DEFAULT 1) ENGINE = ReplacingMergeTree ( x ) ORDER BY x COMMENT 'ENGINE'",
        "CREATE DICTIONARY d (a UInt8) PRIMARY KEY a SOURCE(CLICKHOUSE(TABLE 't')) LAYOUT(FLAT()) LIFETIME(0)",
        "ALTER TABLE transactions ADD COLUMN x Decimal(9, 2) DEFAULT 0, ADD INDEX i x TYPE minmax, DROP COLUMN y",
        "ALTER TABLE transactions DELETE WHERE merchant_id IN (1, 2)",
        "ALTER TABLE transactions RENAME COLUMN a TO b, COMMENT COLUMN b 'a, b'",
        "TRUNCATE TABLE IF EXISTS transactions",
        "OPTIMIZE TABLE transactions FINAL",
        "EXCHANGE TABLES merchants AND merchants_staging",
        "RENAME TABLE merchants TO traders",
        "CREATE NAMED COLLECTION IF NOT EXISTS c AS a = 'b'",
        "DROP NAMED COLLECTION IF EXISTS c",
    ],
)
def test_the_engine_parses_what_no_version_has_yet(client: Client, statement: str) -> None:
    for text in render(statement, CLUSTER):
        formatted = client.query("SELECT formatQuery({text:String})", parameters={"text": text}).first_row[0]
        assert "ON CLUSTER payments" in formatted


@pytest.fixture(scope="module")
def one_shard(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[Client]:
    """A server that is a cluster of one shard, with an empty database."""
    home = tmp_path_factory.mktemp("cluster")
    shutil.copytree(REPOSITORY / "devstack" / "clickhouse", home / "config")
    (home / "config" / "config.d" / "cluster.xml").write_text(CONFIGURATION)
    with running_server(home / "data", free_port(), home / "config" / "config.xml") as server:
        with connect(server.settings, database="") as client:
            client.command(f"CREATE DATABASE {CLUSTER.database}")
            client.command("CREATE NAMED COLLECTION paystream_dictionaries AS user = 'default'")
        with connect(server.settings, database=CLUSTER.database) as client:
            yield client


def on_one_server(statement: str) -> str:
    """Take out what needs a Keeper or a broker."""
    if "ENGINE = Kafka" in statement:
        return QUEUE_STANDIN
    statement = statement.replace(" ON CLUSTER payments", "")
    return re.sub(r"Replicated(\w*MergeTree)\('[^']*', '[^']*'(?:, )?", r"\1(", statement)


def test_messages_pass_through_the_distributed_tables_and_the_schema_goes_again(one_shard: Client) -> None:
    history = read_history()
    for version in history:
        for statement in version.statements:
            for text in render(statement, CLUSTER):
                one_shard.command(on_one_server(text))
    ingest = Ingest(one_shard)
    ingest.load_merchants((1, "A", "DE", "5411"))
    ingest.load_rates(("EUR", "2024-05-01", "1.5"))

    good, settled = (
        json.dumps(MESSAGE),
        json.dumps(MESSAGE | {"status": "settled", "updated_at": "2024-05-02T12:00:00Z"}),
    )
    offsets = ingest.deliver(good, settled, "no json")
    ingest.deliver(good, settled, "no json", first_offset=offsets[0])  # delivered again
    # Each view wrote through the table that has the plain name, and its rows are in the local one.
    for table, rows in {"transactions": 4, "quarantine": 2, "ingest_ledger": 2}.items():
        # A Distributed table may send what it was given a moment later.
        one_shard.command(f"SYSTEM FLUSH DISTRIBUTED {table}")
        assert ingest.value(f"SELECT count() FROM {table}") == rows, table
        assert ingest.value(f"SELECT count() FROM {table}_local") == rows, table
    current = ingest.rows("SELECT status, merchant_name, toString(amount_reporting) FROM transactions_current")
    assert list(current) == [("settled", "A", "15")]
    assert ingest.value("SELECT sum(transactions) FROM report_merchant_by_day") == 1
    assert ingest.value("SELECT version > 0 AND enriched_at = ingested_at FROM transactions FINAL") == 1
    # Columns that later versions added are in both, and in the same order.
    columns = "SELECT groupArray(name) FROM system.columns WHERE database = currentDatabase() AND table = '{}'"
    for table in CLUSTER.sharding:
        assert ingest.value(columns.format(table)) == ingest.value(columns.format(f"{table}_local"))

    for version in reversed(history):
        for statement in reversed(version.rollbacks):
            for text in render(statement, CLUSTER):
                one_shard.command(on_one_server(text))
        if version is not history[0]:
            for table in CLUSTER.sharding:
                assert ingest.value(columns.format(table)) == ingest.value(columns.format(f"{table}_local"))
    left = ingest.rows("SELECT name FROM system.tables WHERE database = currentDatabase()")
    assert list(left) == []
