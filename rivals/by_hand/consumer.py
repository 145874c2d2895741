"""A consumer by hand: read a batch, judge and enrich each message in Python, insert, commit the offsets.

Run by ``paystream loadtest rivals``; what each environment variable means is in rivals/README.md.
"""

import json
import os
import re
import signal
import sys
import threading
import time
from bisect import bisect_right
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal
from functools import cache
from multiprocessing import Process
from multiprocessing.connection import wait
from operator import itemgetter
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import clickhouse_connect
import orjson
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from confluent_kafka import Consumer, KafkaException, Message

from paystream.currencies import of_payments

LARGEST_BATCH = 50_000
BATCH_S = 0.1
"""How long a batch is collected, as a block of the Kafka engine is."""

LOOK_AT_DIMENSIONS_EVERY_S = 10
LONGEST_WAIT_S = 5

COLUMNS = [
    "transaction_id", "created_at", "merchant_id", "amount", "currency", "status", "updated_at",
    "merchant_name", "merchant_country", "merchant_category_code", "merchant_snapshot_id",
    "fx_rate", "fx_rate_date", "amount_reporting", "reporting_currency", "fx_snapshot_id", "enrichment_status",
    "kafka_topic", "kafka_partition", "kafka_offset", "kafka_timestamp", "ingested_at",
]  # fmt: skip
REFUSED = [
    "reason", "raw_message", "kafka_key", "kafka_topic", "kafka_partition", "kafka_offset", "kafka_timestamp",
    "quarantined_at",
]  # fmt: skip

ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}").fullmatch
MERCHANT = re.compile(r"[1-9][0-9]{0,9}").fullmatch
AMOUNT = re.compile(r"(0|[1-9][0-9]{0,13})([.][0-9]{1,4})?").fullmatch
AMOUNT_LITERAL = re.compile(rb'"amount"\s*:\s*([0-9][0-9.eE+-]*)').findall
ESCAPED_NAME = re.compile(rb'\\u[^"]*"\s*:').search
TIME = re.compile(
    r"([1-9][0-9]{3}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01]))[Tt ]((?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
    r"|(?:[01][0-9]|2[0-3]):[25]9:60)(?:[.]([0-9]{1,9}))?([Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
).fullmatch
STATUSES = frozenset(("authorized", "captured", "settled", "refunded", "charged_back", "failed"))
FOUR_PLACES = Decimal("0.0001")
EXACT = Context(prec=60)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CURRENCIES = of_payments()

Judged = str | tuple[UUID, int, Decimal, str, str, datetime, datetime]


def judge(raw: bytes, now: datetime) -> Judged:
    """Return the fields of a message, or the reason for which it is refused; the rules are those of
    sql/1_ingest/transactions_parsed_mv.sql."""
    fields = parse(raw)
    if isinstance(fields, str):
        return fields
    transaction_id = text(fields.get("transaction_id"))
    if not ID(transaction_id):
        return refusal("transaction_id", transaction_id)
    merchant = fields.get("merchant_id")
    merchant_id = text(merchant)
    if isinstance(merchant, float) or not MERCHANT(merchant_id) or int(merchant_id) >= 2**32:
        return refusal("merchant_id", merchant_id)
    amount = fields.get("amount")
    amount_text = amount if isinstance(amount, str) else literal(raw, amount)
    if not AMOUNT(amount_text):
        return refusal("amount", text(amount))
    value = Decimal(amount_text)
    if not value:
        return "amount_not_positive"
    currency = text(fields.get("currency"))
    if currency not in CURRENCIES:
        return "currency_unknown" if currency else "currency_missing"
    status = text(fields.get("status"))
    if status not in STATUSES:
        return "status_unknown" if status else "status_missing"
    times = []
    oldest = oldest_allowed(now.year, now.month)
    for name in ("created_at", "updated_at"):
        spelled = text(fields.get(name))
        when = moment(spelled)
        if when is None:
            return refusal(name, spelled)
        if when > now + timedelta(minutes=5):
            return f"{name}_in_future"
        if when < oldest:
            return f"{name}_too_old"
        times.append(when)
    return UUID(transaction_id), int(merchant_id), value, currency, status, *times


