"""`paystream migrate` and `paystream cluster` on two nodes that are servers of their own."""

import json
import signal
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import copyfile, copytree

import pytest
from clickhouse_connect.driver.httputil import close_managers
from stacks import running
from test_stack import wait_until

from paystream.clickhouse import connect
from paystream.devstack import stack as local_stack
from paystream.errors import PaystreamError, ServiceUnavailable, UsageError
from paystream.migrations import lock_file, runner
from paystream.migrations.check import check_database
from paystream.migrations.history import read_history, versions_folder
from paystream.nodes import find
from paystream.settings import Settings

Here = Callable[..., tuple[int, str, list[str]]]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, make_settings: Callable[..., Settings]) -> Iterator[Settings]:
    """A cluster of two nodes with the schema."""
    with running(make_settings(tmp_path_factory.mktemp("cluster"), nodes=2), "memory") as settings:
        runner.up(settings)
        yield settings


@pytest.fixture
def versions(tmp_path: Path) -> Path:
    """A folder with the versions, and one more that gives merchants a column."""
    folder = tmp_path / "versions"
    copytree(versions_folder(), folder)
    copyfile(lock_file.snapshot_path(versions_folder()), lock_file.snapshot_path(folder))
    newest = read_history()[-1].id
    (folder / "0099_extra.sql").write_text(
        f"-- depends: {newest}\n\nCREATE VIEW extra AS SELECT 1 AS a;\n\nCREATE VIEW further AS SELECT a FROM extra;\n"
    )
    (folder / "0099_extra.rollback.sql").write_text("DROP VIEW IF EXISTS further;\n\nDROP VIEW IF EXISTS extra;\n")
    lock_file.write_lock(folder, [version.id for version in read_history(folder, finished=False)])
    return folder


def at(settings: Settings, shard: int) -> Settings:
    return settings.at(*settings.node_addresses[shard - 1])


def rows(settings: Settings, shard: int, sql: str) -> list[tuple]:
    with connect(at(settings, shard)) as client:
        return list(client.query(sql).result_rows)


def command(settings: Settings, shard: int, sql: str) -> None:
    with connect(at(settings, shard)) as client:
        client.command(sql)


def states(settings: Settings, folder: Path | None = None) -> dict[str, set[str]]:
    """Return in which states the newest version is, by node."""
    newest = read_history(folder, finished=False)[-1].id
    return {status.node: status.state for status in runner.status(settings, folder) if status.version == newest}


def test_every_node_has_its_own_record_and_the_same_schema(cluster: Settings, paystream_here: Here) -> None:
    assert set(states(cluster).values()) == {"applied"} and len(states(cluster)) == 2
    assert runner.plan(cluster) == []
    assert check_database(cluster) == []
    code, out, err = paystream_here(cluster, "migrate", "status", "--json")
    assert (code, err) == (0, [])
    assert {status["node"] for status in json.loads(out)} == set(cluster.clickhouse_nodes.split(","))
    for shard in (1, 2):
        engines = dict(
            rows(cluster, shard, "SELECT name, engine FROM system.tables WHERE database = currentDatabase()")
        )
        assert engines["transactions"] == engines["transactions_to_shards"] == "Distributed"
        assert engines["transactions_local"] == "ReplacingMergeTree"
        assert engines["merchants"] == "MergeTree"


