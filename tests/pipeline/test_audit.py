"""`paystream audit` on Apache Kafka: each kind of hole is told from the others, and a loss is counted exactly."""

import dataclasses
import json
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from databases import drop_database
from payments import message, rfc3339
from waiting import wait_until

from paystream.clickhouse import connect
from paystream.kafka import client_config
from paystream.loadtest.topic import open_topic
from paystream.migrations import runner
from paystream.settings import Settings

PARTITIONS = 2


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """A topic, a group and a database of one test's own."""

    settings: Settings
    admin: AdminClient
    paystream: Callable[..., subprocess.Popen]
    paystream_here: Callable[..., tuple[int, str, list[str]]]

    def produce(self, *values: bytes | None, partition: int = 0, ahead: timedelta = timedelta(0)) -> None:
        producer = Producer(client_config(self.settings) | {"log_level": 0})
        clock_ms = int((datetime.now(UTC) + ahead).timestamp() * 1000)
        for value in values:
            producer.produce(self.settings.kafka_topic, value, b"key", partition=partition, timestamp=clock_ms)
        assert producer.flush(30) == 0

    def transaction(self, *values: bytes, commit: bool, partition: int = 0) -> None:
        producer = self.begin(*values, partition=partition)
        if commit:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)

    def begin(self, *values: bytes, partition: int = 0, age: timedelta = timedelta(0)) -> Producer:
        """Send messages in a transaction that whoever calls must end."""
        producer = Producer(client_config(self.settings) | {"log_level": 0, "transactional.id": str(uuid.uuid4())})
        producer.init_transactions(30)
        producer.begin_transaction()
        sent_at = int((datetime.now(UTC) - age).timestamp() * 1000)
        for value in values:
            producer.produce(self.settings.kafka_topic, value, b"key", partition=partition, timestamp=sent_at)
        assert producer.flush(30) == 0
        return producer

    def committed(self, partition: int = 0) -> int:
        wanted = ConsumerGroupTopicPartitions(
            self.settings.kafka_group, [TopicPartition(self.settings.kafka_topic, partition)]
        )
        [future] = self.admin.list_consumer_group_offsets([wanted]).values()
        return future.result(10).topic_partitions[0].offset

    def move(self, offset: int, partition: int = 0) -> None:
        """Set the group's offset; it must have no member."""
        place = TopicPartition(self.settings.kafka_topic, partition, offset)
        wanted = ConsumerGroupTopicPartitions(self.settings.kafka_group, [place])

        def moved() -> bool:
            [future] = self.admin.alter_consumer_group_offsets([wanted]).values()
            try:
                return future.result(10).topic_partitions[0].error is None
            except Exception as error:
                assert "UNKNOWN_MEMBER_ID" in str(error) or "active members" in str(error).lower(), error
                return False

        wait_until(moved)

    def read_to(self, offset: int, partition: int = 0) -> None:
        wait_until(lambda: self.committed(partition) >= offset)

    @contextmanager
    def detached(self) -> Iterator[None]:
        with connect(self.settings) as client:
            client.command("DETACH TABLE transactions_queue SYNC")
            try:
                yield
            finally:
                client.command("ATTACH TABLE transactions_queue")

    def rows(self, sql: str) -> list[tuple]:
        with connect(self.settings) as client:
            return list(client.query(sql).result_rows)

    def status(self) -> tuple[int, dict]:
        code, out, err = self.paystream_here(self.settings, "status", "--json")
        assert out, err
        return code, json.loads(out)

    def audit(self, *arguments: str) -> tuple[int, dict]:
        code, out, err = self.paystream_here(self.settings, "audit", "--json", *arguments)
        assert out, err
        return code, json.loads(out)


@pytest.fixture
def pipeline(
    stack: Settings,
    paystream: Callable[..., subprocess.Popen],
    paystream_here: Callable[..., tuple[int, str, list[str]]],
) -> Iterator[Pipeline]:
    name = f"audit_{uuid.uuid4().hex[:8]}"
    settings = stack.model_copy(update={"kafka_topic": name, "kafka_group": name, "clickhouse_database": name})
    admin = AdminClient(client_config(settings) | {"log_level": 0})
    create(admin, name)
    runner.up(settings)
    yield Pipeline(settings, admin, paystream, paystream_here)
    drop_database(settings)


def create(admin: AdminClient, topic: str) -> None:
    [future] = admin.create_topics([NewTopic(topic, PARTITIONS, 1)]).values()
    future.result(30)


def problems(status: dict) -> dict[str, str]:
    return {problem["name"]: problem["text"] for problem in status["problems"]}


def holes(**counts: int) -> dict[str, int]:
    names = ("tombstone", "empty", "marker", "expired", "gone", "lost", "unchecked")
    return dict.fromkeys(names, 0) | counts


