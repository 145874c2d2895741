"""`paystream quarantine` on Apache Kafka: what was refused is listed and sent again exactly once, also across kills."""

import functools
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from payments import message
from waiting import wait_until

from paystream.clickhouse import connect
from paystream.kafka import client_config
from paystream.migrations import runner
from paystream.project import CHECKOUT
from paystream.settings import Settings

Run = Callable[..., tuple[int, str, list[str]]]


@pytest.fixture(scope="module")
def run_process(stack: Settings, paystream: Callable[..., subprocess.Popen]) -> Run:
    """A function that runs the command line to its end, in a process of its own."""

    def run(*arguments: str, **environment: str) -> tuple[int, str, list[str]]:
        process = paystream(stack, *arguments, **environment)
        try:
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
        return process.returncode, out, err.splitlines()

    return run


@pytest.fixture(scope="module")
def run(stack: Settings, run_process: Run, paystream_here: Run) -> Run:
    """A function that runs the command line on a migrated stack, in this process."""
    for command in (["list"], ["replay", "--since", "1h"]):
        code, out, err = run_process("quarantine", *command)
        assert (code, out, len(err)) == (2, "", 1)
        assert "does not exist. Create the schema with `paystream migrate up`." in err[0]
    runner.up(stack)
    return functools.partial(paystream_here, stack)


def rows(settings: Settings, sql: str, **parameters) -> list[tuple]:
    with connect(settings) as client:
        return list(client.query(sql, parameters=parameters).result_rows)


def produce(settings: Settings, values: list[bytes], partition: int, key: bytes | None = b"key") -> list[int]:
    """Send messages to a partition and return their offsets once all of them are in quarantine."""
    offsets: list[int] = []

    def confirmed(error, kafka_message) -> None:
        assert error is None, error
        offsets.append(kafka_message.offset())

    producer = Producer(client_config(settings) | {"log_level": 0, "message.max.bytes": 2_000_000})
    for value in values:
        producer.produce(settings.kafka_topic, value, key, partition=partition, on_delivery=confirmed)
    assert producer.flush(30) == 0
    query = (
        "SELECT count() FROM quarantine FINAL"
        " WHERE kafka_partition = {p:UInt32} AND kafka_offset IN {offsets:Array(UInt64)}"
    )
    wait_until(lambda: rows(settings, query, p=partition, offsets=offsets) == [(len(values),)])
    return offsets


def topic(settings: Settings) -> list[tuple[int, int, bytes | None, bytes | None]]:
    """Return (partition, offset, key, value) of every message of the topic."""
    options = {"group.id": "test", "auto.offset.reset": "earliest", "enable.auto.commit": False, "log_level": 0}
    consumer = Consumer(client_config(settings) | options)
    messages = []
    try:
        places = [TopicPartition(settings.kafka_topic, partition, 0) for partition in range(4)]
        expected = sum(consumer.get_watermark_offsets(place, timeout=10)[1] for place in places)
        consumer.assign(places)

        def poll() -> bool:
            for message in consumer.consume(1000, 0.5):
                assert message.error() is None, message.error()
                messages.append((message.partition(), message.offset(), message.key(), message.value()))
            return len(messages) >= expected

        wait_until(poll)
    finally:
        consumer.close()
    return sorted(messages, key=lambda message: message[:2])


def groups(run: Run, *arguments: str) -> dict[str, dict]:
    code, out, err = run("quarantine", "list", "--json", *arguments)
    assert (code, err) == (0, [])
    return {group["reason"]: group for group in json.loads(out)}


def wait_for(run: Run, reason: str, **counts: int) -> dict:
    """Wait until a group has these counts, and return it."""
    group: dict = {}

    def reached() -> bool:
        group.update(groups(run).get(reason, {}))
        return group.items() >= counts.items()

    try:
        wait_until(reached, 30)
    except AssertionError:
        raise AssertionError(f"{reason} has not {counts} but {group}") from None
    return group


@contextmanager
def currency_accepted(settings: Settings, code: str) -> Iterator[None]:
    """Put right what refused a currency, the way an operator does: with another query of the view."""
    query = (CHECKOUT / "sql/1_ingest/transactions_parsed_mv.sql").read_text().split(" AS\n", 1)[1]
    put_right = query.replace("'AED',", f"'AED', '{code}',", 1)
    assert put_right != query
    with connect(settings) as client:
        client.command(f"ALTER TABLE transactions_parsed_mv MODIFY QUERY {put_right}")
        try:
            yield
        finally:
            client.command(f"ALTER TABLE transactions_parsed_mv MODIFY QUERY {query}")


