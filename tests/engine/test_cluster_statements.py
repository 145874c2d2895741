"""The statements for a cluster, as far as one process can try them.

The engine parses every one. And on a cluster of a single shard, which is this process itself, they are run without what
needs a Keeper: ``ON CLUSTER`` and ``Replicated`` are taken out, the Distributed tables stay. ``migrate up`` and its
like run whole: what stands between them and the server takes that out on the way.
"""

import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client
from ingest import QUEUE_STANDIN, Ingest
from server_process import running_server

from paystream.clickhouse import connect
from paystream.devstack.clickhouse_server import Instance
from paystream.errors import PaystreamError, UsageError
from paystream.loader.dimension import MERCHANTS
from paystream.loader.refresh import require_schema
from paystream.migrations import lock_file, runner
from paystream.migrations.check import check_database
from paystream.migrations.cluster import cluster_of, render
from paystream.migrations.history import object_name, read_history
from paystream.settings import Settings

CLUSTER = cluster_of("payments", "clustered")
CONFIGURATION = """<clickhouse>
    <remote_servers><payments><shard><replica><host>127.0.0.1</host><port>{port}</port></replica></shard></payments></remote_servers>
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
        assert client.command(f"EXPLAIN AST {statement}")
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
        "CREATE MATERIALIZED VIEW r REFRESH EVERY 40 SECOND DEPENDS ON q APPEND TO quarantine AS SELECT 1 AS a",
        "ALTER TABLE r MODIFY REFRESH EVERY 1 MINUTE DEPENDS ON q SETTINGS refresh_retries = 3 APPEND",
        "ALTER TABLE r MODIFY QUERY SELECT 2 AS a",
        "ALTER TABLE transactions ADD INDEX i merchant_id TYPE minmax, MODIFY TTL created_at + INTERVAL 1 YEAR",
        "CREATE TABLE n (a Nested(b UInt8), c Array(Tuple(d UInt8)), e Date, INDEX i e TYPE minmax)"
        " ENGINE = ReplacingMergeTree(e) ORDER BY e TTL e + INTERVAL 1 YEAR",
        "DROP NAMED COLLECTION IF EXISTS c",
    ],
)
def test_the_engine_parses_what_no_version_has_yet(client: Client, statement: str) -> None:
    for text in render(statement, CLUSTER):
        formatted = client.query("SELECT formatQuery({text:String})", parameters={"text": text}).first_row[0]
        assert "ON CLUSTER payments" in formatted


@pytest.fixture(scope="module")
def one_shard_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A server that is a cluster of one shard."""
    folder = tmp_path_factory.mktemp("cluster")
    instance = Instance.within(folder)
    files = {"conf.d/cluster.xml": CONFIGURATION.format(port=instance.native_port)}
    with running_server(folder, files, instance) as server:
        yield server.settings


@pytest.fixture
def one_shard(one_shard_server: Settings) -> Iterator[Client]:
    """A client of an empty database there."""
    with connect(one_shard_server, database="") as client:
        client.command(f"CREATE DATABASE {CLUSTER.database}")
        client.command("CREATE NAMED COLLECTION IF NOT EXISTS paystream_dictionaries AS user = 'default'")
    with connect(one_shard_server, database=CLUSTER.database) as client:
        yield client


def on_one_server(statement: str) -> str:
    """Take out what needs a Keeper or a broker."""
    return QUEUE_STANDIN if "ENGINE = Kafka" in statement else without_keeper(statement)


def without_keeper(statement: str) -> str:
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
    ingest.complete_reports()
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


class Between(ThreadingHTTPServer):
    """Hands each statement on to the server without what needs a Keeper, and keeps it as it came."""

    def __init__(self, server: Settings) -> None:
        super().__init__(("127.0.0.1", 0), Handing)
        self.target = f"http://{server.clickhouse_host}:{server.clickhouse_port}"
        self.seen: list[str] = []


class Handing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Between

    def do_POST(self) -> None:
        statement = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.seen.append(statement)
        headers = {name: text for name, text in self.headers.items() if name not in ("Host", "Content-Length")}
        request = urllib.request.Request(self.server.target + self.path, without_keeper(statement).encode(), headers)
        try:
            answer = urllib.request.urlopen(request)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            body = answer.read()
            self.send_response(answer.status)
            for name, text in answer.headers.items():
                if name not in ("Transfer-Encoding", "Connection", "Content-Length"):
                    self.send_header(name, text)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing on stderr."""


@pytest.fixture
def between(one_shard_server: Settings) -> Iterator[Between]:
    with Between(one_shard_server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def driven(one_shard_server: Settings, between: Between, tmp_path: Path, free_port: Callable[[], int]) -> Settings:
    """Settings of a database of the test's own on the cluster, reached through what stands between."""
    changes = {"home": tmp_path / "home", "clickhouse_port": between.server_port, "clickhouse_database": "driven"}
    return one_shard_server.model_copy(update=changes | {"kafka_brokers": f"127.0.0.1:{free_port()}"})


