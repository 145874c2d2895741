"""Late merchants and late rates, repaired while payments keep arriving: how long it takes, and what readers notice."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import count

from clickhouse_connect.driver.client import Client

from paystream.clickhouse import connect
from paystream.errors import CheckFailed
from paystream.kafka import client_config
from paystream.loader.dimension import FX, MERCHANTS
from paystream.loader.refresh import refresh
from paystream.loader.repair import preview, repair
from paystream.loader.source import Source
from paystream.loadtest.backlog import send
from paystream.loadtest.checker import Found, Window, check
from paystream.loadtest.fault_run import MERCHANTS_COUNT, stop_generator
from paystream.loadtest.generator import Generator
from paystream.loadtest.plan import Plan, last_intended_us
from paystream.loadtest.probe import Probe
from paystream.loadtest.run import LEAD_S, make_plan, wait_until_quiet
from paystream.loadtest.topic import Topic, open_topic
from paystream.loadtest.workload import Thresholds, Workload
from paystream.percentiles import percentile
from paystream.settings import Settings

DAYS = 10
"""Late payments are spread over so many days, today's among them."""

LATE_MERCHANTS = 20_000
LONGEST_S = 3600
WAIT_S = 120

_WAITING = """
SELECT count()
FROM transactions_current
WHERE enrichment_status != 'ok' AND toDate(created_at) BETWEEN {first:Date} AND {last:Date}
"""


@dataclass(frozen=True)
class RepairRun:
    """What a repair under load took.

    Attributes:
        late: payments that arrived before their merchant and their rate.
        repaired: rows that were written again, those that arrived meanwhile included.
        seconds: from the start of the repair to its end.
        p95_before_s: of payments made before the repair, intended send time to a reader's answer; ``p95_during_s`` of
            those made while it ran.
        left: payments still pending or provisional afterwards.
        found: what became of the payments that arrived meanwhile.
    """

    late: int
    repaired: int
    seconds: float
    p95_before_s: float
    p95_during_s: float
    canaries_during: int
    left: int
    found: Found


def repair_under_load(
    settings: Settings, late: int, rate_per_second: int, report: Callable[[str], None], steady_s: float = 10
) -> RepairRun:
    """Store late payments, keep sending others, load what was missing, and repair.

    Args:
        settings: a stack from ``fault_run.prepared_stack`` that nobody else uses.
        late: how many payments of unknown merchants, on days without a quote.
        rate_per_second: of the payments that keep arriving.
        report: called with a few words on what is going on.
        steady_s: for how long to watch before the repair.

    Raises:
        CheckFailed: the pipeline does not come to rest.
    """
    with connect(settings) as client, open_topic(settings) as topic:
        plan = make_plan(client, _workload(rate_per_second))
        wait_until_quiet(settings, topic, plan, lambda _: None)
        report(f"sending {late:,} payments of unknown merchants")
        days = _store_late(settings, client, topic, plan, late)
        first = topic.ends()
        with Generator(plan, client_config(settings), settings.kafka_topic) as generator:
            generator.wait_ready()
            [[began_at]] = client.query("SELECT now64(3, 'UTC')").result_rows
            plan = replace(plan, started_us=int((time.time() + LEAD_S) * 1e6))
            with Probe(settings, plan) as probe:
                generator.start(plan.started_us)
                report("watching payments arrive")
                steady_until_us = plan.started_us + int(steady_s * 1e6)
                _wait(lambda: probe.has_seen_since(steady_until_us), "payments could not be read")
                report("loading merchants and rates")
                _load_missing(settings, plan, days)
                report("repairing")
                began_us = time.time_ns() // 1000
                done = repair(settings)
                ended_us = time.time_ns() // 1000
                sent = stop_generator(generator)
                end = topic.ends()
                _wait(lambda: topic.has_read_to(end), "not all was read")
                probe.await_all(10, last_intended_us(plan, sent.sent))
        report("checking")
        # Payments that arrived between the loading and the repair take one more.
        repair(settings)
        left = _waiting(client, days)
        payments = check(client, plan, Window(first, end, began_at), sent.sent, sent.rejected_keys)
    if preview(settings, every_day=True):
        raise CheckFailed("Repair: rows are left that would be enriched otherwise today.")
    during = _latencies_s(probe, began_us, ended_us)
    return RepairRun(
        late=late,
        repaired=done.rows,
        seconds=(ended_us - began_us) / 1e6,
        p95_before_s=percentile(_latencies_s(probe, 0, steady_until_us), 95),
        p95_during_s=percentile(during, 95),
        canaries_during=len(during),
        left=left,
        found=payments,
    )


