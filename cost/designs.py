"""The ways to do it, each as the lines of its bill. All carry the same traffic and keep the same rows as long."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from paystream.cost.sizing import COPIES, DAYS, GB, GIB, HOURS, KEEPERS, REPLICAS, TB, TIB, Item, Sizing, brokers
from paystream.errors import UsageError

PRODUCERS_CROSS = 2 / 3
"""A producer's zone has the leader of every third partition."""

BIGQUERY_FREE_GB = 2_000
BIGQUERY_ACTIVE_MONTHS = 3
ENRICHED_FACTOR = 1.5
"""Before compression, an enriched row has half as many bytes again as its message: name, country, category, rate."""


@dataclass(frozen=True)
class Design:
    """A way to do it. ``hours``: the assumptions that add up to its people's time."""

    id: str
    name: str
    items: Callable[[Sizing], list[Item]]
    hours: tuple[str, ...]


def _msk(sizing: Sizing, streams: int = 1) -> list[Item]:
    count, price_id, hours = brokers(sizing, "msk_m7g", streams)
    kept_gb = sizing.wire_gb * sizing.drivers["kafka_retention_days"] / DAYS * streams
    headroom = sizing.drivers["kafka_disk_headroom"]
    return [
        sizing.item(f"Kafka, {count} brokers (MSK)", "broker compute", hours, price_id, "broker hours"),
        sizing.item("Kafka's disks", "broker storage", kept_gb, "msk_storage_ebs", "GB", COPIES * headroom),
        _crossing(sizing, "producers to brokers", sizing.wire_gb * PRODUCERS_CROSS),
    ]


def _kafka(sizing: Sizing) -> list[Item]:
    count, price_id, hours = brokers(sizing, "ec2_m7g")
    kept_gb = sizing.wire_gb * sizing.drivers["kafka_retention_days"] / DAYS
    headroom = sizing.drivers["kafka_disk_headroom"]
    return [
        sizing.item(
            f"Kafka, {count} brokers (own)", "broker compute", hours, price_id, "machine hours", discounted=True
        ),
        sizing.item("Kafka's disks", "broker storage", kept_gb, "ebs_gp3", "GB", COPIES * headroom),
        _crossing(sizing, "producers to brokers", sizing.wire_gb * PRODUCERS_CROSS),
        _crossing(sizing, "between brokers", sizing.wire_gb * (COPIES - 1)),
    ]


def _crossing(sizing: Sizing, what: str, gb: float) -> Item:
    return sizing.item(f"zones: {what}", "network between zones", gb, "inter_az", "GB")


def _consumers(sizing: Sizing, what: str = "brokers to the reader", gb: float | None = None) -> Item:
    return _crossing(sizing, what, (sizing.wire_gb if gb is None else gb) * sizing.drivers["cross_zone_share"])


def _clickhouse(sizing: Sizing, share: float = 1.0) -> list[Item]:
    cores = max(sizing.drivers["clickhouse_min_cores"], sizing.engine_cores(share))
    first, steady = kept = sizing.kept(sizing.stored_gb_month)
    hot = sizing.stored_gb_month * min(sizing.drivers["hot_months"], sizing.drivers["warehouse_retention_months"])
    headroom = sizing.drivers["disk_headroom"]
    return [
        sizing.machines("ClickHouse", "warehouse compute", cores, REPLICAS, "m8g"),
        sizing.item(
            "ClickHouse's disks", "warehouse storage", (min(first, hot), hot), "ebs_gp3", "GB", REPLICAS * headroom
        ),
        sizing.item(
            "older rows in S3",
            "warehouse storage",
            (first - min(first, hot), steady - hot),
            "s3_standard",
            "GB",
            REPLICAS,
        ),
        sizing.machines("Keeper", "keepers", 2, KEEPERS, "m7g"),
        sizing.item("backups in S3", "backups", kept, "s3_standard", "GB", sizing.drivers["backup_factor"]),
        _crossing(sizing, "between replicas", sizing.stored_gb_month * (REPLICAS - 1)),
        _egress(sizing, "internet_egress"),
    ]


