"""Canaries: the payments of a load test whose way to a reader is timed.

A canary is an ordinary payment among all the others. Which messages are canaries follows from the plan, so nothing
marks them. All belong to one merchant, ``Plan.canary_merchant``, and none is a duplicate, malformed, late or pending.
A reader knows one by its transaction id. The probe (probe.py) looks for the ids that are due until it has seen each.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import numpy as np
from clickhouse_connect.driver.client import Client
from numpy.typing import NDArray

from paystream.loadtest.ids import id_of, ids
from paystream.loadtest.plan import Numbers, Plan, Purpose, below, intended_us

CHUNK = 50_000
"""Messages whose canaries are worked out at a time, in some milliseconds: a run of hours begins without delay."""

QUERY = """
SELECT transaction_id
FROM transactions FINAL  -- as transactions_current has it, whose two dozen columns cost 3 ms more to analyse
WHERE toDate(created_at) IN {days:Array(Date)}
  AND merchant_id = {merchant_id:UInt32}
  AND transaction_id IN {pending:Array(UUID)}
  -- Leaves out all parts but the newest: the same at any number of stored rows.
  AND created_at BETWEEN {earliest:DateTime64(6, 'UTC')} AND {latest:DateTime64(6, 'UTC')}
SETTINGS
    do_not_merge_across_partitions_select_final = 1,
    optimize_move_to_prewhere_if_final = 1,  -- of what a transaction never changes, so no older state shows
    max_threads = 1                          -- some rows: a second thread would only take a core from ingest
"""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Sighting:
    """A canary's intended send time and the arrival of the first answer with it, in microseconds since 1970."""

    transaction_id: UUID
    intended_us: int
    seen_us: int

    @property
    def latency_s(self) -> float:
        return (self.seen_us - self.intended_us) / 1e6


def is_canary(plan: Plan, numbers: Numbers) -> NDArray[np.bool_]:
    """Return which messages are canaries: one, at a random place, of each so many messages.

    At a fixed place, canaries would keep step with the pipeline's flush interval and sample one phase of it.
    """
    stride = max(1, plan.rate_per_second // plan.canaries_per_second)
    place = below(stride, plan, Purpose.CANARY, numbers // stride)
    return numbers % stride == place


def canaries(plan: Plan) -> Iterator[tuple[UUID, int]]:
    """Yield the canaries' ids with their intended send times in microseconds since 1970, in that order."""
    for first in range(0, plan.messages, CHUNK):
        numbers = np.arange(first, min(first + CHUNK, plan.messages))
        numbers = numbers[is_canary(plan, numbers)]
        upper, lower = ids(plan, numbers)
        times = intended_us(plan, numbers).tolist()
        for halves, at in zip(zip(upper, lower, strict=True), times, strict=True):
            yield id_of(*halves), at


def look_up(client: Client, merchant_id: int, pending: Mapping[UUID, int]) -> set[UUID]:
    """Return which canaries a reader finds now, of those given with their intended send times; at least one."""
    earliest, latest = (_EPOCH + timedelta(microseconds=at) for at in (min(pending.values()), max(pending.values())))
    parameters = {
        "days": sorted({datetime.fromtimestamp(at / 1e6, UTC).date() for at in pending.values()}),
        "earliest": earliest,
        "latest": latest,
        "merchant_id": merchant_id,
        "pending": list(pending),
    }
    return {transaction_id for (transaction_id,) in client.query(QUERY, parameters=parameters).result_rows}
