"""The load test's checker on the real tables: it passes what is right, and counts exactly what was tampered with."""

import os
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import numpy as np
import orjson
import pytest
from ingest import ingest_schema
from payments import message

from paystream.loadtest.canary import QUERY
from paystream.loadtest.checker import Stages, Window, check, stored_ms
from paystream.loadtest.ids import halves
from paystream.loadtest.messages import defects, numbers_of, render
from paystream.loadtest.plan import Plan
from paystream.loadtest.removal import Removed, remove
from paystream.reports.rollup import rebuild

MERCHANTS = list(range(100, 140))
PARTITIONS = 3
BEFORE = 1_000
"""Offset at which the run begins in each partition."""


@pytest.fixture(scope="module")
def ingest(clickhouse_server):
    with ingest_schema(clickhouse_server) as ingest:
        ingest.load_merchants(*((number, f"Merchant {number}", "DE", "5411") for number in MERCHANTS))
        today = datetime.now(UTC).date()
        days = [(today - timedelta(days=ago)).isoformat() for ago in (9, 0)]
        ingest.load_rates(*(rate for day in days for rate in (("EUR", day, "1.1"), ("USD", day, "1"))))
        yield ingest


class StoredRun:
    """A run whose messages went through the real views, and what a reader of the JSON alone expects of it.

    ``distinct`` holds the valid transactions, ``malformed`` the bytes of the others, both by id.
    """

    def __init__(self, ingest, messages=4_000, malformed_share=0.0, **changes):
        self.client = ingest.client
        for table in ("transactions", "quarantine"):
            self.client.command(f"TRUNCATE TABLE {table}")
        self.plan = Plan(
            seed=int.from_bytes(os.urandom(7)),
            rate_per_second=2_000,
            messages=messages,
            duplicate_share=0.05,
            malformed_share=malformed_share,
            canaries_per_second=20,
            merchants=MERCHANTS,
            canary_merchant=MERCHANTS[0],
            currencies={"EUR": 2, "USD": 1},
            statuses={"captured": 1},
            started_us=int(datetime.now(UTC).timestamp() * 1e6),
            **changes,
        )
        self.keys, self.values = render(self.plan, np.arange(messages))
        _, clean = render(replace(self.plan, malformed_share=0.0), np.arange(messages))
        self.distinct, self.malformed = {}, {}
        for key, value, valid in zip(self.keys, self.values, clean, strict=True):
            if value == valid:
                # A state is the newest by its own time, not by when it was sent.
                sent, known = orjson.loads(value), self.distinct.get(key.decode())
                if known is None or sent["updated_at"] > known["updated_at"]:
                    self.distinct[key.decode()] = sent
            else:
                self.malformed[key.decode()] = value
        self.sendings = Counter(key.decode() for key in self.keys)
        self.ends = [BEFORE] * PARTITIONS
        for first in range(0, messages, 700):
            self.deliver(self.keys[first : first + 700], self.values[first : first + 700])

    def deliver(self, keys, values):
        now = datetime.now(UTC)
        rows = []
        for key, value in zip(keys, values, strict=True):
            partition = key[0] % PARTITIONS
            rows.append([value, key, partition, self.ends[partition], now])
            self.ends[partition] += 1
        columns = ["message", "_key", "_partition", "_offset", "_timestamp_ms"]
        self.client.insert("transactions_queue", rows, column_names=columns)

    @property
    def window(self):
        return Window([BEFORE] * PARTITIONS, self.ends, datetime.fromtimestamp(self.plan.started_us / 1e6, UTC))

    def check(self, rejected_keys=(), sent=None, stages=None):
        sent = self.plan.messages if sent is None else sent
        return check(self.client, self.plan, self.window, sent, list(rejected_keys), stages)

    def delete(self, ids):
        listed = ", ".join(f"'{transaction_id}'" for transaction_id in ids)
        self.client.command(f"DELETE FROM transactions WHERE transaction_id IN ({listed})")
        self.client.command(f"DELETE FROM quarantine WHERE kafka_key IN ({listed})")

    def copy(self, original, /, **columns):
        changes = ", ".join(f"{value} AS {name}" for name, value in columns.items())
        # The inner query, since a column of the WHERE clause would mean the changed one.
        summary = self.client.command(
            f"INSERT INTO transactions SELECT * REPLACE ({changes}) FROM"
            f" (SELECT * FROM transactions_current WHERE transaction_id = '{original}')"
        )
        assert summary.written_rows == 1, "nothing was tampered with"

    def sums(self):
        totals: dict[str, Decimal] = {}
        for sent in self.distinct.values():
            totals[sent["currency"]] = totals.get(sent["currency"], Decimal(0)) + Decimal(sent["amount"])
        return totals


