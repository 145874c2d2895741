"""The checker: what went in must come out, once, with the same money. Exact, whatever the length of the run."""

from collections import Counter
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
from clickhouse_connect.driver.client import Client

from paystream.loadtest.ids import halves, halves_sql
from paystream.loadtest.messages import (
    Contents,
    contents,
    is_duplicate,
    is_malformed,
    is_overtaken,
    is_pending_currency,
    is_state,
    is_unknown_merchant,
    numbers_of,
    originals,
    render,
    roots,
)
from paystream.loadtest.milliseconds import Milliseconds
from paystream.loadtest.plan import Plan, intended_us

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
_UPPER, _LOWER = halves_sql("transaction_id")
_ROWS = f"""
SELECT
    {_UPPER} AS upper,
    {_LOWER} AS lower,
    merchant_id,
    reinterpretAsInt64(amount) AS amount,  -- a Decimal(18, 4) is its count of 1/10,000
    indexOf({{currencies:Array(String)}}, currency) AS currency_place,
    indexOf({{statuses:Array(String)}}, status) AS status_place,
    toUnixTimestamp64Micro(created_at) AS created_us,
    toUnixTimestamp64Micro(updated_at) AS updated_us,
    indexOf(['merchant_pending', 'fx_pending'], enrichment_status) AS pending,
    toUnixTimestamp64Milli(kafka_timestamp) AS kafka_ms,
    toUnixTimestamp64Milli(ingested_at) AS stored_ms
{_CURRENT}
"""
_SUMS = f"""
SELECT currency, enrichment_status, count(), sum(amount)
{_CURRENT}
GROUP BY currency, enrichment_status
"""
_QUARANTINE = f"""
SELECT kafka_key, reason, raw_message
FROM quarantine FINAL
WHERE {_OFFSETS} AND quarantined_at >= {{started:DateTime64(3, 'UTC')}}
"""
_BEFORE_FINAL = f"SELECT count() FROM transactions WHERE {_WINDOW}"
_STORED_AT = f"""
SELECT transaction_id, min(toUnixTimestamp64Milli(ingested_at))
FROM transactions
WHERE toDate(created_at) IN {{days:Array(Date)}} AND merchant_id = {{merchant_id:UInt32}} AND {_WINDOW}
GROUP BY transaction_id
"""


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

    @property
    def parameters(self) -> dict[str, Any]:
        """Return what queries for the rows of the run need."""
        return {"first": self.first, "end": self.end, "started": self.started_at}


@dataclass(frozen=True)
class Stages:
    """How long stored rows took from stage to stage, by the times that they carry.

    "Kafka" is the message's own timestamp: with Kafka's default, that of its producer, set when it was handed over.
    Rows of payments that were made before they were sent, that were sent twice, or that reached another state, do not
    tell when the message that they came from was due; only ``kafka_to_stored`` counts them.
    """

    created_to_kafka: Milliseconds = field(default_factory=Milliseconds)
    kafka_to_stored: Milliseconds = field(default_factory=Milliseconds)
    created_to_stored: Milliseconds = field(default_factory=Milliseconds)

    def add(self, created_us: np.ndarray, kafka_us: np.ndarray, stored_us: np.ndarray, tells: np.ndarray) -> None:
        """Count rows; ``tells`` are those that tell when their message was due."""
        self.created_to_kafka.add((kafka_us - created_us)[tells])
        self.kafka_to_stored.add(stored_us - kafka_us)
        self.created_to_stored.add((stored_us - created_us)[tells])


