"""`paystream status`, `metrics` and `dashboard` of a cluster of two real nodes, and what they say while one is away."""

import json
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from confluent_kafka import Producer
from payments import message
from stacks import running
from waiting import wait_until

from paystream.clickhouse import connect
from paystream.devstack import stack as local_stack
from paystream.group import partitions_assigned
from paystream.kafka import client_config
from paystream.migrations import runner
from paystream.nodes import find
from paystream.settings import Settings

pytestmark = pytest.mark.kafka

PaystreamHere = Callable[..., tuple[int, str, list[str]]]
WAIT_S = 120
ANSWER_S = 20
"""A status of a cluster with a node that hangs takes five seconds; a machine that does other things too, some more."""
PAYMENTS, REFUSED = 200, 8


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, make_settings: Callable[..., Settings]) -> Iterator[Settings]:
    """A cluster of two nodes that have stored some payments."""
    with running(make_settings(tmp_path_factory.mktemp("cluster"), nodes=2)) as settings:
        runner.up(settings)
        # Each node is to have read some of them, and the first one to join the group has all partitions for a while.
        readers = [replace(find(settings), present=(node,)) for node in find(settings).present]
        half = local_stack.PARTITIONS // 2
        wait_until(lambda: [partitions_assigned(reader) for reader in readers] == [half, half], WAIT_S)
        send(settings)
        yield settings


@pytest.fixture
def ask(cluster: Settings, paystream_here: PaystreamHere) -> Callable[..., tuple[int, dict]]:
    def status(**environment: str) -> tuple[int, dict]:
        code, out, err = paystream_here(cluster, "status", "--json", **environment)
        assert err == []
        return code, json.loads(out)

    return status


def send(settings: Settings) -> None:
    producer = Producer(client_config(settings))
    for number in range(PAYMENTS + REFUSED):
        body = message() if number < PAYMENTS else b"refused"
        producer.produce(settings.kafka_topic, body, partition=number % local_stack.PARTITIONS)
    assert producer.flush(WAIT_S) == 0


def wait_for(ask: Callable[[], tuple[int, dict]], condition: Callable[[dict], bool]) -> dict:
    deadline = time.monotonic() + WAIT_S
    while not condition(document := ask()[1]):
        assert time.monotonic() < deadline, document
        time.sleep(0.2)
    return document


def all_read(document: dict) -> bool:
    nodes = document["cluster"]["nodes"]
    reads = sorted(partition for node in nodes for partition in node["partitions"] or [])
    return reads == [0, 1, 2, 3] and [node["lag_messages"] for node in nodes] == [0, 0]


def whole(ask: Callable[[], tuple[int, dict]]) -> dict:
    """Return a status that both nodes had a part in; on a busy machine one may take too long at first."""
    return wait_for(ask, lambda now: not now["unmeasured"] and not reasons(now, "node"))


def at(settings: Settings, number: int) -> Settings:
    return settings.at(*settings.node_addresses[number - 1])


def address(settings: Settings, number: int) -> str:
    return settings.clickhouse_nodes.split(",")[number - 1]


def reasons(document: dict, name: str) -> list[str]:
    return [problem["text"] for problem in document["problems"] if problem["name"] == name]


def test_each_node_says_what_is_its_own_and_the_figures_are_of_all(
    cluster: Settings, ask: Callable, paystream_here: PaystreamHere
) -> None:
    document = wait_for(ask, lambda now: all_read(now) and now["flow"]["messages"] == PAYMENTS + REFUSED)
    nodes = document["cluster"]["nodes"]
    assert [(node["address"], node["set"], node["shard"], node["cause"]) for node in nodes] == [
        (address(cluster, shard), "1", shard, "") for shard in (1, 2)
    ]
    newest = runner.status(cluster)[-1].version
    assert all(node["schema"] == newest and node["version"].startswith("2") for node in nodes)
    assert all(0 < node["disk_free_bytes"] < node["disk_bytes"] for node in nodes)
    assert [(node["shards"], node["consumers"] > 0) for node in nodes] == [(2, True)] * 2
    assert document["unmeasured"] == [] and reasons(document, "node") == []
    # What is stored is on both, and counts once.
    stored = []
    for shard in (1, 2):
        with connect(at(cluster, shard)) as client:
            stored.append(client.query("SELECT count() FROM transactions_local").first_row[0])
    assert min(stored) > 0 and sum(stored) == PAYMENTS
    assert (document["flow"]["refused"], document["pending"]["looked_at"]) == (REFUSED, PAYMENTS)
    assert [(refusal["reason"], refusal["messages"]) for refusal in document["refusals"]] == [("not_json", REFUSED)]
    assert document["parts"][0]["table"] == "transactions"
    assert [sum(parts["parts"] for parts in node["parts"] if parts["table"] == "transactions") > 0 for node in nodes]

    deadline = time.monotonic() + WAIT_S
    while " nodes=2 nodes_away=0" not in (lines := paystream_here(cluster, "status")[1].splitlines())[0]:
        assert time.monotonic() < deadline, lines
    assert [
        re.match(r"status_node node=(\S+) set=1 shard=(\d) cause=none consumers=", line)[1] for line in lines[1:]
    ] == [
        address(cluster, 1),
        address(cluster, 2),
    ]


def test_a_node_with_older_dimensions_is_named_until_it_has_them(cluster: Settings, ask: Callable) -> None:
    def load(number: int, snapshot: int) -> None:
        with connect(at(cluster, number)) as client:
            client.insert("dimension_snapshots", [["fx", snapshot, 1]], ["dimension", "snapshot_id", "row_count"])

    load(1, 1)
    load(2, 1)
    assert reasons(whole(ask), "snapshot") == []
    load(1, 2)
    document = whole(ask)
    assert document["exit_code"] == 1
    assert reasons(document, "snapshot") == [f"node '{address(cluster, 2)}' has older dimensions: fx 1 (newest 2)"]
    # It is the newest that serves, whichever node is asked first.
    assert [age["snapshot_id"] for age in document["dimensions"]] == [2]
    load(2, 2)
    assert reasons(whole(ask), "snapshot") == []


