"""One run: make sure that the pipeline is ready, send, watch, wait until all is read, check."""

import math
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

from clickhouse_connect.driver.client import Client

from paystream.clickhouse import answering, connect
from paystream.errors import CheckFailed, PaystreamError, UsageError
from paystream.kafka import client_config
from paystream.loadtest.checker import Found, Stages, Window, check, stored_ms
from paystream.loadtest.generator import DELIVERY_TIMEOUT_S, GIVE_UP_AFTER_S, Generator, Sent
from paystream.loadtest.pipeline import OURS, Pipeline
from paystream.loadtest.plan import Plan, last_intended_us
from paystream.loadtest.probe import Probe, Seen
from paystream.loadtest.topic import Topic
from paystream.loadtest.usage import Meter
from paystream.loadtest.watch import LOOK_EVERY_S, Watch, Watched
from paystream.loadtest.workload import WITHOUT_RATE, Workload, plan_of
from paystream.nodes import Nodes, find
from paystream.settings import Settings
from paystream.signals import undisturbed

NEEDED = ("transactions", "transactions_current", "quarantine", "merchants", "fx_rate_periods")
QUIET_TIMEOUT_S = 60
LEAD_S = 0.5
"""From the order to start until message 0: the producer's first connections are not part of any latency."""

DRAIN_LOOK_EVERY_S = 0.1
LAST_ANSWERS_S = 5

_QUOTED = """
SELECT currency, max(valid_to) >= today(), min(valid_from) <= toDate(now() - {oldest_s:UInt32})
FROM fx_rate_periods
GROUP BY currency
"""


@dataclass(frozen=True)
class Progress:
    """How far a run is. ``p95_s`` is that of the canaries seen so far, NaN before the first."""

    phase: Literal["waiting", "sending", "draining", "checking"]
    elapsed_s: float
    sent: int
    planned: int
    seen: int
    p95_s: float
    lag: int


@dataclass(frozen=True)
class Result:
    """All that a run measured, before anyone judges it. None: it ended before that could be measured.

    Attributes:
        sent: None when the generator was lost; ``sent_at_least`` and ``planned`` are known all the same.
        visible: from a canary's row being stored until it was seen, in seconds.
        unread: messages that were not read when the workload's time for that was over.
        drain_s: from the time at which the last message was due until all were read; None also when that took longer
            than the workload allows.
        clickhouse_ahead_s: ClickHouse's clock minus this machine's, to half of what one question took.
        ended_early: why the run ended before its time.
    """

    started_at: datetime
    duration_s: float
    plan: Plan
    sent_at_least: int
    sent: Sent | None
    seen: Seen
    watched: Watched
    stages: Stages = field(default_factory=Stages)
    visible_s: list[float] = field(default_factory=list)
    transactions: Found | None = None
    unread: int = 0
    drain_s: float | None = None
    ended_early: PaystreamError | None = None
    clickhouse: str = ""
    clickhouse_ahead_s: float = math.nan


class Interrupted(PaystreamError):
    """Ctrl-C, or a request to end."""

    exit_code = 130


def run(
    settings: Settings, workload: Workload, report: Callable[[Progress], None], pipeline: Pipeline = OURS
) -> Result:
    """Run a workload against the configured pipeline. Sends real messages, which stay stored.

    Once messages are being sent, what was measured is kept, whatever ends the run: the result says why it ended early.
    After Ctrl-C, what was sent is still read to the end and checked; a second one skips that. The generator's process
    has always ended on return.

    Args:
        settings: the pipeline.
        workload: what to send.
        report: called about twice a second.
        pipeline: what stores the payments.

    Raises:
        ServiceUnavailable: Kafka or ClickHouse cannot be reached.
        UsageError: the topic, the schema or the dimensions are not there yet.
        CheckFailed: the topic does not come to rest, or nothing reads it.
    """
    nodes = find(settings)
    with pipeline.open_topic(settings) as topic:
        with _answering(nodes.entry) as client:
            plan = make_plan(client, workload, pipeline)
            version = client.server_version
        with Generator(plan, client_config(settings), settings.kafka_topic) as generator:
            generator.wait_ready()
            with _answering(nodes.entry) as client:
                wait_until_quiet(settings, topic, plan, report, pipeline)
                asked_s = time.time()
                [[began_at]] = client.query("SELECT now64(3, 'UTC')").result_rows
                ahead_s = began_at.replace(tzinfo=UTC).timestamp() - (asked_s + time.time()) / 2
            first = topic.ends()
            result, end = _measure(settings, nodes, workload, plan, topic, generator, report, pipeline)
    result = replace(result, clickhouse=version, clickhouse_ahead_s=ahead_s)
    return _check(settings, workload, result, Window(first, end, began_at)) if end and result.sent else result