def test_what_leaves_no_row_is_told_apart_and_is_no_loss(pipeline: Pipeline) -> None:
    # The first by a producer whose clock is ahead, one of the refused by one whose clock is behind: neither matters.
    pipeline.produce(message(), ahead=timedelta(minutes=30))
    pipeline.produce(*[message() for _ in range(19)], None, b"", None, message())
    pipeline.produce(b"{", ahead=timedelta(hours=-3))
    pipeline.transaction(*[message() for _ in range(5)], commit=True, partition=1)
    pipeline.transaction(*[message() for _ in range(7)], commit=False, partition=1)
    pipeline.produce(message(), partition=1)
    pipeline.read_to(25, partition=0)
    pipeline.read_to(15, partition=1)
    code, result = pipeline.audit("--deep")
    # A marker ends each transaction, and an aborted one's messages are not for readers.
    assert (code, result["verdict"], result["holes"]) == (0, "complete", holes(tombstone=2, empty=1, marker=1 + 7 + 1))
    assert [partition["stored"] for partition in result["partitions"]] == [22, 6]
    assert [partition["refused"] for partition in result["partitions"]] == [1, 0]
    assert [partition["redelivered"] for partition in result["partitions"]] == [0, 0]
    assert [partition["absent_rows"] for partition in result["partitions"]] == [0, 0]
    # Independently: the aborted messages are stored nowhere.
    assert pipeline.rows("SELECT count() FROM transactions") == [(27,)]


def test_off_a_terminal_it_is_one_line(pipeline: Pipeline) -> None:
    pipeline.produce(message(), None, message())
    pipeline.read_to(3)
    process = pipeline.paystream(pipeline.settings, "audit")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err, len(out.splitlines())) == (0, "", 1)
    assert f"audit topic={pipeline.settings.kafka_topic} verdict=complete read=2 refused=0 tombstone=1 " in out
    assert " lost=0 " in out and " in_flight=0 " in out


def test_skipped_messages_are_lost_and_counted_exactly(pipeline: Pipeline) -> None:
    pipeline.produce(*[message() for _ in range(10)])
    pipeline.read_to(10)
    with pipeline.detached():
        pipeline.produce(*[message() for _ in range(37)], None, b"", b"not a payment", *[message() for _ in range(10)])
        pipeline.move(50)
    pipeline.produce(message())
    pipeline.read_to(61)
    code, result = pipeline.audit()
    assert (code, result["verdict"], result["holes"]) == (1, "loss", holes(lost=38, tombstone=1, empty=1))
    assert result["partitions"][0]["lost_examples"][0][0] == 10
    assert "38 messages of partition 0" in result["advice"][0]

    # Reading them after all is what heals it.
    with pipeline.detached():
        pipeline.move(5)
    pipeline.read_to(61)
    code, result = pipeline.audit("--deep")
    assert (code, result["verdict"], result["holes"]) == (0, "complete", holes(tombstone=1, empty=1))
    assert result["partitions"][0]["redelivered"] == 5 + 11


def test_a_loss_at_the_very_start_and_one_at_the_end_are_found(pipeline: Pipeline) -> None:
    with pipeline.detached():
        pipeline.produce(*[message() for _ in range(30)])
        pipeline.move(12)
    pipeline.read_to(30)
    assert pipeline.audit()[1]["holes"] == holes(lost=12)
    with pipeline.detached():
        pipeline.produce(*[message() for _ in range(5)])
        pipeline.move(34)
        # The group is at 34, and nothing says that it has read 30 to 33.
        code, result = pipeline.audit()
        assert (code, result["holes"], result["partitions"][0]["in_flight"]) == (1, holes(lost=16), 1)


def test_what_expired_before_it_was_read_is_named_so(pipeline: Pipeline) -> None:
    pipeline.produce(*[message() for _ in range(10)])
    pipeline.read_to(10)
    with pipeline.detached():
        pipeline.produce(*[message() for _ in range(25)])
        place = TopicPartition(pipeline.settings.kafka_topic, 0, 30)
        [future] = pipeline.admin.delete_records([place]).values()
        assert future.result(30).low_watermark == 30
        unread, result = pipeline.audit()
        assert (unread, result["holes"]) == (1, holes(expired=20))
    pipeline.read_to(35)
    code, result = pipeline.audit()
    assert (code, result["verdict"], result["holes"]) == (1, "loss", holes(expired=20))
    # What was read in time and has expired since is nobody's loss.
    place = TopicPartition(pipeline.settings.kafka_topic, 0, 34)
    [future] = pipeline.admin.delete_records([place]).values()
    future.result(30)
    assert pipeline.audit()[1]["holes"] == holes(expired=20)


