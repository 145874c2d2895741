"""The rivals' table says what the figures say, and the documents show the figures that are kept."""

import json
import re
import sys
from statistics import median

import pytest
from waiting import wait_until

from paystream.cost.assumptions import drivers
from paystream.errors import PaystreamError, ServiceUnavailable, UsageError
from paystream.loadtest import rivals_page
from paystream.loadtest.pipeline import engine_of
from paystream.loadtest.rivals_plots import write_plots
from paystream.project import CHECKOUT
from paystream.rivals import engines
from paystream.rivals.engines import Engine, Job

RESULTS = json.loads((CHECKOUT / "rivals/results.json").read_text())


def rate(p95_s: float, job: float = 30.0, problems: tuple[str, ...] = ()) -> dict:
    return {
        "sent": 1_000, "p50_s": 0.1, "p95_s": p95_s, "p99_s": 0.9, "max_s": 1.0,
        "cpu_s_per_million": {"broker": 10.0, "clickhouse": 20.0, "flink": job, "generator": 99.0},
        "memory_bytes": {"broker": 2**20, "flink": 2**21}, "busy_share": 0.5, "problems": list(problems),
    }  # fmt: skip


def results(*turns: dict) -> dict:
    whole = {"measured_on": "2026-11-29", "machine": {"cores": 2, "memory_bytes": 2**34}, "seconds": 60}
    return whole | {"turns": [{"pipeline": "flink"} | turn for turn in turns]}


def cells(*turns: dict) -> dict[str, str]:
    return {label: cell for label, cell in rivals_page.rows(results(*turns))}


def test_a_figure_is_the_median_with_its_spread():
    turns = [{"rates": {"5000": rate(p95_s)}} for p95_s in (0.5, 0.25, 0.4)]
    assert cells(*turns)["p95, 5,000/s"] == "**0.40 s** (0.25 to 0.50)"


def test_processor_time_leaves_out_the_generator():
    told = cells({"rates": {"5000": rate(0.5)}})
    assert told["CPU a million, 5,000/s, all"] == "**60 s**"
    assert told["of it the job"] == "**30 s**"
    assert told["memory, 5,000/s, all"] == "**3 MiB**"


def test_what_a_pipeline_did_wrong_is_told():
    lost = {"rates": {"500": rate(0.5), "5000": rate(0.5, problems=("3 lost",))}}
    assert cells(lost)["lost, twice, altered, wrong sums"] == "3 lost"
    assert rivals_page.wrong(lost) == ["3 lost"]
    crashed = {"crashes": {"job": {"outage_s": None, "problems": ["9 lost"]}}}
    assert cells(crashed)["kill -9 of what reads the topic"] == "never back; 9 lost"
    assert rivals_page.wrong(crashed) == ["9 lost"]


def test_a_pipeline_that_broke_did_not_hold():
    told = cells({"failed": "Apache Flink: its job has ended: OutOfMemoryError."})
    assert told["p95, 500/s"] == told["backlog, rows a second"] == "did not hold"
    assert "OutOfMemoryError" in rivals_page.markdown(results({"failed": "its job has ended: OutOfMemoryError."}))


def engine(*command: str, build: tuple[str, ...] = ()) -> Engine:
    return Engine("of_a_test", "An engine", (lambda *_: list(build),) if build else (), lambda *_: list(command))


def test_a_job_that_dies_is_told_with_its_last_words(own_settings):
    (own_settings.home / "logs").mkdir(parents=True)
    job = Job(engine(sys.executable, "-c", "raise SystemExit('error: out of memory')"), own_settings)
    job.start()
    wait_until(lambda: job.process is None, 30)
    with pytest.raises(ServiceUnavailable, match="An engine: its job has ended: out of memory"):
        job.check()
    job.stop()


def test_a_stopped_job_leaves_no_process(own_settings):
    (own_settings.home / "logs").mkdir(parents=True)
    # A child that heeds no SIGTERM, as the Java of a killed driver.
    child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    parent = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    job = Job(engine(sys.executable, "-c", parent), own_settings)
    job.start()
    wait_until(lambda: "1" in job.log.read_text(), 30)
    [child_process] = job.process.children()
    job.stop()
    assert job.process is None
    child_process.wait(10)


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (("no-such-program",), "An engine: there is no `no-such-program` on the PATH to build it with. Install it."),
        (("sh", "-c", "echo '[ERROR] no network' >&2; exit 1"), "An engine: `sh` failed: [ERROR] no network. Check"),
    ],
)
def test_what_cannot_be_built_is_told_in_one_line(build, told):
    with pytest.raises(PaystreamError, match=re.escape(told)):
        engines.build(engine(build=build))


def test_an_engine_that_is_none_is_named():
    with pytest.raises(UsageError, match=r"'beam': there is none\. Name one of: paystream, flink, spark"):
        engine_of("beam")


@pytest.mark.parametrize(
    ("assumption", "engine", "unit"),
    [
        ("flink_mb_s_per_kpu", "flink", 215 / 1e6),
        ("spark_events_s_per_vcpu", "spark", 1),
        ("kafka_streams_events_s_per_vcpu", "kafka_streams", 1),
    ],
)
def test_the_bill_assumes_what_was_measured(assumption, engine, unit):
    turns = rivals_page.by_pipeline(RESULTS)[engine]
    spent = median(rivals_page.at_rate(turns, "5000", lambda figures: figures["cpu_s_per_million"][engine]))
    assert drivers("base")[assumption] == pytest.approx(1e6 / spent * unit, rel=0.25)


def test_the_documents_show_the_figures_that_are_kept(tmp_path):
    rivals_page.GENERATED.check(CHECKOUT / "docs/rivals.md", rivals_page.markdown(RESULTS))
    rivals_page.GENERATED.check(CHECKOUT / "docs/architecture.md", rivals_page.summary(RESULTS))
    for file in write_plots(RESULTS, tmp_path):
        shipped = CHECKOUT / "docs/images" / file.name
        assert shipped.read_bytes() == file.read_bytes(), f"{file.name}: generate it with `paystream loadtest rivals`"