def test_states_of_a_payment_meet_on_one_shard_whichever_node_reads_them(cluster: Settings) -> None:
    ids = [uuid.uuid4() for _ in range(50)]
    parsed = (
        "INSERT INTO transactions_parsed (fault, transaction_id, merchant_id, amount, currency, status, created_at,"
        " updated_at, kafka_topic, kafka_partition, kafka_offset, kafka_timestamp) SELECT '', id, 7,"
        " 2.5, 'EUR', '{status}', toDateTime64('2026-01-05 10:00:00', 6, 'UTC'), toDateTime64('{updated}', 6, 'UTC'),"
        " 't', {partition}, number, now64(3) FROM (SELECT arrayJoin([{ids}])::UUID AS id, rowNumberInAllBlocks()"
        " AS number)"
    )
    listed = ", ".join(f"'{value}'" for value in ids)
    captured = {"status": "captured", "updated": "2026-01-05 10:00:00", "partition": 0, "ids": listed}
    settled = {"status": "settled", "updated": "2026-01-06 10:00:00", "partition": 1, "ids": listed}
    # The later state comes first, and by the other node.
    command(cluster, 2, parsed.format(**settled))
    command(cluster, 1, parsed.format(**captured))
    for shard in (1, 2):
        current = rows(cluster, shard, "SELECT status, count(), sum(amount) FROM transactions_current GROUP BY status")
        assert [(status, count, str(amount)) for status, count, amount in current] == [("settled", 50, "125.0000")]
        own = rows(
            cluster, shard, "SELECT DISTINCT transaction_id, cityHash64(transaction_id) % 2 FROM transactions_local"
        )
        assert 0 < len(own) < 50
        assert {place for _, place in own} == {shard - 1}
    # What is only counted stays on the node that read it.
    assert rows(cluster, 1, "SELECT DISTINCT kafka_partition FROM ingest_ledger_local") == [(0,)]
    assert sorted(rows(cluster, 1, "SELECT DISTINCT kafka_partition FROM ingest_ledger")) == [(0,), (1,)]


def test_nobody_writes_through_the_table_that_is_read(cluster: Settings) -> None:
    with pytest.raises(Exception, match="no sharding key provided"):
        command(cluster, 1, "INSERT INTO transactions (transaction_id) SELECT generateUUIDv4()")


def test_a_node_that_was_away_gets_what_it_lacks_with_the_next_up(cluster: Settings, versions: Path) -> None:
    local_stack.kill(cluster, "clickhouse-2", signal.SIGKILL)
    wait_until(lambda: "clickhouse-2" not in local_stack.pids(cluster))
    away = cluster.clickhouse_nodes.split(",")[1]
    for change in (lambda: runner.up(cluster, versions), lambda: runner.down(cluster, versions)):
        with pytest.raises(ServiceUnavailable, match=f"node '{away}' does not answer.*Nothing was changed"):
            change()
    applied = runner.up(cluster, versions, skip_away=True).applied
    assert [moved.node for moved in applied] == [cluster.clickhouse_nodes.split(",")[0]]
    local_stack.start(cluster, "memory")
    assert sorted(states(cluster, versions).values()) == ["applied", "pending"]
    [*steps] = runner.plan(cluster, versions)
    assert {step.nodes for step in steps} == {(away,)}
    assert [moved.node for moved in runner.up(cluster, versions).applied] == [away]
    assert [moved.version for moved in runner.down(cluster, versions)] == ["0099_extra"] * 2
    assert check_database(cluster) == []


def test_a_version_that_fails_on_one_node_is_resumed_there(cluster: Settings, versions: Path) -> None:
    # The nodes take their turns in the order of their addresses.
    addresses = cluster.clickhouse_nodes.split(",")
    last = max(addresses)
    shard = addresses.index(last) + 1
    command(cluster, shard, "CREATE VIEW further AS SELECT 'in the way' AS a")
    with pytest.raises(PaystreamError, match=rf"Node '{last}': Version '0099_extra' failed at further: .*Step 1 was"):
        runner.up(cluster, versions)
    assert states(cluster, versions) == {address: "pending" if address == last else "applied" for address in addresses}
    assert rows(cluster, shard, "SELECT name FROM system.tables WHERE name = 'extra'") == []
    # What nobody wrote as a version is drift, named with its node.
    [drift] = [difference for difference in check_database(cluster) if difference.where == f"node {last}"]
    assert (drift.name, drift.how) == ("further", "unknown")
    command(cluster, shard, "DROP VIEW further")
    assert [moved.node for moved in runner.up(cluster, versions).applied] == [last]
    runner.down(cluster, versions)


def test_check_names_the_node_that_differs(cluster: Settings) -> None:
    second = cluster.clickhouse_nodes.split(",")[1]
    command(cluster, 2, "ALTER TABLE transactions ADD COLUMN stray UInt8")
    [difference] = check_database(cluster)
    assert (difference.where, difference.name, difference.how) == (f"node {second}", "transactions", "differs")
    command(cluster, 2, "ALTER TABLE transactions DROP COLUMN stray")
    assert check_database(cluster) == []


