"""`python -m paystream.loadtest.bench_reports [millions …]`: what reports take, and keeping them up, as more is stored.

By default 10 and 100 million payments (half an hour, 12 GB), over 30 days, straight into the table. The current half
hour is as full as 5,000 a second have made it by now. A stack of its own, deleted afterwards. Prints key=value.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
from clickhouse_connect.driver.client import Client

from paystream.clickhouse import connect
from paystream.devstack import stack
from paystream.loadtest.fault_run import prepare
from paystream.output import print_fields
from paystream.percentiles import percentile
from paystream.reports.report import REPORTS, Asked, freshness, open_reports
from paystream.reports.rollup import rebuild
from paystream.settings import Settings

RATE = 5_000
WINDOW_S = 60
DAYS = 30
TRIES = 3
FILL_ROWS = 10_000_000
VIEWS = ("merchant_slots_mv", "merchant_days_mv", "volume_hours_mv", "latency_minutes_mv", "rollup_progress_mv")

FILL = """
INSERT INTO transactions
(
    transaction_id, created_at, merchant_id, amount, currency, status, updated_at,
    merchant_name, merchant_country, merchant_category_code, merchant_snapshot_id,
    fx_rate, fx_rate_date, amount_reporting, reporting_currency, fx_snapshot_id, enrichment_status,
    kafka_topic, kafka_partition, kafka_offset, kafka_timestamp, ingested_at
)
SELECT
    generateUUIDv4(), at, merchant, (dice % 100000 + 1) / 100 AS money,
    ['EUR', 'USD', 'GBP', 'JPY'][1 + merchant % 4] AS currency,
    ['authorized', 'captured', 'settled', 'refunded', 'failed'][1 + dice % 5], at,
    concat('Merchant ', toString(merchant)), ['DE', 'FR', 'GB', 'US', 'JP', 'NL', 'ES', 'IT'][1 + merchant % 8],
    toString(5000 + merchant % 40), 1,
    if(dice % 50 = 0, NULL, 1.1), if(dice % 50 = 0, NULL, toDate(at)),
    if(dice % 50 = 0, NULL, toDecimal128(money * 1.1, 4)),
    if(dice % 50 = 0, '', 'USD'), 1, if(dice % 50 = 0, 'fx_pending', 'ok'),
    'transactions', number % 4, number, at, at