def test_messages_in_flight_are_nobodys_loss(pipeline: Pipeline) -> None:
    pipeline.produce(message())
    pipeline.read_to(1)
    with pipeline.detached():
        pipeline.produce(*[message() for _ in range(9)])
        code, result = pipeline.audit()
        [partition, _] = result["partitions"]
        assert (code, result["verdict"], partition["in_flight"]) == (0, "complete", 9)
        # The local broker keeps messages for 24 hours.
        assert 23.9 < partition["headroom_hours"] < 24
        assert 0 <= partition["hours_from_oldest"] < 0.1


def test_what_never_becomes_a_row_is_neither_unread_nor_in_flight(pipeline: Pipeline) -> None:
    pipeline.produce(message())
    pipeline.read_to(1)
    pipeline.transaction(*[message() for _ in range(3)], commit=True, partition=1)
    pipeline.read_to(3, partition=1)
    with pipeline.detached():
        # At the end of a partition, where no later message moves the group beyond it; and older than any limit.
        pipeline.produce(None, b"", None, ahead=timedelta(minutes=-10))
        pipeline.transaction(*[message() for _ in range(40)], commit=False, partition=1)

        _, result = pipeline.audit()
        assert (result["verdict"], [partition["in_flight"] for partition in result["partitions"]]) == (
            "complete",
            [0, 0],
        )
        # The group stands before them: without a look at what they are, 3 and 42 would be unread.
        assert [partition["high"] - partition["committed"] for partition in result["partitions"]] == [3, 42]
        _, result = pipeline.status()
        partitions = result["backlog"]["partitions"]
        assert [(partition["messages"], partition["seconds"], partition["blocked"]) for partition in partitions] == [
            (0, 0, 0),
            (0, 0, 0),
        ]
        assert "lag" not in problems(result)
        with open_topic(pipeline.settings) as topic:
            assert (topic.lag(), topic.unread()) == (45, 0)

        pipeline.produce(message(), message(), ahead=timedelta(minutes=-2))
        _, result = pipeline.status()
        assert [partition["messages"] for partition in result["backlog"]["partitions"]] == [2, 0]
        assert 120 <= result["backlog"]["partitions"][0]["seconds"] < 180


def test_an_open_transaction_hides_nothing(pipeline: Pipeline) -> None:
    began = datetime.now(UTC)
    pipeline.produce(message())
    pipeline.read_to(1)
    producer = pipeline.begin(message(), age=timedelta(minutes=3))
    try:
        pipeline.produce(*[message() for _ in range(500)])
        pipeline.produce(message(), partition=1)
        pipeline.read_to(1, partition=1)
        code, result = pipeline.status()
        behind, other = result["backlog"]["partitions"]
        assert (behind["messages"], behind["blocked"], behind["blocked_from"]) == (501, 501, 1)
        assert 180 <= behind["seconds"] < 240
        assert (other["messages"], other["blocked"], other["blocked_from"]) == (0, 0, None)
        assert code == 1 and "lag" not in problems(result)
        # The minute may have turned since.
        minutes = {f"{when - timedelta(minutes=3):%Y-%m-%d %H:%M}" for when in (began, datetime.now(UTC))}
        told = problems(result)["transaction"]
        assert any(f"501 messages wait behind an open transaction since {minute}" in told for minute in minutes)
        assert "(partition 0, offset 1)" in problems(result)["transaction"]
        code, result = pipeline.audit()
        assert (code, result["verdict"]) == (0, "complete")
        assert [(partition["in_flight"], partition["blocked"]) for partition in result["partitions"]] == [
            (501, 501),
            (0, 0),
        ]
        assert pipeline.rows("SELECT count() FROM transactions") == [(2,)]
    finally:
        producer.abort_transaction(30)
    wait_until(lambda: pipeline.rows("SELECT count() FROM transactions") == [(502,)])
    wait_until(lambda: pipeline.status()[1]["backlog"]["partitions"][0]["messages"] == 0)


def test_deep_finds_rows_that_are_gone_and_excuses_those_that_a_later_state_replaced(pipeline: Pipeline) -> None:
    created = datetime.now(UTC) - timedelta(hours=1)
    ids = [str(uuid.uuid4()) for _ in range(40)]

    def states(step: int) -> list[bytes]:
        updated = rfc3339(created + timedelta(seconds=step))
        return [message(transaction_id=i, created_at=rfc3339(created), updated_at=updated) for i in ids]

    pipeline.produce(*states(2), *states(1), *states(3))
    pipeline.read_to(120)
    with connect(pipeline.settings) as client:
        client.command("OPTIMIZE TABLE transactions FINAL")
        assert client.query("SELECT count() FROM transactions").result_rows == [(40,)]
    code, result = pipeline.audit("--deep")
    assert (code, result["partitions"][0]["superseded_rows"], result["partitions"][0]["absent_rows"]) == (0, 80, 0)

    with connect(pipeline.settings) as client:
        client.command(f"DELETE FROM transactions WHERE transaction_id IN ('{ids[0]}', '{ids[1]}')")
        client.command("DELETE FROM quarantine WHERE 1")
    code, result = pipeline.audit("--deep")
    # All three states of two transactions are nowhere; the ledger alone cannot know that.
    assert (code, result["verdict"], result["partitions"][0]["absent_rows"]) == (1, "loss", 6)
    assert [offset for offset, _ in result["partitions"][0]["absent_examples"]] == [0, 1, 40, 41, 80]
    assert pipeline.audit()[0] == 0