@pytest.fixture
def run(ingest):
    return StoredRun(ingest)


@pytest.fixture
def poisoned(ingest):
    return StoredRun(ingest, malformed_share=0.2)


def faults(checked):
    names = ("lost", "duplicated", "unexpected", "altered", "quarantined")
    return {name: count for name in names if (count := getattr(checked, name))} | (
        {"wrong_sums": checked.wrong_sums} if checked.wrong_sums else {}
    )


def test_a_run_can_be_taken_out_and_nothing_else_goes(poisoned, clickhouse_server, tmp_path):
    client, plan = poisoned.client, poisoned.plan
    database = clickhouse_server.model_copy(update={"clickhouse_database": client.database, "home": tmp_path})
    others = [message(merchant_id=MERCHANTS[1]) for _ in range(5)]
    poisoned.deliver([orjson.loads(message)["transaction_id"].encode() for message in others], others)
    poisoned.deliver([b"no uuid", b"-"], [b"{", b"nothing"])

    def stored():
        return (
            client.command("SELECT uniqExact(transaction_id) FROM transactions"),
            client.command("SELECT count() FROM quarantine"),
            client.command("SELECT sum(transactions) FROM report_merchant_by_day"),
        )

    rebuild(database)
    before = (len(poisoned.distinct) + 5, sum(poisoned.sendings[key] for key in poisoned.malformed) + 2)
    assert stored() == (*before, before[0])
    removed = remove(database, plan.seed, plan.messages, dry_run=True)
    assert (removed.payments, removed.refused) == (before[0] - 5, before[1] - 2)
    assert stored() == (*before, before[0])
    assert remove(database, plan.seed + 1, plan.messages).payments == 0
    assert stored() == (*before, before[0])
    assert remove(database, plan.seed, plan.messages) == removed
    assert stored() == (5, 2, 5)
    # Again, as after a kill: nothing is left to go.
    assert remove(database, plan.seed, plan.messages) == Removed(0, 0, 0)
    assert stored() == (5, 2, 5)
    assert client.command("SELECT count() FROM system.tables WHERE name LIKE 'loadtest_staging_%'") == 0


def test_an_untouched_run_has_no_fault_and_exact_sums(run):
    checked = run.check()
    assert faults(checked) == {}
    assert checked.accepted == checked.stored == len(run.distinct)
    assert checked.duplicate_messages == run.plan.messages - len(run.distinct) > 0
    assert checked.money == {
        currency: (int(total * 10_000), int(total * 10_000)) for currency, total in run.sums().items()
    }
    assert checked.enrichment == {"ok": len(run.distinct)}
    assert checked.foreign_messages == 0
    assert (checked.recovered, checked.malformed_messages, checked.refused_as_planned) == (0, 0, 0)


def test_duplicates_that_no_merge_has_removed_yet_are_in_the_table_and_not_visible(ingest):
    ingest.client.command("SYSTEM STOP MERGES transactions")
    try:
        run = StoredRun(ingest)
        checked = run.check()
        with_copies = run.client.query("SELECT count() FROM transactions").result_rows[0][0]
    finally:
        ingest.client.command("SYSTEM START MERGES transactions")
    assert checked.rows_before_final == with_copies > len(run.distinct)
    assert checked.duplicate_rows_before_final == with_copies - len(run.distinct)
    assert (checked.stored, checked.duplicated) == (len(run.distinct), 0)


