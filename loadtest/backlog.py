"""Send messages as fast as the broker takes them: a backlog, for what is measured once it is there."""

from collections.abc import Callable

import numpy as np
from confluent_kafka import Producer

from paystream.errors import CheckFailed
from paystream.kafka import client_config
from paystream.loadtest.messages import render
from paystream.loadtest.plan import Plan
from paystream.settings import Settings

BATCH = 20_000


def send(settings: Settings, plan: Plan, what: str, keep: Callable[[list[bytes]], None] = lambda values: None) -> None:
    """Send all messages of a plan, whatever their intended times, and return once the broker has confirmed them.

    Args:
        settings: where the topic is.
        plan: the messages.
        what: what the error calls them.
        keep: handed the values of each batch before it is sent.

    Raises:
        CheckFailed: the broker does not take a batch within a minute.
    """
    producer = Producer(
        client_config(settings)
        | {"enable.idempotence": True, "linger.ms": 50, "compression.type": "lz4", "log_level": 0}
    )
    for start in range(0, plan.messages, BATCH):
        keys, values = render(plan, np.arange(start, min(start + BATCH, plan.messages)))
        keep(values)
        for key, value in zip(keys, values, strict=True):
            producer.produce(settings.kafka_topic, value, key)
        # A whole batch is confirmed before the next, so the queue stays bounded.
        if producer.flush(60):
            raise CheckFailed(
                f"{what} for topic '{settings.kafka_topic}': the broker did not take it within 60 s. "
                "Look at the broker's log."
            )