def _measure(
    settings: Settings,
    nodes: Nodes,
    workload: Workload,
    plan: Plan,
    topic: Topic,
    generator: Generator,
    report: Callable[[Progress], None],
    pipeline: Pipeline,
) -> tuple[Result, list[int] | None]:
    """Send, watch, and wait until all is read; return what was measured, and where the topic ends if that is known."""
    watch = Watch(nodes, topic, Meter(settings, nodes, generator.pid, pipeline.job), workload.duration_seconds)
    due_s = time.monotonic() + LEAD_S
    watch.started_us = int((time.time() + LEAD_S) * 1e6)
    plan = replace(plan, started_us=watch.started_us)
    end, drain_s, unread, ended_early = None, None, 0, None
    with Probe(settings, plan) as probe:

        def tell(phase: Literal["sending", "draining"]) -> None:
            report(_progress(phase, generator, probe, watch.look()))

        try:
            generator.start(plan.started_us)
            ended_early = _send(workload, plan, generator, tell)
            end = topic.ends()
            last_us = last_intended_us(plan, generator.sent)
            unread, ended_early = _drain(workload, plan, topic, end, ended_early, tell)
            if not unread:
                drain_s = max(0.0, time.monotonic() - due_s - (last_us - plan.started_us) / 1e6)
            # What is committed is stored and can be seen: one more answer is enough, and late ones take a second.
            probe.await_all(0 if unread else LAST_ANSWERS_S, last_us)
        except KeyboardInterrupt:
            end, ended_early = None, _interrupted(plan, workload)
        except PaystreamError as error:
            end, ended_early = None, error
        with undisturbed():
            duration_s = max(0.0, time.monotonic() - due_s)
            seen = probe.finish(last_intended_us(plan, generator.sent))
            watched = watch.result()
            report(_progress("checking", generator, probe, 0))
    if ended_early and drain_s is None:
        # A canary that was under way when the run ended is no miss: it may have been as quick as the rest.
        longest_s = max((sighting.latency_s for sighting in seen.sightings), default=duration_s)
        judged_until_us = plan.started_us + int((duration_s - longest_s) * 1e6)
        seen = replace(seen, missed_us=[at for at in seen.missed_us if at <= judged_until_us])
    result = Result(
        started_at=datetime.fromtimestamp(plan.started_us / 1e6, UTC),
        duration_s=duration_s,
        plan=plan,
        sent=generator.result,
        sent_at_least=generator.sent,
        seen=seen,
        watched=watched,
        unread=unread,
        drain_s=drain_s,
        ended_early=ended_early,
    )
    return result, end


def _check(settings: Settings, workload: Workload, result: Result, window: Window) -> Result:
    """Add what became of the payments, or why that could not be found out."""
    plan, sent, sightings = result.plan, result.sent, result.seen.sightings
    stages = Stages()
    try:
        nodes = find(settings)
        transactions = check_sets(nodes, plan, window, sent, stages)
        result = replace(result, transactions=transactions, stages=stages)
        with _answering(nodes.entry) as client:
            wanted = {sighting.transaction_id for sighting in sightings}
            stored = stored_ms(client, window, plan.canary_merchant, wanted)
    except KeyboardInterrupt:
        return replace(result, ended_early=_interrupted(plan, workload))
    except PaystreamError as error:
        return replace(result, ended_early=error)
    visible_s = [
        sighting.seen_us / 1e6 - stored[sighting.transaction_id] / 1e3
        for sighting in sightings
        if sighting.transaction_id in stored
    ]
    return replace(result, visible_s=visible_s)