def test_missing_rows_are_lost_and_their_money_is_missed(run):
    gone = list(run.distinct)[10:17]
    run.delete(gone)
    checked = run.check()
    assert checked.lost == 7
    missing = {currency: Decimal(0) for currency in run.sums()}
    for transaction_id in gone:
        missing[run.distinct[transaction_id]["currency"]] += Decimal(run.distinct[transaction_id]["amount"])
    for currency, (sent, stored) in checked.money.items():
        assert sent - stored == missing[currency] * 10_000
    assert faults(checked) == {"lost": 7, "wrong_sums": [c for c in sorted(missing) if missing[c]]}


def test_a_run_of_which_nothing_arrived_is_lost_altogether(run):
    run.client.command("TRUNCATE TABLE transactions")
    checked = run.check()
    assert (checked.lost, checked.stored) == (len(run.distinct), 0)


def test_a_transaction_that_final_does_not_unite_is_counted_twice(run):
    # The same transaction under another merchant has another sorting key.
    ids = list(run.distinct)[:3]
    for transaction_id in ids:
        run.copy(transaction_id, merchant_id="toUInt32(999)")
    checked = run.check()
    assert (checked.duplicated, checked.altered, checked.lost, checked.unexpected) == (3, 3, 0, 0)
    assert checked.stored == len(run.distinct) + 3


def test_a_row_that_nobody_sent_is_unexpected(run):
    some = next(iter(run.distinct))
    run.copy(some, transaction_id="generateUUIDv4()")
    run.copy(some, transaction_id="generateUUIDv4()", created_at="created_at - INTERVAL 40 DAY")
    checked = run.check()
    assert (checked.unexpected, checked.lost, checked.duplicated, checked.altered) == (2, 0, 0, 0)


def test_rows_of_other_offsets_or_earlier_topics_are_none_of_this_run(run):
    some = next(iter(run.distinct))
    run.copy(some, transaction_id="generateUUIDv4()", kafka_offset=f"toUInt64({BEFORE - 1})")
    run.copy(some, transaction_id="generateUUIDv4()", kafka_offset=f"toUInt64({max(run.ends)})")
    run.copy(some, transaction_id="generateUUIDv4()", ingested_at="ingested_at - INTERVAL 1 HOUR")
    run.copy(some, transaction_id="generateUUIDv4()", kafka_partition=f"toUInt32({PARTITIONS})")
    assert faults(run.check()) == {}


@pytest.mark.parametrize("amount", ["amount + toDecimal64('0.0001', 4)", "amount * 2"])
def test_wrong_money_is_seen_in_the_row_and_in_the_sum(run, amount):
    some, message = next(iter(run.distinct.items()))
    run.copy(some, amount=f"toDecimal64({amount}, 4)", enrichment_revision="toUInt16(1)")
    checked = run.check()
    assert faults(checked) == {"altered": 1, "wrong_sums": [message["currency"]]}


@pytest.mark.parametrize(
    "change",
    [{"status": "'failed'"}, {"updated_at": "updated_at + toIntervalMicrosecond(1)"}, {"currency": "'CHF'"}],
    ids=lambda change: next(iter(change)),
)
def test_any_other_field_that_is_not_as_sent_is_seen(run, change):
    run.copy(next(iter(run.distinct)), **change, enrichment_revision="toUInt16(1)")
    assert run.check().altered == 1