@dataclass(frozen=True)
class Found:
    """What became of the transactions of a run.

    Attributes:
        accepted: valid transactions of which the broker confirmed at least one message.
        stored: rows of transactions_current from this run's offsets.
        lost: neither in transactions_current nor in quarantine: accepted transactions, and malformed messages that the
            broker confirmed.
        duplicated: transactions that transactions_current returns more than once.
        unexpected: rows of transactions_current that came from this run's offsets and that nobody sent, or that a
            malformed message became.
        altered: transactions of which any stored field is not the one sent, in the newest state that was sent, and
            malformed messages whose bytes in quarantine are not those sent. Of a transaction of which the broker did
            not confirm every message, any state that was sent will do.
        recovered: transactions that are stored although the broker confirmed none of their messages.
        malformed_messages: how many messages were malformed, duplicates of them included.
        refused_as_planned: how many of them are in quarantine with exactly the bytes sent.
        quarantined: messages of this run's offsets in quarantine that were not sent malformed.
        quarantine_reasons: all messages of this run's offsets in quarantine, by reason.
        money: by currency, units sent and stored, in 1/10,000.
        enrichment: rows by enrichment_status.
        duplicate_messages: how many messages repeated an earlier one.
        state_messages: how many messages carried a further state of an earlier transaction.
        overtaken_messages: how many of them carried a state older than that of a message before them.
        pending_as_planned: rows that lack their merchant or their rate as was planned: it is not loaded.
        foreign_messages: messages in the run's offsets beyond those that the generator handed to its producer.
        of_set: the set of nodes that was looked at, where a cluster has several.
        rows_before_final: rows of this run in the table, duplicates that no merge has removed yet included.
        duplicate_rows_before_final: how many of them a reader does not get: such duplicates, and states left behind.
    """

    accepted: int
    stored: int
    lost: int
    duplicated: int
    unexpected: int
    altered: int
    recovered: int
    malformed_messages: int
    refused_as_planned: int
    quarantined: int
    quarantine_reasons: dict[str, int]
    money: dict[str, tuple[int, int]]
    enrichment: dict[str, int]
    duplicate_messages: int
    foreign_messages: int
    rows_before_final: int
    duplicate_rows_before_final: int
    state_messages: int = 0
    overtaken_messages: int = 0
    pending_as_planned: int = 0
    of_set: str = ""

    @property
    def problems(self) -> list[str]:
        """Return what breaks the promise that nothing is lost, doubled or altered; empty when it held."""
        counts = {
            "lost": self.lost,
            "duplicated": self.duplicated,
            "unexpected": self.unexpected,
            "altered": self.altered,
            "refused though valid": self.quarantined,
            "currencies with a wrong sum": len(self.wrong_sums),
            "messages of other producers": self.foreign_messages,
        }
        place = f" in set {self.of_set}" if self.of_set else ""
        return [f"{count:,} {name}{place}" for name, count in counts.items() if count]

    @property
    def pending(self) -> int:
        """Return how many rows lack their merchant or their rate although it is loaded."""
        lacking = self.enrichment.get("merchant_pending", 0) + self.enrichment.get("fx_pending", 0)
        return lacking - self.pending_as_planned

    @property
    def wrong_sums(self) -> list[str]:
        """Return the currencies whose stored sum is not the one sent."""
        return [currency for currency, (sent, stored) in self.money.items() if sent != stored]


