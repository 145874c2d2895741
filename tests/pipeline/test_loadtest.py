"""`paystream loadtest run` on Apache Kafka and ClickHouse: a sound pipeline passes, a broken one fails with counts."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from functools import partial

import psutil
import pytest
import waiting
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

import paystream.loadtest.run as loadtest_run
from paystream.clickhouse import connect
from paystream.devstack import stack as local_stack
from paystream.errors import CheckFailed
from paystream.kafka import client_config
from paystream.loadtest import drain
from paystream.loadtest.generator import Generator
from paystream.loadtest.plan import Plan
from paystream.loadtest.topic import open_topic
from paystream.loadtest.workload import load
from paystream.settings import Settings

Paystream = Callable[..., subprocess.Popen]
MERCHANTS = 500


@dataclass(frozen=True)
class Pipeline:
    """A pipeline ready for load, and what the load test said at each step on the way there."""

    settings: Settings
    refusals: dict[str, tuple[int, str, list[str]]]


def finish(process: subprocess.Popen) -> tuple[int, str, list[str]]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err.splitlines()


def one(settings: Settings, sql: str) -> object:
    with connect(settings) as client:
        return client.query(sql).result_rows[0][0]


wait_until = partial(waiting.wait_until, every_s=0.02)


def generators(process: subprocess.Popen) -> list[psutil.Process]:
    """Return the generators that a load test has started; another test's may run at the same time."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "paystream.loadtest.generator" in child.cmdline()]