def test_an_empty_quarantine(run: Run, run_process: Run) -> None:
    assert run("quarantine", "list") == run_process("quarantine", "list") == (0, "quarantine messages=0\n", [])
    assert run("quarantine", "list", "--json") == (0, "[]\n", [])
    code, out, err = run_process("quarantine", "replay", "--reason", "currency_unknown")
    assert (code, err) == (0, [])
    assert out.startswith('quarantine_replay status="nothing matches" matched=0 to_send=0 sent=0')


def test_from_refusal_over_the_fix_to_a_row(stack: Settings, run: Run) -> None:
    ids = [str(uuid.uuid4()) for _ in range(3)]
    values = [message(transaction_id=i, currency="ZZA") for i in ids]
    offsets = produce(stack, values, partition=1)
    raw = b"\x1b[31m\xff\x00=\"' \xe2\x80\xae" + b"x" * 900_000
    [odd] = produce(stack, [raw], partition=2, key=b"\xfe\x1b")

    code, out, err = run("quarantine", "list")
    assert (code, err) == (0, [])
    assert all(line.isprintable() for line in out.splitlines())
    by_reason = groups(run)
    group = by_reason["currency_unknown"]
    assert (group["messages"], group["partitions"], group["replayed"]) == (3, [1], 0)
    assert (group["example"]["partition"], group["example"]["offset"]) == (1, offsets[-1])
    assert group["first"] <= group["last"] and group["last"].endswith("+00:00")
    example = by_reason["not_json"]["example"]
    assert (example["partition"], example["offset"], example["size"]) == (2, odd, len(raw))
    assert example["text"].startswith(r"""\x1b[31m\xff\x00="' \u202exxx""") and example["text"].endswith("x…")
    assert example["key"] == r"\xfe\x1b"
    assert list(groups(run, "--reason", "not_json")) == ["not_json"]
    assert groups(run, "--since", "2100-01-01") == {}

    before = topic(stack)
    choice = ["quarantine", "replay", "--reason", "currency_unknown"]
    code, out, err = run(*choice, "--dry-run")
    assert (code, err) == (0, [])
    assert out.startswith('quarantine_replay status="dry run" matched=3 to_send=3 sent=0')
    assert f" example_at=1/{offsets[0]} " in out
    code, out, err = run(*choice, "--max", "2")
    assert (code, out, len(err)) == (2, "", 1)
    assert "Replay of 3 messages: that is more than 2." in err[0] and "--max 3" in err[0]
    code, out, err = run(*choice, "--until", "2020-01-01")
    assert (code, err) == (0, []) and 'status="nothing matches"' in out
    assert topic(stack) == before
    assert rows(stack, "SELECT count() FROM quarantine_replays") == [(0,)]

    with currency_accepted(stack, "ZZA"):
        code, out, err = run(*choice, "--partition", "1", "--offset", str(offsets[1]))
        assert (code, err) == (0, [])
        assert re.search(r"^quarantine_replay status=sent replay_id=\S+ matched=1 to_send=1 sent=1 ", out)
        code, out, err = run(*choice, "--since", "1h", "--json")
        assert (code, err) == (0, [])
        document = json.loads(out)
        assert (document["matched"], document["sent"]) == (3, 2)
        wait_for(run, "currency_unknown", messages=3, replayed=3, stored=3, refused_again=0, in_flight=0)
    current = "SELECT transaction_id FROM transactions_current WHERE kafka_partition = 1 AND currency = 'ZZA'"
    assert sorted(str(i) for (i,) in rows(stack, current)) == sorted(ids)
    # Same partition, key and bytes.
    added = Counter(message[:1] + message[2:] for message in topic(stack)) - Counter(
        message[:1] + message[2:] for message in before
    )
    assert added == Counter((1, b"key", value) for value in values)

    after = topic(stack)
    for options in ([], ["--again"]):
        code, out, err = run(*choice, *options)
        assert (code, err) == (0, [])
        assert out.startswith('quarantine_replay status="nothing to send" matched=3 to_send=0 sent=0')
        assert " stored_before=3 " in out
    code, out, err = run("quarantine", "replay", "--partition", "2", "--offset", str(odd))
    assert (code, err) == (0, []) and " sent=1 " in out
    assert [message[2:] for message in topic(stack) if message not in after] == [(b"\xfe\x1b", raw)]
    wait_for(run, "not_json", messages=1, refused_again=1)


