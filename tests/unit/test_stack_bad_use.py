"""`paystream up` and `down` where nothing may be started: one line says what is wrong, and nothing is left behind."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from paystream.devstack import kafka_broker, local_cluster, maven, stack
from paystream.errors import ServiceUnavailable, UsageError
from paystream.settings import Settings

Paystream = Callable[..., subprocess.Popen]


def finish(process: subprocess.Popen) -> tuple[int, str, list[str]]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err.splitlines()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    yield process
    process.kill()
    process.wait()


def program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_kafka_without_java(own_settings: Settings, paystream: Paystream, tmp_path: Path) -> None:
    code, out, err = finish(paystream(own_settings, "up", "--broker", "kafka", PATH=str(tmp_path)))
    assert (code, out, len(err)) == (2, "", 1)
    assert "no `java` on the PATH" in err[0]
    assert "Install Java 17 or newer" in err[0]
    assert stack.pids(own_settings) == {}


def test_kafka_with_an_old_java(own_settings: Settings, paystream: Paystream, tmp_path: Path) -> None:
    program(tmp_path / "bin", "java", "echo 'openjdk version \"11.0.2\" 2019-01-15' >&2")
    code, _, err = finish(paystream(own_settings, "up", "--broker", "kafka", PATH=str(tmp_path / "bin")))
    assert (code, len(err)) == (2, 1)
    assert "is Java 11. Install Java 17 or newer" in err[0]


@pytest.mark.parametrize("name", ["kafka_brokers", "clickhouse_port", "clickhouse_native_port"])
def test_port_in_use(own_settings: Settings, paystream: Paystream, name: str) -> None:
    port = int(str(getattr(own_settings, name)).split(":")[-1])
    with socket.create_server(("127.0.0.1", port)):
        code, out, err = finish(paystream(own_settings, "up", "--broker", "memory"))
    assert (code, out, len(err)) == (2, "", 1)
    assert f"port {port} cannot be used: Address already in use" in err[0]
    assert f"set PAYSTREAM_{name.upper()}" in err[0]
    assert stack.pids(own_settings) == {}


def test_a_port_for_two(own_settings: Settings, paystream: Paystream) -> None:
    port = str(own_settings.clickhouse_port)
    code, out, err = finish(paystream(own_settings, "up", PAYSTREAM_CLICKHOUSE_NATIVE_PORT=port))
    assert (code, out, len(err)) == (2, "", 1)
    assert "name the same port" in err[0]


@pytest.mark.parametrize(
    ("setting", "value", "complaint"),
    [
        ("PAYSTREAM_KAFKA_BROKERS", "kafka.example.com:9092", "'kafka.example.com', which is someone else's server"),
        ("PAYSTREAM_KAFKA_BROKERS", "127.0.0.1:19092,127.0.0.1:19093", "names several brokers"),
        ("PAYSTREAM_KAFKA_BROKERS", "127.0.0.1:99999", "port 99999, which does not exist"),
        ("PAYSTREAM_KAFKA_SECURITY_PROTOCOL", "SASL_SSL", "PAYSTREAM_KAFKA_SECURITY_PROTOCOL is not PLAINTEXT"),
        ("PAYSTREAM_CLICKHOUSE_HOST", "10.0.0.7", "'10.0.0.7', which is someone else's server"),
        ("PAYSTREAM_CLICKHOUSE_SECURE", "true", "PAYSTREAM_CLICKHOUSE_SECURE is on"),
    ],
)
def test_settings_of_a_real_server(
    own_settings: Settings, paystream: Paystream, setting: str, value: str, complaint: str
) -> None:
    code, out, err = finish(paystream(own_settings, "up", **{setting: value}))
    assert (code, out, len(err)) == (2, "", 1)
    assert complaint in err[0]
    assert not own_settings.home.exists()


@pytest.mark.parametrize(
    ("changes", "arguments", "complaint"),
    [
        ({"CLUSTER": ""}, ["--nodes", "2"], "which needs a name. Set PAYSTREAM_CLICKHOUSE_CLUSTER=paystream."),
        ({"CLUSTER": ""}, ["--sets", "2"], "which needs a name. Set PAYSTREAM_CLICKHOUSE_CLUSTER=paystream."),
        ({}, ["--nodes", "0"], "'--nodes'"),
        (
            {"NODES": "127.0.0.1:1,127.0.0.1:2,127.0.0.1:3"},
            ["--nodes", "2"],
            "PAYSTREAM_CLICKHOUSE_NODES names 3 nodes, and a cluster of `--nodes 2 --sets 1` has 2.",
        ),
        ({"NODES": "127.0.0.1:1,127.0.0.1:1"}, [], "CLICKHOUSE_NODES, PAYSTREAM_CLICKHOUSE_NATIVE_PORT name the same"),
        ({"NODES": "10.0.0.7:8123"}, [], "PAYSTREAM_CLICKHOUSE_NODES names '10.0.0.7', which is someone else's server"),
        ({"PORT": "19001", "NATIVE_PORT": "19000"}, ["--nodes", "2"], "name the same port for 2 nodes, which count up"),
        ({"PORT": "65535"}, ["--nodes", "2"], "names port 65536 for 2 nodes, which count up"),
    ],
)
def test_clusters_that_cannot_be(
    own_settings: Settings, paystream: Paystream, changes: dict[str, str], arguments: list[str], complaint: str
) -> None:
    changes = {f"PAYSTREAM_CLICKHOUSE_{name}": value for name, value in ({"CLUSTER": "paystream"} | changes).items()}
    code, out, err = finish(paystream(own_settings, "up", *arguments, **changes))
    assert (code, out) == (2, "")
    assert complaint in " ".join(err)
    assert not own_settings.home.exists()


def test_a_port_in_use_of_a_later_node(own_settings: Settings, paystream: Paystream) -> None:
    port = own_settings.clickhouse_port + 1
    with socket.create_server(("127.0.0.1", port)):
        code, out, err = finish(paystream(own_settings, "up", "--nodes", "2", PAYSTREAM_CLICKHOUSE_CLUSTER="paystream"))
    assert (code, out, len(err)) == (2, "", 1)
    assert f"port {port} cannot be used: Address already in use" in err[0]
    assert "set PAYSTREAM_CLICKHOUSE_PORT" in err[0]
    assert stack.pids(own_settings) == {}


def test_one_servers_data_is_not_mistaken_for_a_clusters(own_settings: Settings) -> None:
    (own_settings.home / "clickhouse").mkdir(parents=True)
    clustered = own_settings.model_copy(update={"clickhouse_cluster": "paystream"})
    with pytest.raises(UsageError, match="its data is that of one server, and PAYSTREAM_CLICKHOUSE_CLUSTER asks"):
        local_cluster.servers(clustered, 2, None)


def test_a_node_keeps_its_number_while_the_cluster_grows(own_settings: Settings) -> None:
    clustered = own_settings.model_copy(update={"clickhouse_cluster": "paystream"})
    before = local_cluster.servers(clustered, 2, 2)
    assert [(node.set, node.shard) for node in before] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    (own_settings.home / "run").mkdir(parents=True)
    local_cluster.remembered_in(own_settings.home).write_text(local_cluster.remembered_text("paystream", before))
    grown = local_cluster.servers(clustered, 3, None)
    assert grown[:4] == before == local_cluster.servers(clustered, None, None)
    assert [(node.name, node.set, node.shard) for node in grown[4:]] == [("clickhouse-5", 1, 3), ("clickhouse-6", 2, 3)]
    with pytest.raises(UsageError, match=r"that of cluster 'paystream', and PAYSTREAM_CLICKHOUSE_CLUSTER says 'other'"):
        local_cluster.servers(own_settings.model_copy(update={"clickhouse_cluster": "other"}), None, None)


def test_home_is_a_file(own_settings: Settings, paystream: Paystream) -> None:
    own_settings.home.write_text("not a folder")
    code, _, err = finish(paystream(own_settings, "up", "--broker", "memory"))
    assert (code, len(err)) == (2, 1)
    assert "Set PAYSTREAM_HOME" in err[0]


def test_folders_of_someone_else_are_neither_used_nor_deleted(own_settings: Settings, paystream: Paystream) -> None:
    mine = own_settings.home / "logs" / "mine.log"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    code, _, err = finish(paystream(own_settings, "up", "--broker", "memory"))
    assert (code, len(err)) == (2, 1)
    assert f"'{mine.parent}': it exists, but the local stack did not make it" in err[0]
    code, out, _ = finish(paystream(own_settings, "down", "--delete-data"))
    assert (code, out) == (0, 'down status="nothing was running" deleted=none\n')
    assert mine.read_text() == "mine"


def test_down_when_nothing_runs(own_settings: Settings, paystream: Paystream) -> None:
    code, out, err = finish(paystream(own_settings, "down"))
    assert (code, err) == (0, [])
    assert out == 'down status="nothing was running" deleted=none\n'
    assert not own_settings.home.exists()


def test_down_leaves_a_process_alone_that_got_the_pid_of_a_dead_part(
    own_settings: Settings, paystream: Paystream, sleeper: subprocess.Popen
) -> None:
    created = psutil.Process(sleeper.pid).create_time() - 3600
    record = {"name": "clickhouse", "kind": "clickhouse", "address": "127.0.0.1:1", "log": "", "created": created}
    (own_settings.home / "run").mkdir(parents=True)
    (own_settings.home / "stack.lock").touch()
    (own_settings.home / "run" / "clickhouse.json").write_text(json.dumps(record | {"pid": sleeper.pid}))
    code, out, _ = finish(paystream(own_settings, "down", "--json"))
    assert (code, json.loads(out)["parts"]) == (0, {"clickhouse": "dead already"})
    assert sleeper.poll() is None


def test_down_stops_a_process_with_the_recorded_time(own_settings: Settings, sleeper: subprocess.Popen) -> None:
    created = psutil.Process(sleeper.pid).create_time()
    record = {"name": "clickhouse", "kind": "clickhouse", "address": "127.0.0.1:1", "log": "", "created": created}
    (own_settings.home / "run").mkdir(parents=True)
    (own_settings.home / "stack.lock").touch()
    (own_settings.home / "run" / "clickhouse.json").write_text(json.dumps(record | {"pid": sleeper.pid}))
    assert [stop.how for stop in stack.stop(own_settings)] == ["stopped"]
    assert sleeper.wait(timeout=10) == -signal.SIGTERM


@pytest.mark.parametrize("command", ["up", "down"])
def test_help_shows_an_example(own_settings: Settings, paystream: Paystream, command: str) -> None:
    code, out, _ = finish(paystream(own_settings, command, "--help"))
    assert code == 0
    assert re.search(rf"Example: paystream {command}\b", out)


def test_a_half_fetched_set_of_jars_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_settings: Settings
) -> None:
    monkeypatch.setattr(maven, "CHECKOUT", tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    to_target = 'for a in "$@"; do case $a in -DoutputDirectory=*) d=${a#*=};; esac; done; mkdir -p "$d"'

    program(tmp_path / "bin", "mvn", f'{to_target}; echo half > "$d/one.jar"; echo "[ERROR] no route to host"; exit 1')
    with pytest.raises(ServiceUnavailable, match=r"Jars from Maven Central: no route to host\. Check the net"):
        maven.ensure_jars(kafka_broker.POM)
    assert list((tmp_path / "build").iterdir()) == []

    program(tmp_path / "bin", "mvn", f'{to_target}; echo whole > "$d/one.jar"')
    folder = maven.ensure_jars(kafka_broker.POM)
    assert (folder / "one.jar").read_text() == "whole\n"

    program(tmp_path / "bin", "mvn", "exit 1")
    assert maven.ensure_jars(kafka_broker.POM) == folder