def test_a_transaction_that_changes_its_key_is_reported(pipeline: Pipeline) -> None:
    now = datetime.now(UTC) - timedelta(minutes=1)
    moved, remade = str(uuid.uuid4()), str(uuid.uuid4())
    pipeline.produce(
        message(transaction_id=moved, created_at=rfc3339(now)),
        message(transaction_id=moved, created_at=rfc3339(now - timedelta(days=40))),
        message(transaction_id=remade, merchant_id=7),
        message(transaction_id=remade, merchant_id=8),
    )
    pipeline.read_to(4)
    for arguments in ([], ["--deep"]):
        code, result = pipeline.audit(*arguments)
        assert (code, result["in_several_partitions"], result["changed_keys"]) == (0, 1, 2)
        assert result["changed_key_example"] in (moved, remade)


def test_a_topic_made_anew_is_said_to_be_so(pipeline: Pipeline) -> None:
    pipeline.produce(*[message() for _ in range(50)])
    pipeline.read_to(50)
    with pipeline.detached():
        topic = pipeline.settings.kafka_topic
        [future] = pipeline.admin.delete_topics([topic]).values()
        future.result(30)
        wait_until(lambda: topic not in pipeline.admin.list_topics(timeout=10).topics)
        create(pipeline.admin, topic)
        wait_until(lambda: topic in pipeline.admin.list_topics(timeout=10).topics)
        code, result = pipeline.audit()
        assert (code, result["verdict"], result["holes"]) == (1, "recreated", holes())
        assert "the topic was recreated or cut" in result["advice"][0]
        [[made_anew]] = pipeline.rows("SELECT toString(now64(3))")
    # Once it is longer than the old one, the old one's blocks would hide what is lost.
    pipeline.produce(*[message() for _ in range(60)])
    pipeline.read_to(60)
    code, result = pipeline.audit()
    assert (code, result["verdict"], len(result["advice"])) == (1, "recreated", 1)
    with connect(pipeline.settings) as client:
        client.command(f"DELETE FROM ingest_ledger WHERE kafka_topic = '{topic}' AND read_at < '{made_anew}'")
    code, result = pipeline.audit("--deep")
    assert (code, result["verdict"], result["partitions"][0]["stored"]) == (0, "complete", 60)
    assert result["partitions"][0]["redelivered"] == 0


def test_the_audit_takes_nothing_from_the_group_and_tells_a_group_that_reads_nothing(pipeline: Pipeline) -> None:
    other = pipeline.settings.model_copy(update={"kafka_group": "other"})
    with pipeline.detached():
        pipeline.produce(*[message() for _ in range(5)])
        for _ in range(2):
            assert pipeline.audit()[0] == 0
        assert pipeline.committed() < 0
        # As long as nobody has read anything, there is nothing wrong with any group.
        assert pipeline.paystream_here(other, "audit")[0] == 0
    pipeline.read_to(5)
    assert pipeline.rows("SELECT count() FROM transactions") == [(5,)]
    code, out, err = pipeline.paystream_here(other, "audit")
    assert (code, len(err)) == (1, 1)
    assert " verdict=incomplete " in out
    assert "Partition 0 of topic" in err[0] and "the group has committed nothing" in err[0]


def test_a_topic_that_does_not_exist_is_wrong_use(pipeline: Pipeline) -> None:
    process = pipeline.paystream(pipeline.settings, "audit", PAYSTREAM_KAFKA_TOPIC="absent")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, len(err.splitlines())) == (2, "", 1)
    assert "Topic 'absent' does not exist" in err


def test_what_clickhouse_refuses_is_said_in_one_line(pipeline: Pipeline) -> None:
    with connect(pipeline.settings) as client:
        client.command("RENAME TABLE ingest_ledger TO elsewhere")
    process = pipeline.paystream(pipeline.settings, "audit")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, len(err.splitlines())) == (2, "", 1)
    assert f"Audit of topic '{pipeline.settings.kafka_topic}': its tables do not exist." in err
    assert "paystream migrate up" in err

    with connect(pipeline.settings) as client:
        client.command("CREATE TABLE ingest_ledger (read_at UInt8) ENGINE = Memory")
    process = pipeline.paystream(pipeline.settings, "audit")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, len(err.splitlines())) == (1, "", 1)
    assert "ClickHouse refused a statement: Unknown expression" in err