def _clickhouse_cloud(sizing: Sizing) -> list[Item]:
    # Each replica gets at least two units (16 GiB, 4 vCPU), as a self-hosted server does. ClickPipes takes the Kafka
    # engine's place, and the same views do the work.
    units = REPLICAS * max(2, math.ceil(sizing.engine_cores() / 2))
    first, steady = sizing.kept(sizing.stored_gb_month)
    kept = (first * GB / TB, steady * GB / TB)
    pipes = max(1, math.ceil(sizing.peak_mb_s / 10))
    return [
        sizing.item(
            f"ClickHouse Cloud, {units} units", "warehouse compute", units * HOURS, "clickhouse_cloud_enterprise_unit",
            "unit hours",
        ),
        sizing.item("its storage", "warehouse storage", kept, "clickhouse_cloud_storage", "TB"),
        sizing.item(
            "its backups", "backups", kept, "clickhouse_cloud_storage", "TB", sizing.drivers["backup_factor"]
        ),
        sizing.item("ClickPipes, compute", "loading", pipes * HOURS, "clickpipes_replica_small", "replica hours"),
        sizing.item("ClickPipes, data", "loading", sizing.wire_gb, "clickpipes_kafka_data", "GB"),
        _egress(sizing, "clickhouse_cloud_egress_internet"),
    ]  # fmt: skip


def _egress(sizing: Sizing, price_id: str) -> Item:
    return sizing.item("reports that leave", "network out", sizing.drivers["egress_gb_month"], price_id, "GB")


def _fargate(sizing: Sizing, what: str, kind: str, vcpu: float, memory_gb: float) -> list[Item]:
    return [
        sizing.item(f"{what}, processors", kind, vcpu * HOURS, "fargate_vcpu", "vCPU hours"),
        sizing.item(f"{what}, memory", kind, memory_gb * HOURS, "fargate_memory", "GB hours"),
    ]


def _own_msk(sizing: Sizing) -> list[Item]:
    return [*_msk(sizing), _consumers(sizing), *_clickhouse(sizing)]


def _own_sets(sizing: Sizing) -> list[Item]:
    # Each set reads the topic by itself, so nothing crosses between copies, and no Keeper is needed.
    without = ("Keeper", "zones: between replicas")
    copies = [item for item in _clickhouse(sizing) if not item.what.startswith(without)]
    return [*_msk(sizing), _consumers(sizing, "brokers to both sets", sizing.wire_gb * REPLICAS), *copies]


def _own_kafka(sizing: Sizing) -> list[Item]:
    return [*_kafka(sizing), _consumers(sizing), *_clickhouse(sizing)]


def _cloud_msk(sizing: Sizing) -> list[Item]:
    # Through a private link: what leaves the zone of the brokers is paid for as between zones.
    return [*_msk(sizing), _consumers(sizing, "brokers to ClickPipes", sizing.wire_gb), *_clickhouse_cloud(sizing)]


def _cloud_confluent(sizing: Sizing) -> list[Item]:
    units = max(1, math.ceil(sizing.peak_mb_s / 60))  # an eCKU takes 60 MB/s in
    kept_gib = sizing.messages * sizing.wire_bytes / GIB * sizing.drivers["kafka_retention_days"] / DAYS
    return [
        sizing.item(
            f"Confluent Enterprise, {units} eCKU", "broker compute", units * HOURS, "confluent_enterprise_ecku",
            "eCKU hours",
        ),
        sizing.item("Confluent, in and out", "broker compute", sizing.wire_gb * 2, "confluent_standard_network", "GB"),
        sizing.item("Confluent, storage", "broker storage", kept_gib, "confluent_storage", "GiB", COPIES),
        *_clickhouse_cloud(sizing),
    ]  # fmt: skip


def _flink(sizing: Sizing) -> list[Item]:
    json_mb_s = sizing.peak_rate * sizing.json_bytes / 1e6
    units = max(2, math.ceil(json_mb_s / sizing.drivers["flink_mb_s_per_kpu"])) + 1
    return [
        *_msk(sizing),
        _consumers(sizing),
        sizing.item(
            f"managed Flink, {units} KPU, one of them to orchestrate", "stream processor", units * HOURS,
            "managed_flink_kpu", "KPU hours",
        ),
        sizing.item("its state", "stream processor", (units - 1) * 50, "managed_flink_storage", "GB"),
        *_clickhouse(sizing, sizing.drivers["engine_share_behind_processor"]),
    ]  # fmt: skip


