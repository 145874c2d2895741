"""Spark Structured Streaming in front of ClickHouse: Kafka -> judgement (Spark SQL) -> enrichment -> ClickHouse.

Spark reads and judges. Each micro-batch reaches the driver as one Arrow table, where merchants and rates are looked up
and two inserts store it; only then does Spark write the batch's offsets to its checkpoint. At least once.
"""

import contextlib
import http.client
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from clickhouse import ClickHouse, Refused
from enrichment import Dimensions, snapshots
from judgement import judged
from py4j.protocol import Py4JError
from pyspark import SparkContext
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

HERE = Path(__file__).resolve().parent
JARS = HERE.parents[1] / "build" / "rivals" / "spark" / "jars"

MOST_A_BATCH = 50_000
"""Messages. Larger batches drain no faster; this one is 20 MB as Arrow."""

REFRESH_EVERY_S = 5.0
COMMIT_EVERY_S = 0.25
LONGEST_PAUSE_S = 5.0
LONGEST_END_S = 6.0

AWAY = (OSError, http.client.HTTPException, Refused)
PROVENANCE = ["kafka_topic", "kafka_partition", "kafka_offset", "kafka_timestamp"]

log = logging.getLogger("rival")
stopping = threading.Event()


class Writer:
    """What foreachBatch calls: stores one micro-batch, however long ClickHouse is away."""

    def __init__(self, topic: str) -> None:
        self._clickhouse = ClickHouse(os.environ)
        self._topic = topic
        self.dimensions = self._load()

    def __call__(self, batch: DataFrame, _: int) -> None:
        rows = batch.toArrow()
        rows = rows.append_column("kafka_topic", pa.repeat(self._topic, len(rows)))
        good = pc.equal(rows["fault"], "")
        valid, refused = rows.filter(good), rows.filter(pc.invert(good))
        if len(valid):
            enriched = self.dimensions.enrich(valid.drop_columns(["fault", "raw_message", "kafka_key"]))
            self._store("transactions", enriched, "ingested_at")
        if len(refused):
            refused = refused.select(["fault", "raw_message", "kafka_key", *PROVENANCE])
            self._store("quarantine", refused.rename_columns({"fault": "reason"}), "quarantined_at")

    def _store(self, table: str, rows: pa.Table, moment: str) -> None:
        for pause_s in _pauses():
            now = pa.scalar(time.time_ns() // 1_000_000, pa.timestamp("ms", "UTC"))
            try:
                self._clickhouse.insert(table, rows.append_column(moment, pa.repeat(now, len(rows))))
                return
            except AWAY as error:
                log.warning("%s: not stored, again in %.1f s: %s", table, pause_s, error)

    def _load(self) -> Dimensions:
        """Wait until there are merchants and rates."""
        for pause_s in _pauses():
            try:
                dimensions = Dimensions(self._clickhouse)
                if dimensions.complete:
                    return dimensions
                log.warning("merchants or rates are empty, again in %.1f s", pause_s)
            except AWAY as error:
                log.warning("merchants and rates: not read, again in %.1f s: %s", pause_s, error)
        raise AssertionError

    def keep_fresh(self) -> None:
        """Put a new snapshot in place of the old one, also within a batch, which has a reference of its own."""
        clickhouse = ClickHouse(os.environ)
        while not stopping.wait(REFRESH_EVERY_S):
            try:
                if snapshots(clickhouse) != self.dimensions.snapshots and (new := Dimensions(clickhouse)).complete:
                    self.dimensions = new
            except AWAY as error:
                log.warning("merchants and rates: the old ones stay: %s", error)


class Group:
    """The consumer group's offsets in Kafka: where a first start begins, and for others to see how far we are.

    Spark itself only trusts its checkpoint.
    """

    def __init__(self, spark: SparkSession, brokers: str, name: str) -> None:
        self._jvm = spark._jvm
        properties = self._jvm.java.util.Properties()
        properties.put("bootstrap.servers", brokers)
        properties.put("default.api.timeout.ms", "5000")
        properties.put("request.timeout.ms", "3000")
        self._admin = self._jvm.org.apache.kafka.clients.admin.Admin.create(properties)
        self._name = name
        self._committed: dict[str, dict[str, int]] = {}

    def starting_offsets(self, topic: str) -> str:
        """Return Spark's startingOffsets: what the group has committed, the beginning of the other partitions."""
        described = self._admin.describeTopics([topic]).allTopicNames().get()
        offsets = {str(place): -2 for place in range(described[topic].partitions().size())}
        committed = self._admin.listConsumerGroupOffsets(self._name).partitionsToOffsetAndMetadata().get()
        for partition, offset in committed.items():
            if partition.topic() == topic and offset is not None:
                offsets[str(partition.partition())] = offset.offset()
        return json.dumps({topic: offsets})

    def commit(self, offsets: dict[str, dict[str, int]]) -> None:
        """Commit what Spark has stored. Does not wait for the broker: the next one repeats what this one misses."""
        if offsets == self._committed:
            return
        kafka = self._jvm.org.apache.kafka
        wanted = {
            kafka.common.TopicPartition(topic, int(partition)): kafka.clients.consumer.OffsetAndMetadata(offset)
            for topic, partitions in offsets.items()
            for partition, offset in partitions.items()
        }
        self._admin.alterConsumerGroupOffsets(self._name, wanted)
        self._committed = offsets


def session(state: Path, memory_mib: int) -> SparkSession:
    """Start Spark: one JVM, two threads, nothing but loopback."""
    settings = {
        # Python, code, metaspace and direct buffers need the other half.
        "spark.driver.memory": f"{memory_mib // 2}m",
        "spark.driver.extraJavaOptions": (
            "-XX:+UseSerialGC -XX:ReservedCodeCacheSize=128m -XX:MaxDirectMemorySize=128m "
            f"-Dlog4j2.configurationFile={HERE / 'log4j2.properties'}"
        ),
        "spark.driver.extraClassPath": f"{JARS}/*",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.sql.warehouse.dir": state / "warehouse",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.ansi.enabled": "false",  # what does not parse is NULL, and never throws
        "spark.sql.adaptive.enabled": "false",
        "spark.sql.execution.arrow.maxRecordsPerBatch": MOST_A_BATCH,
        # HotSpot compiles no larger method: the judgement in one piece would stay interpreted.
        "spark.sql.codegen.hugeMethodLimit": 8000,
        # It would read the JSON once for each field.
        "spark.sql.optimizer.enableJsonExpressionOptimization": "false",
        "spark.sql.streaming.noDataMicroBatches.enabled": "false",
        "spark.sql.streaming.pollingDelay": "5ms",
        "spark.sql.streaming.numRecentProgressUpdates": 2,  # with 1 it keeps none
        "spark.sql.streaming.checkpoint.fileChecksum.enabled": "false",
        "spark.locality.wait": "0",
    }
    builder = SparkSession.builder.master("local[2]").appName("rival")
    for name, value in settings.items():
        builder = builder.config(name, str(value))
    return builder.getOrCreate()


def messages(spark: SparkSession, brokers: str, topic: str, starting_offsets: str) -> DataFrame:
    """Return the stream of raw messages."""
    options = {
        "kafka.bootstrap.servers": brokers,
        "subscribe": topic,
        "startingOffsets": starting_offsets,
        "maxOffsetsPerTrigger": MOST_A_BATCH,
        "kafka.max.poll.records": 10_000,
        "kafka.fetch.max.wait.ms": 10,
    }
    reader = spark.readStream.format("kafka")
    for name, value in options.items():
        reader = reader.option(name, str(value))
    # Two tasks on two cores; four would only cost more.
    return reader.load().coalesce(2)


def run(spark: SparkSession, writer: Writer, state: Path) -> None:
    """Keep a query running until told to stop: one that fails is started again from its checkpoint."""
    brokers, topic = os.environ["RIVAL_BROKERS"], os.environ["RIVAL_TOPIC"]
    group = Group(spark, brokers, os.environ["RIVAL_GROUP"])
    for pause_s in _pauses(forever=True):
        try:
            stream = judged(messages(spark, brokers, topic, group.starting_offsets(topic)))
            query = (
                stream.writeStream.foreachBatch(writer)
                .option("checkpointLocation", str(state / "checkpoint"))
                .trigger(processingTime="0 seconds")
                .start()
            )
            while query.isActive and not stopping.wait(COMMIT_EVERY_S):
                if (progress := query.lastProgress) is not None:
                    group.commit(json.loads(progress.sources[0].endOffset))
            query.stop()
            if not stopping.is_set():
                log.warning("the query ended, again in %.1f s: %s", pause_s, query.exception())
        except (PySparkException, Py4JError, OSError) as error:
            if SparkContext._gateway.proc.poll() is not None and not stopping.is_set():
                sys.exit("Spark's process ended")
            if not stopping.is_set():
                log.warning("the query failed, again in %.1f s: %s", pause_s, error)


def _pauses(*, forever: bool = False):
    """Yield the pause that follows a failed attempt, and make it. Ends the process's work when told to stop."""
    pause_s = 0.1
    while not stopping.is_set():
        yield pause_s
        stopping.wait(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
    if not forever:
        raise InterruptedError("stopping")


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("py4j").setLevel(logging.CRITICAL)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    state = Path(os.environ["RIVAL_STATE"])
    state.mkdir(parents=True, exist_ok=True)
    os.environ |= {"SPARK_LOCAL_IP": "127.0.0.1", "SPARK_LOCAL_DIRS": str(state / "local")}

    spark = session(state, int(os.environ["RIVAL_MEMORY_MIB"]))
    with contextlib.suppress(InterruptedError):
        writer = Writer(os.environ["RIVAL_TOPIC"])
        threading.Thread(target=writer.keep_fresh, daemon=True).start()
        run(spark, writer, state)
    with contextlib.suppress(Py4JError, OSError):  # the signal may have reached it as well
        spark.stop()
    _end_java()


def _stop(*_: object) -> None:
    stopping.set()
    # An insert into a server that hangs would keep us: what is not acknowledged comes again.
    deadline = threading.Timer(LONGEST_END_S, lambda: (_end_java(), os._exit(0)))
    deadline.daemon = True
    deadline.start()


def _end_java() -> None:
    """End Spark's process: it does so when its standard input closes."""
    gateway = SparkContext._gateway
    if gateway is not None:
        gateway.proc.stdin.close()
        try:
            gateway.proc.wait(2)
        except subprocess.TimeoutExpired:
            gateway.proc.kill()
            gateway.proc.wait()


if __name__ == "__main__":
    main()
