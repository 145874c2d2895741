"""What the broker says, as far as it takes no broker: times that producers make up, and errors of one partition."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError

from paystream.broker import Broker, kafka_time
from paystream.errors import ServiceUnavailable
from paystream.settings import Settings


@pytest.mark.parametrize(
    ("milliseconds", "moment"),
    [
        (-1, datetime(1970, 1, 1, tzinfo=UTC)),
        (1_790_000_000_123, datetime(2026, 9, 21, 14, 13, 20, 123_000, tzinfo=UTC)),
        (1_790_000_000_000_000, datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)),
        (2**63 - 1, datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)),
    ],
)
def test_any_number_is_a_time(milliseconds: int, moment: datetime) -> None:
    assert kafka_time(milliseconds) == moment


def test_an_error_of_one_partition_is_not_taken_for_nothing_committed() -> None:
    good = SimpleNamespace(offset=7, error=None)
    bad = SimpleNamespace(offset=-1001, error=KafkaError(KafkaError.NOT_COORDINATOR))
    consumer = SimpleNamespace(committed=lambda wanted, timeout: answers)
    broker = Broker(Settings(_env_file=None), [0, 1], consumer, consumer)
    answers = [good, SimpleNamespace(offset=-1001, error=None)]
    assert broker.committed([0, 1]) == [7, None]
    answers = [good, bad]
    with pytest.raises(ServiceUnavailable, match="stopped answering"):
        broker.committed([0, 1])