def test_amounts_swapped_between_two_transactions_are_seen_though_the_sum_is_right(run):
    first, second = [key for key, message in run.distinct.items() if message["currency"] == "EUR"][:2]
    assert run.distinct[first]["amount"] != run.distinct[second]["amount"]
    run.copy(first, amount=f"toDecimal64('{run.distinct[second]['amount']}', 4)", enrichment_revision="toUInt16(1)")
    run.copy(second, amount=f"toDecimal64('{run.distinct[first]['amount']}', 4)", enrichment_revision="toUInt16(1)")
    assert faults(run.check()) == {"altered": 2}


def test_a_refused_message_is_quarantined_and_not_lost(run):
    some, message = next(iter(run.distinct.items()))
    run.delete([some])
    run.deliver([some.encode()], [orjson.dumps(message | {"currency": "???"})])
    checked = run.check()
    assert (checked.lost, checked.quarantined, checked.quarantine_reasons) == (0, 1, {"currency_unknown": 1})
    assert checked.wrong_sums == [message["currency"]]
    assert checked.foreign_messages == 1


def test_what_the_broker_did_not_confirm_is_not_lost_unless_another_sending_was_confirmed(run):
    sendings = {key: run.keys.count(key.encode()) for key in list(run.distinct)[:2_000]}
    once = [key for key, count in sendings.items() if count == 1][:4]
    [twice] = [key for key, count in sendings.items() if count == 2][:1]
    run.delete([*once[:3], twice])
    # once[3] was not confirmed, and came through all the same.
    checked = run.check(rejected_keys=[*once, twice])
    assert checked.accepted == len(run.distinct) - 4
    assert checked.lost == 1, "one of the two sendings was confirmed"
    assert (checked.unexpected, checked.recovered) == (0, 1)
    checked = run.check(rejected_keys=[*once, twice, twice])
    assert (checked.accepted, checked.lost, checked.recovered) == (len(run.distinct) - 5, 0, 1)
    assert checked.wrong_sums == []


def test_of_a_run_cut_short_only_what_was_sent_counts(run):
    sent = 2_500
    never_sent = {key.decode() for key in run.keys[sent:]} - {key.decode() for key in run.keys[:sent]}
    run.delete(never_sent)
    checked = run.check(sent=sent)
    assert checked.lost == 0
    assert checked.accepted == checked.stored == len(run.distinct) - len(never_sent)
    assert run.check().lost == len(never_sent)


def test_the_probe_reads_by_the_sorting_key(run):
    plan = run.client.query(
        f"EXPLAIN indexes = 1 {QUERY}",
        parameters={
            "days": [datetime.now(UTC).date()],
            "merchant_id": MERCHANTS[0],
            "pending": list(run.distinct)[:5],
            "earliest": datetime.now(UTC) - timedelta(hours=1),
            "latest": datetime.now(UTC),
        },
    ).result_rows
    text = "\n".join(line for (line,) in plan)
    # Parts of other times are left out, and within a part all but the merchant's granules.
    assert "created_at in (-Inf" in text[text.index("Min-Max") : text.index("PrimaryKey")]
    primary_key = text[text.index("PrimaryKey") :]
    assert "toDate(created_at)" in primary_key
    assert "merchant_id in [100, 100]" in primary_key


# By hand from the topic's contract, not from the SQL.
REFUSED_FOR = {
    "not JSON": "not_json",
    "truncated": "not_json",
    "invalid UTF-8": "not_json",
    "array": "not_an_object",
    "two objects": "not_json",
    "JSON string": "not_an_object",
    "nulls": "transaction_id_missing",
    "field missing": "amount_missing",
    "field twice": "duplicate_field",
    "wrong type": "merchant_id_malformed",
    "NaN": "not_json",
    "amount 1e400": "not_json",
    "merchant 2^64": "merchant_id_malformed",
    "negative amount": "amount_malformed",
    "five decimals": "amount_malformed",
    "unknown currency": "currency_unknown",
    "unknown status": "status_unknown",
    "year 0": "created_at_malformed",
    "year 9999": "created_at_in_future",
    "object as id": "transaction_id_malformed",
    "binary": "not_json",
}