def check(
    client: Client, plan: Plan, window: Window, sent: int, rejected_keys: list[str], stages: Stages | None = None
) -> Found:
    """Compare what is stored with what was sent. Read-only.

    Args:
        client: a connection to the database.
        plan: the run.
        window: the offsets that its messages fell into.
        sent: how many messages were handed to the producer, from number 0.
        rejected_keys: the transaction id of each message among them that the broker did not confirm.
        stages: filled with the latencies of the rows.

    Memory: a few bytes a message (8 more with further states), some tens a malformed one, and blocks of the result as
    they arrive.
    """
    parameters = _parameters(client, window) | {"currencies": plan.all_currencies, "statuses": list(plan.statuses)}
    rejected, times = np.unique(numbers_of(plan, *halves(rejected_keys)), return_counts=True)
    rejections = dict(zip(rejected.tolist(), times.tolist(), strict=True))
    accepted = _accepted(plan, sent, rejections)
    malformed = _Malformed.of(plan, sent, rejections)
    rows = _compare_rows(client, parameters, plan, sent, rejections, malformed, stages)
    is_stored = rows.times > 0
    settled = is_stored.copy()
    reasons = _look_into_quarantine(client, parameters, plan, settled, malformed)
    money_stored, enrichment = _stored_sums(client, parameters)
    # A message that the broker did not confirm may have arrived all the same: it is no loss, and its money counts.
    money_sent = _sent_sums(plan, accepted | is_stored)
    [[rows_before_final]] = client.query(_BEFORE_FINAL, parameters=parameters).result_rows
    return Found(
        accepted=int(np.count_nonzero(accepted)),
        stored=rows.stored,
        lost=int(np.count_nonzero(accepted & ~settled)) + malformed.lost,
        duplicated=int(np.count_nonzero(rows.times > 1)),
        unexpected=rows.unexpected,
        altered=rows.altered + int(malformed.altered.sum()),
        recovered=int(np.count_nonzero(~accepted & is_stored)),
        malformed_messages=int(malformed.sent.sum()),
        refused_as_planned=malformed.refused_as_planned,
        quarantined=sum(reasons.values()) - malformed.refused_as_planned - int(malformed.altered.sum()),
        quarantine_reasons=reasons,
        money={
            currency: (money_sent.get(currency, 0), money_stored.get(currency, 0))
            for currency in sorted({*money_sent, *money_stored})
        },
        enrichment=enrichment,
        duplicate_messages=_count(is_duplicate, plan, sent),
        foreign_messages=max(0, window.messages - sent),
        rows_before_final=rows_before_final,
        duplicate_rows_before_final=rows_before_final - rows.stored,
        state_messages=_count(_is_new_state, plan, sent),
        overtaken_messages=_count(_is_newly_overtaken, plan, sent),
        pending_as_planned=rows.pending_as_planned,
    )


@dataclass
class _Rows:
    """What the rows of transactions_current came to. ``times``: how many rows each message's transaction has, at most
    2, by the message that began it. The others are as in ``Found``."""

    times: np.ndarray
    stored: int = 0
    unexpected: int = 0
    altered: int = 0
    pending_as_planned: int = 0


def _compare_rows(
    client: Client,
    parameters: dict[str, Any],
    plan: Plan,
    sent: int,
    rejections: dict[int, int],
    malformed: "_Malformed",
    stages: Stages | None,
) -> _Rows:
    """Compare each row with the message that it came from; mark the malformed ones, and count the stages."""
    newest, unsure = _newest_states(plan, sent, rejections)
    repeated = _repeated(plan, sent)
    rows = _Rows(np.zeros(sent, dtype=np.uint8))
    with client.query_column_block_stream(_ROWS, parameters=parameters) as blocks:
        for block in blocks:
            upper, lower, *columns = map(np.asarray, block)
            rows.stored += len(upper)
            numbers = numbers_of(plan, upper.astype(np.uint64), lower.astype(np.uint64))
            ours = (numbers >= 0) & (numbers < sent)
            malformed.mark_stored(numbers[ours & is_malformed(plan, numbers)])
            ours &= ~is_malformed(plan, numbers)
            rows.unexpected += int(np.count_nonzero(~ours))
            numbers = numbers[ours]
            *fields, pending, kafka_ms, stored_ms = (column[ours] for column in columns)
            if stages:
                created_us, updated_us = fields[-2:]
                tells = ~repeated[numbers] & (created_us == updated_us) & (created_us == intended_us(plan, numbers))
                stages.add(created_us, kafka_ms * 1000, stored_ms * 1000, tells)
            newest_numbers = numbers if newest is None else newest[numbers]
            for place in np.flatnonzero(_differs(contents(plan, newest_numbers), fields)).tolist():
                states = unsure.get(int(numbers[place]))
                row = [column[place] for column in fields]
                rows.altered += states is None or bool(_differs(contents(plan, states), row).all())
            planned = np.where(
                is_unknown_merchant(plan, numbers), 1, np.where(is_pending_currency(plan, numbers), 2, 0)
            )
            rows.pending_as_planned += int(np.count_nonzero((planned > 0) & (planned == pending)))
            stored, times = np.unique(numbers, return_counts=True)
            rows.times[stored] = np.minimum(rows.times[stored] + times, 2)
    return rows