def _spark_vcpu(sizing: Sizing) -> int:
    executors = max(1, math.ceil(sizing.peak_rate / sizing.drivers["spark_events_s_per_vcpu"] / 4))
    return 4 * (executors + 1)  # workers of 4 vCPU and 16 GB, and one of them for the driver


def _spark_emr(sizing: Sizing) -> list[Item]:
    vcpu = _spark_vcpu(sizing)
    return [
        *_msk(sizing),
        _consumers(sizing),
        sizing.item(
            f"EMR Serverless, {vcpu} vCPU", "stream processor", vcpu * HOURS, "emr_serverless_vcpu", "vCPU hours"
        ),
        sizing.item("its memory", "stream processor", 4 * vcpu * HOURS, "emr_serverless_memory", "GB hours"),
        *_clickhouse(sizing, sizing.drivers["engine_share_behind_processor"]),
    ]


def _spark_glue(sizing: Sizing) -> list[Item]:
    units = max(2, _spark_vcpu(sizing) // 4)
    return [
        *_msk(sizing),
        _consumers(sizing),
        sizing.item(f"Glue streaming, {units} DPU", "stream processor", units * HOURS, "glue_dpu", "DPU hours"),
        *_clickhouse(sizing, sizing.drivers["engine_share_behind_processor"]),
    ]


def _kafka_streams(sizing: Sizing) -> list[Item]:
    tasks = max(2, math.ceil(sizing.peak_rate / sizing.drivers["kafka_streams_events_s_per_vcpu"] / 2))
    # It writes a second topic, which ClickHouse reads: what it has read crosses zones twice.
    return [
        *_msk(sizing, streams=2),
        _consumers(sizing, "brokers to the application and to ClickHouse", sizing.wire_gb * 2),
        _crossing(sizing, "application to brokers", sizing.wire_gb * PRODUCERS_CROSS),
        *_fargate(sizing, f"Kafka Streams, {tasks} tasks of 2 vCPU", "stream processor", 2 * tasks, 8 * tasks),
        *_clickhouse(sizing, sizing.drivers["engine_share_behind_processor"]),
    ]


def _bigquery(sizing: Sizing) -> list[Item]:
    workers = max(2, math.ceil(sizing.peak_rate / 10_000))
    month_gb = sizing.json_gb * ENRICHED_FACTOR
    first, steady = sizing.kept(month_gb)
    # What was not changed for 90 days costs half (price book); deduplication changes only what is new.
    paid = (first, steady - max(0.0, steady - BIGQUERY_ACTIVE_MONTHS * month_gb) / 2)
    scanned_tib = month_gb * GB / TIB * sizing.drivers["bigquery_scanned_per_stored"]
    return [
        *_msk(sizing),
        _consumers(sizing),
        *_fargate(sizing, f"writer, {workers} tasks of 1 vCPU", "loading", workers, 2 * workers),
        # Its protocol does not compress as Kafka's batches do.
        sizing.item("leaving for BigQuery", "network out", sizing.json_gb, "internet_egress", "GB"),
        sizing.item("Write API", "loading", max(0.0, sizing.json_gb - BIGQUERY_FREE_GB), "bigquery_write_api", "GB"),
        sizing.item("BigQuery, queries", "warehouse compute", scanned_tib, "bigquery_query", "TiB scanned"),
        sizing.item("BigQuery, storage", "warehouse storage", paid, "bigquery_storage_active", "GB"),
        _egress(sizing, "internet_egress"),
    ]


def _snowflake(sizing: Sizing) -> list[Item]:
    workers = max(2, math.ceil(sizing.peak_rate / 10_000))
    streamed = sizing.json_gb * sizing.price("snowflake_snowpipe_streaming")
    merged = sizing.messages / 1e6 / sizing.drivers["snowflake_million_per_credit"]
    # A warehouse that deduplicates every few minutes never suspends.
    credits = max(HOURS * sizing.drivers["snowflake_warehouse_size"], merged)
    first, steady = sizing.kept(sizing.stored_gb_month)
    kept_tb = (first * GB / TB, steady * GB / TB)
    return [
        *_msk(sizing),
        _consumers(sizing),
        *_fargate(sizing, f"connector, {workers} tasks of 1 vCPU", "loading", workers, 4 * workers),
        sizing.item(
            "Snowpipe Streaming",
            "loading",
            streamed,
            "snowflake_credit_enterprise",
            "credits",
            also=("snowflake_snowpipe_streaming",),
        ),
        sizing.item("Snowflake, warehouse", "warehouse compute", credits, "snowflake_credit_enterprise", "credits"),
        sizing.item("Snowflake, storage", "warehouse storage", kept_tb, "snowflake_storage", "TB"),
        _egress(sizing, "internet_egress"),
    ]


def _batch(sizing: Sizing) -> list[Item]:
    workers = max(1, math.ceil(sizing.peak_rate / 20_000))
    vcpu_hours = sizing.messages / 1e6 * sizing.drivers["batch_vcpu_hours_per_million"]
    # Files of five minutes from each partition of four, and as many out of the night's job.
    thousand_puts = 2 * 4 * 12 * HOURS / 1000
    kept = sizing.kept(sizing.wire_gb)
    report_cores = max(2.0, sizing.drivers["report_cores"] / sizing.drivers["utilisation_at_peak"])
    return [
        *_msk(sizing),
        _consumers(sizing),
        *_fargate(sizing, f"connector to S3, {workers} tasks of 1 vCPU", "loading", workers, 2 * workers),
        sizing.item("files written", "loading", thousand_puts, "s3_put", "thousand requests"),
        sizing.item("files kept", "warehouse storage", kept, "s3_standard", "GB"),
        sizing.item("nightly job, processors", "warehouse compute", vcpu_hours, "emr_serverless_vcpu", "vCPU hours"),
        sizing.item("nightly job, memory", "warehouse compute", 4 * vcpu_hours, "emr_serverless_memory", "GB hours"),
        sizing.item("its rows in S3", "warehouse storage", sizing.kept(sizing.stored_gb_month), "s3_standard", "GB"),
        sizing.machines("report database", "warehouse compute", report_cores, 1, "m8g"),
        _egress(sizing, "internet_egress"),
    ]


DESIGNS = [
    Design("own_msk", "ClickHouse on EC2, MSK", _own_msk, ("hours_msk", "hours_clickhouse")),
    Design("own_sets", "ClickHouse on EC2 in two sets, MSK", _own_sets, ("hours_msk", "hours_clickhouse")),
    Design("own_kafka", "ClickHouse and Kafka on EC2", _own_kafka, ("hours_kafka", "hours_clickhouse")),
    Design("cloud_msk", "ClickHouse Cloud, MSK", _cloud_msk, ("hours_msk", "hours_clickhouse_cloud")),
    Design("cloud_confluent", "ClickHouse Cloud, Confluent", _cloud_confluent, ("hours_clickhouse_cloud",)),
    Design("flink", "managed Flink into ClickHouse", _flink, ("hours_msk", "hours_processor", "hours_clickhouse")),
    Design(
        "spark_emr", "Spark (EMR Serverless) into ClickHouse", _spark_emr,
        ("hours_msk", "hours_processor", "hours_clickhouse"),
    ),
    Design(
        "spark_glue", "Spark (Glue) into ClickHouse", _spark_glue, ("hours_msk", "hours_processor", "hours_clickhouse")
    ),
    Design(
        "kafka_streams", "Kafka Streams (Fargate) into ClickHouse", _kafka_streams,
        ("hours_msk", "hours_processor", "hours_clickhouse"),
    ),
    Design("bigquery", "into BigQuery", _bigquery, ("hours_msk", "hours_warehouse")),
    Design("snowflake", "into Snowflake", _snowflake, ("hours_msk", "hours_warehouse")),
    Design("batch", "nightly batch", _batch, ("hours_msk", "hours_batch")),
]  # fmt: skip


def design(wanted: str) -> Design:
    """Return a design by its id.

    Raises:
        UsageError: there is none.
    """
    entry = next((entry for entry in DESIGNS if entry.id == wanted), None)
    if entry is None:
        raise UsageError(f"Design '{wanted}': there is none. Name one of: {', '.join(entry.id for entry in DESIGNS)}.")
    return entry