def test_each_defect_is_refused_for_its_reason(poisoned):
    rows = poisoned.client.query("SELECT kafka_key, reason FROM quarantine FINAL").result_rows
    kinds = defects(poisoned.plan, numbers_of(poisoned.plan, *halves([key for key, _ in rows])))
    reasons = {(kind, reason) for kind, (_, reason) in zip(kinds, rows, strict=True)}
    assert reasons == set(REFUSED_FOR.items())


def test_malformed_messages_are_refused_as_planned_with_exactly_their_bytes(poisoned):
    sent = sum(poisoned.sendings[key] for key in poisoned.malformed)
    assert sent > len(poisoned.malformed) > 600, "some are sent twice"
    checked = poisoned.check()
    assert faults(checked) == {}
    assert checked.malformed_messages == checked.refused_as_planned == sent
    assert sum(checked.quarantine_reasons.values()) == sent
    assert checked.accepted == checked.stored == len(poisoned.distinct)
    assert {currency: stored for currency, (_, stored) in checked.money.items()} == {
        currency: total * 10_000 for currency, total in poisoned.sums().items()
    }


def test_a_malformed_message_that_is_not_in_quarantine_is_lost(poisoned):
    once = [key for key in poisoned.malformed if poisoned.sendings[key] == 1][:3]
    twice = next(key for key in poisoned.malformed if poisoned.sendings[key] == 2)
    poisoned.delete(once)
    poisoned.client.command(
        "DELETE FROM quarantine WHERE (kafka_partition, kafka_offset) IN"
        f" (SELECT kafka_partition, min(kafka_offset) FROM quarantine WHERE kafka_key = '{twice}' GROUP BY ALL)"
    )
    checked = poisoned.check()
    assert faults(checked) == {"lost": 4}, "each message counts, also the one whose duplicate is there"
    assert checked.refused_as_planned == checked.malformed_messages - 4


def test_a_malformed_message_that_the_broker_did_not_confirm_may_be_missing(poisoned):
    gone, refused, twice = [
        *[key for key in poisoned.malformed if poisoned.sendings[key] == 1][:2],
        next(key for key in poisoned.malformed if poisoned.sendings[key] == 2),
    ]
    poisoned.delete([gone, twice])
    checked = poisoned.check(rejected_keys=[gone, refused, twice])
    assert faults(checked) == {"lost": 1}, "one of the two sendings was confirmed"
    assert checked.recovered == 0
    assert faults(poisoned.check(rejected_keys=[gone, refused, twice, twice])) == {}


@pytest.mark.parametrize("also_in_quarantine", [True, False])
def test_a_malformed_message_that_is_stored_is_unexpected(poisoned, also_in_quarantine):
    malformed = next(iter(poisoned.malformed))
    if not also_in_quarantine:
        poisoned.delete([malformed])
    some = next(iter(poisoned.distinct))
    poisoned.copy(some, transaction_id=f"toUUID('{malformed}')")
    checked = poisoned.check()
    assert faults(checked) == {"unexpected": 1, "wrong_sums": [poisoned.distinct[some]["currency"]]}


@pytest.mark.parametrize("changed", ["substring(raw_message, 2)", "concat(raw_message, ' ')", "'?'", "''"])
def test_a_malformed_message_whose_bytes_in_quarantine_are_others_is_altered(poisoned, changed):
    malformed = next(key for key in poisoned.malformed if poisoned.sendings[key] == 1)
    poisoned.client.command(
        f"INSERT INTO quarantine SELECT * REPLACE ({changed} AS raw_message, quarantined_at + 1 AS quarantined_at)"
        f" FROM quarantine WHERE kafka_key = '{malformed}'"
    )
    checked = poisoned.check()
    assert faults(checked) == {"altered": 1}
    assert checked.refused_as_planned == checked.malformed_messages - 1


