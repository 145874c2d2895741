"""One fault: send payments, inflict it, mend it, wait until all is read, and check what became of every payment."""

import contextlib
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from clickhouse_connect.driver.client import Client

from paystream.audit.reconcile import audit
from paystream.clickhouse import connect
from paystream.devstack import stack
from paystream.errors import CheckFailed
from paystream.kafka import client_config
from paystream.loader import sample
from paystream.loader.dimension import FX, MERCHANTS
from paystream.loader.fx import read_fx
from paystream.loader.merchants import read_merchants
from paystream.loader.refresh import refresh
from paystream.loader.source import read_source
from paystream.loadtest.canary import Sighting
from paystream.loadtest.checker import Found, Window
from paystream.loadtest.faults import Fault, Restart, Scene
from paystream.loadtest.generator import DELIVERY_TIMEOUT_S, Generator, Sent
from paystream.loadtest.plan import Plan, last_intended_us
from paystream.loadtest.probe import Probe, Seen
from paystream.loadtest.run import LEAD_S, check_sets, make_plan, wait_until_quiet
from paystream.loadtest.topic import Topic, open_topic
from paystream.loadtest.workload import Thresholds, Workload
from paystream.migrations import runner
from paystream.nodes import find
from paystream.settings import Settings

LONGEST_S = 6 * 3600
"""A fault ends once it is mended; this only bounds the memory of the run."""

DUPLICATE_SHARE = 0.01
DRAIN_S = 180

MANY_KILLS = 20
"""So many kills without a single message delivered again must all have missed."""

RESUME_LIMIT_S = 10.0
BACKLOG_PER_SECOND = 30_000
"""What has waited for more than a minute has to be read before a new payment is, at this rate or faster."""

MERCHANTS_COUNT = 80_000


@dataclass(frozen=True)
class Outcome:
    """What became of the payments that were sent while a fault was inflicted.

    Attributes:
        bite: what shows that the fault struck.
        seconds: from the first message to the last.
        outage_s: the longest that a payment took until a reader found it; infinite when one was never found.
        restart_s: for each restart, from the order until all parts answered.
        resumed_s: for each restart after which ingest went on before the next one, from the end of the restart until
            a reader found a payment made since its order.
        resumed_from_wait_s: the same where ingest had not resumed yet from the restart before: the group then waits
            for two sessions to end.
        redelivered: messages that ClickHouse was handed more than once, by the ledger.
        duplicate_rows: offsets found in the table twice, before FINAL; a lower bound, since merges remove them.
        others_changed: whether a reader now finds something else of the transactions from before the run.
        audit: the verdict of ``paystream audit`` over the run.
        reads_failed_s: for how long a reader's queries failed.
        backlog: messages that waited when a restart ended, where that was more than a minute's; the most of any.
    """

    name: str
    what: str
    bite: str
    kills: int
    seconds: float
    sent: Sent
    found: Found
    outage_s: float
    restart_s: list[float]
    resumed_s: list[float]
    resumed_from_wait_s: list[float]
    redelivered: int
    duplicate_rows: int
    others_changed: bool
    audit: str
    reads_failed_s: float = 0.0
    backlog: int = 0

    @property
    def problems(self) -> list[str]:
        """Return what breaks the promise that nothing is lost or doubled; empty when it held."""
        problems = self.found.problems
        if self.others_changed:
            problems.append("a reader no longer finds the same of the transactions before the fault")
        if self.audit != "complete":
            problems.append(f"audit says {self.audit}")
        if not math.isfinite(self.outage_s):
            problems.append("a payment was never seen")
        if self.kills >= MANY_KILLS and not self.redelivered:
            problems.append(f"none of {self.kills} kills made ClickHouse read a message twice, so they all missed")
        return problems

    @property
    def late(self) -> str:
        """Say that ingest resumed too late after a restart, and how late; empty when it did not."""
        longest_s = max(self.resumed_s, default=0.0)
        limit_s = RESUME_LIMIT_S + self.backlog / BACKLOG_PER_SECOND
        return f"resumed {longest_s:.1f} s after a restart" if longest_s > limit_s else ""