def stored_ms(client: Client, window: Window, merchant_id: int, wanted: Container[UUID]) -> dict[UUID, int]:
    """Return when ClickHouse read the wanted transactions of a merchant, in milliseconds since 1970 by its clock."""
    parameters = _parameters(client, window) | {"merchant_id": merchant_id}
    with client.query_rows_stream(_STORED_AT, parameters=parameters) as rows:
        return {transaction_id: at_ms for transaction_id, at_ms in rows if transaction_id in wanted}


def _parameters(client: Client, window: Window) -> dict[str, Any]:
    days = client.query(_DAYS, parameters=window.parameters).result_rows
    return window.parameters | {"days": [day for (day,) in days]}


@dataclass(frozen=True)
class _Malformed:
    """The malformed messages of a run and what became of them: one entry for those with the same id.

    Attributes:
        numbers: those that are not duplicates, ascending.
        sent: how many messages each one stands for, itself and its duplicates.
        confirmed: how many of them the broker confirmed.
        refused: how many are in quarantine with the bytes sent.
        altered: how many are in quarantine with other bytes.
        stored: whether there is a row of transactions_current with its id.
    """

    numbers: np.ndarray
    sent: np.ndarray
    confirmed: np.ndarray
    refused: np.ndarray
    altered: np.ndarray
    stored: np.ndarray

    @classmethod
    def of(cls, plan: Plan, sent: int, rejections: dict[int, int]) -> "_Malformed":
        """Return those of a run, none of them found yet."""
        chunks = [originals(plan, numbers) for numbers in _chunks(sent)] if plan.malformed_share else []
        chunks = [numbers[is_malformed(plan, numbers)] for numbers in chunks]
        numbers, sendings = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *chunks]), return_counts=True)
        rejected = np.array([rejections.get(number, 0) for number in numbers.tolist()], dtype=np.int64)
        none = np.zeros_like(numbers)
        return cls(numbers, sendings, sendings - rejected, none, none.copy(), none.astype(bool))

    @property
    def lost(self) -> int:
        """Return how many messages that the broker confirmed are nowhere."""
        missing = self.confirmed - self.refused - self.altered
        return int(np.maximum(missing, 0)[~self.stored].sum())

    @property
    def refused_as_planned(self) -> int:
        """Return how many messages are in quarantine as they were sent, at most as often as they were sent."""
        return int(np.minimum(self.refused, self.sent).sum())

    def mark_stored(self, numbers: np.ndarray) -> None:
        """Note malformed messages that became rows of transactions."""
        self.stored[np.searchsorted(self.numbers, numbers)] = True

    def mark_refused(self, numbers: np.ndarray, as_sent: np.ndarray) -> None:
        """Note malformed messages that are in quarantine, and which of them with the bytes sent."""
        places = np.searchsorted(self.numbers, numbers)
        np.add.at(self.refused, places[as_sent], 1)
        np.add.at(self.altered, places[~as_sent], 1)


def _look_into_quarantine(
    client: Client, parameters: dict[str, Any], plan: Plan, settled: np.ndarray, malformed: _Malformed
) -> dict[str, int]:
    """Mark what is in quarantine; return how many messages are, by reason."""
    reasons: Counter[str] = Counter()
    formats = {"raw_message": "bytes"}
    with client.query_column_block_stream(_QUARANTINE, parameters=parameters, column_formats=formats) as blocks:
        for keys, why, messages in blocks:
            reasons.update(why)
            numbers = numbers_of(plan, *halves(list(keys)))
            ours = (numbers >= 0) & (numbers < len(settled))
            settled[numbers[ours]] = True
            places = np.flatnonzero(ours & is_malformed(plan, numbers))
            _, wanted = render(plan, numbers[places])
            pairs = zip(places.tolist(), wanted, strict=True)
            as_sent = np.array([messages[place] == value for place, value in pairs], dtype=bool)
            malformed.mark_refused(numbers[places], as_sent)
    return dict(reasons)