def test_a_valid_message_in_quarantine_is_told_from_the_malformed_ones(poisoned):
    some, message = next(iter(poisoned.distinct.items()))
    poisoned.delete([some])
    poisoned.deliver([some.encode()], [orjson.dumps(message | {"status": "???"})])
    checked = poisoned.check()
    assert faults(checked) == {"quarantined": 1, "wrong_sums": [message["currency"]]}
    assert checked.refused_as_planned == checked.malformed_messages


def test_a_malformed_message_refused_more_often_than_it_was_sent_was_not_planned(poisoned):
    key, value = next(iter(poisoned.malformed.items()))
    poisoned.deliver([key.encode()], [value])
    checked = poisoned.check()
    assert (faults(checked), checked.foreign_messages) == ({"quarantined": 1}, 1)
    assert checked.refused_as_planned == checked.malformed_messages


def test_of_a_poisoned_run_cut_short_only_what_was_sent_counts(poisoned):
    sent = 2_500
    before = Counter(key.decode() for key in poisoned.keys[:sent])
    poisoned.delete(key for key in poisoned.sendings if before[key] != poisoned.sendings[key])
    checked = poisoned.check(sent=sent)
    planned = sum(before[key] for key in poisoned.malformed)
    gone = [key for key in before if before[key] != poisoned.sendings[key]]
    assert checked.malformed_messages == planned
    assert checked.lost == sum(before[key] if key in poisoned.malformed else 1 for key in gone) > 0
    assert (checked.quarantined, checked.unexpected, checked.altered) == (0, 0, 0)


MESSY = {
    "late_share": 0.1,
    "late_by_us": 3 * 86_400_000_000,
    "state_share": 0.3,
    "out_of_order_share": 0.5,
    "unknown_merchants": [4_000_000_000, 4_000_000_001],
    "unknown_merchant_share": 0.05,
    "pending_currencies": ["KES", "XOF"],
    "pending_currency_share": 0.05,
    "payload_bytes": 300,
    "second_rates": [500, 0, 2_500, 1_000],
    "zipf_exponent": 1.0,
}


@pytest.fixture
def messy(ingest):
    return StoredRun(ingest, **MESSY)


def states_of(run):
    """Return the distinct messages of each transaction, in the order in which they were sent."""
    states = {}
    for key, value in dict.fromkeys(zip(run.keys, run.values, strict=True)):
        states.setdefault(key.decode(), []).append(orjson.loads(value))
    return states


def test_a_messy_run_has_no_fault_and_what_waits_is_what_should(messy):
    checked = messy.check()
    assert faults(checked) == {}
    assert checked.accepted == checked.stored == len(messy.distinct)
    unknown = [message for message in messy.distinct.values() if message["merchant_id"] >= 4_000_000_000]
    waiting = [
        message
        for message in messy.distinct.values()
        if message not in unknown and message["currency"] in ("KES", "XOF")
    ]
    assert len(unknown) > 50 < len(waiting)
    assert checked.enrichment == {
        "ok": len(messy.distinct) - len(unknown) - len(waiting),
        "merchant_pending": len(unknown),
        "fx_pending": len(waiting),
    }
    assert (checked.pending, checked.pending_as_planned) == (0, len(unknown) + len(waiting))
    assert {currency: stored for currency, (_, stored) in checked.money.items()} == {
        currency: total * 10_000 for currency, total in messy.sums().items()
    }
    states = states_of(messy)
    assert checked.state_messages == sum(len(told) - 1 for told in states.values()) > 800
    overtaken = sum(state["updated_at"] < told[0]["updated_at"] for told in states.values() for state in told[1:])
    assert checked.overtaken_messages == overtaken > 300
    assert checked.duplicate_messages == 4_000 - sum(map(len, states.values())) > 100