def runs(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def wait_for_line(process: subprocess.Popen, pattern: str) -> str:
    for line in process.stdout:
        if re.search(pattern, line):
            return line
    raise AssertionError(f"ended without a line with {pattern!r}: {process.stderr.read()}")


@pytest.fixture(scope="module")
def pipeline(
    stack: Settings,
    paystream: Paystream,
    paystream_here: Callable[..., tuple[int, str, list[str]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Pipeline:
    folder = tmp_path_factory.mktemp("dimensions")
    merchants, rates = str(folder / "merchants.csv"), str(folder / "rates.zip")
    refusals = {"no schema": finish(paystream(stack, "loadtest", "run", "smoke"))}
    steps = [
        ("no merchants", ["migrate", "up"]),
        ("", ["dims", "sample", "merchants", "--to", merchants, "--count", str(MERCHANTS)]),
        ("no rates", ["dims", "refresh", "merchants", "--from", merchants]),
        ("", ["dims", "sample", "fx", "--to", rates]),
        ("", ["dims", "refresh", "fx", "--from", rates]),
    ]
    for refusal, arguments in steps:
        code, _, errors = paystream_here(stack, *arguments)
        assert code == 0, errors
        if refusal:
            refusals[refusal] = finish(paystream(stack, "loadtest", "run", "smoke"))
    return Pipeline(stack, refusals)


@pytest.fixture
def workload(tmp_path):
    def write(rate: int, seconds: int, duplicates: float = 0.0, drain_seconds: int = 60, malformed: float = 0.0) -> str:
        file = tmp_path / "mine.yaml"
        file.write_text(
            f"description: of a test\nrate_per_second: {rate}\nduration_seconds: {seconds}\n"
            f"duplicate_share: {duplicates}\nmalformed_share: {malformed}\ndrain_timeout_seconds: {drain_seconds}\n"
            # This machine may be busy, and speeds are for benchmarks.
            "thresholds: {p95_seconds: 60, generator_lateness_p99_seconds: 60}\n"
        )
        return str(file)

    return write


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("no schema", "Create the schema with `paystream migrate up`."),
        ("no merchants", "Load them with `paystream dims refresh merchants"),
        ("no rates", "Load them with `paystream dims refresh fx"),
    ],
)
def test_what_is_missing_is_said_in_one_line_with_the_command_that_brings_it(
    pipeline: Pipeline, step: str, said: str
) -> None:
    code, out, err = pipeline.refusals[step]
    assert (code, out, len(err)) == (2, "", 1), err
    assert said in err[0]


def test_an_absent_topic_is_not_created(pipeline: Pipeline, paystream: Paystream) -> None:
    for _ in range(2):
        process = paystream(pipeline.settings, "loadtest", "run", "smoke", PAYSTREAM_KAFKA_TOPIC="absent")
        code, out, err = finish(process)
        assert (code, out, len(err)) == (2, "", 1), err
        assert "Topic 'absent' does not exist" in err[0]


def test_a_sound_pipeline_passes_and_the_result_agrees_with_the_stored_rows(
    pipeline: Pipeline, paystream: Paystream, workload, tmp_path
) -> None:
    settings = pipeline.settings
    with open_topic(settings) as topic:
        before = topic.ends()
    rows_before = one(settings, "SELECT count() FROM transactions_current")
    result = tmp_path / "result.json"
    process = paystream(settings, "loadtest", "run", workload(400, 5, 0.1, malformed=0.1), "--json", str(result))
    code, out, err = finish(process)
    assert (code, err) == (0, []), out
    last = out.splitlines()[-1]
    assert last.startswith("loadtest workload=mine verdict=pass ")
    assert " lost=0 duplicated=0 unexpected=0 altered=0 " in last

    document = json.loads(result.read_text())
    transactions = document["transactions"]
    assert document["verdict"] == "pass"
    assert all(threshold["held"] for threshold in document["thresholds"])
    with open_topic(settings) as topic:
        assert sum(topic.ends()) - sum(before) == document["generator"]["sent"] == 2_000
    stored = one(settings, "SELECT count() FROM transactions_current") - rows_before
    started = document["started_at"][:26]
    with connect(settings) as client:
        [[refused, refused_ids]] = client.query(
            f"SELECT count(), uniqExact(kafka_key) FROM quarantine FINAL WHERE quarantined_at >= '{started}'"
        ).result_rows
    assert 100 < refused == transactions["malformed_messages"] == transactions["refused_as_planned"] < 300
    assert stored == transactions["stored"] == transactions["accepted"]
    assert stored == 2_000 - transactions["duplicate_messages"] - refused_ids
    assert 100 < transactions["duplicate_messages"] < 300
    assert (transactions["quarantined"], transactions["recovered"]) == (0, 0)
    with connect(settings) as client:
        sums = client.query(
            f"SELECT currency, sum(amount) FROM transactions_current WHERE created_at >= '{started}' GROUP BY currency"
        ).result_rows
    assert {currency: total for currency, total in sums} == {
        currency: Decimal(amounts["sent"].replace(",", "")) for currency, amounts in transactions["money"].items()
    }
    assert document["visibility"]["canaries"] == 100
    assert document["visibility"]["never_seen"] == 0
    assert 0 < document["visibility"]["p50_s"] <= document["visibility"]["p95_s"] <= document["visibility"]["max_s"]
    assert document["usage"]["peak_memory_bytes_by_process"].keys() == {"broker", "clickhouse"}
    stages = document["stages"]
    for stage in stages.values():
        assert 0 <= stage["p50_s"] <= stage["p95_s"] <= stage["p99_s"] <= stage["p999_s"] <= stage["max_s"] + 0.001
    together = stages["created_to_kafka"]["max_s"] + stages["kafka_to_stored"]["max_s"]
    assert stages["created_to_stored"]["max_s"] <= together + 0.002
    assert sum(document["visibility"]["histogram"]["counts"]) == 100
    assert sum(second["canaries"] for second in document["visibility"]["timeline"]) == 100
    # A message is some 200 bytes before compression, and a row has more fields than a message.
    assert 50 < document["bytes"]["wire_per_message"] < 1_000 and 20 < document["bytes"]["stored_per_row"] < 1_000
    assert document["parts"]["inserted"] > 0 and document["parts"]["peak"] >= document["parts"]["at_end"] > 0
    assert {point["at_s"] for point in document["lag"]["timeline"]} == {
        point["at_s"] for point in document["usage"]["timeline"]
    }
    assert document["usage"]["timeline"][1]["memory_bytes"].keys() == {
        "broker",
        "clickhouse",
        "generator",
        "load test",
    }


def test_what_never_reaches_the_table_is_lost_and_fails_the_run(
    pipeline: Pipeline, paystream: Paystream, workload, tmp_path
) -> None:
    settings = pipeline.settings
    rows_before = one(settings, "SELECT count() FROM transactions_current")
    result = tmp_path / "result.json"
    process = paystream(settings, "loadtest", "run", workload(300, 4, drain_seconds=2), "--json", str(result))
    wait_for_line(process, "phase=sending")
    wait_until(lambda: one(settings, "SELECT count() FROM transactions_current") > rows_before)
    with connect(settings) as client:
        client.command("DETACH TABLE transactions_queue")
    try:
        code, out, err = finish(process)
        stored = one(settings, "SELECT count() FROM transactions_current") - rows_before
    finally:
        with connect(settings) as client:
            client.command("ATTACH TABLE transactions_queue")
    assert (code, err) == (1, []), out
    transactions = json.loads(result.read_text())["transactions"]
    assert 0 < stored < 1_200
    assert transactions["lost"] == 1_200 - stored
    assert "verdict=fail" in out
    assert f" lost={1_200 - stored} " in out
    assert "broken=p95_seconds,lost,wrong_sums" in out
    assert " p95_seconds=never " in out


def test_a_run_with_everything_that_is_untidy_about_payments_passes(
    pipeline: Pipeline, paystream: Paystream, tmp_path
) -> None:
    file = tmp_path / "untidy.yaml"
    file.write_text(
        "description: of a test\nrate_per_second: 300\nduration_seconds: 6\n"
        "shape: {kind: burst, burst_per_second: 900, every_seconds: 3, for_seconds: 1}\n"
        "payload_bytes: 500\nhot_merchants: {count: 3, share: 0.5}\nduplicate_share: 0.05\nlate_share: 0.1\n"
        "late_by_seconds: 200000\nstate_share: 0.2\nout_of_order_share: 0.5\nmalformed_share: 0.05\n"
        "unknown_merchant_share: 0.05\npending_currency_share: 0.05\n"
        "thresholds: {p95_seconds: 60, generator_lateness_p99_seconds: 60}\n"
    )
    result = tmp_path / "result.json"
    code, out, err = finish(paystream(pipeline.settings, "loadtest", "run", str(file), "--json", str(result)))
    assert (code, err) == (0, []), out
    document = json.loads(result.read_text())
    transactions = document["transactions"]
    assert document["generator"]["sent"] == 4 * 300 + 2 * 900
    for kind in ("duplicate_messages", "state_messages", "overtaken_messages", "malformed_messages"):
        assert transactions[kind] > 50, kind
    assert transactions["refused_as_planned"] == transactions["malformed_messages"]
    enrichment = transactions["enrichment"]
    assert transactions["pending_as_planned"] == enrichment["merchant_pending"] + enrichment["fx_pending"]
    assert enrichment["merchant_pending"] > 50 < enrichment["fx_pending"]


def test_the_generator_alone_leaves_nothing_behind(pipeline: Pipeline, paystream: Paystream, workload) -> None:
    settings = pipeline.settings
    with open_topic(settings) as topic:
        before = topic.ends()
        code, out, err = finish(paystream(settings, "loadtest", "generate", workload(400, 3), "--json"))
        assert (code, err) == (0, [])
        assert topic.ends() == before
    document = json.loads(out)
    assert (document["verdict"], document["sent"], document["problems"]) == ("pass", 1_200, [])
    assert document["per_second_and_core"] == pytest.approx(1_200 / document["cpu_seconds"], rel=0.02)
    admin = AdminClient(client_config(settings) | {"log_level": 0})
    wait_until(lambda: not [name for name in admin.list_topics(timeout=10).topics if "generate" in name])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_after_ctrl_c_what_was_sent_is_checked_and_the_result_says_that_it_is_partial(
    number: signal.Signals, pipeline: Pipeline, paystream: Paystream, workload, tmp_path
) -> None:
    result = tmp_path / "result.json"
    process = paystream(pipeline.settings, "loadtest", "run", workload(200, 600), "--json", str(result))
    wait_for_line(process, "phase=sending")
    [generator] = generators(process)
    wait_for_line(process, r"p95_seconds=\d")
    process.send_signal(number)
    code, out, err = finish(process)
    assert (code, len(err)) == (130, 1), err
    assert "ended early, so its result is partial: Ctrl-C" in err[0] and "into a run of 600 s" in err[0]
    assert not runs(generator)
    assert " verdict=partial " in out
    document = json.loads(result.read_text())
    transactions = document["transactions"]
    assert 0 < transactions["stored"] == transactions["accepted"] == document["generator"]["sent"] < 120_000
    assert (document["verdict"], transactions["lost"], document["visibility"]["never_seen"]) == ("partial", 0, 0)
    assert document["partial"] in err[0]


def test_a_broker_that_vanishes_ends_the_run_with_what_was_measured(
    pipeline: Pipeline, paystream: Paystream, workload, tmp_path
) -> None:
    settings, result = pipeline.settings, tmp_path / "result.json"
    process = paystream(settings, "loadtest", "run", workload(200, 600), "--json", str(result))
    wait_for_line(process, "phase=sending")
    wait_for_line(process, r"p95_seconds=\d")
    try:
        local_stack.kill(settings, "broker", signal.SIGKILL)
        code, _, err = finish(process)
    finally:
        local_stack.start(settings, "kafka")
    assert (code, len(err)) == (3, 1), err
    assert "ended early, so its result is partial: Kafka" in err[0]
    document = json.loads(result.read_text())
    assert (document["verdict"], document["transactions"], document["drain_s"]) == ("partial", None, None)
    assert 0 < document["generator"]["sent"] < document["generator"]["planned"]
    assert document["visibility"]["p50_s"] > 0 and document["lag"]["timeline"]
    assert [threshold["held"] for threshold in document["thresholds"] if threshold["name"] == "lost"] == [False]
    report = paystream(settings, "loadtest", "report", str(result))
    assert finish(report)[0] == 1
    with open_topic(settings) as topic:
        wait_until(lambda: topic.lag() == 0)


def test_a_result_that_does_not_fit_its_disk_is_kept_elsewhere(
    pipeline: Pipeline, paystream: Paystream, workload, tmp_path
) -> None:
    process = paystream(
        pipeline.settings, "loadtest", "run", workload(100, 2), "--json", "/dev/full", TMPDIR=str(tmp_path)
    )
    code, out, err = finish(process)
    assert (code, len(err)) == (1, 1), err
    assert " verdict=pass " in out
    assert "Result file '/dev/full' cannot be written: No space left on device. It is in '" in err[0]
    [kept] = tmp_path.glob("loadtest-*.json")
    assert f"'{kept}'" in err[0] and json.loads(kept.read_text())["verdict"] == "pass"


def test_an_impossible_threshold_fails_the_run(pipeline: Pipeline, paystream: Paystream, tmp_path) -> None:
    file = tmp_path / "impossible.yaml"
    file.write_text(
        "description: of a test\nrate_per_second: 100\nduration_seconds: 2\n"
        "thresholds: {p95_seconds: 0.000001, generator_lateness_p99_seconds: 60}\n"
    )
    code, out, err = finish(paystream(pipeline.settings, "loadtest", "run", str(file)))
    assert (code, err) == (1, [])
    assert " verdict=fail " in out and out.rstrip().endswith("broken=p95_seconds")


def test_the_capacity_is_searched_for_with_real_runs(pipeline: Pipeline, paystream: Paystream, tmp_path) -> None:
    file, result = tmp_path / "mine.yaml", tmp_path / "capacity.json"
    file.write_text(
        "description: of a test\nrate_per_second: 2\nduration_seconds: 600\n"
        # What nobody holds, so that the search ends after a few runs.
        "thresholds: {p95_seconds: 0.000001, generator_lateness_p99_seconds: 60}\n"
    )
    arguments = ["--find-capacity", "--step-seconds", "5", "--json", str(result)]
    code, out, err = finish(paystream(pipeline.settings, "loadtest", "run", str(file), *arguments))
    assert (code, err) == (1, []), out
    steps = [line for line in out.splitlines() if line.startswith("capacity_step ")]
    assert [re.search(r"rate_per_second=(\d+) held=(\w+)", line).groups() for line in steps] == [
        (rate, "false") for rate in ("2", "1")
    ]
    assert out.splitlines()[-1] == (
        'capacity workload=mine rate_per_second=0 not_held_at=1 because="threshold: p95_seconds"'
    )
    document = json.loads(result.read_text())
    assert [step["generator"]["sent"] for step in document["steps"]] == [10, 5]
    assert {step["transactions"]["lost"] for step in document["steps"]} == {0}


def test_the_generator_does_not_outlive_a_killed_load_test(pipeline: Pipeline, paystream: Paystream, workload) -> None:
    process = paystream(pipeline.settings, "loadtest", "run", workload(200, 60))
    wait_for_line(process, "phase=sending")
    [generator] = generators(process)
    process.kill()
    process.communicate()
    wait_until(lambda: not runs(generator), 20)


def test_a_generator_that_was_held_up_says_how_late_it_was(pipeline: Pipeline) -> None:
    plan = Plan(
        seed=int.from_bytes(os.urandom(7)),
        rate_per_second=500,
        messages=1_000,
        duplicate_share=0.0,
        canaries_per_second=1,
        merchants=[1],
        canary_merchant=1,
        currencies={"EUR": 1},
        statuses={"captured": 1},
    )
    with Generator(plan, client_config(pipeline.settings), pipeline.settings.kafka_topic) as generator:
        generator.wait_ready()
        generator.start(int(time.time() * 1e6))
        while generator.sent == 0:
            generator.wait(0.1)
        os.kill(generator.pid, signal.SIGSTOP)
        stopped = time.monotonic()
        while time.monotonic() - stopped < 0.6:
            generator.wait(0.1)
        os.kill(generator.pid, signal.SIGCONT)
        generator.wait(60)
        pid = generator.pid
    # It did not skip, and it did not pretend: all were sent, a good part of them late.
    assert generator.result.sent == 1_000
    assert generator.result.rejected_keys == []
    assert generator.result.lateness_p99_s > 0.3
    assert generator.result.lateness_max_s > 0.5
    assert not psutil.pid_exists(pid)


def test_a_run_does_not_begin_while_the_pipeline_is_detached(pipeline: Pipeline) -> None:
    with connect(pipeline.settings) as client:
        client.command("DETACH TABLE transactions_queue")
        try:
            with pytest.raises(CheckFailed, match="Table 'transactions_queue': it is detached"):
                loadtest_run.run(pipeline.settings, load("smoke"), lambda progress: None)
        finally:
            client.command("ATTACH TABLE transactions_queue")


def test_a_run_does_not_begin_before_what_was_sent_earlier_is_read(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = pipeline.settings
    monkeypatch.setattr(loadtest_run, "QUIET_TIMEOUT_S", 1)
    producer = Producer(client_config(settings) | {"log_level": 0})
    with open_topic(settings) as topic, connect(settings) as client:

        def stalled() -> bool:
            # Blocks that were open when the table went still pass; a consumer that has failed has none open.
            failures = "SELECT min(arrayExists(text -> text LIKE '%ingest_ledger%', exceptions.text))"
            all_failed = client.query(f"{failures} FROM system.kafka_consumers").result_rows[0][0]
            if all_failed and topic.lag() == 0:
                producer.produce(settings.kafka_topic, b"not a payment", b"key")
                assert producer.flush(20) == 0
            return all_failed and topic.lag() > 0

        client.command("DETACH TABLE ingest_ledger SYNC")  # a view without its target stops them all
        try:
            wait_until(stalled)
            before = topic.ends()
            with pytest.raises(CheckFailed, match=f"{topic.lag()} earlier messages are still unread"):
                loadtest_run.run(settings, load("smoke"), lambda progress: None)
            assert topic.ends() == before
        finally:
            client.command("ATTACH TABLE ingest_ledger")
        wait_until(lambda: topic.lag() == 0)


def left_behind(settings: Settings) -> list[str]:
    """Return what a drain made for itself and still is there: databases and consumer groups."""
    admin = AdminClient(client_config(settings) | {"log_level": 0})
    groups = [group.group_id for group in admin.list_consumer_groups().result().valid]
    with connect(settings) as client:
        databases = client.query("SELECT name FROM system.databases").result_rows
    return [name for name in [*groups, *(name for (name,) in databases)] if "drain" in name]


def test_a_backlog_is_drained_and_ingest_goes_on(pipeline: Pipeline, paystream: Paystream) -> None:
    drained = paystream(
        pipeline.settings,
        "loadtest",
        "drain",
        "--messages",
        "20000",
        "--at-least",
        "1",
        "--share-of-file",
        "0",
        "--json",
    )
    code, out, err = finish(drained)
    assert (code, err) == (0, [])
    document = json.loads(out)
    assert document["visible"] == document["messages"] == 20_000
    assert document["kafka_rows_per_second"] > 0 and document["file_rows_per_second"] > 0
    assert document["comparison"] is None
    assert left_behind(pipeline.settings) == []
    with open_topic(pipeline.settings) as topic:
        wait_until(lambda: topic.lag() == 0)

    too_slow = paystream(pipeline.settings, "loadtest", "drain", "--messages", "1000", "--at-least", "1e12")
    code, out, err = finish(too_slow)
    assert (code, err) == (1, []) and "verdict=fail" in out


def test_what_validation_and_enrichment_cost_is_measured_on_the_same_messages(
    pipeline: Pipeline, paystream: Paystream
) -> None:
    settings = pipeline.settings
    with open_topic(settings) as topic:
        before = topic.ends()
    # A cost is a share of a rate, so below 1 on any machine, and never as low as -1000.
    limits = ["--at-least=1", "--share-of-file=0", "--validation-cost=1", "--enrichment-cost=-1000"]
    process = paystream(settings, "loadtest", "drain", "--messages=3000", "--compare=2", *limits, "--json")
    code, out, err = finish(process)
    assert (code, err) == (1, []), out
    document = json.loads(out)
    assert document["held"].pop("enrichment_cost") is False
    assert all(document["held"].values()), document

    rates = document["comparison"]["rows_per_second"]
    assert {name: len(rounds) for name, rounds in rates.items()} == {
        "full": 2,
        "without_validation": 2,
        "without_enrichment": 2,
    }
    middle = {name: sum(rounds) / 2 for name, rounds in rates.items()}
    assert document["costs"] == pytest.approx(
        {part: (middle[f"without_{part}"] - middle["full"]) / middle[f"without_{part}"] for part in document["costs"]}
    )
    assert document["costs"].keys() == {"validation", "enrichment"}
    assert left_behind(settings) == []
    with open_topic(settings) as topic:
        assert sum(topic.ends()) - sum(before) == 3_000
        wait_until(lambda: topic.lag() == 0)
    assert one(settings, "SELECT count() FROM system.detached_tables WHERE database = currentDatabase()") == 0


def test_a_comparison_that_fails_leaves_nothing_behind(pipeline: Pipeline) -> None:
    settings = pipeline.settings
    with open_topic(settings) as topic, connect(settings) as client:
        live, end = drain._live(client), topic.ends()
    with pytest.raises(CheckFailed, match="Backlog of 1 messages: 0 rows were stored"):
        drain._compare(settings, live, end, messages=1, rounds=1, timeout_s=1)
    assert left_behind(settings) == []
