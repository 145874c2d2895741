"""`paystream up --nodes`: a cluster of real servers that starts, grows, loses nodes and gets them back."""

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError
from clickhouse_connect.driver.httputil import close_managers
from test_stack import finish, processes_of, wait_until

from paystream import nodes
from paystream.clickhouse import connect
from paystream.devstack import stack as local_stack
from paystream.errors import ServiceUnavailable, UsageError
from paystream.kafka import topic_partitions
from paystream.settings import Settings

Paystream = Callable[..., subprocess.Popen]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, make_settings: Callable[..., Settings]) -> Iterator[Settings]:
    """A running cluster of two nodes."""
    yield from running_at_most(make_settings(tmp_path_factory.mktemp("cluster"), nodes=2), start=True)


@pytest.fixture
def own_cluster(tmp_path: Path, make_settings: Callable[..., Settings]) -> Iterator[Settings]:
    """Settings of a cluster of the test's own, with addresses for four nodes."""
    yield from running_at_most(make_settings(tmp_path / "home", nodes=2, sets=2), start=False)


def running_at_most(settings: Settings, start: bool) -> Iterator[Settings]:
    try:
        if start:
            local_stack.start(settings, "memory")
        yield settings
    finally:
        close_managers()  # a server that stops waits five seconds for clients that are still connected
        local_stack.stop(settings)


def with_nodes(settings: Settings, count: int) -> Settings:
    return settings.model_copy(update={"clickhouse_nodes": ",".join(settings.clickhouse_nodes.split(",")[:count])})


def query(settings: Settings, number: int, sql: str, **parameters: object) -> list[tuple]:
    """Return what the node with this number answers."""
    with connect(settings.at(*settings.node_addresses[number - 1]), database="") as client:
        return list(client.query(sql, parameters=parameters).result_rows)


def make_tables(settings: Settings, name: str, cluster: str) -> None:
    """Make a table on each node, and one over them, split by the remainder of ``a``."""
    for number in range(1, len(settings.node_addresses) + 1):
        with connect(settings.at(*settings.node_addresses[number - 1]), database="") as client:
            client.command(f"CREATE TABLE default.{name}_local (a UInt8) ENGINE = MergeTree ORDER BY a")
            client.command(
                f"CREATE TABLE default.{name} AS default.{name}_local"
                f" ENGINE = Distributed('{cluster}', default, '{name}_local', a)"
            )


def insert(settings: Settings, number: int, table: str, values: list[int]) -> None:
    with connect(settings.at(*settings.node_addresses[number - 1]), database="default") as client:
        client.insert(table, [[value] for value in values], column_names=["a"])


def places(settings: Settings) -> list[tuple[str, int]]:
    return sorted((node.set, node.shard) for node in nodes.find(settings).present)


def test_both_nodes_are_one_cluster(cluster: Settings) -> None:
    assert list(local_stack.pids(cluster)) == ["broker", "clickhouse-1", "clickhouse-2"]
    assert sorted(processes_of(cluster)) == sorted(local_stack.pids(cluster).values())
    found = nodes.find(cluster)
    assert [(node.set, node.shard, node.settings.clickhouse_port) for node in found.present] == [
        ("1", shard, port) for shard, (_, port) in enumerate(cluster.node_addresses, start=1)
    ]
    assert (found.writes, found.shards, found.is_replicated, found.away) == ("paystream", 2, False, ())
    # Found through the configured node as well.
    assert places(cluster.model_copy(update={"clickhouse_nodes": ""})) == [("1", 1), ("1", 2)]
    for shard in (1, 2):
        assert query(cluster, shard, "SELECT getMacro('shard'), getMacro('set'), getMacro('cluster')") == [
            (str(shard), "1", "paystream")
        ]
        reader = cluster.model_copy(update={"clickhouse_user": "reader"})
        assert query(reader, shard, "SELECT currentUser()") == [("reader",)]
    make_tables(cluster, "both", "paystream")
    insert(cluster, 1, "both", list(range(10)))
    # In place when the insert has ended: slot 0, the even ones, on shard 1.
    for shard in (1, 2):
        own = query(cluster, shard, "SELECT a FROM default.both_local ORDER BY a")
        assert own == [(value,) for value in range(10) if value % 2 == shard - 1]
        assert query(cluster, shard, "SELECT count(), sum(a) FROM default.both") == [(10, 45)]
    folders = {local_stack.clickhouse_disk(cluster, f"clickhouse-{shard}") for shard in (1, 2)}
    assert len(folders) == 2 and all((folder / "store").is_dir() for folder in folders)


