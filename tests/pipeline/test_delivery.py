"""From the topic to a reader's rows on Apache Kafka. What crashes do to it: test_faults.py."""

import random
import time
import uuid
from contextlib import suppress

import psutil
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError
from confluent_kafka import Consumer, Producer, TopicPartition
from payments import message

from paystream.clickhouse import connect
from paystream.devstack import stack as local_stack
from paystream.errors import ServiceUnavailable
from paystream.kafka import client_config
from paystream.migrations import runner
from paystream.settings import Settings


@pytest.fixture(scope="module")
def pipeline(stack: Settings) -> Settings:
    runner.up(stack)
    return stack


def produce(settings: Settings, values: list[bytes | None], partition: int = -1) -> list[tuple[int, int]]:
    """Send messages and return the (partition, offset) of each, in the order sent."""
    places: dict[int, tuple[int, int]] = {}
    producer = Producer(client_config(settings) | {"log_level": 0, "queue.buffering.max.messages": 1_000_000})
    for number, value in enumerate(values):

        def confirmed(error, kafka_message, number=number):
            assert error is None, error
            places[number] = (kafka_message.partition(), kafka_message.offset())

        producer.produce(settings.kafka_topic, value, f"{number}", partition=partition, on_delivery=confirmed)
        producer.poll(0)
    assert producer.flush(60) == 0
    return [places[number] for number in range(len(values))]


def rows(settings: Settings, sql: str, **parameters) -> list[tuple]:
    with connect(settings) as client:
        return list(client.query(sql, parameters=parameters).result_rows)


def wait_for(settings: Settings, sql: str, expected: int, seconds: float = 60, **parameters) -> None:
    """Wait until a counting query reaches a number."""
    deadline = time.monotonic() + seconds
    while (found := rows(settings, sql, **parameters)[0][0]) < expected:
        assert time.monotonic() < deadline, f"{found} of {expected} after {seconds} s: {sql}"
        time.sleep(0.05)


def wait_until_read(settings: Settings, places: list[tuple[int, int]]) -> None:
    """Wait until the group has committed these messages, which is after their blocks were stored as a whole.

    Not until they are in the ledger: the views of a block write one after the other, and its row may be there first.
    """
    last = {partition: offset for partition, offset in sorted(places)}
    topic_partitions = [TopicPartition(settings.kafka_topic, partition) for partition in last]
    consumer = Consumer(client_config(settings) | {"group.id": settings.kafka_group, "log_level": 0})
    deadline = time.monotonic() + 60
    try:
        while waiting := [
            one for one in consumer.committed(topic_partitions, timeout=10) if one.offset <= last[one.partition]
        ]:
            assert time.monotonic() < deadline, f"not read after 60 s: {waiting}, {last}"
            time.sleep(0.05)
    finally:
        consumer.close()


def test_bad_messages_between_good_ones_stop_nothing_and_are_all_accounted_for(pipeline: Settings) -> None:
    good = [str(uuid.uuid4()) for _ in range(50)]
    bad = [b"\xff\xfe", b"{", b"[]", message(amount="0"), message(currency="EUX"), b" ", b"x" * 900_000]
    without_row = [b"", None]
    values = [message(transaction_id=i) for i in good] + bad + without_row
    random.Random(3).shuffle(values)
    places = produce(pipeline, values, partition=2)
    sent = dict(zip(places, values, strict=True))

    window = {"first": places[0][1], "last": places[-1][1]}
    between = "kafka_partition = 2 AND kafka_offset BETWEEN {first:UInt64} AND {last:UInt64}"
    wait_for(pipeline, f"SELECT count() FROM transactions_current WHERE {between}", len(good), **window)
    wait_for(pipeline, f"SELECT count() FROM quarantine FINAL WHERE {between}", len(bad), **window)
    stored = rows(pipeline, f"SELECT kafka_offset FROM transactions_current WHERE {between}", **window)
    refused = rows(
        pipeline, f"SELECT kafka_offset, length(raw_message) FROM quarantine FINAL WHERE {between}", **window
    )
    assert {sent[2, offset] for (offset,) in stored} == {value for value in values if value and value not in bad}
    assert sorted(length for _, length in refused) == sorted(len(value) for value in bad)
    # Empty messages and tombstones leave no row anywhere; their offsets are the only gap.
    gap = {offset for _, offset in places} - {row[0] for row in stored} - {row[0] for row in refused}
    assert sorted(sent[2, offset] or b"" for offset in gap) == [b"", b""]


def test_large_messages_that_compress_well_do_not_stop_ingest(pipeline: Settings) -> None:
    """8,000 payments of 250 KB: 2 MB in the topic, 2 GB unpacked, and ClickHouse may take 1.2 GB."""
    count, padding = 8_000, "x" * 250_000
    [[before]] = rows(pipeline, "SELECT uniqExact(transaction_id) FROM transactions")
    limits = {"queue.buffering.max.kbytes": 200_000, "compression.type": "zstd", "linger.ms": 50, "log_level": 0}
    producer = Producer(client_config(pipeline) | limits)
    with connect(pipeline) as client:
        client.command("DETACH TABLE transactions_queue SYNC")
        for number in range(count):
            value = message(padding=padding)
            while True:
                try:
                    producer.produce(pipeline.kafka_topic, value, partition=number % 4)
                    break
                except BufferError:
                    producer.poll(0.05)
        assert producer.flush(60) == 0
        client.command("ATTACH TABLE transactions_queue")
    process = psutil.Process(local_stack.pids(pipeline)["clickhouse"])
    largest = 0
    deadline = time.monotonic() + 120
    while True:
        largest = max(largest, process.memory_info().rss)
        # While a block is tried again, a query may not get the memory that it asks for.
        with suppress(DatabaseError, ServiceUnavailable):
            [[stored]] = rows(pipeline, "SELECT uniqExact(transaction_id) FROM transactions")
            if stored == before + count:
                break
        assert time.monotonic() < deadline, "not stored after 120 s"
        time.sleep(0.1)
    assert largest < 3 << 30


def test_the_same_transaction_on_all_partitions_is_one_row(pipeline: Settings) -> None:
    transaction_id = str(uuid.uuid4())
    same = message(transaction_id=transaction_id)
    for partition in range(4):
        wait_until_read(pipeline, produce(pipeline, [same] * 5, partition=partition))
    query = "SELECT count() FROM transactions_current WHERE transaction_id = {i:UUID}"
    wait_for(pipeline, query, 1, i=transaction_id)
    assert rows(pipeline, query, i=transaction_id) == [(1,)]