def test_up_runs_what_plan_prints_and_down_takes_it_back(
    driven: Settings,
    between: Between,
    one_shard_server: Settings,
    paystream_here: Callable[..., tuple[int, str, list[str]]],
) -> None:
    def migrate(*arguments: str, **environment: str) -> tuple[int, dict, list[str]]:
        code, out, err = paystream_here(driven, "migrate", *arguments, "--json", **environment)
        return code, json.loads(out) if out else {}, err

    clustered = {"PAYSTREAM_CLICKHOUSE_CLUSTER": "payments"}
    code, planned, _ = migrate("plan", "--cluster", "payments")
    assert code == 0
    assert migrate("up", "--dry-run", **clustered)[1] == planned
    statements = [step["statement"] for step in planned["steps"]]
    versions = [step["statement"] for step in planned["steps"] if step["version"]]
    everything = migrate("plan", "--all", "--cluster", "payments")[1]["steps"]
    assert [step["statement"] for step in everything if step["version"]] == versions
    assert statements[0] == "CREATE DATABASE IF NOT EXISTS `driven` ON CLUSTER payments"
    assert not any(statement.startswith("CREATE") for statement in between.seen), "a plan changes nothing"

    between.seen.clear()
    code, done, _ = migrate("up", "--cluster", "payments")
    assert (code, done["status"]) == (0, "migrated")
    assert statements[0] in between.seen
    assert [statement for statement in between.seen if statement in versions] == versions
    assert migrate("plan", **clustered)[1]["steps"] == []

    live = driven.model_copy(update={"clickhouse_port": one_shard_server.clickhouse_port})
    with connect(live) as client:
        engines = dict(client.query("SELECT name, engine FROM system.tables WHERE database = 'driven'").result_rows)
        assert engines["transactions"] == "Distributed" and engines["transactions_local"] == "ReplacingMergeTree"
        client.command("INSERT INTO quarantine (kafka_offset, quarantined_at) SELECT 7, now()")
        client.command("SYSTEM FLUSH DISTRIBUTED quarantine")

    # Without the cluster, or for another one, nothing is attempted.
    between.seen.clear()
    for arguments, cause in (
        (("up",), "cannot be migrated on one server alone: its versions were applied to cluster 'payments'."),
        (("plan",), "Repeat with --cluster payments."),
        (("down",), "Repeat with --cluster payments."),
        (("up", "--cluster", "elsewhere"), "Cluster 'elsewhere' cannot be migrated: ClickHouse"),
        (("plan", "--cluster", "elsewhere"), "knows payments."),
        (("down", "--cluster", "elsewhere"), "knows payments."),
        (("down", "--all", "--cluster", "payments"), "quarantine_local (1 row)"),
    ):
        code, out, err = migrate(*arguments)
        assert (code, out, len(err)) == (2, {}, 1) and cause in err[0], arguments
    assert [
        statement
        for statement in between.seen
        if re.match(r"CREATE|DROP|ALTER", statement) and "_yoyo_" not in statement
    ] == []
    on_cluster = driven.model_copy(update={"clickhouse_cluster": "payments"})
    with pytest.raises(UsageError, match=r"Check of database 'driven' cannot run on cluster 'payments'"):
        check_database(on_cluster)
    with pytest.raises(UsageError, match=r"Refresh of 'merchants' cannot run on cluster 'payments'"):
        require_schema(on_cluster, MERCHANTS)

    # When the Kafka settings change, the Kafka table is attached anew on every node.
    changed = {"PAYSTREAM_KAFKA_GROUP": "another"} | clustered
    again = [step["statement"] for step in migrate("plan", **changed)[1]["steps"]]
    assert again[2:] == [
        "DETACH TABLE IF EXISTS transactions_queue ON CLUSTER payments SYNC",
        "ATTACH TABLE transactions_queue ON CLUSTER payments",
    ]
    assert migrate("up", **changed)[0] == 0
    assert [statement.replace("`", "") for statement in between.seen if re.match("DETACH|ATTACH", statement)] == again[
        2:
    ]

    # Another node has the tables, and no record of versions.
    with connect(live) as client:
        client.command("RENAME TABLE _yoyo_migration TO _yoyo_away")
    assert "but no record of versions. Connect to the node" in migrate("up", **clustered)[2][0]
    with connect(live) as client:
        client.command("EXCHANGE TABLES _yoyo_migration AND _yoyo_away")

    code, done, _ = migrate("down", "--all", "--allow-destructive", **clustered)
    assert (code, len(done["taken_back"])) == (0, len(read_history()))
    with connect(live) as client:
        left = client.query("SELECT name FROM system.tables WHERE database = 'driven' AND name NOT LIKE '\\_yoyo%'")
        assert left.result_rows == []
    # All gone, it may be made for one server.
    assert migrate("plan")[0] == 0


def test_half_of_a_statement_is_taken_back(driven: Settings, one_shard_server: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "versions"
    folder.mkdir()
    (folder / "0001_a.sql").write_text(
        "CREATE TABLE transactions (transaction_id UUID) ENGINE = MergeTree ORDER BY transaction_id;"
    )
    (folder / "0001_a.rollback.sql").write_text("DROP TABLE IF EXISTS transactions SYNC;")
    lock_file.write_lock(folder, ["0001_a"])
    settings = driven.model_copy(update={"clickhouse_cluster": "payments", "clickhouse_database": "halves"})
    tables = (
        "SELECT name, engine FROM system.tables WHERE database = 'halves' AND name NOT LIKE '\\_yoyo%' ORDER BY name"
    )
    with connect(one_shard_server, database="") as client:
        client.command("CREATE DATABASE halves")
        client.command("CREATE TABLE halves.transactions (mine String) ENGINE = Memory")  # in the Distributed one's way
        with pytest.raises(
            PaystreamError, match=r"'0001_a' failed at transactions: .* Step 1 was taken back; no version"
        ):
            runner.up(settings, folder)
        assert client.query(tables).result_rows == [("transactions", "Memory")]
        client.command("DROP TABLE halves.transactions SYNC")
        assert [moved.statements for moved in runner.up(settings, folder).applied] == [2]
        assert client.query(tables).result_rows == [
            ("transactions", "Distributed"),
            ("transactions_local", "MergeTree"),
        ]
        client.command("DROP DATABASE halves SYNC")