def check_sets(nodes: Nodes, plan: Plan, window: Window, sent: Sent, stages: Stages | None = None) -> Found:
    """Compare what each set of nodes has with what was sent; return the first that is not sound, or else the first.

    ``stages`` are filled with the latencies of the first set's rows.
    """
    found = []
    for node in nodes.first_of_sets():
        with _answering(node.settings) as client:
            of_set = check(client, plan, window, sent.sent, sent.rejected_keys, None if found else stages)
        found.append(replace(of_set, of_set=node.set if len(nodes.sets) > 1 else ""))
    return next((of_set for of_set in found if of_set.problems), found[0])


def _interrupted(plan: Plan, workload: Workload) -> Interrupted:
    elapsed_s = max(0.0, time.time() - plan.started_us / 1e6)
    return Interrupted(f"Ctrl-C or SIGTERM {elapsed_s:.0f} s into a run of {workload.duration_seconds:,} s")


@contextmanager
def _answering(settings: Settings) -> Iterator[Client]:
    with connect(settings) as client, answering("Load test"):
        yield client


def make_plan(client: Client, workload: Workload, pipeline: Pipeline = OURS) -> Plan:
    """Return the plan of a run of the workload: with a new seed, and with the merchants that are loaded.

    Raises:
        UsageError: the schema or the dimensions are not there yet.
        CheckFailed: the pipeline is stopped.
    """
    tables = client.query("SELECT name FROM system.tables WHERE database = currentDatabase()").result_rows
    missing = [name for name in (*pipeline.needed, *NEEDED) if (name,) not in tables]
    detached = client.query("SELECT table FROM system.detached_tables WHERE database = currentDatabase()").result_rows
    if any((name,) in detached for name in missing):
        raise CheckFailed(
            f"Table '{', '.join(missing)}': it is detached, so the pipeline is stopped. "
            "Start it with `ATTACH TABLE`, then run again."
        )
    if missing:
        raise UsageError(
            f"Schema '{client.database}': {', '.join(missing)} missing. Create it with `paystream migrate up`."
        )
    merchants = client.query("SELECT merchant_id FROM merchants ORDER BY merchant_id").result_columns
    if not merchants:
        raise UsageError(
            "Merchants: none are loaded, so no payment could be enriched. "
            "Load them with `paystream dims refresh merchants --from FILE`."
        )
    quoted = client.query(_QUOTED, parameters={"oldest_s": workload.oldest_s}).result_rows
    if not quoted:
        raise UsageError(
            "Exchange rates: none are loaded, so no payment could be converted. "
            "Load them with `paystream dims refresh fx --from FILE`."
        )
    usable = {currency for currency, is_current, _ in quoted if is_current}
    if unknown := sorted(set(workload.currencies) - usable):
        raise UsageError(
            f"Exchange rates: {', '.join(unknown)} of the workload have no current rate. "
            "Load them with `paystream dims refresh fx --from FILE`, or take them out of the workload."
        )
    since_then = {currency for currency, _, reaches_back in quoted if reaches_back}
    if unknown := sorted(set(workload.currencies) - since_then):
        raise UsageError(
            f"Exchange rates: {', '.join(unknown)} of the workload have no rate for the days of its late payments. "
            "Load them with `paystream dims refresh fx --from FILE`, or lower late_by_seconds."
        )
    pending = [currency for currency in WITHOUT_RATE if currency not in {code for code, _, _ in quoted}]
    if workload.pending_currency_share and not pending:
        raise UsageError(
            f"Exchange rates: {', '.join(WITHOUT_RATE)} all have one, so no payment could wait for its rate. "
            "Take pending_currency_share out of the workload."
        )
    ids = [int(merchant_id) for merchant_id in merchants[0]]
    # Workloads make the lowest ids hot: a canary merchant among the others has few rows to read.
    return plan_of(workload, secrets.randbits(63), ids, secrets.choice(ids[len(ids) // 2 :]), pending)


def wait_until_quiet(
    settings: Settings, topic: Topic, plan: Plan, report: Callable[[Progress], None], pipeline: Pipeline = OURS
) -> None:
    """Wait until the table reads all partitions and has read all there is, so that only this run is measured.

    Raises:
        CheckFailed: for a minute, it came no closer to that.
    """
    began = time.monotonic()
    least = math.inf
    ends_before = topic.ends()
    nodes = find(settings)
    while True:
        lag = topic.lag() and topic.unread()
        assigned = pipeline.partitions_read(nodes, topic)
        if lag == 0 and assigned >= topic.partition_count * len(nodes.sets):
            return
        if lag < least:
            began, least = time.monotonic(), lag
        elapsed_s = time.monotonic() - began
        if elapsed_s > QUIET_TIMEOUT_S:
            break
        report(Progress("waiting", elapsed_s, 0, plan.messages, 0, float("nan"), lag))
        time.sleep(0.2)
    name = settings.kafka_topic
    if topic.ends() != ends_before:
        raise CheckFailed(
            f"Topic '{name}': other producers are sending to it, so losses could not be told from their messages. "
            "Stop them, or use a topic and a database of its own for load tests."
        )
    if assigned == 0:
        raise CheckFailed(
            f"Table 'transactions_queue': no partition of topic '{name}' has come to it in {QUIET_TIMEOUT_S} s. "
            "Look at system.kafka_consumers for its exceptions."
        )
    if lag:
        raise CheckFailed(
            f"Topic '{name}': {lag:,} earlier messages are still unread after {QUIET_TIMEOUT_S} s. "
            "Wait until they are read, or look at system.kafka_consumers for what stops them."
        )
    raise CheckFailed(
        f"Table 'transactions_queue': only {assigned} of the {topic.partition_count} partitions of topic '{name}' have "
        f"come to it in {QUIET_TIMEOUT_S} s. End other members of its consumer group, or give the load test its own."
    )


def _send(
    workload: Workload, plan: Plan, generator: Generator, tell: Callable[[Literal["sending"]], None]
) -> Interrupted | None:
    """Wait for the end of sending, which Ctrl-C brings about; then return that it did."""
    longest_s = LEAD_S + workload.duration_seconds + GIVE_UP_AFTER_S + DELIVERY_TIMEOUT_S + 30
    began = time.monotonic()
    interrupted = None
    while generator.result is None:
        if time.monotonic() - began > longest_s:
            raise PaystreamError(
                f"Load generator: no result after {longest_s:.0f} s. Check the load of the machine, then run again."
            )
        try:
            generator.wait(LOOK_EVERY_S)
            tell("sending")
        except KeyboardInterrupt:
            if interrupted:
                raise
            interrupted = _interrupted(plan, workload)
            generator.stop()
    return interrupted


def _drain(
    workload: Workload,
    plan: Plan,
    topic: Topic,
    end: list[int],
    interrupted: Interrupted | None,
    tell: Callable[[Literal["draining"]], None],
) -> tuple[int, Interrupted | None]:
    """Wait until all is read, and through a first Ctrl-C.

    Return how many messages are unread all the same once the workload's time is over, and whether Ctrl-C came.
    """
    began = time.monotonic()
    while True:
        try:
            if topic.has_read_to(end):
                return 0, interrupted
            if time.monotonic() - began > workload.drain_timeout_seconds:
                return max(1, topic.lag()), interrupted
            tell("draining")
            time.sleep(DRAIN_LOOK_EVERY_S)
        except KeyboardInterrupt:
            if interrupted:
                raise
            began, interrupted = time.monotonic(), _interrupted(plan, workload)


def _progress(
    phase: Literal["sending", "draining", "checking"], generator: Generator, probe: Probe, lag: int
) -> Progress:
    elapsed_s = max(0.0, time.time() - probe.plan.started_us / 1e6)
    return Progress(phase, elapsed_s, generator.sent, probe.plan.messages, probe.seen, probe.p95_s, lag)
