"""Statuses to look at, without services."""

from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

from paystream.status.lag import PartitionLag
from paystream.status.state import (
    Backlog,
    Cluster,
    DimensionAge,
    Flow,
    LastAudit,
    NodeState,
    Objective,
    Pending,
    Refusals,
    ReportFreshness,
    SetState,
    Status,
    TableParts,
)

AT = datetime(2026, 11, 25, 12, tzinfo=UTC)

HEALTHY = Status(
    topic="transactions",
    database="paystream",
    at=AT,
    took_s=0.1,
    backlog=Backlog([PartitionLag(0, 12, 0.2, 0, 0, 86_400.0), PartitionLag(1, 0, 0.0, 0, 0, 90_000.0)]),
    flow=Flow(150_000, 500.0, 30, 149_970, 0, 0.19, 0.31, 0.35),
    objective=Objective(10_000_000, 1_000, 0.9999, 0.002, AT),
    freshness_s=0.2,
    ingest_error="",
    refusals=[Refusals("not_json", 30, 6.0)],
    pending=Pending(20, 0, 149_970),
    dimensions=[
        DimensionAge("fx", 3, 228_828, AT, 5.0, date(2026, 11, 24)),
        DimensionAge("merchants", 9, 80_000, AT, 6.0, None),
    ],
    failed_loads=[],
    parts=[TableParts("transactions", 12, 9)],
    reports=ReportFreshness(AT, 40.0),
    last_audit=LastAudit(AT, 0.01, "complete", 1.0, False, 0, 0),
)

NODE = NodeState(
    "10.0.0.1:8123", "", "1", 1, "26.3.1.1", "0018_rollups_by_shard", 2, [0, 1], 12, 0.2, HEALTHY.parts, [],
    {"fx": 3, "merchants": 9}, 40.0, 3 << 30, 12 << 30, "cityHash64(transaction_id) % 2", 2,
)  # fmt: skip
SECOND = replace(NODE, address="10.0.0.2:8123", shard=2, partitions=[], lag_messages=0, lag_s=0.0)


def on_cluster(*nodes: NodeState, shards: int = 2, sets: list[SetState] | None = None) -> Status:
    """Return a healthy status of a cluster that has these nodes, or two, and the sets that they name."""
    nodes = nodes or (NODE, SECOND)
    names = dict.fromkeys(node.set for node in nodes if node.set)
    sets = sets or [SetState(name, "paystream", HEALTHY.backlog, HEALTHY.reports) for name in names]
    return replace(HEALTHY, cluster=Cluster("payments", shards, list(nodes), sets))


def lag(**changes: Any) -> Backlog:
    """Return a backlog of one partition with some things changed."""
    return Backlog([replace(PartitionLag(0, 12, 0.2, 0, 0, 86_400.0), **changes)])
