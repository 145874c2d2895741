"""Every fault of ``paystream loadtest faults``, at a size that CI can bear: nothing lost, nothing counted twice."""

import dataclasses

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from devstack import stack as local_stack
from loadtest.fault_run import prepare, prepared_stack, run_fault
from loadtest.faults import FAULTS, DidNotBite, Fault, Scene
from paystream.kafka import client_config, existing_partitions
from paystream.settings import Settings

KILLS = 3
ON_SHARED_STACK = [fault for fault in FAULTS if fault.disk_mib is None]
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


def test_a_fault_that_did_not_bite_is_a_failed_test(pipeline: Settings) -> None:
    poison = next(fault for fault in FAULTS if fault.name == "poison-message")
    with pytest.raises(DidNotBite, match="there was no poison"):
        run_fault(pipeline, dataclasses.replace(poison, malformed_share=0.0), KILLS, print)


def test_a_loss_is_found(pipeline: Settings) -> None:
    def skip(scene: Scene) -> str:
        settings = scene.settings
        scene.command("DETACH TABLE transactions_queue SYNC")
        scene.wait_group_empty()
        scene.wait(lambda: scene.probe.sightings, "nothing was sent")
        group, admin = settings.kafka_group, AdminClient(client_config(settings))
        ends = [(one, end(settings, one)) for one in existing_partitions(settings)]
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
