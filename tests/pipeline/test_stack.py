"""`paystream up` and `down` with real processes: what runs, what survives a crash, and that nothing is left behind."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest
import waiting
from confluent_kafka import Consumer, Producer

from paystream.clickhouse import connect
from paystream.devstack import stack as local_stack
from paystream.errors import PaystreamError
from paystream.kafka import client_config, topic_partitions
from paystream.settings import Settings

Paystream = Callable[..., subprocess.Popen]


def finish(process: subprocess.Popen) -> tuple[int, str, list[str]]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err.splitlines()


wait_until = partial(waiting.wait_until, seconds=30, every_s=0.02)


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def processes_of(settings: Settings) -> list[int]:
    """Find the stack's processes by what they were told, not by its own records."""
    told = (str(settings.home.resolve()), settings.kafka_brokers.split(":")[1])
    processes = []
    for process in psutil.process_iter(["cmdline"]):
        arguments = process.info["cmdline"] or []
        if any(argument.startswith(told[0]) or argument == told[1] for argument in arguments):
            processes.append(process.pid)
    return processes


def produce(settings: Settings, values: list[str]) -> None:
    producer = Producer(client_config(settings) | {"log_level": 0})
    for value in values:
        producer.produce(settings.kafka_topic, value=value)
    assert producer.flush(20) == 0


def consume(settings: Settings, count: int) -> list[str]:
    options = {"group.id": "test", "auto.offset.reset": "earliest", "enable.auto.commit": "false", "log_level": 0}
    consumer = Consumer(client_config(settings) | options)
    consumer.subscribe([settings.kafka_topic])
    values: list[str] = []

    def poll() -> bool:
        values.extend(message.value().decode() for message in consumer.consume(count, 1) if not message.error())
        return len(values) >= count

    try:
        wait_until(poll)
    finally:
        consumer.close()
    return sorted(values)


@pytest.mark.kafka
def test_up_crash_up_down(own_settings: Settings, paystream: Paystream) -> None:
    code, out, err = finish(paystream(own_settings, "up", "--broker", "kafka", "--json"))
    assert (code, err) == (0, [])
    assert json.loads(out)["started"] == ["broker", "clickhouse"]
    first = local_stack.pids(own_settings)
    assert sorted(processes_of(own_settings)) == sorted(first.values())
    assert topic_partitions(own_settings) == [0, 1, 2, 3]
    with connect(own_settings, database="") as client:
        client.command("CREATE DATABASE kept")
        client.command("CREATE TABLE kept.kept (a UInt8) ENGINE = MergeTree ORDER BY a")
        client.command("INSERT INTO kept.kept VALUES (7)")
    values = [f"message {number}" for number in range(1000)]
    produce(own_settings, values)

    code, out, err = finish(paystream(own_settings, "up"))
    assert (code, err) == (0, [])
    assert out.startswith('up status="already running" started=none kafka=127.0.0.1:')
    assert local_stack.pids(own_settings) == first

    other = own_settings.model_copy(update={"kafka_topic": "other"})
    assert finish(paystream(other, "up"))[0] == 0
    assert topic_partitions(other) == [0, 1, 2, 3]

    local_stack.kill(own_settings, "broker", signal.SIGKILL)
    wait_until(lambda: not is_alive(first["broker"]))
    code, out, _ = finish(paystream(own_settings, "up"))
    assert code == 0
    assert out.startswith("up status=started started=broker ")
    second = local_stack.pids(own_settings)
    assert second["clickhouse"] == first["clickhouse"]
    assert second["broker"] != first["broker"]
    assert consume(own_settings, 1000) == sorted(values)

    local_stack.kill(own_settings, "clickhouse", signal.SIGKILL)
    wait_until(lambda: not is_alive(first["clickhouse"]))
    assert finish(paystream(own_settings, "up"))[0] == 0
    with connect(own_settings, database="") as client:
        assert client.query("SELECT a FROM kept.kept").result_rows == [(7,)]

    kept = own_settings.home / "notes.txt"
    kept.write_text("mine")
    code, out, err = finish(paystream(own_settings, "down", "--delete-data"))
    assert (code, err) == (0, [])
    assert out == "down status=stopped clickhouse=stopped kafka=stopped deleted=kafka,clickhouse,etc,logs,run\n"
    assert processes_of(own_settings) == []
    assert {path.name for path in own_settings.home.iterdir()} == {"notes.txt", "stack.lock"}


@pytest.mark.kafka
def test_two_ups_at_once_start_one_stack(own_settings: Settings, paystream: Paystream) -> None:
    both = [paystream(own_settings, "up", "--broker", "kafka", "--json") for _ in range(2)]
    answers = [finish(process) for process in both]
    assert [code for code, _, _ in answers] == [0, 0]
    reports = [json.loads(out) for _, out, _ in answers]
    assert sorted(report["status"] for report in reports) == ["already running", "started"]
    assert reports[0]["parts"] == reports[1]["parts"]
    assert sorted(processes_of(own_settings)) == sorted(local_stack.pids(own_settings).values())