# What a reader finds of the messages before these offsets; the xor is the same in whatever order the rows come.
_FINGERPRINT = """
SELECT
    count(),
    uniqExact(transaction_id),
    groupBitXor(cityHash64(transaction_id, merchant_id, amount, currency, status))
FROM transactions_current
WHERE kafka_offset < {first:Array(UInt64)}[kafka_partition + 1]
"""

_READ = "SELECT sum(messages) FROM ingest_ledger WHERE read_at >= {began:DateTime64(3, 'UTC')}"


@contextlib.contextmanager
def prepared_stack(folder: Path, disk_mib: int | None = None, nodes: int = 0, sets: int = 1) -> Iterator[Settings]:
    """Start a separate stack in a folder, with schema, merchants and rates; stop it at the end.

    Args:
        folder: its home.
        disk_mib: as for ``stack.start``.
        nodes: of each set of a cluster; 0 for one server alone.
        sets: how many sets.

    Raises:
        ServiceUnavailable: a part did not start.
        UsageError: Apache Kafka cannot be had here.
    """
    settings = stack.settings_on_free_ports(folder, nodes, sets)
    try:
        stack.start(settings, "kafka", disk_mib, nodes or None, sets if nodes else None)
        prepare(settings)
        yield settings
    finally:
        stack.stop(settings)


def prepare(settings: Settings) -> None:
    """Create the schema, and load made-up merchants and the European Central Bank's rates."""
    runner.up(settings)
    with tempfile.TemporaryDirectory() as folder:
        merchants, rates = Path(folder) / "merchants.csv", Path(folder) / "rates.zip"
        sample.write_merchants(merchants, MERCHANTS_COUNT, seed=1)
        sample.write_fx(rates)
        source = read_source("Merchants file", merchants)
        refresh(settings, MERCHANTS, source, read_merchants(source).columns)
        source = read_source("FX file", rates)
        refresh(settings, FX, source, read_fx(source, settings.reporting_currency).columns)


def run_fault(
    settings: Settings, fault: Fault, kills: int, report: Callable[[str], None], away_s: float = 300
) -> Outcome:
    """Inflict a fault on a running local stack while payments are sent, and check what became of them.

    Args:
        settings: a local stack that is running, with schema and dimensions, and with no other producer.
        fault: what to do to it.
        kills: how many kills ``clickhouse-killed`` makes.
        report: called with a few words on what is going on.
        away_s: how long ``node-away`` leaves a node away.

    Raises:
        DidNotBite: the fault left no trace.
        CheckFailed: ingest did not resume, or did not read all of it in time.
    """
    nodes = find(settings)
    nodes.require_all(f"Fault '{fault.name}'")
    with open_topic(settings) as topic:
        with connect(settings) as client:
            plan = make_plan(client, _workload(fault))
        with Generator(plan, client_config(settings), settings.kafka_topic) as generator:
            generator.wait_ready()
            report("waiting until all earlier messages are read")
            with connect(settings) as client:
                wait_until_quiet(settings, topic, plan, lambda _: None)
                [[began_at]] = client.query("SELECT now64(3, 'UTC')").result_rows
                others_before = _fingerprint(client, topic.ends())
            first = topic.ends()
            plan = replace(plan, started_us=int((time.time() + LEAD_S) * 1e6))
            with Probe(settings, plan) as probe:
                scene = Scene(settings, nodes, plan, probe, kills, away_s)
                generator.start(plan.started_us)
                report("sending")
                scene.wait_resumed()
                report(fault.what)
                bite = fault.inflict(scene)
                scene.count_duplicate_rows()
                report("waiting until all is read")
                sent = stop_generator(generator)
                end = topic.ends()
                _wait_read(settings, topic, end)
                last_us = last_intended_us(plan, sent.sent)
                probe.await_all(RESUME_LIMIT_S, last_us)
                seen = probe.finish(last_us)
    report("checking")
    return _outcome(fault, bite, scene, Window(first, end, began_at), sent, seen, others_before)


