"""Two environments on one server, and what the Kafka table is attached with: each reads what its settings say."""

import json
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import waiting
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic
from databases import drop_database
from payments import message

from paystream.clickhouse import connect
from paystream.devstack import stack as local_stack
from paystream.errors import UsageError
from paystream.kafka import client_config
from paystream.migrations import runner
from paystream.migrations.check import check_database
from paystream.settings import Settings

WAIT_S = 60


@dataclass(frozen=True)
class Environment:
    """A database, a topic and a consumer group of the same name."""

    settings: Settings
    run: Callable[..., tuple[int, str, list[str]]]

    def produce(self, count: int, **options: Any) -> None:
        producer = Producer(client_config(self.settings) | {"log_level": 0})
        for _ in range(count):
            producer.produce(self.settings.kafka_topic, message(), **options)
        assert producer.flush(30) == 0

    def command(self, sql: str) -> Any:
        with connect(self.settings) as client:
            return client.command(sql)

    def create_of(self, name: str) -> str:
        with connect(self.settings) as client:
            return client.query(
                "SELECT create_table_query FROM system.tables"
                " WHERE database = currentDatabase() AND name = {name:String}",
                parameters={"name": name},
            ).first_row[0]

    def stored(self) -> int:
        return self.command("SELECT uniqExact(transaction_id) FROM transactions")

    def wait_for(self, count: int) -> None:
        wait_until(lambda: self.stored() == count)

    def json(self, *arguments: str) -> dict:
        _, out, err = self.run(self.settings, *arguments, "--json")
        assert out, err
        return json.loads(out)

    def problems(self) -> dict[str, str]:
        return {one["name"]: one["text"] for one in self.json("status")["problems"]}


wait_until = partial(waiting.wait_until, seconds=WAIT_S, every_s=0.1)


@pytest.fixture
def environment(stack: Settings, paystream_here: Callable[..., Any]) -> Iterator[Callable[[str], Environment]]:
    """A function that makes an environment, with a topic of two partitions and no schema yet."""
    made: list[Settings] = []

    def make(name: str) -> Environment:
        name = f"{name}_{uuid.uuid4().hex[:6]}"
        settings = stack.model_copy(update={"kafka_topic": name, "kafka_group": name, "clickhouse_database": name})
        new_topic(settings, name)
        made.append(settings)
        return Environment(settings, paystream_here)

    yield make
    for settings in made:
        drop_database(settings)


def new_topic(settings: Settings, name: str) -> None:
    admin = AdminClient(client_config(settings) | {"log_level": 0})
    admin.create_topics([NewTopic(name, 2, 1)])[name].result(30)


def changed(environment: Environment, **changes: Any) -> Settings:
    return environment.settings.model_copy(update=changes)


def test_environments_of_one_server_leave_each_other_alone(environment: Callable[[str], Environment]) -> None:
    production, staging = environment("production"), environment("staging")
    runner.up(production.settings)
    production.produce(100)
    production.wait_for(100)
    runner.up(staging.settings)
    # A table reads its collection when it is attached, so at the latest after a restart.
    local_stack.stop(production.settings)
    local_stack.start(production.settings, "kafka")
    production.produce(100)
    staging.produce(70)
    production.wait_for(200)
    staging.wait_for(70)
    # Nobody takes what is another's.
    with pytest.raises(
        UsageError, match=rf"database '{production.settings.clickhouse_database}' of the ClickHouse server"
    ):
        runner.up(
            changed(staging, kafka_topic=production.settings.kafka_topic, kafka_group=production.settings.kafka_group)
        )
    production.produce(50)
    production.wait_for(250)
    assert staging.stored() == 70
    assert not {"group", "settings", "unassigned"} & production.problems().keys()
    runner.down(staging.settings, everything=True, allow_destructive=True)
    production.produce(1)
    production.wait_for(251)


def test_what_an_earlier_version_shared_is_taken_over(environment: Callable[[str], Environment]) -> None:
    staging = environment("staging")
    name = staging.settings.clickhouse_database
    runner.up(staging.settings)
    # As it was: over the collection of a database named paystream.
    queue = staging.create_of("transactions_queue")
    staging.command("DROP TABLE transactions_queue SYNC")
    staging.command(
        "CREATE NAMED COLLECTION paystream_kafka AS kafka_broker_list = "
        f"'{staging.settings.kafka_brokers}', kafka_topic_list = '{name}', kafka_group_name = '{name}'"
        ", `kafka.session_timeout_ms` = '6000', `kafka.heartbeat_interval_ms` = '1000'"
    )
    staging.command("CREATE NAMED COLLECTION paystream_dictionaries AS user = 'default', password = ''")
    staging.command(queue.replace(f"{name}_kafka", "paystream_kafka"))
    for dictionary in ("merchants_dict", "fx_rates_dict"):
        over_shared = staging.create_of(dictionary).replace(f"{name}_dictionaries", "paystream_dictionaries")
        staging.command(over_shared.replace("CREATE ", "CREATE OR REPLACE ", 1))
    for collection in ("kafka", "dictionaries"):
        staging.command(f"DROP NAMED COLLECTION {name}_{collection}")
    staging.produce(10)
    staging.wait_for(10)

    told = [step.means for step in runner.plan(staging.settings)]
    assert "gives transactions_queue this database's own connection" in told
    assert runner.up(staging.settings).collection_changed
    assert f"Kafka({name}_kafka)" in staging.create_of("transactions_queue")
    assert f"NAME {name}_dictionaries " in staging.create_of("merchants_dict")
    staging.produce(10)
    staging.wait_for(20)
    assert check_database(staging.settings) == []
    staging.command("DROP NAMED COLLECTION paystream_kafka")
    staging.command("DROP NAMED COLLECTION paystream_dictionaries")