def test_a_part_of_ingest_that_is_missing_is_named_with_its_node(cluster: Settings, ask: Callable) -> None:
    with connect(at(cluster, 2)) as client:
        client.command("DETACH TABLE quarantine_mv")
        try:
            missing = whole(ask)["missing"]
        finally:
            client.command("ATTACH TABLE quarantine_mv")
    assert missing == [f"quarantine_mv of node '{address(cluster, 2)}'"]
    assert whole(ask)["missing"] == []


def test_nodes_that_send_payments_to_different_shards_are_named(cluster: Settings, ask: Callable) -> None:
    with connect(at(cluster, 2)) as client:
        [[before]] = client.query(
            "SELECT create_table_query FROM system.tables WHERE name = 'transactions_to_shards'"
        ).result_rows
        client.command(before.replace("CREATE TABLE", "CREATE OR REPLACE TABLE").replace("% 2", "% 1"))
        try:
            [text] = reasons(whole(ask), "sharding")
        finally:
            client.command(before.replace("CREATE TABLE", "CREATE OR REPLACE TABLE"))
    assert text.startswith("nodes send payments to different shards: ")
    for shard, count in ((1, 2), (2, 1)):
        assert f"'{address(cluster, shard)}' by cityHash64(transaction_id) % {count}" in text


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_node_that_is_away_is_named_and_the_others_answer(
    cluster: Settings, ask: Callable, number: signal.Signals
) -> None:
    def without_one(**environment: str) -> dict:
        document = wait_for(lambda: ask(**environment), lambda now: now["exit_code"] == 1)
        assert document["took_s"] < ANSWER_S
        return document

    # The objective is read from a roll-up, which comes after the rows.
    before = wait_for(ask, lambda now: all_read(now) and now["objective"]["payments"] >= PAYMENTS)
    pid = local_stack.pids(cluster)["clickhouse-2"]
    local_stack.kill(cluster, "clickhouse-2", number)
    try:
        document = without_one()
        # Found through the first node; of one that is away, that one knows the native address.
        by_first = without_one(PAYSTREAM_CLICKHOUSE_NODES="")
        # And through the second one while it is away.
        host, port = cluster.node_addresses[1]
        by_second = without_one(PAYSTREAM_CLICKHOUSE_HOST=host, PAYSTREAM_CLICKHOUSE_PORT=str(port))
    finally:
        if number == signal.SIGSTOP:
            local_stack.kill(cluster, "clickhouse-2", signal.SIGCONT)
        local_stack.start(cluster, "kafka")
    first, second = document["cluster"]["nodes"]
    assert (first["address"], first["cause"]) == (address(cluster, 1), "")
    assert (second["address"], second["parts"], second["lag_messages"]) == (address(cluster, 2), None, None)
    cause = {signal.SIGKILL: "Connection refused", signal.SIGSTOP: "timed out"}[number]
    for told in (document, by_second):
        assert reasons(told, "node") == [
            f"node '{address(cluster, 2)}' cannot be asked: {cause}",
            "no figure has what is stored on shard 2 of 2",
        ]
        assert 0 < told["objective"]["payments"] < before["objective"]["payments"]
    assert re.match(r"node '127.0.0.1:\d+ \(native protocol\)' cannot be asked: ", reasons(by_first, "node")[0])
    assert (local_stack.pids(cluster)["clickhouse-2"] == pid) == (number == signal.SIGSTOP)
    back = wait_for(ask, lambda now: all_read(now) and not reasons(now, "node"))
    assert back["objective"]["payments"] == before["objective"]["payments"]


def test_all_nodes_away(cluster: Settings, paystream_here: PaystreamHere, free_port: Callable[[], int]) -> None:
    nobody = cluster.model_copy(update={"clickhouse_nodes": f"127.0.0.1:{free_port()},127.0.0.1:{free_port()}"})
    code, out, _ = paystream_here(nobody, "status", "--json")
    document = json.loads(out)
    assert code == 3 and "no node answers" in document["unmeasured"][0]["why"]
    assert len(document["backlog"]["partitions"]) == 4 and document["cluster"]["nodes"] == []


def test_metrics_and_the_page(
    cluster: Settings, paystream: Callable[..., subprocess.Popen], free_port: Callable[[], int]
) -> None:
    def served(command: str, path: str, *wanted: str) -> str:
        port = free_port()
        process = paystream(cluster, command, "--port", str(port))
        try:
            assert process.stdout.readline().startswith(f"{command} address=")
            deadline = time.monotonic() + WAIT_S
            while True:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=WAIT_S) as answer:
                    text = answer.read().decode()
                if all(part in text for part in wanted):
                    return text
                assert time.monotonic() < deadline, text
                time.sleep(0.5)
        finally:
            process.terminate()
            process.communicate(timeout=WAIT_S)

    up = [f'paystream_node_up{{node="{address(cluster, shard)}"}} 1.0\n' for shard in (1, 2)]
    text = served("metrics", "/metrics", *up, 'paystream_lag_messages{partition="3",set="1"} 0.0\n')
    for shard in (1, 2):
        node = f'node="{address(cluster, shard)}"'
        assert re.search(rf'paystream_parts{{{node},set="1",shard="{shard}",table="transactions"}} [1-9]', text)
    rows = [f"<th scope=row>{address(cluster, shard)}</th>" for shard in (1, 2)]
    served("dashboard", "/", "Nodes of cluster paystream", *rows)
