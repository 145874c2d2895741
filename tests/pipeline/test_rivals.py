"""Each rival stores what Paystream stores of the same messages, column for column, and loses none of a load test."""

import pytest
from confluent_kafka import Producer
from judged import CASES
from waiting import wait_until

from paystream.clickhouse import connect
from paystream.kafka import client_config
from paystream.loadtest.fault_run import prepared_stack
from paystream.loadtest.pipeline import feeding
from paystream.loadtest.run import run
from paystream.loadtest.topic import open_topic
from paystream.loadtest.workload import Thresholds, Workload
from paystream.rivals.engines import ENGINES

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]

# The rest needs Maven Central and PyPI: hundreds of megabytes.
IN_EVERY_RUN = "by_hand"
NAMES = [name if name == IN_EVERY_RUN else pytest.param(name, marks=pytest.mark.on_demand) for name in ENGINES]

WORKLOAD = Workload(
    description="A bit of everything.",
    rate_per_second=200,
    duration_seconds=5,
    duplicate_share=0.05,
    state_share=0.1,
    malformed_share=0.05,
    late_share=0.1,
    late_by_seconds=900,
    unknown_merchant_share=0.02,
    pending_currency_share=0.02,
    drain_timeout_seconds=120,
    thresholds=Thresholds(p95_seconds=60),
)

# The moments at which a row was made are its own, and of a message that was sent twice either one may have been kept.
STORED = """
SELECT * EXCEPT (ingested_at, enriched_at, kafka_offset, kafka_timestamp) FROM transactions FINAL ORDER BY ALL
"""
REFUSED = "SELECT * EXCEPT quarantined_at FROM quarantine FINAL ORDER BY ALL"


@pytest.mark.parametrize("name", NAMES)
def test_a_rival_stores_what_paystream_does(tmp_path, name):
    with prepared_stack(tmp_path / "stack") as settings, connect(settings) as client:
        with feeding(settings, name) as pipeline, pipeline.open_topic(settings) as topic:
            producer = Producer(client_config(settings))
            for place, (message, _) in enumerate(CASES.values()):
                producer.produce(settings.kafka_topic, message, str(place))
            producer.produce(settings.kafka_topic, b"", "empty")
            producer.produce(settings.kafka_topic, None, "a tombstone")
            # So that each partition ends with a message that is stored.
            for partition in range(topic.partition_count):
                producer.produce(settings.kafka_topic, b"the last", "last", partition)
            assert producer.flush(30) == 0
            result = run(settings, WORKLOAD, lambda _: None, pipeline)
            assert (result.ended_early, result.unread) == (None, 0), pipeline.job.log.read_text()[-2000:]
            assert result.transactions.problems == []
            assert result.transactions.accepted > 700
            assert result.transactions.refused_as_planned > 20
            assert result.transactions.pending == 0
            stored, refused = client.query(STORED).result_rows, client.query(REFUSED).result_rows
            reasons = dict(client.query("SELECT kafka_key, reason FROM quarantine FINAL").result_rows)
            client.command("TRUNCATE TABLE transactions")
            client.command("TRUNCATE TABLE quarantine")
        assert pipeline.job.process is None
        assert {name: reasons.get(str(place), "") for place, name in enumerate(CASES)} == {
            name: reason for name, (_, reason) in CASES.items()
        }
        # Now Paystream reads the same messages.
        with open_topic(settings) as topic:
            wait_until(lambda: topic.unread() == 0, 60)
        assert client.query(STORED).result_rows == stored
        assert client.query(REFUSED).result_rows == refused