def parse(raw: bytes) -> dict[str, Any] | str:
    try:
        fields = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return "not_json"
    if not isinstance(fields, dict):
        return "not_an_object"
    # orjson keeps the last of two fields of one name. A flat message has two quotes a name and two a text, and no more.
    quotes = 2 * len(fields) + 2 * sum(isinstance(value, str) for value in fields.values())
    if raw.count(b'"') != quotes:
        pairs = json.loads(raw, object_pairs_hook=list)
        if len({name for name, _ in pairs}) < len(pairs):
            return "duplicate_field"
    return fields


def text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else orjson.dumps(value).decode()


def literal(raw: bytes, amount: Any) -> str:
    """Return how a message spells an amount that is a number: a double holds 15 digits of the 18 allowed."""
    spelled = set(AMOUNT_LITERAL(raw))
    is_number = isinstance(amount, int | float) and not isinstance(amount, bool)
    if is_number and len(spelled) == 1 and not ESCAPED_NAME(raw):
        [number] = spelled
        if float(number) == float(amount):
            return number.decode()
    return ""


def refusal(field: str, value: str) -> str:
    return f"{field}_malformed" if value else f"{field}_missing"


def moment(spelled: str) -> datetime | None:
    parts = TIME(spelled)
    if parts is None:
        return None
    day, clock, fraction, zone = parts.groups()
    is_leap = clock.endswith("60")
    try:
        when = datetime.fromisoformat(
            f"{day}T{clock[:6]}59{zone}".upper() if is_leap else f"{day}T{clock}{zone}".upper()
        ).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return when + timedelta(seconds=is_leap, microseconds=int((fraction or "").ljust(6, "0")[:6]))


@cache
def oldest_allowed(year: int, month: int) -> datetime:
    return datetime(year - 8, month, 1, tzinfo=UTC)


class Dimensions:
    """Merchants and rates of the newest snapshots, in memory."""

    def __init__(self) -> None:
        self._looked_at = -LOOK_AT_DIMENSIONS_EVERY_S
        self._snapshots: tuple[int, int] = (0, 0)
        self._merchants: dict[int, tuple[str, str, str, int]] = {}
        self._periods: dict[str, list[tuple]] = {}
        self._rates: dict[tuple[str, date], tuple | None] = {}

    def look(self, client: Client) -> None:
        """Load them anew where a snapshot has come, and wait for the first ones."""
        if time.monotonic() - self._looked_at < LOOK_AT_DIMENSIONS_EVERY_S:
            return
        while True:
            snapshots = client.query(
                "SELECT (SELECT max(snapshot_id) FROM merchants), (SELECT max(snapshot_id) FROM fx_rates)"
            ).first_row
            if all(snapshots):
                break
            time.sleep(1)
        if snapshots != self._snapshots:
            merchants = client.query(
                "SELECT merchant_id, merchant_name, country, category_code, snapshot_id FROM merchants"
            ).result_rows
            periods: dict[str, list[tuple]] = {}
            for currency, *period in client.query(
                "SELECT currency, valid_from, valid_to, rate, rate_date, is_latest, reporting_currency, snapshot_id"
                " FROM fx_rate_periods ORDER BY currency, valid_from"
            ).result_rows:
                periods.setdefault(currency, []).append(tuple(period))
            self._merchants = {row[0]: row[1:] for row in merchants}
            self._periods, self._rates, self._snapshots = periods, {}, snapshots
        self._looked_at = time.monotonic()

    def enrich(self, merchant_id: int, amount: Decimal, currency: str, day: date) -> tuple:
        """Return the columns from merchant_name to enrichment_status."""
        merchant = self._merchants.get(merchant_id)
        rate = self._rate(currency, day)
        if rate is None:
            money, status = (None, None, None, "", 0), "fx_pending"
        else:
            value, rate_date, is_latest, reporting_currency, snapshot_id = rate
            converted = EXACT.multiply(amount, value).quantize(FOUR_PLACES, ROUND_HALF_UP, EXACT)
            money = (value, rate_date, converted, reporting_currency, snapshot_id)
            status = "fx_provisional" if is_latest and rate_date < day else "ok"
        if merchant is None:
            return "", "", "", 0, *money, "merchant_pending"
        return *merchant, *money, status

    def _rate(self, currency: str, day: date) -> tuple | None:
        key = (currency, day)
        if key not in self._rates:
            periods = self._periods.get(currency, [])
            place = bisect_right(periods, day, key=itemgetter(0)) - 1
            holds = place >= 0 and day <= periods[place][1]
            self._rates[key] = periods[place][2:] if holds else None
        return self._rates[key]