def _accepted(plan: Plan, sent: int, rejections: dict[int, int]) -> np.ndarray:
    """Mark the messages that carry a new, valid transaction of which at least one sending was confirmed."""
    accepted = np.zeros(sent, dtype=bool)
    for numbers in _chunks(sent):
        begins = ~is_duplicate(plan, numbers) & ~_is_new_state(plan, numbers)
        accepted[numbers] = begins & ~is_malformed(plan, numbers)
    if rejections:
        sendings = np.zeros(sent, dtype=np.int64)
        for numbers in _chunks(sent):
            again, copies = np.unique(roots(plan, numbers), return_counts=True)
            sendings[again] += copies
        for number, times in rejections.items():
            if times >= sendings[number]:
                accepted[number] = False
    return accepted


def _is_new_state(plan: Plan, numbers: np.ndarray) -> np.ndarray:
    return is_state(plan, numbers) & ~is_duplicate(plan, numbers)


def _is_newly_overtaken(plan: Plan, numbers: np.ndarray) -> np.ndarray:
    return is_overtaken(plan, numbers) & ~is_duplicate(plan, numbers)


def _newest_states(
    plan: Plan, sent: int, rejections: dict[int, int]
) -> tuple[np.ndarray | None, dict[int, np.ndarray]]:
    """Return which message carried the newest state of the transaction that each one began; None where all have one.

    Also return, by the number of its first message, all states of each transaction with an unconfirmed message: which
    of them arrived, nobody can tell.
    """
    if not plan.state_share:
        return None, {}
    newest = np.arange(sent)
    unsure: dict[int, list[int]] = {number: [number] for number in rejections}
    for numbers in _chunks(sent):
        states = numbers[_is_new_state(plan, numbers)]
        first = roots(plan, states)
        known = np.isin(first, list(rejections))
        for number, state in zip(first[known].tolist(), states[known].tolist(), strict=True):
            unsure[number].append(state)
        # Of two that are not overtaken, the one that was sent later is the newer one.
        newer = ~is_overtaken(plan, states)
        np.maximum.at(newest, first[newer], states[newer])
    return newest, {number: np.array(states) for number, states in unsure.items()}


def _repeated(plan: Plan, sent: int) -> np.ndarray:
    """Mark the messages that a later one repeats."""
    repeated = np.zeros(sent, dtype=bool)
    for numbers in _chunks(sent):
        repeated[originals(plan, numbers[is_duplicate(plan, numbers)])] = True
    return repeated


def _differs(wanted: Contents, columns: list[np.ndarray]) -> np.ndarray:
    """Return which of the wanted contents differ from what is stored in any field."""
    merchant_id, amount, currency, status, created_us, updated_us = columns
    return (
        (wanted.merchant_id != merchant_id)
        | (wanted.amount != amount)
        | (wanted.currency + 1 != currency)
        | (wanted.status + 1 != status)
        | (wanted.created_us != created_us)
        | (wanted.updated_us != updated_us)
    )


def _sent_sums(plan: Plan, expected: np.ndarray) -> dict[str, int]:
    sums = dict.fromkeys(plan.all_currencies, 0)
    for numbers in _chunks(len(expected)):
        chunk = contents(plan, numbers[expected[numbers]])
        for place, currency in enumerate(plan.all_currencies):
            sums[currency] += int(chunk.amount[chunk.currency == place].sum())
    return {currency: total for currency, total in sums.items() if total}


def _stored_sums(client: Client, parameters: dict[str, Any]) -> tuple[dict[str, int], dict[str, int]]:
    money: dict[str, int] = {}
    enrichment: dict[str, int] = {}
    for currency, status, rows, total in client.query(_SUMS, parameters=parameters).result_rows:
        money[currency] = money.get(currency, 0) + int(total * 10_000)
        enrichment[status] = enrichment.get(status, 0) + rows
    return money, enrichment


def _count(which: Callable[[Plan, np.ndarray], np.ndarray], plan: Plan, sent: int) -> int:
    return sum(int(np.count_nonzero(which(plan, numbers))) for numbers in _chunks(sent))


def _chunks(count: int) -> Iterator[np.ndarray]:
    return (np.arange(first, min(first + CHUNK, count)) for first in range(0, count, CHUNK))
