"""What stores the payments of a run: ClickHouse's own Kafka table, or the job of another engine in its place."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from clickhouse_connect.driver.client import Client

from paystream import group
from paystream.broker import Broker, open_broker
from paystream.errors import UsageError
from paystream.loadtest.topic import Topic, open_topic
from paystream.loadtest.watch import Server
from paystream.nodes import Nodes
from paystream.rivals import engines
from paystream.rivals.engines import Engine, Job
from paystream.settings import Settings

OWN = "paystream"
ASK_EVERY_S = 0.5

# What was stored since a moment, by the index on enriched_at: the question must not cost the more, the more is stored.
_STORED = """
SELECT maxMap(map(kafka_partition, kafka_offset + 1)), count()
FROM
(
    SELECT kafka_partition, kafka_offset
    FROM transactions
    WHERE enriched_at >= {since:DateTime64(3, 'UTC')} AND kafka_topic = {topic:String}
    UNION ALL
    SELECT kafka_partition, kafka_offset
    FROM quarantine
    WHERE quarantined_at >= {since:DateTime64(3, 'UTC')} AND kafka_topic = {topic:String}
)
"""
_LATELY = timedelta(minutes=1)


class Pipeline:
    """ClickHouse's own Kafka table, as the schema has it."""

    name = OWN
    job: Job | None = None
    needed = ("transactions_queue",)

    def open_topic(self, settings: Settings) -> AbstractContextManager[Topic]:
        """Connect to the topic, whose lag is that of the Kafka table's consumer group."""
        return open_topic(settings)

    def partitions_read(self, nodes: Nodes, topic: Topic) -> int:
        """Return how many partitions somebody reads; each set of nodes reads all of them."""
        return group.partitions_assigned(nodes)

    @contextmanager
    def stopped(self, client: Client) -> Iterator[None]:
        """Have nothing read meanwhile, so that messages pile up."""
        client.command("DETACH TABLE transactions_queue SYNC")
        try:
            yield
        finally:
            client.command("ATTACH TABLE transactions_queue")


OURS = Pipeline()


@dataclass(frozen=True)
class Rival(Pipeline):
    """The job of another engine. How far it is, is asked of the tables: each engine keeps its offsets its own way."""

    job: Job
    needed = ()

    @property
    def name(self) -> str:
        return self.job.engine.name

    @contextmanager
    def open_topic(self, settings: Settings) -> Iterator[Topic]:
        with open_broker(settings) as broker, closing(Server(settings)) as server:
            yield StoredTopic(settings.kafka_topic, broker, server)

    def partitions_read(self, nodes: Nodes, topic: Topic) -> int:
        """Return all: a job that reads none stores nothing of the warm-up either."""
        self.job.check()
        return topic.partition_count

    @contextmanager
    def stopped(self, client: Client) -> Iterator[None]:
        self.job.stop()
        try:
            yield
        finally:
            self.job.start()


class StoredTopic(Topic):
    """A topic that counts as read as far as its messages are in ``transactions`` or ``quarantine``."""

    def __init__(self, name: str, broker: Broker, server: Server) -> None:
        super().__init__([broker])
        self._name = name
        self._server = server
        self._asked_at = -ASK_EVERY_S
        self._opened_at = datetime.now(UTC) - _LATELY
        self._since = datetime.fromtimestamp(0, UTC)
        self._stored: dict[int, int] = {}
        self._rows = self._rows_before = -1

    def unread(self) -> int:
        return self.lag()

    def has_read_to(self, ends: list[int]) -> bool:
        """Return whether the last message of each partition is stored, and no row has come since the look before.

        A sink may store batches side by side, so that the last message is there before one that came earlier.
        """
        return super().has_read_to(ends) and self._rows == self._rows_before

    def _positions(self, watermarks: list[tuple[int, int]]) -> list[list[int]]:
        if time.monotonic() - self._asked_at >= ASK_EVERY_S:
            self._ask()
        return [[max(low, self._stored.get(partition, 0)) for partition, (low, _) in enumerate(watermarks)]]

    def _ask(self) -> None:
        self._asked_at = time.monotonic()
        answer = self._server.query(_STORED, topic=self._name, since=self._since)
        if answer is None:
            return  # what is tested may break; then as much is known as before
        ends, rows = answer
        # A moment that stays, so that the number of rows stands still once all have come.
        self._since = self._opened_at
        self._stored |= {partition: max(end, self._stored.get(partition, 0)) for partition, end in ends.items()}
        self._rows, self._rows_before = rows, self._rows


@contextmanager
def feeding(settings: Settings, name: str) -> Iterator[Pipeline]:
    """Have the pipeline of that name store the payments: an engine's job is started, and stopped at the end.

    Raises:
        UsageError: there is none of that name, or it cannot be built here.
        ServiceUnavailable: it cannot be built, or its packages cannot be fetched.
    """
    if name == OWN:
        yield OURS
        return
    engine = engine_of(name)
    engines.build(engine)
    with engines.running(engine, settings) as job:
        yield Rival(job)


def engine_of(name: str) -> Engine:
    """Return the engine of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in engines.ENGINES:
        raise UsageError(f"Pipeline '{name}': there is none. Name one of: {', '.join([OWN, *engines.ENGINES])}.")
    return engines.ENGINES[name]