def test_a_killed_node_is_noticed_at_once_and_started_alone(cluster: Settings) -> None:
    make_tables(cluster, "killed", "paystream")
    insert(cluster, 2, "killed", list(range(10)))
    before = local_stack.pids(cluster)
    local_stack.kill(cluster, "clickhouse-2", signal.SIGKILL)
    wait_until(lambda: "clickhouse-2" not in local_stack.pids(cluster))
    began = time.monotonic()
    with pytest.raises(DatabaseError, match=f"127.0.0.1:{cluster.clickhouse_native_port + 1}"):
        query(cluster, 1, "SELECT count() FROM default.killed")
    assert time.monotonic() - began < 5
    assert [node.shard for node in nodes.find(cluster).present] == [1]
    assert local_stack.start(cluster, "memory").started == ("clickhouse-2",)
    after = local_stack.pids(cluster)
    assert {name for name in after if after[name] != before[name]} == {"clickhouse-2"}
    assert query(cluster, 1, "SELECT count() FROM default.killed") == [(10,)]

    close_managers()
    local_stack.restart(cluster, "clickhouse-1")
    again = local_stack.pids(cluster)
    assert {name for name in again if again[name] != after[name]} == {"clickhouse-1"}
    assert query(cluster, 2, "SELECT count() FROM default.killed") == [(10,)]
    with pytest.raises(UsageError, match=r"'clickhouse-3' .* but broker, clickhouse-1, clickhouse-2\."):
        local_stack.restart(cluster, "clickhouse-3")


def test_a_cluster_grows_and_readers_fail_over_to_the_other_set(own_cluster: Settings, paystream: Paystream) -> None:
    one, two = with_nodes(own_cluster, 1), with_nodes(own_cluster, 2)
    assert local_stack.start(one, "memory").started == ("broker", "clickhouse-1")
    query(one, 1, "CREATE TABLE default.kept ENGINE = MergeTree ORDER BY a AS SELECT 7 AS a")
    close_managers()
    grown = local_stack.start(two, "memory", nodes=2)
    assert grown.started == ("clickhouse-2",)
    assert "Restarted, since the cluster has other nodes now: clickhouse-1." in grown.notes
    assert places(two) == [("1", 1), ("1", 2)]
    with pytest.raises(UsageError, match=r"PAYSTREAM_CLICKHOUSE_NODES names 1 node, and"):
        local_stack.start(one, "memory")
    first = local_stack.pids(two)

    close_managers()
    code, out, err = finish(paystream(own_cluster, "up", "--broker", "memory", "--sets", "2", "--json"))
    assert code == 0
    assert err[-1] == "note: Restarted, since the cluster has other nodes now: clickhouse-1, clickhouse-2."
    told = {part["part"]: part for part in json.loads(out)["parts"] if part["kind"] == "clickhouse"}
    assert [(name, part["set"], part["shard"]) for name, part in told.items()] == [
        ("clickhouse-1", 1, 1),
        ("clickhouse-2", 1, 2),
        ("clickhouse-3", 2, 1),
        ("clickhouse-4", 2, 2),
    ]
    assert [part["address"] for part in told.values()] == own_cluster.clickhouse_nodes.split(",")
    assert local_stack.pids(own_cluster)["broker"] == first["broker"]
    found = nodes.find(own_cluster)
    assert (found.writes, places(own_cluster)) == ("paystream_set", [("1", 1), ("1", 2), ("2", 1), ("2", 2)])
    assert {node.set: node.settings.kafka_group for node in found.present} == {"1": "paystream", "2": "paystream-2"}
    # Without --nodes it starts as it was, also after it was down.
    assert local_stack.start(own_cluster, "memory").started == ()
    close_managers()
    local_stack.stop(own_cluster)
    assert len(local_stack.start(own_cluster, "memory").started) == 5
    assert query(own_cluster, 1, "SELECT a FROM default.kept") == [(7,)]

    make_tables(own_cluster, "told", "paystream")
    make_tables(own_cluster, "own", "paystream_set")
    for number in range(1, 5):
        insert(own_cluster, number, "told_local", [number])
    read = "SELECT arraySort(groupArray(a)) FROM default.told"
    assert [query(own_cluster, number, read) for number in (1, 2, 3, 4)] == [[([1, 2],)]] * 2 + [[([3, 4],)]] * 2
    local_stack.kill(own_cluster, "clickhouse-2", signal.SIGKILL)
    wait_until(lambda: "clickhouse-2" not in local_stack.pids(own_cluster))
    began = time.monotonic()
    assert query(own_cluster, 1, read) == [([1, 4],)]
    with pytest.raises(DatabaseError):
        insert(own_cluster, 1, "own", [1])  # ingest writes to its own set, or not at all
    assert time.monotonic() - began < 5

    for asked, cause in (({"nodes": 1}, "each holds a share"), ({"sets": 1}, "would miss payments")):
        with pytest.raises(UsageError, match=cause):
            local_stack.start(own_cluster, "memory", **asked)
    single = own_cluster.model_copy(update={"clickhouse_cluster": ""})
    with pytest.raises(UsageError, match=r"that of cluster 'paystream'.*Set PAYSTREAM_CLICKHOUSE_CLUSTER=paystream"):
        local_stack.start(single, "memory")
    close_managers()
    code, out, _ = finish(paystream(own_cluster, "down", "--delete-data"))
    assert (code, out) == (
        0,
        'down status=stopped clickhouse-1=stopped clickhouse-2="dead already" clickhouse-3=stopped'
        " clickhouse-4=stopped memory=stopped"
        " deleted=clickhouse-1,clickhouse-2,clickhouse-3,clickhouse-4,etc,logs,run\n",
    )
    assert [path.name for path in own_cluster.home.iterdir()] == ["stack.lock"]


