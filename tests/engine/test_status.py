"""`paystream status` over known rows, read through the real views; the broker is the stand-in, with an idle topic."""

import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from confluent_kafka import Producer
from ingest import Ingest, ingest_schema, kafka_now
from payments import message

from paystream.audit.holes import Holes
from paystream.audit.reconcile import Audit, PartitionAudit
from paystream.audit.record import record
from paystream.clickhouse import connect
from paystream.settings import Settings
from paystream.status import lag, queries
from paystream.status.health import judge
from paystream.status.reading import read_status
from paystream.status.state import Subject
from paystream.status.view import sections

PaystreamHere = Callable[..., tuple[int, str, list[str]]]
WAIT_S = 30


class Watched(NamedTuple):
    settings: Settings
    ingest: Ingest


@pytest.fixture(scope="module")
def idle_broker() -> Iterator[str]:
    """The address of the local stack's stand-in broker, in this process, with the topic."""
    producer = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    producer.list_topics("transactions", timeout=10)  # asking for it makes it
    first = next(iter(producer.list_topics(timeout=10).brokers.values()))
    yield f"{first.host}:{first.port}"


@pytest.fixture
def watched(
    clickhouse_server: Settings, tmp_path: Path, idle_broker: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Watched]:
    # The stand-in is never heard of again when it is asked for a topic's configuration.
    monkeypatch.setattr(lag, "RETENTION_TIMEOUT_S", 0.1)
    with ingest_schema(clickhouse_server) as ingest:
        update = {
            "clickhouse_database": ingest.client.database,
            "home": tmp_path / "home",
            "kafka_brokers": idle_broker,
        }
        yield Watched(clickhouse_server.model_copy(update=update), ingest)


def deliver(ingest: Ingest, bodies: list[bytes], ages_s: list[float | None], partition: int = 0) -> None:
    """Deliver messages as one block, each sent so long ago; None: without a timestamp."""
    now = kafka_now()
    offsets = [next(ingest.offsets) for _ in bodies]
    rows = [
        [body, "key", partition, offset, None if age is None else now - timedelta(seconds=age)]
        for body, offset, age in zip(bodies, offsets, ages_s, strict=True)
    ]
    columns = ["message", "_key", "_partition", "_offset", "_timestamp_ms"]
    ingest.client.insert("transactions_queue", rows, column_names=columns)


def age_rows(ingest: Ingest, table: str, column: str, **by: float) -> None:
    """Make everything in a table older."""
    seconds = int(timedelta(**by).total_seconds())
    ingest.client.command(f"CREATE TABLE aged AS {table}")
    ingest.client.command(
        f"INSERT INTO aged SELECT * REPLACE ({column} - toIntervalSecond({seconds}) AS {column}) FROM {table}"
    )
    ingest.client.command(f"EXCHANGE TABLES aged AND {table}")
    ingest.client.command("DROP TABLE aged SYNC")