def test_a_database_of_one_server_is_not_a_clusters_and_the_reverse(cluster: Settings) -> None:
    alone = at(cluster, 1).model_copy(update={"clickhouse_cluster": "", "clickhouse_nodes": ""})
    for change in (runner.plan, runner.up, runner.down):
        with pytest.raises(UsageError, match=r"on one server alone: its versions were applied to cluster 'paystream'"):
            change(alone)
    books = alone.model_copy(update={"clickhouse_database": "books", "kafka_group": "books"})
    runner.up(books)
    with pytest.raises(UsageError, match=r"on cluster 'paystream': its versions were applied to one server alone"):
        runner.up(cluster.model_copy(update={"clickhouse_database": "books", "kafka_group": "books"}))
    runner.down(books, everything=True, allow_destructive=True)


@pytest.mark.on_demand
def test_two_migrators_at_once_through_different_nodes(cluster: Settings, paystream: Callable) -> None:
    entries = [cluster.at(*cluster.node_addresses[number]) for number in (0, 1)]
    for _ in range(2):
        both = [paystream(entry, "migrate", "down") for entry in entries]
        assert {process.wait(60) for process in both} == {0}
        both = [paystream(entry, "migrate", "up", "--json") for entry in entries]
        assert {process.wait(60) for process in both} == {0}
        assert set(states(cluster).values()) == {"applied"}
    assert check_database(cluster) == []


def test_a_shard_is_added_and_earlier_payments_keep_theirs(
    tmp_path: Path, make_settings: Callable[..., Settings], paystream_here: Here
) -> None:
    settings = make_settings(tmp_path / "home", nodes=3)
    two = settings.model_copy(update={"clickhouse_nodes": ",".join(settings.clickhouse_nodes.split(",")[:2])})
    try:
        local_stack.start(two, "memory")
        runner.up(two)
        for shard in (1, 2):
            command(two, shard, "INSERT INTO merchants SELECT number, 'shop', 'DE', '5411', 3 FROM numbers(1, 10)")
        code, _, err = paystream_here(two, "cluster", "add-shard", "--from", "2030-01-01")
        assert code == 2 and "has no new shard: remote_servers has 2, and payments go to 2 of them" in err[0]
        local_stack.start(settings, "memory", nodes=3)
        now = datetime.now(UTC)
        for since, cause in (
            (f"{now:%Y-%m-%d}", "payments of that time may be stored already"),
            (f"{now + timedelta(minutes=9):%Y-%m-%dT%H:%M:%S}", "payments of that time may be stored already"),
            ("soon", "is no day and no time"),
        ):
            code, _, err = paystream_here(settings, "cluster", "add-shard", "--from", since)
            assert code == 2 and cause in err[0], since
        code, out, err = paystream_here(settings, "cluster", "add-shard", "--from", "2030-01-01", "--json")
        assert code == 0, err
        assert json.loads(out) == {"status": "grown", "shards_before": 2, "shards": 3, "from": "2030-01-01T00:00:00Z"}
        # The new node has the schema and the dimensions, in its dictionary too.
        assert check_database(settings) == []
        assert rows(settings, 3, "SELECT count(), dictGet('merchants_dict', 'merchant_name', 3) FROM merchants") == [
            (10, "shop")
        ]
        for created, shards in (("2029-12-31 23:59:59.999999", 2), ("2030-01-01 00:00:00", 3)):
            insert = (
                "INSERT INTO transactions_to_shards (transaction_id, created_at) SELECT generateUUIDv4(number),"
                f" '{created}' FROM numbers(60)"
            )
            command(settings, 3, insert)
            for shard in (1, 2, 3):
                own = rows(
                    settings,
                    shard,
                    f"SELECT DISTINCT cityHash64(transaction_id) % {shards} FROM transactions_local"
                    f" WHERE created_at = '{created}'",
                )
                assert own == ([(shard - 1,)] if shard <= shards else []), (created, shard)
        code, _, err = paystream_here(settings, "cluster", "add-shard", "--from", "2031-01-01")
        assert code == 2 and "has no new shard" in err[0]
    finally:
        close_managers()
        local_stack.stop(settings)
    assert find(settings.model_copy(update={"clickhouse_cluster": ""})).cluster == ""