FROM
(
    SELECT
        number, 1 + cityHash64(number, {seed:UInt32}) % 80000 AS merchant, cityHash64(number, {seed:UInt32}, 7) AS dice,
        {until:DateTime64(3, 'UTC')} - toIntervalMillisecond(intDiv(number * {span_ms:UInt64}, {rows:UInt64})) AS at
    FROM numbers({rows:UInt64})
)
"""


def main(millions: list[int]) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        settings = stack.settings_on_free_ports(Path(folder) / "stack")
        try:
            stack.start(settings, "kafka")
            prepare(settings)
            stored = 0
            for million in millions:
                _measure(settings, stored, million * 1_000_000)
                stored = million * 1_000_000
        finally:
            stack.stop(settings)


def _measure(settings: Settings, stored: int, rows: int) -> None:
    with connect(settings) as client:
        for view in VIEWS:
            client.command(f"SYSTEM STOP VIEW {view}")
        _fill(client, rows - stored, _slot(datetime.now(UTC)), timedelta(days=DAYS), rows)
        done = rebuild(settings)
        print_fields("rebuild", {"rows": rows, "read": done.rows, "seconds": f"{done.seconds:.0f}"})
        now = datetime.now(UTC)
        slot = _slot(now)
        _fill(client, int((now - slot).total_seconds() * RATE), now, now - slot, rows + 1)
        for view in VIEWS:
            client.command(f"SYSTEM START VIEW {view}")
    _ask(settings, rows)
    _upkeep(settings, rows)


def _slot(moment: datetime) -> datetime:
    return moment.replace(minute=moment.minute // 30 * 30, second=0, microsecond=0)


def _fill(client: Client, rows: int, until: datetime, span: timedelta, seed: int) -> None:
    # A part at a time, each within a request's time limit and all over the same span.
    for done in range(0, rows, FILL_ROWS):
        parameters = {
            "rows": min(FILL_ROWS, rows - done),
            "until": until,
            "span_ms": int(span.total_seconds() * 1000),
            "seed": (seed + done) % 2**32,
        }
        client.command(FILL, parameters=parameters, settings={"max_insert_threads": 1, "max_threads": 1})


def _ask(settings: Settings, rows: int) -> None:
    today = datetime.now(UTC).date()
    spans = {
        "today": (today, today),
        "day": (today - timedelta(days=9), today - timedelta(days=9)),
        "month": (today - timedelta(days=DAYS), today),
    }
    with open_reports(settings) as client:
        for report in REPORTS.values():
            for name, (first, last) in spans.items():
                query, parameters = Asked(report, first, last).query()
                took = []
                for _ in range(TRIES):
                    started = time.monotonic()
                    # Every row is computed; sending them is the reader's affair.
                    counted = f"SELECT count() FROM ({query}) WHERE NOT ignore(*)"
                    [[count]] = client.query(counted, parameters=parameters).result_rows
                    took.append(time.monotonic() - started)
                fields = {"rows": rows, "report": report.name, "of": name, "report_rows": count}
                print_fields("asked", fields | {"seconds": f"{statistics.median(took):.3f}"})


def _upkeep(settings: Settings, rows: int) -> None:
    """Ingest at RATE, with the refreshes and without, in turns; processor time of ClickHouse in each."""
    workload = settings.home / "bench.yaml"
    seconds = 4 * WINDOW_S + 60
    workload.write_text(
        f"description: bench\nrate_per_second: {RATE}\nduration_seconds: {seconds}\nthresholds: {{p95_seconds: 60}}\n"
    )
    load = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "paystream",
            "loadtest",
            "run",
            str(workload),
            "--json",
            str(settings.home / "load.json"),
        ],
        env=os.environ | settings.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        time.sleep(45)
        engine = psutil.Process(stack.pids(settings)["clickhouse"])
        spent: dict[bool, list[float]] = {True: [], False: []}
        behind: list[float] = []
        for with_views in (True, False, True, False):
            with connect(settings) as client:
                for view in VIEWS:
                    client.command(f"SYSTEM {'START' if with_views else 'STOP'} VIEW {view}")
            before, started = sum(engine.cpu_times()[:2]), time.monotonic()
            stop = threading.Event()
            watcher = threading.Thread(target=_watch, args=(settings, stop, behind if with_views else []))
            watcher.start()
            time.sleep(WINDOW_S)
            stop.set()
            watcher.join()
            spent[with_views].append((sum(engine.cpu_times()[:2]) - before) / (time.monotonic() - started))
        print_fields(
            "upkeep",
            {
                "rows": rows,
                "rate": RATE,
                "cores_with": ",".join(f"{cores:.3f}" for cores in spent[True]),
                "cores_without": ",".join(f"{cores:.3f}" for cores in spent[False]),
                "upkeep_of_a_core": f"{statistics.mean(spent[True]) - statistics.mean(spent[False]):.3f}",
                "behind_p50_s": f"{percentile(behind, 50):.0f}",
                "behind_p95_s": f"{percentile(behind, 95):.0f}",
            },
        )
    finally:
        load.terminate()
        load.wait(60)
    if (settings.home / "load.json").exists():
        seen = json.loads((settings.home / "load.json").read_text())["visibility"]
        print_fields("load", {"rows": rows, "p95_s": f"{seen['p95_s']:.3f}"})


def _watch(settings: Settings, stop: threading.Event, behind: list[float]) -> None:
    with open_reports(settings) as client:
        while not stop.wait(1.0):
            reached = [until for until in freshness(client).values() if until]
            if len(reached) == len(REPORTS):
                behind.append((datetime.now(UTC) - min(reached)).total_seconds())


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [10, 100])