def _workload(rate_per_second: int) -> Workload:
    return Workload(
        description="payments that arrive meanwhile",
        rate_per_second=rate_per_second,
        duration_seconds=LONGEST_S,
        thresholds=Thresholds(p95_seconds=WAIT_S),
    )


def _store_late(settings: Settings, client: Client, topic: Topic, plan: Plan, late: int) -> list[date]:
    """Send late payments, make sure that all of them wait for their merchants, and return their days."""
    days = _send_late(settings, plan, late)
    _wait(lambda: topic.lag() == 0, "late payments were not read")
    if (waiting := _waiting(client, days)) != late:
        raise CheckFailed(f"Late payments: {waiting:,} of {late:,} wait for a merchant. This benchmark is broken.")
    return days


def _waiting(client: Client, days: list[date]) -> int:
    return client.query(_WAITING, parameters={"first": days[-1], "last": days[0]}).result_rows[0][0]


def _latencies_s(probe: Probe, first_us: int, last_us: int) -> list[float]:
    """Return the latencies of the canaries seen that were due between two moments."""
    return [sighting.latency_s for sighting in probe.sightings if first_us <= sighting.intended_us <= last_us]


def _send_late(settings: Settings, plan: Plan, late: int) -> list[date]:
    """Send payments of unknown merchants, and return their days, newest first."""
    merchants = list(range(MERCHANTS_COUNT + 1, MERCHANTS_COUNT + 1 + LATE_MERCHANTS))
    days = [datetime.now(UTC).date() - timedelta(days) for days in range(DAYS)]
    for number, day in enumerate(days):
        share = late // DAYS + (number < late % DAYS)
        # All in the first seconds of the day: no payment may lie in the future.
        started = datetime(day.year, day.month, day.day, tzinfo=UTC)
        of_day = replace(
            plan,
            seed=plan.seed ^ (number + 1),
            merchants=merchants,
            canary_merchant=merchants[0],
            messages=share,
            rate_per_second=1_000_000,
            duplicate_share=0.0,
            malformed_share=0.0,
            started_us=int(started.timestamp() * 1e6),
        )
        send(settings, of_day, "Late payments")
    return days


def _load_missing(settings: Settings, plan: Plan, days: list[date]) -> None:
    """Load the merchants that were missing, and a quote of each currency for each of the days."""
    ids = list(range(1, MERCHANTS_COUNT + LATE_MERCHANTS + 1))
    merchants = {
        "merchant_id": ids,
        "merchant_name": [f"Merchant {number}" for number in ids],
        "country": ["DE"] * len(ids),
        "category_code": ["5411"] * len(ids),
    }
    refresh(settings, MERCHANTS, Source("Merchants", "loadtest", repr(ids[-1]).encode()), merchants)
    quotes = [(currency, day) for currency in plan.currencies for day in days]
    numbers = count(1)
    rates = {
        "currency": [currency for currency, _ in quotes],
        "rate_date": [day for _, day in quotes],
        "rate": [
            Decimal(1) if currency == settings.reporting_currency else Decimal(next(numbers)) / 100
            for currency, _ in quotes
        ],
        "reporting_currency": [settings.reporting_currency] * len(quotes),
    }
    refresh(settings, FX, Source("Rates", "loadtest", repr(quotes).encode()), rates, merge=True, forced=("rate-move",))


def _wait(condition: Callable[[], bool], otherwise: str, seconds: float = WAIT_S) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise CheckFailed(f"Repair under load: {otherwise} within {seconds:.0f} s. Look at system.kafka_consumers.")
        time.sleep(0.05)