@pytest.mark.kafka
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_up_leaves_nothing_running(
    own_settings: Settings, paystream: Paystream, number: signal.Signals
) -> None:
    process = paystream(own_settings, "up", "--broker", "kafka")
    wait_until(lambda: "broker" in local_stack.pids(own_settings) or process.poll() is not None)
    process.send_signal(number)
    code, out, err = finish(process)
    assert (code, out, len(err)) == (1, "", 1)
    assert "starting it was interrupted, and what had been started is stopped again" in err[0]
    assert processes_of(own_settings) == []


@pytest.mark.kafka
def test_down_stops_what_a_killed_up_had_started(own_settings: Settings, paystream: Paystream) -> None:
    process = paystream(own_settings, "up", "--broker", "kafka")
    wait_until(lambda: "broker" in local_stack.pids(own_settings) or process.poll() is not None)
    process.kill()
    finish(process)
    assert len(processes_of(own_settings)) == 1
    code, out, _ = finish(paystream(own_settings, "down"))
    assert (code, out) == (0, "down status=stopped kafka=stopped deleted=none\n")
    assert processes_of(own_settings) == []


def test_when_clickhouse_cannot_start_the_broker_is_stopped_again(own_settings: Settings, paystream: Paystream) -> None:
    own_settings.home.mkdir()
    (own_settings.home / "stack.lock").touch()
    (own_settings.home / "clickhouse").write_text("a file where the data folder belongs")
    code, out, err = finish(paystream(own_settings, "up", "--broker", "memory"))
    assert code in (2, 3)
    assert (out, len(err)) == ("", 1)
    assert f"error: ClickHouse '127.0.0.1:{own_settings.clickhouse_port}' did not start: " in err[0]
    assert err[0].endswith(f"Read '{own_settings.home.resolve() / 'logs' / 'clickhouse.log'}'.")
    assert processes_of(own_settings) == []


@pytest.mark.parametrize("filled", ["64k", "60k", "52k", "40k"])
def test_a_full_disk_is_said_to_be_so(own_settings: Settings, tmp_path: Path, filled: str) -> None:
    # In a mount namespace of its own, with a home on a disk of that size.
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "sh", "-c"]
    fill = 'mount -t tmpfs -o size=64k tmpfs "$1" && head -c "$3" /dev/zero > "$1/filler"; '
    script = f'{fill} exec "$2" -m paystream up --broker memory'
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        [*unshare, script, "sh", str(disk), sys.executable, filled],
        env=os.environ | own_settings.model_copy(update={"home": disk / "home"}).environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    last = done.stderr.splitlines()[-1]
    assert (done.returncode > 0, done.stdout) == (True, ""), done.stdout
    assert last.startswith("error: ") and ("full" in last or "No space left on device" in last)
    assert not [line for line in done.stderr.splitlines() if line.startswith("Traceback")]
    assert processes_of(own_settings.model_copy(update={"home": disk / "home"})) == []


def test_auto_without_java_starts_the_memory_broker(own_settings: Settings, paystream: Paystream, tmp_path) -> None:
    code, out, err = finish(paystream(own_settings, "up", PATH=str(tmp_path)))
    assert (code, len(err)) == (0, 1)
    assert "no `java` on the PATH" in err[0]
    assert "about 5 MB a partition, forgets everything" in err[0]
    assert f"memory={own_settings.kafka_brokers} " in out
    assert topic_partitions(own_settings) == [0, 1, 2, 3]
    values = [f"message {number}" for number in range(100)]
    produce(own_settings, values)
    assert consume(own_settings, 100) == sorted(values)

    code, _, err = finish(paystream(own_settings, "up", "--broker", "kafka"))
    assert (code, len(err)) == (2, 1)
    assert "is running, but `--broker kafka` was asked for. Run `paystream down` first." in err[0]

    code, out, _ = finish(paystream(own_settings, "down"))
    assert out == "down status=stopped clickhouse=stopped memory=stopped deleted=none\n"
    assert processes_of(own_settings) == []


def test_a_part_that_ignores_sigterm_is_killed(own_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    local_stack.start(own_settings, "memory")
    local_stack.kill(own_settings, "broker", signal.SIGSTOP)
    monkeypatch.setattr(local_stack, "STOP_TIMEOUT_S", 5)
    stopped = {stop.part.name: stop.how for stop in local_stack.stop(own_settings)}
    assert stopped == {"clickhouse": "stopped", "broker": "killed"}
    assert processes_of(own_settings) == []


def test_changed_ports_are_refused_while_the_stack_runs(own_settings: Settings, free_port: Callable[[], int]) -> None:
    local_stack.start(own_settings, "memory")
    for setting in ("clickhouse_port", "clickhouse_native_port"):
        moved = own_settings.model_copy(update={setting: free_port()})
        with pytest.raises(
            PaystreamError, match=r"running on '.*', but the settings now say '.*'\. Run `paystream down`"
        ):
            local_stack.start(moved, "memory")


def test_the_stack_fixture_serves_kafka_and_clickhouse(stack: Settings) -> None:
    assert topic_partitions(stack) == [0, 1, 2, 3]
    with connect(stack, database="") as client:
        assert client.query("SELECT 1").result_rows == [(1,)]
