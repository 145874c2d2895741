"""The checker: what went in must come out, once, with the same money. Exact, whatever the length of the run."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from clickhouse_connect.driver.client import Client

from loadtest.messages import Plan, contents, halves, is_duplicate, numbers_of, originals

CHUNK = 1_000_000

# The rows that came from this run's messages. An offset alone is not enough: a topic that was deleted and created
# again counts from 0 once more, as a broker in memory does at every start.
_OFFSETS = """
kafka_offset >= {first:Array(UInt64)}[kafka_partition + 1]
AND kafka_offset < {end:Array(UInt64)}[kafka_partition + 1]
"""
_WINDOW = f"{_OFFSETS} AND ingested_at >= {{started:DateTime64(3, 'UTC')}}"
_DAYS = f"SELECT DISTINCT toDate(created_at) AS day FROM transactions WHERE {_WINDOW} ORDER BY day"
_CURRENT = f"FROM transactions_current WHERE toDate(created_at) IN {{days:Array(Date)}} AND {_WINDOW}"
_ROWS = f"""
WITH UUIDToNum(transaction_id) AS id
SELECT
    byteSwap(reinterpretAsUInt64(substring(id, 1, 8))) AS upper,
    byteSwap(reinterpretAsUInt64(substring(id, 9, 8))) AS lower,
    merchant_id,
    reinterpretAsInt64(amount) AS amount,  -- a Decimal(18, 4) is its count of 1/10,000
    indexOf({{currencies:Array(String)}}, currency) AS currency_place
{_CURRENT}
"""
_SUMS = f"""
SELECT currency, enrichment_status, count(), sum(amount)
{_CURRENT}
GROUP BY currency, enrichment_status
"""
_QUARANTINE = f"""
SELECT kafka_key, reason
FROM quarantine FINAL
WHERE {_OFFSETS} AND quarantined_at >= {{started:DateTime64(3, 'UTC')}}
"""
_BEFORE_FINAL = f"SELECT count(), uniqExact(transaction_id) FROM transactions WHERE {_WINDOW}"


@dataclass(frozen=True)
class Window:
    """The offsets that the topic had before and after the run, by partition, and its start by ClickHouse's clock."""

    first: list[int]
    end: list[int]
    started_at: datetime

    @property
    def messages(self) -> int:
        """Return how many messages the topic took in."""
        return sum(self.end) - sum(self.first)


@dataclass(frozen=True)
class Found:
    """What became of the transactions of a run.

    Attributes:
        accepted: transactions of which the broker confirmed at least one message; those below refer to them.
        lost: neither in transactions_current nor in quarantine.
        duplicated: transactions that transactions_current returns more than once.
        unexpected: rows of transactions_current that came from this run's offsets and that nobody sent.
        altered: transactions whose stored merchant, amount or currency is not the one sent.
        quarantined: messages of this run's offsets in quarantine.
        money: by currency, units sent and stored, in 1/10,000.
        enrichment: rows by enrichment_status.
        duplicate_messages: how many messages repeated an earlier one.
        foreign_messages: messages in the run's offsets beyond those that the broker confirmed to the generator.
        rows_before_final: rows of this run in the table, duplicates that no merge has removed yet included.
        duplicate_rows_before_final: how many of them are such duplicates.
    """

    accepted: int
    stored: int
    lost: int
    duplicated: int
    unexpected: int
    altered: int
    quarantined: int
    quarantine_reasons: dict[str, int]
    money: dict[str, tuple[int, int]]
    enrichment: dict[str, int]
    duplicate_messages: int
    foreign_messages: int
    rows_before_final: int
    duplicate_rows_before_final: int

    @property
    def pending(self) -> int:
        """Return how many rows lack their merchant or their rate."""
        return self.enrichment.get("merchant_pending", 0) + self.enrichment.get("fx_pending", 0)

    @property
    def wrong_sums(self) -> list[str]:
        """Return the currencies whose stored sum is not the one sent."""
        return [currency for currency, (sent, stored) in self.money.items() if sent != stored]


