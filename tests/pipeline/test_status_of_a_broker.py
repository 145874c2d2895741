"""`paystream status` on a real broker: what is unread, since when, and that an outage spends the error budget."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from confluent_kafka import Producer
from payments import message

from paystream.clickhouse import connect
from paystream.kafka import client_config
from paystream.migrations import runner
from paystream.settings import Settings

WAIT_S = 60


def send(settings: Settings, count: int, age: timedelta, partition: int) -> None:
    producer = Producer(client_config(settings))
    sent_at = int((datetime.now(UTC) - age).timestamp() * 1000)
    for _ in range(count):
        producer.produce(settings.kafka_topic, message(), partition=partition, timestamp=sent_at)
    assert producer.flush(WAIT_S) == 0


def test_from_all_is_read_to_an_outage_and_back(
    stack: Settings, paystream_here: Callable[..., tuple[int, str, list[str]]]
) -> None:
    def status() -> tuple[int, dict]:
        code, out, err = paystream_here(stack, "status", "--json")
        assert err == []
        return code, json.loads(out)

    def wait_until(condition: Callable[[dict], bool]) -> dict:
        deadline = time.monotonic() + WAIT_S
        while not condition(document := status()[1]):
            assert time.monotonic() < deadline, document
            time.sleep(0.2)
        return document

    # A broker makes the topic of all groups' offsets when it is first asked for one, which may take it some seconds.
    deadline = time.monotonic() + WAIT_S
    while (code := status()[0]) == 3:
        assert time.monotonic() < deadline
    assert code == 2  # no schema yet
    runner.up(stack)
    # The block that was waiting for messages while the view was changed counts no latencies.
    send(stack, 1, timedelta(0), partition=1)
    untimed = 1 - wait_until(lambda now: now["flow"]["messages"] == 1 and not any(lags(now)))["flow"]["payments"]
    send(stack, 19, timedelta(0), partition=1)
    document = wait_until(lambda now: now["flow"]["messages"] == 20 and not any(lags(now)))
    assert (document["objective"]["payments"], document["objective"]["late"]) == (20 - untimed, 0)
    assert document["unmeasured"] == []
    assert 0 < document["backlog"]["partitions"][0]["expires_s"] <= 24 * 3600
    assert paystream_here(stack, "audit")[0] == 0
    assert wait_until(lambda now: now["last_audit"] is not None)["last_audit"]["verdict"] == "complete"

    with connect(stack) as client:
        client.command("DETACH TABLE transactions_queue SYNC")
        try:
            send(stack, 4, timedelta(minutes=10), partition=2)
            send(stack, 3, timedelta(seconds=90), partition=2)
            send(stack, 1, -timedelta(minutes=40), partition=3)  # a producer whose clock is ahead
            code, document = status()
        finally:
            client.command("ATTACH TABLE transactions_queue")
    assert code == 1
    assert lags(document) == [0, 0, 7, 1]
    behind = document["backlog"]["partitions"][2]
    assert 600 <= behind["seconds"] < 660 and behind["overdue"] == 4 and behind["expired"] == 0
    assert behind["expires_s"] == pytest.approx(24 * 3600 - behind["seconds"], abs=60)
    # Its time says nothing; it has waited since the last block at most, and not for a negative time.
    ahead = document["backlog"]["partitions"][3]
    assert (ahead["is_dated"], ahead["overdue"]) == (False, 0) and 0 < ahead["seconds"] < WAIT_S
    assert [problem["name"] for problem in document["problems"]][:2] == ["schema", "lag"]
    assert document["missing"] == ["transactions_queue"]
    # What is not stored yet and late already is late.
    assert (document["objective"]["payments"], document["objective"]["late"]) == (24 - untimed, 4)

    document = wait_until(lambda now: now["flow"]["messages"] == 28 and not any(lags(now)))
    assert (document["objective"]["payments"], document["objective"]["late"]) == (28 - untimed, 4)
    assert document["objective"]["budget_spent_share"] == pytest.approx(4 / (28 - untimed) / 0.05)
    time.sleep(0.05)  # so that a newest message of now would show
    # Nothing newer than its block is stored, whatever a producer's clock says.
    assert status()[1]["freshness_s"] > 0.05


def lags(found: dict) -> list[int]:
    return [partition["messages"] for partition in found["backlog"]["partitions"]]