def test_the_newest_state_is_stored_with_the_merchant_and_created_at_of_the_first(messy):
    rows = messy.client.query(
        "SELECT toString(transaction_id), merchant_id, formatDateTime(created_at, '%Y-%m-%dT%H:%i:%S.%fZ', 'UTC'),"
        " formatDateTime(updated_at, '%Y-%m-%dT%H:%i:%S.%fZ', 'UTC'), status FROM transactions_current"
    ).result_rows
    assert {row[0]: row[1:] for row in rows} == {
        key: (message["merchant_id"], message["created_at"], message["updated_at"], message["status"])
        for key, message in messy.distinct.items()
    }


def test_an_older_state_in_the_place_of_the_newest_is_altered(messy):
    told = {key: states for key, states in states_of(messy).items() if len(states) > 1}
    [early, late] = [
        next(key for key, states in told.items() if (states[1]["updated_at"] > states[0]["updated_at"]) is in_order)
        for in_order in (True, False)
    ]
    messy.delete([early, late])
    # The state that should have been beaten is all that there is.
    for key in (early, late):
        oldest = min(told[key], key=lambda state: state["updated_at"])
        messy.deliver([key.encode()], [orjson.dumps(oldest)])
    checked = messy.check()
    assert faults(checked) == {"altered": 2}
    # Had the broker confirmed only one of the messages, nobody could tell which.
    assert faults(messy.check(rejected_keys=[early, late])) == {}


def test_a_state_that_nobody_sent_is_altered_also_where_not_all_was_confirmed(messy):
    key, told = next((key, states) for key, states in states_of(messy).items() if len(states) > 1)
    messy.copy(key, updated_at="updated_at + toIntervalMicrosecond(1)", enrichment_revision="toUInt16(1)")
    assert faults(messy.check()) == {"altered": 1}
    assert faults(messy.check(rejected_keys=[key] * (len(told) - 1))) == {"altered": 1}


def test_a_transaction_is_lost_when_no_state_of_it_is_stored(messy):
    gone = [key for key, states in states_of(messy).items() if len(states) > 1][:3]
    sendings = messy.sendings[gone[0]]
    messy.delete(gone)
    assert messy.check().lost == 3
    assert messy.check(rejected_keys=gone[:1] * sendings).lost == 2
    assert messy.check(rejected_keys=gone[:1] * (sendings - 1)).lost == 3


@pytest.mark.parametrize(
    ("wrong", "of"),
    [
        ("merchant_pending", lambda message: message["merchant_id"] < 1_000),
        ("fx_pending", lambda message: message["currency"] == "EUR"),
    ],
    ids=["merchant", "rate"],
)
def test_a_row_that_waits_for_what_is_loaded_is_pending_and_not_as_planned(messy, wrong, of):
    key = next(
        key
        for key, message in messy.distinct.items()
        if of(message) and message["merchant_id"] < 1_000 and message["currency"] == "EUR"
    )
    planned = messy.check().pending_as_planned
    messy.copy(key, enrichment_status=f"'{wrong}'", enrichment_revision="toUInt16(1)")
    checked = messy.check()
    assert (checked.pending, checked.pending_as_planned, faults(checked)) == (1, planned, {})


def test_a_messy_run_cut_short_expects_the_newest_of_what_was_sent(messy):
    sent = 2_500
    for table in ("transactions", "quarantine"):
        messy.client.command(f"TRUNCATE TABLE {table}")
    messy.ends = [BEFORE] * PARTITIONS
    messy.deliver(messy.keys[:sent], messy.values[:sent])
    checked = messy.check(sent=sent)
    assert faults(checked) == {}
    assert checked.stored == len({*messy.keys[:sent]})


def test_malformed_messages_among_states_are_refused_as_planned(ingest):
    """Told apart by the engine's own judgement, since another share of malformed messages is another run."""
    run = StoredRun(ingest, **MESSY | {"state_share": 0.0, "out_of_order_share": 0.0}, malformed_share=0.1)
    assert faults(run.check()) == {}
    with_states = StoredRun(ingest, **MESSY, malformed_share=0.1)
    checked = with_states.check()
    assert faults(checked) == {}
    [[refused]] = with_states.client.query("SELECT count() FROM quarantine FINAL").result_rows
    assert checked.malformed_messages == checked.refused_as_planned == refused > 200
    [[rows]] = with_states.client.query("SELECT uniqExact(transaction_id) FROM transactions").result_rows
    assert checked.accepted == checked.stored == rows