@pytest.mark.on_demand
def test_growth_that_fails_leaves_the_cluster_as_it_was(own_cluster: Settings) -> None:
    two, three = with_nodes(own_cluster, 2), with_nodes(own_cluster, 3)
    local_stack.start(two, "memory")
    before = local_stack.pids(two)
    with (
        socket.create_server(("127.0.0.1", two.clickhouse_native_port + 2)),
        pytest.raises(UsageError, match="set PAYSTREAM_CLICKHOUSE_NATIVE_PORT to another"),
    ):
        local_stack.start(three, "memory", nodes=3)
    in_the_way = two.home / "clickhouse-3"
    in_the_way.write_text("a file where the data folder belongs")
    with pytest.raises(ServiceUnavailable, match="did not start"):
        local_stack.start(three, "memory", nodes=3)
    assert local_stack.pids(two) == before
    assert local_stack.start(two, "memory").started == ()
    in_the_way.unlink()
    assert local_stack.start(three, "memory", nodes=3).started == ("clickhouse-3",)
    assert places(three) == [("1", 1), ("1", 2), ("1", 3)]


@pytest.mark.kafka
def test_a_topic_has_two_partitions_for_each_shard(tmp_path: Path, make_settings: Callable[..., Settings]) -> None:
    for settings in running_at_most(make_settings(tmp_path / "home", nodes=3), start=False):
        local_stack.start(settings, "kafka")
        assert topic_partitions(settings) == [0, 1, 2, 3, 4, 5]


@pytest.mark.on_demand
def test_a_node_that_is_killed_while_it_starts(own_cluster: Settings, paystream: Paystream) -> None:
    process = paystream(own_cluster, "up", "--broker", "memory", "--sets", "2")
    wait_until(lambda: "clickhouse-2" in local_stack.pids(own_cluster) or process.poll() is not None)
    local_stack.kill(own_cluster, "clickhouse-2", signal.SIGKILL)
    code, out, err = finish(process)
    assert (code, out) == (3, "")
    assert f"ClickHouse '{own_cluster.clickhouse_nodes.split(',')[1]}' did not start" in err[-1]
    assert processes_of(own_cluster) == []
    assert not (own_cluster.home / "run" / "cluster.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.on_demand)])
def test_interrupted_up_leaves_no_node_running(
    own_cluster: Settings, paystream: Paystream, number: signal.Signals
) -> None:
    process = paystream(own_cluster, "up", "--broker", "memory", "--nodes", "4")
    wait_until(lambda: "clickhouse-1" in local_stack.pids(own_cluster) or process.poll() is not None)
    process.send_signal(number)
    code, out, err = finish(process)
    assert (code, out) == (1, "")
    assert "starting it was interrupted, and what had been started is stopped again" in err[-1]
    assert processes_of(own_cluster) == []


@pytest.mark.on_demand
def test_two_ups_at_once_start_one_cluster(own_cluster: Settings, paystream: Paystream) -> None:
    both = [paystream(own_cluster, "up", "--broker", "memory", "--nodes", "4", "--json") for _ in range(2)]
    answers = [finish(process) for process in both]
    assert [code for code, _, _ in answers] == [0, 0]
    reports = [json.loads(out) for _, out, _ in answers]
    assert sorted(report["status"] for report in reports) == ["already running", "started"]
    assert reports[0]["parts"] == reports[1]["parts"]
    assert sorted(processes_of(own_cluster)) == sorted(local_stack.pids(own_cluster).values())