def test_another_member_of_the_group_is_named(environment: Callable[[str], Environment]) -> None:
    production = environment("production")
    runner.up(production.settings)
    production.produce(10)
    production.wait_for(10)
    other = Consumer(
        client_config(production.settings)
        | {"group.id": production.settings.kafka_group, "client.id": "somebody's console", "session.timeout.ms": 6000}
    )
    other.subscribe([production.settings.kafka_topic])
    try:
        # It takes part only while it polls.
        wait_until(lambda: (other.poll(0.1), "group" in production.problems())[1])
        assert "'somebody's console' of 127.0.0.1 reads with consumer group" in production.problems()["group"]
    finally:
        other.close()
    wait_until(lambda: "group" not in production.problems())


def test_a_table_that_reads_something_else_is_seen_and_mended(environment: Callable[[str], Environment]) -> None:
    production = environment("production")
    settings, name = production.settings, production.settings.clickhouse_database
    runner.up(settings)
    production.produce(10)
    production.wait_for(10)
    assert production.json("migrate", "plan")["steps"] == []
    new_topic(settings, f"{name}_other")
    for key, value in (("kafka_topic_list", f"{name}_other"), ("kafka_group_name", f"{name}_other")):
        production.command(f"ALTER NAMED COLLECTION {name}_kafka SET {key} = '{value}'")
        production.command("DETACH TABLE transactions_queue SYNC")
        production.command("ATTACH TABLE transactions_queue")
        wait_until(lambda: "settings" in production.problems())
        [difference] = check_database(settings)
        assert (difference.name, difference.fix) == ("transactions_queue", "paystream migrate up")
        assert len(runner.plan(settings)) == 4
        assert runner.up(settings).collection_changed
        production.produce(10)
        wait_until(lambda: production.problems().keys().isdisjoint({"settings", "group", "lag"}))
    production.wait_for(30)
    assert check_database(settings) == []


def test_a_topic_is_not_left_with_unread_messages_without_a_word(environment: Callable[[str], Environment]) -> None:
    production = environment("production")
    settings, topic = production.settings, production.settings.kafka_topic
    runner.up(settings)
    production.produce(10)
    production.wait_for(10)
    new_topic(settings, f"{topic}_v2")
    moved = changed(production, kafka_topic=f"{topic}_v2")
    production.command("DETACH TABLE transactions_queue SYNC")
    production.produce(50)
    left = f"50 messages of topic '{topic}' stay unread, and nobody reads them any more"
    assert left in runner.plan(moved)[-1].means
    with pytest.raises(UsageError, match=left):
        runner.up(moved)
    assert runner.up(moved, leave_unread=True).collection_changed
    after = Environment(moved, production.run)
    after.produce(5)
    after.wait_for(15)
    found = after.json("audit")
    assert (found["verdict"], found["left_unread"]) == ("incomplete", {topic: 50})
    # Back again, they are read, and then the way is free.
    runner.up(settings)
    production.wait_for(65)
    wait_until(lambda: runner.plan(moved)[-1].means == "ingest goes on with the new connection")
    runner.up(moved)
    wait_until(lambda: after.json("audit")["verdict"] == "complete")


def test_new_partitions_are_read_within_seconds(environment: Callable[[str], Environment]) -> None:
    production = environment("production")
    runner.up(production.settings)
    production.produce(10)
    production.wait_for(10)
    topic = production.settings.kafka_topic
    admin = AdminClient(client_config(production.settings) | {"log_level": 0})
    admin.create_partitions([NewPartitions(topic, 4)])[topic].result(30)
    production.produce(10, partition=3)
    began = time.monotonic()
    production.wait_for(20)
    assert time.monotonic() - began < 30
    wait_until(lambda: "unassigned" not in production.problems())


def test_times_in_seconds_are_no_latency(environment: Callable[[str], Environment]) -> None:
    production = environment("production")
    runner.up(production.settings)
    production.produce(1)
    production.wait_for(1)
    wait_until(lambda: production.json("status")["flow"]["messages"] == 1)
    production.produce(20, timestamp=int(time.time()))
    production.wait_for(21)
    production.produce(10)
    production.wait_for(31)
    found = production.json("status")
    flow = found["flow"]
    # Of the first block, which was open while the view was made, no time may be known.
    assert flow["untimed"] in (20, 21) and flow["payments"] == 31 - flow["untimed"]
    assert flow["p95_s"] < 30
    assert (found["objective"]["late"], found["objective"]["payments"]) == (0, flow["payments"])
    with connect(production.settings) as client:
        client.command("DETACH TABLE transactions_queue SYNC")
    production.produce(2, timestamp=int(time.time()))
    assert production.json("status")["backlog"]["partitions"][0]["seconds"] < WAIT_S