def check(client: Client, plan: Plan, window: Window, sent: int, rejected_keys: list[str]) -> Found:
    """Compare what is stored with what was sent. Reads only.

    Args:
        client: a connection to the database.
        plan: the run.
        window: the offsets that its messages fell into.
        sent: how many messages were handed to the producer, from number 0.
        rejected_keys: the transaction id of each message among them that the broker did not confirm.

    Memory: a few bytes a message, and blocks of the result as they arrive.
    """
    parameters: dict[str, Any] = {
        "first": window.first,
        "end": window.end,
        "started": window.started_at,
        "currencies": list(plan.currencies),
    }
    parameters["days"] = [day for (day,) in client.query(_DAYS, parameters=parameters).result_rows]

    refused = client.query(_QUARANTINE, parameters=parameters).result_rows
    in_quarantine = numbers_of(plan, *halves([key for key, _ in refused]))
    reasons: dict[str, int] = {}
    for _, reason in refused:
        reasons[reason] = reasons.get(reason, 0) + 1

    accepted = _accepted(plan, sent, rejected_keys)
    seen = np.zeros(sent, dtype=np.uint8)
    stored = unexpected = altered = 0
    with client.query_column_block_stream(_ROWS, parameters=parameters) as blocks:
        for block in blocks:
            upper, lower, merchant_id, amount, currency = (np.asarray(column) for column in block)
            stored += len(upper)
            numbers = numbers_of(plan, upper.astype(np.uint64), lower.astype(np.uint64))
            ours = (numbers >= 0) & (numbers < sent)
            unexpected += int(np.count_nonzero(~ours))
            numbers = numbers[ours]
            wanted = contents(plan, numbers)
            altered += int(
                np.count_nonzero(
                    (wanted.merchant_id != merchant_id[ours])
                    | (wanted.amount != amount[ours])
                    | (wanted.currency + 1 != currency[ours])
                )
            )
            found, times = np.unique(numbers, return_counts=True)
            seen[found] = np.minimum(seen[found] + times, 2)

    settled = seen > 0
    settled[in_quarantine[(in_quarantine >= 0) & (in_quarantine < sent)]] = True
    # A message that the broker did not confirm may have arrived all the same: it is no loss, and its money counts.
    expected = accepted | (seen > 0)
    money_stored, enrichment = _stored_sums(client, parameters)
    money_sent = _sent_sums(plan, expected)
    rows, distinct = client.query(_BEFORE_FINAL, parameters=parameters).result_rows[0]
    return Found(
        accepted=int(np.count_nonzero(accepted)),
        stored=stored,
        lost=int(np.count_nonzero(accepted & ~settled)),
        duplicated=int(np.count_nonzero(seen > 1)),
        unexpected=unexpected,
        altered=altered,
        quarantined=len(refused),
        quarantine_reasons=reasons,
        money={
            currency: (money_sent.get(currency, 0), money_stored.get(currency, 0))
            for currency in sorted({*money_sent, *money_stored})
        },
        enrichment=enrichment,
        duplicate_messages=sum(int(np.count_nonzero(is_duplicate(plan, numbers))) for numbers in _chunks(sent)),
        foreign_messages=window.messages - (sent - len(rejected_keys)),
        rows_before_final=rows,
        duplicate_rows_before_final=rows - distinct,
    )


def _accepted(plan: Plan, sent: int, rejected_keys: list[str]) -> np.ndarray:
    """Mark the messages that carry a new transaction of which at least one sending was confirmed."""
    accepted = np.zeros(sent, dtype=bool)
    for numbers in _chunks(sent):
        accepted[numbers] = ~is_duplicate(plan, numbers)
    if rejected_keys:
        rejections, times = np.unique(numbers_of(plan, *halves(rejected_keys)), return_counts=True)
        sendings = np.zeros(sent, dtype=np.int64)
        for numbers in _chunks(sent):
            again, copies = np.unique(originals(plan, numbers), return_counts=True)
            sendings[again] += copies
        accepted[rejections[times >= sendings[rejections]]] = False
    return accepted


def _sent_sums(plan: Plan, expected: np.ndarray) -> dict[str, int]:
    sums = dict.fromkeys(plan.currencies, 0)
    for numbers in _chunks(len(expected)):
        chunk = contents(plan, numbers[expected[numbers]])
        for place, currency in enumerate(plan.currencies):
            sums[currency] += int(chunk.amount[chunk.currency == place].sum())
    return {currency: total for currency, total in sums.items() if total}


def _stored_sums(client: Client, parameters: dict[str, Any]) -> tuple[dict[str, int], dict[str, int]]:
    money: dict[str, int] = {}
    enrichment: dict[str, int] = {}
    for currency, status, rows, total in client.query(_SUMS, parameters=parameters).result_rows:
        money[currency] = money.get(currency, 0) + int(total * 10_000)
        enrichment[status] = enrichment.get(status, 0) + rows
    return money, enrichment


def _chunks(count: int) -> Iterator[np.ndarray]:
    return (np.arange(first, min(first + CHUNK, count)) for first in range(0, count, CHUNK))