def test_latency_and_objective_of_known_payments(watched: Watched) -> None:
    chance = random.Random(5)
    ages = [chance.uniform(1, 200) for _ in range(380)] + [chance.uniform(302, 3000) for _ in range(20)]
    for start in range(0, 400, 100):
        deliver(watched.ingest, [message() for _ in range(100)], ages[start : start + 100], partition=start // 100)
    # None of these is a payment whose time is known.
    deliver(watched.ingest, [b"refused", message()], [1.0, None])

    status = read_status(watched.settings)
    flow, objective = status.flow, status.objective
    assert (flow.messages, flow.refused, flow.payments) == (402, 1, 400)
    assert flow.messages_per_s == pytest.approx(402 / 300)
    ages.sort()
    for share, measured in ((0.5, flow.p50_s), (0.95, flow.p95_s), (0.99, flow.p99_s)):
        exact = ages[math.ceil(share * 400) - 1]
        assert exact * 0.91 <= measured <= (exact + 5) * 1.1  # the test itself takes a moment to deliver them
    assert (objective.payments, objective.late) == (400, 20)
    assert objective.in_time_share == pytest.approx(0.95)
    assert objective.budget_spent_share == pytest.approx(1.0)
    assert objective.since <= datetime.now(UTC) < objective.since + timedelta(hours=2)
    assert 0.9 < status.freshness_s < 60


def test_the_windows_are_five_minutes_and_thirty_days(watched: Watched) -> None:
    deliver(watched.ingest, [message()] * 3, [1.0, 400.0, 2.0])
    age_rows(watched.ingest, "ingest_ledger", "read_at", days=31)
    assert read_status(watched.settings).objective.payments == 0
    deliver(watched.ingest, [message()] * 5, [1.0] * 5)
    age_rows(watched.ingest, "ingest_ledger", "read_at", days=29)  # the first block is 60 days old by now
    status = read_status(watched.settings)
    assert (status.flow.messages, status.flow.p95_s) == (0, None)
    assert (status.objective.payments, status.objective.late) == (5, 0)
    # A topic of another name in the same database is not this one.
    other = watched.settings.model_copy(update={"kafka_topic": "transactions.eu"})
    with connect(other) as client:
        assert (
            client.query(queries.TOTALS, parameters={"topic": other.kafka_topic, "objective_s": 10**6}).result_rows[0][
                0
            ]
            == 0
        )


def test_thirty_days_are_read_by_the_hour(watched: Watched) -> None:
    watched.ingest.client.command(
        "INSERT INTO ingest_ledger (kafka_topic, messages, read_at, timed, late)"
        " SELECT 'transactions', 10, now64(3) - toIntervalSecond(number * 25), 10, number % 100 = 0"
        " FROM numbers(100000)"
    )
    parameters = {"topic": "transactions", "objective_s": 30 * 86_400}
    totals = watched.ingest.client.query(queries.TOTALS, parameters=parameters)
    assert totals.first_item["payments"] == 1_000_000 and totals.first_item["late"] == 1000
    assert int(totals.summary["read_rows"]) < 2000  # of 100,000: a row an hour of each part
    # What a deduplicated payment is worth is not what this counts; what is read twice is in it twice.
    objective = read_status(watched.settings).objective
    assert objective.budget_spent_share == pytest.approx(0.001 / 0.05)


def test_refusals_count_each_message_once(watched: Watched) -> None:
    bodies = [b"x", b"{}", message(currency="XYZ"), message(currency="XYY")]
    for _ in range(2):  # delivered twice
        rows = [[body, "key", 1, offset, datetime(2026, 11, 1, tzinfo=UTC)] for offset, body in enumerate(bodies)]
        columns = ["message", "_key", "_partition", "_offset", "_timestamp_ms"]
        watched.ingest.client.insert("transactions_queue", rows, column_names=columns)
    refusals = [
        (refusal.reason, refusal.messages, refusal.per_minute) for refusal in read_status(watched.settings).refusals
    ]
    assert refusals == [("currency_unknown", 2, 0.4), ("not_json", 1, 0.2), ("transaction_id_missing", 1, 0.2)]
    age_rows(watched.ingest, "quarantine", "quarantined_at", minutes=6)
    assert read_status(watched.settings).refusals == []


def test_pending_payments_are_those_that_came_in_lately(watched: Watched) -> None:
    watched.ingest.load_merchants((7, "One", "DE", "0742"))
    watched.ingest.load_rates(("EUR", f"{datetime.now(UTC):%Y-%m-%d}", "1.1"))
    deliver(
        watched.ingest, [message(), message(merchant_id=8), message(currency="GBP"), message(currency="CHF")], [1.0] * 4
    )
    pending = read_status(watched.settings).pending
    assert (pending.merchant_pending, pending.fx_pending, pending.looked_at) == (1, 2, 4)
    assert pending.share == 0.75
    age_rows(watched.ingest, "transactions", "ingested_at", minutes=6)
    assert read_status(watched.settings).pending.looked_at == 0


def test_a_dictionary_that_fails_to_load_is_named(watched: Watched) -> None:
    watched.ingest.load_merchants((7, "One", "DE", "0742"))
    assert read_status(watched.settings).failed_loads == []
    watched.ingest.client.command("RENAME TABLE merchants TO merchants_gone", settings={"check_table_dependencies": 0})
    with pytest.raises(Exception, match="merchants"):
        watched.ingest.client.command("SYSTEM RELOAD DICTIONARY merchants_dict")
    [failed] = read_status(watched.settings).failed_loads
    assert (failed.kind, failed.name) == ("dictionary", "merchants_dict") and "merchants" in failed.why


def test_a_view_whose_refresh_fails_is_named(watched: Watched) -> None:
    client = watched.ingest.client
    client.command(
        "CREATE MATERIALIZED VIEW broken REFRESH EVERY 1 YEAR ENGINE = Memory AS SELECT throwIf(1, 'out of order') AS x"
    )
    client.command("SYSTEM REFRESH VIEW broken")
    with pytest.raises(Exception, match="out of order"):
        client.command("SYSTEM WAIT VIEW broken")
    [failed] = read_status(watched.settings).failed_loads
    assert (failed.kind, failed.name) == ("view", "broken") and "out of order" in failed.why


def test_the_last_audit_is_remembered(watched: Watched, capsys: pytest.CaptureFixture[str]) -> None:
    partition = PartitionAudit(0, 0, 10, 10, 0)
    since = datetime.now(UTC) - timedelta(hours=2)
    audit = Audit("transactions", since, None, [partition], 0, 0, "")
    record(watched.settings, audit, deep=False)
    lossy = replace(audit, partitions=[replace(partition, holes=Holes(lost=3, expired=1))])
    record(watched.settings, lossy, deep=True)
    last = read_status(watched.settings).last_audit
    assert (last.verdict, last.is_deep, last.lost, last.expired) == ("loss", True, 3, 1)
    assert 1.99 < last.window_hours < 2.1 and 0 <= last.age_hours < 0.1

    # A schema without the table, or a user without the right, costs the audit nothing.
    capsys.readouterr()
    watched.ingest.client.command("DROP TABLE audits SYNC")
    record(watched.settings, audit, deep=False)
    assert "was not recorded" in capsys.readouterr().err
    [away] = read_status(watched.settings).unmeasured
    assert away.what is Subject.LAST_AUDIT and "`paystream migrate up`" in away.why and away.exit_code == 2


def test_the_command_line(watched: Watched, paystream_here: PaystreamHere) -> None:
    settings, ingest = watched
    code, out, err = paystream_here(settings, "status")
    assert (code, err) == (1, [])
    assert out.startswith(
        'status verdict="not healthy" why="fx was never loaded; merchants was never loaded" lag_messages=0 '
    )
    assert " last_audit=none " in out and " slo=none " in out

    today = datetime.now(UTC)
    ingest.load_merchants((7, "One", "DE", "0742"))
    ingest.load_rates(("EUR", f"{today:%Y-%m-%d}", "1.1"))
    ingest.client.command(
        "INSERT INTO dimension_snapshots (dimension, snapshot_id, row_count, loaded_at)"
        " SELECT d, 1, n, now64(3) - toIntervalHour(h)"
        " FROM VALUES('d String, n UInt64, h UInt8', ('fx', 1, 36), ('merchants', 4, 1))"
    )
    deliver(ingest, [message()] * 10, [1.0] * 10)
    code, out, err = paystream_here(settings, "status", "--json")
    document = json.loads(out)
    assert (code, err, document["verdict"], document["problems"]) == (0, [], "healthy", [])
    assert [(dimension["dimension"], dimension["rows"]) for dimension in document["dimensions"]] == [
        ("fx", 1),
        ("merchants", 4),
    ]
    assert 36 <= document["dimensions"][0]["age_hours"] < 36.1
    assert document["dimensions"][0]["newest_quote"] == f"{today:%Y-%m-%d}"
    assert document["flow"]["payments"] == 10 and 1 <= document["flow"]["p95_s"] < 60
    assert "Kafka timestamp" in document["clocks"]

    code, out, _ = paystream_here(settings, "status", PAYSTREAM_STATUS_DIMENSION_AGE_LIMIT_HOURS="24.5")
    assert code == 1 and 'why="fx was loaded or found unchanged 36 h ago (limit 24 h)"' in out

    code, out, [line] = paystream_here(settings, "status", PAYSTREAM_STATUS_LAG_LIMIT_SECONDS="never")
    assert code == 2 and "PAYSTREAM_STATUS_LAG_LIMIT_SECONDS" in line


def test_a_service_that_is_away(watched: Watched, paystream_here: PaystreamHere, free_port: Callable[[], int]) -> None:
    settings, ingest = watched
    deliver(ingest, [message()] * 2, [1.0] * 2)
    nobody = settings.model_copy(update={"kafka_brokers": f"127.0.0.1:{free_port()}"})
    code, out, err = paystream_here(nobody, "status")
    assert (code, err) == (3, [])
    assert out.startswith("status verdict=unknown why=\"cannot tell what is unread: Kafka '127.0.0.1:")
    assert " lag_messages=none " in out and " messages_per_s=0." in out  # what can be measured is said
    assert " slo=none " in out  # what is overdue is not known, and without it the objective would seem to recover

    nobody = settings.model_copy(update={"clickhouse_port": free_port()})
    code, out, err = paystream_here(nobody, "status", "--json")
    document = json.loads(out)
    assert (code, err, document["verdict"]) == (3, [], "unknown")
    assert document["flow"] is None and len(document["backlog"]["partitions"]) == 4

    nowhere = settings.model_copy(update={"clickhouse_database": "nowhere"})
    code, out, _ = paystream_here(nowhere, "status")
    assert code == 2 and "Create the schema with `paystream migrate up`" in out


def test_watch_asks_again_until_ctrl_c(watched: Watched, paystream: Callable[..., subprocess.Popen]) -> None:
    process = paystream(watched.settings, "status", "--watch", "0.2", "--json")
    try:
        lines = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
    assert lines[0]["at"] < lines[1]["at"]
    assert (process.returncode, err) == (1, "")  # not healthy: no dimension


def test_watch_needs_no_number_and_takes_no_nonsense(
    watched: Watched, paystream: Callable[..., subprocess.Popen]
) -> None:
    process = paystream(watched.settings, "status", "--watch")
    try:
        assert process.stdout.readline().startswith("status verdict=")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
    for nonsense in ("0", "-1"):
        process = paystream(watched.settings, "status", "--watch", nonsense)
        assert process.wait(WAIT_S) == 2


def test_metrics_are_served_on_loopback(
    watched: Watched, paystream: Callable[..., subprocess.Popen], free_port: Callable[[], int]
) -> None:
    deliver(watched.ingest, [message()] * 4 + [b"x"], [2.0] * 5)
    port = free_port()
    process = paystream(watched.settings, "metrics", "--port", str(port))
    try:
        assert process.stdout.readline() == f"metrics address=http://127.0.0.1:{port}/metrics\n"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=WAIT_S) as answer:
            text = answer.read().decode()
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert 'paystream_refused_per_minute{reason="not_json"} 0.2\n' in text
        assert "paystream_objective_payments 4.0\n" in text
        assert 'paystream_lag_messages{partition="3"} 0.0\n' in text
        assert 1.8 <= float(re.search(r'paystream_latency_seconds{quantile="0.5"} (\S+)', text)[1]) < 60
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/nowhere", timeout=WAIT_S)
        # Elsewhere than on loopback nobody listens.
        listening = [
            connection.laddr.ip
            for connection in psutil.Process(process.pid).net_connections()
            if connection.status == "LISTEN"
        ]
        assert listening == ["127.0.0.1"]

        second = paystream(watched.settings, "metrics", "--port", str(port))
        out, err = second.communicate(timeout=WAIT_S)
        assert (second.returncode, out) == (2, "")
        assert err == (
            f"error: Address '127.0.0.1:{port}': cannot listen there: Address already in use. "
            "Choose another with --host and --port.\n"
        )
        os.kill(process.pid, signal.SIGTERM)
        out, err = process.communicate(timeout=WAIT_S)
        assert (process.returncode, out, err) == (0, "", "")
    finally:
        process.kill()