def test_a_message_refused_again_stays_one_message(stack: Settings, run: Run) -> None:
    offsets = produce(stack, [message(amount="0"), message(amount="0", currency="ZZB")], partition=3, key=None)
    choice = ["quarantine", "replay", "--reason", "amount_not_positive"]
    assert run(*choice)[0] == 0
    group = wait_for(run, "amount_not_positive", messages=2, replayed=2, refused_again=2, stored=0)
    # The example names where it stands and where its replay does.
    assert group["example"]["offset"] in offsets
    partition, again = group["example"]["refused_again_at"]
    assert (partition, again > max(offsets)) == (3, True)
    refused = "SELECT kafka_key FROM quarantine FINAL WHERE kafka_partition = 3"
    assert rows(stack, refused) == [("",)] * 4
    assert [message[2] for message in topic(stack) if message[0] == 3] == [None] * 4

    code, out, _ = run(*choice)
    assert code == 0 and " to_send=0 " in out and " refused_again_before=2 " in out
    # Its replay is not a message of its own, neither by offset nor with --again.
    code, out, _ = run("quarantine", "replay", "--partition", "3", "--offset", str(again), "--dry-run", "--again")
    assert code == 0 and " matched=1 to_send=1 " in out
    code, out, _ = run(*choice, "--again")
    assert code == 0 and " sent=2 " in out
    wait_for(run, "amount_not_positive", messages=2, replayed=2, refused_again=2)
    assert len([message for message in topic(stack) if message[0] == 3]) == 6


def test_after_a_second_fault_it_counts_under_the_newer_reason(stack: Settings, run: Run) -> None:
    produce(stack, [message(currency="ZZC", status="lost")], partition=0)
    with currency_accepted(stack, "ZZC"):
        assert run("quarantine", "replay", "--partition", "0", "--since", "1h")[0] == 0
        group = wait_for(run, "status_unknown", messages=1, replayed=1, refused_again=1)
    assert group["partitions"] == [0]


@pytest.mark.parametrize("moment", ["sending", "sent"], ids=["killed before sending", "killed after sending"])
def test_kill_9_between_record_and_message_neither_loses_nor_repeats(
    stack: Settings, run_process: Run, run: Run, moment: str
) -> None:
    marker = f"kill {moment} {uuid.uuid4()}".encode()
    values = [marker + b" %d" % number for number in range(1200)]
    offsets = produce(stack, values, partition=2)
    query = (
        "SELECT toString(min(quarantined_at)) FROM quarantine"
        " WHERE kafka_partition = 2 AND kafka_offset >= {first:UInt64}"
    )
    [[since]] = rows(stack, query, first=offsets[0])
    # Dies in its second batch of 500, having just recorded what it is about to send, or just before it records that
    # it has: by a kill -9 of itself, since nothing else hits that moment.
    program = f"""
import os, signal
from datetime import datetime, UTC
from paystream.quarantine import replay
from paystream.quarantine.messages import Selection
from paystream.settings import load_settings
real, calls = replay.record, []
def record(client, settings, state, attempts):
    calls.append(state)
    if state == "sent" == {moment!r} and calls.count("sent") == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    real(client, settings, state, attempts)
    if state == "sending" == {moment!r} and calls.count("sending") == 2:
        os.kill(os.getpid(), signal.SIGKILL)
replay.record = record
since = datetime.fromisoformat({since!r}).replace(tzinfo=UTC)
replay.replay(load_settings(), Selection(since=since), most=9999)
"""
    # Far from UTC, which must make no difference.
    environment = os.environ | stack.environment() | {"TZ": "Asia/Tokyo"}
    killed = subprocess.Popen([sys.executable, "-c", program], cwd=CHECKOUT, env=environment)
    try:
        assert killed.wait(60) == -signal.SIGKILL
    finally:
        killed.kill()
    open_rows = "SELECT count() FROM quarantine_replays FINAL WHERE state = 'sending'"
    assert rows(stack, open_rows) == [(500,)], "the kill hit another moment than the one to test"

    def copies() -> Counter:
        return Counter(value for _, offset, _, value in topic(stack) if value in wanted and offset > offsets[-1])

    wanted = set(values)
    assert sum(copies().values()) == {"sending": 500, "sent": 1000}[moment]
    code, out, err = run_process("quarantine", "replay", "--since", since, TZ="Asia/Tokyo")
    assert (code, err) == (0, [])
    found_sent, left = {"sending": (0, 700), "sent": (500, 200)}[moment]
    assert f" sent={left} rejected=0 found_sent={found_sent} " in out
    assert copies() == Counter(values)
    assert rows(stack, open_rows) == [(0,)]
    assert rows(stack, "SELECT count() FROM system.tables WHERE name LIKE 'quarantine_replay_lock%'") == [(0,)]