def stamp(run, kafka, stored):
    """Give all rows other times: SQL expressions of the row."""
    run.client.command(
        f"ALTER TABLE transactions UPDATE kafka_timestamp = {kafka}, ingested_at = {stored} WHERE 1",
        settings={"mutations_sync": 1},
    )


def test_stages_are_told_by_the_rows_own_times(run):
    """Every payment 30 ms after it was made, and stored 200 or, one of 16, 900 ms later."""
    rare = "startsWith(toString(transaction_id), 'a')"
    kafka = "fromUnixTimestamp64Milli(intDiv(toUnixTimestamp64Micro(created_at), 1000) + 30)"
    stamp(run, kafka, f"kafka_timestamp + toIntervalMillisecond(if({rare}, 900, 200))")
    # The expression on the right is of the row before the update.
    stamp(run, "kafka_timestamp", f"kafka_timestamp + toIntervalMillisecond(if({rare}, 900, 200))")
    stages = Stages()
    run.check(stages=stages)

    ids = list(run.distinct)
    rare_share = sum(transaction_id.startswith("a") for transaction_id in ids) / len(ids)
    assert 0.05 < rare_share < 0.08
    assert stages.kafka_to_stored.counts.sum() == len(ids)
    assert [stages.kafka_to_stored.percentile_s(percent) for percent in (50, 90, 95, 100)] == [0.2, 0.2, 0.9, 0.9]
    # The Kafka timestamp is whole milliseconds, created_at is not: 29 to 30 ms, rounded up or the longest itself.
    assert 0.029 < stages.created_to_kafka.percentile_s(0.1) <= stages.created_to_kafka.percentile_s(100) <= 0.03
    assert stages.created_to_stored.percentile_s(50) == 0.23
    assert 0.929 < stages.created_to_stored.percentile_s(99.9) <= 0.93
    once = [transaction_id for transaction_id in ids if run.sendings[transaction_id] == 1]
    assert stages.created_to_stored.counts.sum() == len(once) < len(ids)


def test_rows_that_do_not_tell_when_they_were_due_count_in_no_stage_from_then_on(ingest):
    untidy = StoredRun(ingest, late_share=0.2, late_by_us=86_400_000_000, state_share=0.2, out_of_order_share=0.5)
    stages = Stages()
    untidy.check(stages=stages)
    prompt = [
        message
        for key, message in untidy.distinct.items()
        if untidy.sendings[key] == 1
        and message["created_at"] == message["updated_at"]
        and datetime.fromisoformat(message["created_at"]).timestamp() * 1e6 >= untidy.plan.started_us
    ]
    assert 0 < stages.created_to_kafka.counts.sum() == len(prompt) < len(untidy.distinct)
    assert stages.kafka_to_stored.counts.sum() == len(untidy.distinct)


def test_canaries_are_found_by_their_merchant_with_the_first_time_they_were_stored(run):
    of_merchant = {key for key, message in run.distinct.items() if message["merchant_id"] == run.plan.canary_merchant}
    wanted = {UUID(key) for key in list(of_merchant)[:-3]}
    run.client.command("OPTIMIZE TABLE transactions FINAL")  # else a merge may take a duplicate away in between
    known = stored_ms(run.client, run.window, run.plan.canary_merchant, wanted)
    assert known.keys() == wanted and len(wanted) > 30
    again = next(iter(known))
    run.copy(again, ingested_at="ingested_at + INTERVAL 1 HOUR")
    assert stored_ms(run.client, run.window, run.plan.canary_merchant, wanted) == known