def store(client: Client, dimensions: Dimensions, messages: list[Message]) -> None:
    """Insert a batch: what is valid into transactions, what is not into quarantine."""
    dimensions.look(client)
    now = datetime.now(UTC)
    now_ms = time.time_ns() // 1_000_000
    rows, refused = [], []
    for message in messages:
        raw = message.value()
        if not raw:
            continue
        place = (message.topic(), message.partition(), message.offset(), message.timestamp()[1])
        judged = judge(raw, now)
        if isinstance(judged, str):
            refused.append((judged, raw, message.key() or b"", *place, now_ms))
            continue
        transaction_id, merchant_id, amount, currency, status, created_at, updated_at = judged
        rows.append((
            transaction_id, micros(created_at), merchant_id, amount, currency, status, micros(updated_at),
            *dimensions.enrich(merchant_id, amount, currency, created_at.date()),
            *place, now_ms,
        ))  # fmt: skip
    # A block may touch 100 monthly partitions, and created_at no more than 97.
    if rows:
        client.insert("transactions", list(zip(*rows, strict=True)), column_names=COLUMNS, column_oriented=True)
    if refused:
        client.insert("quarantine", list(zip(*refused, strict=True)), column_names=REFUSED, column_oriented=True)


def micros(when: datetime) -> int:
    since = when - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def connected() -> Client:
    url = urlsplit(os.environ["RIVAL_CLICKHOUSE_URL"])
    return clickhouse_connect.get_client(
        host=url.hostname,
        port=url.port,
        secure=url.scheme == "https",
        database=os.environ["RIVAL_CLICKHOUSE_DATABASE"],
        username=os.environ["RIVAL_CLICKHOUSE_USER"],
        password=os.environ["RIVAL_CLICKHOUSE_PASSWORD"],
        autogenerate_session_id=False,
        # A profile may have inserts answered before they are stored.
        settings={"async_insert": 0},
    )


def work() -> None:
    """Read until SIGTERM. A batch is tried until it is stored, and committed after that."""
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    consumer = Consumer({
        "bootstrap.servers": os.environ["RIVAL_BROKERS"],
        "group.id": os.environ["RIVAL_GROUP"],
        "auto.offset.reset": "earliest",
        # Stored by hand once the batch is in ClickHouse; librdkafka commits what is stored, once a second.
        "enable.auto.offset.store": False,
        "auto.commit.interval.ms": 1000,
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": 6000,
        "heartbeat.interval.ms": 1000,
        # A batch waits for a ClickHouse that is away; the group must not take its partitions meanwhile.
        "max.poll.interval.ms": 86_400_000,
        # As the Kafka table: the broker gathers, which costs it less and no latency.
        "fetch.min.bytes": 30_000,
        "fetch.wait.max.ms": 20,
        "queued.max.messages.kbytes": 65_536,
    })  # fmt: skip
    consumer.subscribe([os.environ["RIVAL_TOPIC"]])
    client: Client | None = None
    dimensions = Dimensions()
    while not stopping.is_set():
        messages = consumer.consume(LARGEST_BATCH, BATCH_S)
        for message in messages:
            if message.error() and message.error().fatal():
                raise KafkaException(message.error())
        messages = [message for message in messages if not message.error()]
        wait_s = 0.1
        while messages and not stopping.is_set():
            try:
                client = client or connected()
                store(client, dimensions, messages)
                break
            except (ClickHouseError, OSError) as error:
                print(f"ClickHouse: {error}. Trying again in {wait_s:.1f} s.", file=sys.stderr, flush=True)
                client = None
                stopping.wait(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        else:
            continue
        newest = {(message.topic(), message.partition()): message for message in messages}
        for message in newest.values():
            # A partition that went to another member meanwhile is that member's to commit.
            with suppress(KafkaException):
                consumer.store_offsets(message)
    consumer.close()


def main() -> None:
    """Run as many workers as there are cores, and end when one of them ends or SIGTERM comes."""
    workers = [Process(target=work) for _ in range(int(os.environ.get("RIVAL_WORKERS", "2")))]
    for worker in workers:
        worker.start()
    signal.signal(signal.SIGTERM, lambda *_: [worker.terminate() for worker in workers])
    wait([worker.sentinel for worker in workers])
    for worker in workers:
        worker.terminate()
        worker.join()
    sys.exit(max(abs(worker.exitcode or 0) for worker in workers))


if __name__ == "__main__":
    main()