def test_on_a_terminal_the_first_line_is_the_verdict(watched: Watched) -> None:
    script = (
        "import sys; sys.stdout.isatty = lambda: True; sys.argv = ['paystream', 'status'];"
        "from paystream.cli import main; main()"
    )
    environment = os.environ | watched.settings.environment() | {"COLUMNS": "120", "TERM": "dumb"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        cwd=watched.settings.home.parent,
        capture_output=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "NOT HEALTHY: fx was never loaded; merchants was never loaded"
    assert lines[1] == "What to do: docs/runbook.md, 'A dimension is old'."
    for title in ("Unread, by partition", "Objective", "Tables, loads and audits"):
        assert title in lines
    assert done.returncode == 1


@pytest.mark.parametrize("name", ["transactions_mv", "quarantine_mv", "ledger_mv"])
def test_a_view_that_is_detached_is_a_reason_although_the_ledger_tells_of_blocks(watched: Watched, name: str) -> None:
    settings, ingest = watched
    ingest.client.command(f"DETACH TABLE {name}")
    try:
        status = read_status(settings)
    finally:
        ingest.client.command(f"ATTACH TABLE {name}")
    assert status.missing == [name]
    assert "schema" in [problem.name for problem in judge(status, settings).problems]
    assert read_status(settings).missing == []


def test_the_slowest_report_is_named_whoever_asked_for_it(watched: Watched) -> None:
    client = watched.ingest.client

    def ask(query: str) -> None:
        client.query(f"{query} SETTINGS function_sleep_max_microseconds_per_block = 10000000")

    assert read_status(watched.settings).slowest_report is None
    ask("SELECT count(), sleep(0.3) FROM report_volume_by_hour")
    ask("SELECT count(), sleep(0.6) FROM report_settlement_by_day AS s WHERE day = today()")
    ask("SELECT count(), sleep(0.9) FROM transactions_current")  # not a report
    client.command("SYSTEM FLUSH LOGS query_log")
    status = read_status(watched.settings)
    slowest = status.slowest_report
    assert (slowest.report, slowest.user) == ("settlement_by_day", "default")
    assert slowest.seconds >= 0.6
    assert datetime.now(UTC) - slowest.asked_at < timedelta(minutes=1)
    [row] = [row for section in sections(status) for row in section.rows if "slowest report" in row[0]]
    assert row[2].startswith("settlement_by_day, ") and row[2].endswith("by default")