def _outcome(
    fault: Fault, bite: str, scene: Scene, window: Window, sent: Sent, seen: Seen, others_before: tuple[int, ...]
) -> Outcome:
    began_at = window.started_at
    payments = check_sets(scene.nodes, scene.plan, window, sent)
    with connect(scene.settings, timeout_s=300) as client:
        [[read]] = client.query(_READ, parameters={"began": began_at}).result_rows
        others_after = _fingerprint(client, window.first)
    audited = audit(scene.settings, datetime.now(UTC) - began_at.replace(tzinfo=UTC))
    resumed_s, resumed_from_wait_s = _resumed(scene.restarts, seen.sightings)
    return Outcome(
        name=fault.name,
        what=fault.what,
        bite=bite,
        kills=scene.kills,
        seconds=sent.sent / scene.plan.rate_per_second,
        sent=sent,
        found=payments,
        outage_s=max(seen.latencies_s),
        restart_s=[(restart.answered_us - restart.ordered_us) / 1e6 for restart in scene.restarts],
        resumed_s=resumed_s,
        resumed_from_wait_s=resumed_from_wait_s,
        redelivered=max(0, read - window.messages),
        duplicate_rows=scene.duplicate_rows,
        others_changed=others_before != others_after,
        audit=audited.verdict,
        reads_failed_s=seen.failed_s,
        backlog=max((_backlog(restart, seen, scene.plan) for restart in scene.restarts), default=0),
    )


def _workload(fault: Fault) -> Workload:
    return Workload(
        description=fault.what,
        rate_per_second=fault.rate_per_second,
        duration_seconds=LONGEST_S,
        duplicate_share=DUPLICATE_SHARE,
        malformed_share=fault.malformed_share,
        thresholds=Thresholds(p95_seconds=RESUME_LIMIT_S),
    )


def _fingerprint(client: Client, first: list[int]) -> tuple[int, ...]:
    return client.query(_FINGERPRINT, parameters={"first": first}).result_rows[0]


def stop_generator(generator: Generator) -> Sent:
    """End the sending early, and return what was sent once the broker has confirmed it."""
    generator.stop()
    deadline = time.monotonic() + DELIVERY_TIMEOUT_S + 30
    while generator.result is None:
        if time.monotonic() > deadline:
            raise CheckFailed("Load generator: the broker did not confirm its last messages. Read the broker's log.")
        generator.wait(1)
    return generator.result


def _wait_read(settings: Settings, topic: Topic, end: list[int]) -> None:
    deadline = time.monotonic() + DRAIN_S
    while not topic.has_read_to(end):
        if time.monotonic() > deadline:
            raise CheckFailed(
                f"Ingest had not read all of topic '{settings.kafka_topic}' {DRAIN_S} s after the end of the fault: "
                f"{topic.lag():,} messages are unread. Look at system.kafka_consumers."
            )
        time.sleep(0.1)


def _backlog(restart: Restart, seen: Seen, plan: Plan) -> int:
    newest_us = max((each.intended_us for each in seen.sightings if each.seen_us < restart.answered_us), default=0)
    waited_s = (restart.answered_us - newest_us) / 1e6 if newest_us else 0
    return int(waited_s * plan.rate_per_second) if waited_s > 60 else 0


def _resumed(restarts: list[Restart], sightings: list[Sighting]) -> tuple[list[float], list[float]]:
    """Return the seconds from each restart's end until a payment made since its order was seen, where one was.

    First those of restarts while ingest was running, then those of restarts while it had not resumed from the last.
    """
    from_running: list[float] = []
    from_wait: list[float] = []
    was_running = True
    for place, restart in enumerate(restarts):
        until = restarts[place + 1].ordered_us if place + 1 < len(restarts) else math.inf
        fresh = [
            sighting.seen_us
            for sighting in sightings
            if restart.ordered_us <= sighting.intended_us and sighting.seen_us < until
        ]
        if fresh:
            # With a second set a reader may have gone on all the time.
            resumed_us = max(0, min(fresh) - restart.answered_us)
            (from_running if was_running else from_wait).append(resumed_us / 1e6)
        was_running = bool(fresh)
    return from_running, from_wait
