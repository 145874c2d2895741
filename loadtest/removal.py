"""Remove a load test's own payments, recognised by their ids, whatever else was sent meanwhile."""

import secrets
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

import numpy as np
from clickhouse_connect.driver.client import Client

from paystream.loadtest.ids import halves_sql, ids
from paystream.loadtest.plan import Plan
from paystream.nodes import Node, each, find
from paystream.reports.rollup import rebuild
from paystream.settings import Settings

BATCH = 2_000_000
"""Ids looked for at a time: some 100 MB in the engine."""

_OF_RUN = {
    "transactions": f"({', '.join(halves_sql('transaction_id'))}) IN {{staging}}",
    # A malformed message's key is its id; any other key becomes the nil UUID, which no run has.
    "quarantine": f"({', '.join(halves_sql('toUUIDOrZero(kafka_key)'))}) IN {{staging}}",
}


@dataclass(frozen=True)
class Removed:
    """What was, or would be, removed: payments, refused messages, and days whose reports were recomputed."""

    payments: int
    refused: int
    days: int


def remove(
    settings: Settings,
    seed: int,
    messages: int,
    dry_run: bool = False,
    report: Callable[[str], None] = lambda text: None,
) -> Removed:
    """Delete the payments and the refused messages of a run, and recompute the reports of their days.

    The ledger still says that the messages were read, since they were. Killed at any moment, it can be run again; but
    what is gone by then no longer says which days to recompute: `paystream rollup rebuild` recomputes all of them.

    Args:
        settings: where ClickHouse is.
        seed: the run's, from its result.
        messages: how many it planned.
        dry_run: whether to count only.
        report: called with a few words on what is going on.

    Raises:
        UsageError: the schema does not exist.
        ServiceUnavailable: ClickHouse, or a node of it, cannot be reached, or was lost on the way.
        PaystreamError: ClickHouse refused a statement.
    """
    # What an id is depends on the seed and the message's number alone.
    plan = Plan(
        seed=seed, rate_per_second=1, messages=messages, duplicate_share=0, canaries_per_second=1, merchants=[1],
        canary_merchant=1, currencies={}, statuses={},
    )  # fmt: skip
    nodes = find(settings)
    nodes.require_all("Removal of a load test")
    names = {table: nodes.share(table) for table in _OF_RUN}
    staging = f"loadtest_staging_{secrets.token_hex(6)}"

    def remove_share(node: Node, client: Client) -> tuple[int, int, set[date]]:
        """Remove what a node has of the run: each row is on one node of a set."""
        payments = refused = 0
        days: set[date] = set()
        client.command(f"CREATE TABLE {staging} (upper UInt64, lower UInt64) ENGINE = MergeTree ORDER BY upper")
        try:
            for first in range(0, messages, BATCH):
                report(f"{first:,} of {messages:,} messages")
                numbers = np.arange(first, min(messages, first + BATCH))
                client.command(f"TRUNCATE TABLE {staging}")
                client.insert(staging, list(ids(plan, numbers)), column_names=["upper", "lower"], column_oriented=True)
                stored = client.query(
                    f"SELECT uniqExact(transaction_id), groupUniqArray(toDate(created_at)) FROM {names['transactions']}"
                    f" WHERE {_OF_RUN['transactions'].format(staging=staging)}"
                ).first_row
                payments, days = payments + stored[0], days | set(stored[1])
                count = (
                    f"SELECT count() FROM {names['quarantine']} WHERE {_OF_RUN['quarantine'].format(staging=staging)}"
                )
                refused += client.query(count).first_row[0]
                if not dry_run:
                    for table, condition in _OF_RUN.items():
                        client.command(f"DELETE FROM {names[table]} WHERE {condition.format(staging=staging)}")
        finally:
            client.command(f"DROP TABLE IF EXISTS {staging} SYNC")
        return payments, refused, days

    of_sets: dict[str, list[tuple[int, int]]] = defaultdict(list)
    days: set[date] = set()
    for node, (payments, refused, of_node) in each(nodes, "Removal of a load test", remove_share):
        of_sets[node.set].append((payments, refused))
        days |= of_node
    # Each set has all of them; one that is behind, fewer.
    payments, refused = (max(sum(share[place] for share in shares) for shares in of_sets.values()) for place in (0, 1))
    if days and not dry_run:
        report("computing the reports anew")
        rebuild(settings, among=days)
    return Removed(payments, refused, len(days))