def test_two_at_once_send_nothing_twice(stack: Settings, run: Run, paystream: Callable[..., subprocess.Popen]) -> None:
    values = [b"at once %d" % number for number in range(2000)]
    offsets = produce(stack, values, partition=1)
    choice = ["quarantine", "replay", "--since", "5m", "--partition", "1"]
    both = [paystream(stack, *choice) for _ in range(3)]
    try:
        answers = [(process.communicate(timeout=120), process.returncode) for process in both]
    finally:
        for process in both:
            process.kill()
    for (out, err), code in answers:
        assert code == 0 or (code == 1 and out == "" and "another one is running" in err), (out, err)
    assert run(*choice)[0] == 0
    wanted = set(values)
    copies = [value for _, offset, _, value in topic(stack) if value in wanted and offset > offsets[-1]]
    assert Counter(copies) == Counter(values)


def test_what_the_broker_finds_too_large_is_reported_and_left(stack: Settings, run: Run) -> None:
    # Incompressible, since the broker measures the compressed batch.
    large, small = os.urandom(300_000), b"small"
    offsets = produce(stack, [large, small], partition=3)
    choice = ["quarantine", "replay", "--reason", "not_json", "--partition", "3", "--since", "5m"]

    admin = AdminClient(client_config(stack) | {"log_level": 0})

    def limit(value: str) -> None:
        entry = ConfigEntry("max.message.bytes", value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ConfigResource.Type.TOPIC, stack.kafka_topic, incremental_configs=[entry])
        [done] = admin.incremental_alter_configs([resource]).values()
        done.result(20)

    limit("100000")
    try:
        code, out, err = run(*choice)
    finally:
        limit("1048588")
    assert (code, len(err)) == (1, 1)
    assert " to_send=2 sent=1 rejected=1 " in out and "Raise max.message.bytes of the topic" in err[0]
    assert run(*choice)[1].count(" to_send=1 sent=1 ") == 1
    copies = [value for partition, offset, _, value in topic(stack) if partition == 3 and offset > offsets[-1]]
    assert Counter(copies) == Counter([large, small])


def test_wrong_use(run: Run, stack: Settings) -> None:
    def refused(*arguments: str, **environment: str) -> tuple[int, str]:
        code, out, err = run("quarantine", *arguments, **environment)
        assert (out, len(err)) == ("", 1), (out, err)
        return code, err[0]

    for command in ("list", "replay"):
        code, line = refused(command, "--reason", "no_such")
        assert code == 2 and "Reason 'no_such': no refused message has it. Choose one of " in line
        assert "amount_not_positive" in line
        code, line = refused(command, "--since", "yesterday")
        assert code == 2 and "Write it as 2026-05-31T14:00" in line
        code, line = refused(command, "--since", "1h", PAYSTREAM_CLICKHOUSE_PORT="1")
        assert code == 3 and "ClickHouse '127.0.0.1:1' cannot be reached" in line
    code, line = refused("replay")
    assert code == 2 and "--dry-run" in line
    code, line = refused("replay", "--offset", "1")
    assert code == 2 and "--partition" in line
    code, line = refused("replay", "--since", "1h", "--max", "9999", PAYSTREAM_KAFKA_BROKERS="127.0.0.1:1")
    assert code == 3 and "Kafka '127.0.0.1:1' cannot be reached" in line
    assert rows(stack, "SELECT count() FROM quarantine_replays FINAL WHERE state = 'sending'") == [(0,)]
    # list needs no Kafka.
    assert run("quarantine", "list", PAYSTREAM_KAFKA_BROKERS="127.0.0.1:1")[0] == 0
