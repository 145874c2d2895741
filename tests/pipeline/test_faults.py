"""Every fault of ``paystream loadtest faults``, at a size that CI can bear: nothing lost, nothing counted twice."""

import dataclasses
import json
import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import batch
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from payments import message, rfc3339

from paystream.audit.reports import audit_reports
from paystream.broker import open_broker
from paystream.clickhouse import connect
from paystream.devstack import stack as local_stack
from paystream.kafka import client_config, existing_partitions
from paystream.loadtest.fault_run import prepare, prepared_stack, run_fault
from paystream.loadtest.faults import FAULTS, DidNotBite, Fault, Scene
from paystream.loadtest.topic import open_topic
from paystream.settings import Settings
from paystream.status.lag import partition_lags

KILLS = 3
ON_SHARED_STACK = [fault for fault in FAULTS if fault.disk_mib is None and not fault.needs_cluster]
ON_A_DISK_OF_ITS_OWN = [fault for fault in FAULTS if fault.disk_mib is not None]


@pytest.fixture(scope="module")
def pipeline(stack: Settings) -> Settings:
    prepare(stack)
    return stack


def holds(settings: Settings, fault: Fault) -> None:
    outcome = run_fault(settings, fault, KILLS, print)
    assert outcome.problems == []
    assert outcome.found.accepted > 0
    assert outcome.outage_s > 0
    if fault.name == "clickhouse-killed":
        assert outcome.kills == KILLS
        assert len(outcome.restart_s) == KILLS


@pytest.mark.parametrize("fault", ON_SHARED_STACK, ids=lambda fault: fault.name)
def test_a_fault_loses_nothing_and_nothing_is_counted_twice(pipeline: Settings, fault: Fault) -> None:
    # After a fault that failed, the next one starts from a stack that runs.
    local_stack.start(pipeline, "kafka")
    holds(pipeline, fault)


@pytest.mark.kafka
@pytest.mark.parametrize("fault", ON_A_DISK_OF_ITS_OWN, ids=lambda fault: fault.name)
def test_a_full_disk_loses_nothing(tmp_path, fault: Fault) -> None:
    with prepared_stack(tmp_path / "home", fault.disk_mib) as settings:
        holds(settings, fault)


def test_after_all_the_faults_every_report_equals_the_batch_over_what_is_in_the_topic(pipeline: Settings) -> None:
    """What was sent while processes were killed; and now late payments, refunds of what was sent, and duplicates."""
    local_stack.start(pipeline, "kafka")
    with connect(pipeline) as client:
        refused = set(client.query("SELECT kafka_partition, kafka_offset FROM quarantine").result_rows)
        merchants, quotes = batch.dimensions(client)
    sent = [message for place, message in messages(pipeline) if place not in refused]
    assert len(sent) > 10_000

    dice, now = random.Random(3), datetime.now(UTC)
    chosen = [json.loads(message) for message in dice.sample(sent, 300)]
    later = rfc3339(now + timedelta(minutes=2))
    more = [
        *(json.dumps(state | {"status": dice.choice(["refunded", "charged_back"]), "updated_at": later}).encode()
          for state in chosen[:200]),
        *(message(merchant_id=paid["merchant_id"], amount=paid["amount"], currency=paid["currency"], status="captured",
                  created_at=rfc3339(now - timedelta(days=dice.randrange(1, 40), seconds=dice.randrange(86_400))))
          for paid in chosen[200:]),
        message(merchant_id=4_000_000_000),
        *dice.sample(sent, 200),
    ]  # fmt: skip
    producer = Producer(client_config(pipeline) | {"log_level": 0})
    for text in more:
        producer.produce(pipeline.kafka_topic, text, key=json.loads(text)["transaction_id"])
    assert producer.flush(30) == 0
    with open_broker(pipeline) as broker:
        deadline = time.monotonic() + 60
        while sum(lag.messages for lag in partition_lags(broker, timedelta(minutes=5))):
            assert time.monotonic() < deadline
            time.sleep(0.2)

    with connect(pipeline) as client:
        batch.complete_reports(client, 180)
        batch.compare(client, batch.payments([*sent, *more], merchants, quotes))
    assert audit_reports(pipeline, 8).verdict == "equal"


def messages(settings: Settings) -> Iterator[tuple[tuple[int, int], bytes]]:
    """Every message of the topic, by partition and offset."""
    config = client_config(settings) | {"group.id": "reader", "enable.auto.commit": False, "log_level": 0}
    consumer = Consumer(config)
    try:
        with open_topic(settings) as topic:
            ends = dict(enumerate(topic.ends()))
        partitions = [
            TopicPartition(settings.kafka_topic, partition, OFFSET_BEGINNING) for partition, end in ends.items() if end
        ]
        consumer.assign(partitions)
        left = {partition.partition for partition in partitions}
        while left:
            got = consumer.poll(10)
            assert got is not None and got.error() is None
            yield (got.partition(), got.offset()), got.value()
            if got.offset() == ends[got.partition()] - 1:
                left.discard(got.partition())
    finally:
        consumer.close()


def test_a_fault_that_did_not_bite_is_a_failed_test(pipeline: Settings) -> None:
    poison = next(fault for fault in FAULTS if fault.name == "poison-message")
    with pytest.raises(DidNotBite, match="there was no poison"):
        run_fault(pipeline, dataclasses.replace(poison, malformed_share=0.0), KILLS, print)


def test_a_loss_is_found(pipeline: Settings) -> None:
    def skip(scene: Scene) -> str:
        settings = scene.settings
        scene.command("DETACH TABLE transactions_queue SYNC")
        scene.wait_dropped()
        scene.wait(lambda: scene.probe.sightings, "nothing was sent")
        group, admin = settings.kafka_group, AdminClient(client_config(settings))
        ends = [(partition, end(settings, partition)) for partition in existing_partitions(settings)]
        moved = [TopicPartition(settings.kafka_topic, partition, offset) for partition, offset in ends]
        admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, moved)])[group].result(10)
        scene.command("ATTACH TABLE transactions_queue")
        scene.wait_resumed()
        return "the group's offsets were moved to the end"

    outcome = run_fault(pipeline, Fault("offsets-skipped", "messages are never read", skip), KILLS, print)
    # The session that ends before the offsets can be moved lasts 6 s, at 1,000 a second.
    assert outcome.found.lost > 1000
    assert "audit says loss" in outcome.problems
    assert outcome.outage_s == float("inf")


def end(settings: Settings, partition: int) -> int:
    from paystream.broker import open_broker

    with open_broker(settings) as broker:
        return broker.watermarks(partition)[1]
