"""`paystream migrate` on the real engine: what it creates, takes back and refuses, and what it leaves when killed."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError
from confluent_kafka import Producer
from databases import drop_database
from pydantic import SecretStr
from server_process import Server
from yoyo import get_backend, read_migrations

from paystream.clickhouse import connect
from paystream.errors import PaystreamError, ServiceUnavailable, UsageError
from paystream.migrations import backend, lock_file, named_collection, reporting_currency, runner
from paystream.migrations.backend import ClickHouseBackend
from paystream.process import identity
from paystream.project import CHECKOUT
from paystream.settings import Settings

WAIT_S = 60
ALL = [
    "0001_store",
    "0002_dimensions",
    "0003_ingest",
    "0004_reports",
    "0005_quarantine_replays",
    "0006_repair",
    "0007_status",
    "0008_flush_interval",
    "0009_rollups",
    "0010_settlement_sums",
    "0011_rollups_give_way",
    "0012_flush_100_ms",
    "0013_the_reporting_currency_needs_no_quote",
    "0014_times_that_cannot_be",
    "0015_dimension_checks",
    "0016_rejected_dimension_rows",
    "0017_whatever_the_profile_says",
    "0018_rollups_by_shard",
]
ROLLUPS = {
    "latency_minutes",
    "latency_minutes_mv",
    "merchant_days",
    "merchant_days_current",
    "merchant_days_mv",
    "merchant_slots",
    "merchant_slots_mv",
    "report_currency_exposure_by_day",
    "report_freshness",
    "report_latency_by_minute",
    "report_merchant_ranking",
    "report_pending_by_day",
    "report_settlement_by_day",
    "report_volume_by_hour",
    "rollup_progress",
    "rollup_progress_mv",
    "rollup_state",
    "volume_hours",
    "volume_hours_mv",
}
"""What version 0009 adds."""
FILES = {path.stem: path for path in [*CHECKOUT.glob("sql/*/*.sql"), *CHECKOUT.glob("dictionaries/*.sql")]}


@pytest.fixture
def new_database(
    clickhouse_server: Settings, tmp_path: Path, free_port: Callable[[], int]
) -> Iterator[Callable[..., Settings]]:
    """A function that names a database of the test's own, which does not exist yet and is dropped after it."""
    given: list[Settings] = []

    def new(**changes: object) -> Settings:
        name = f"migrations_{uuid.uuid4().hex[:12]}"
        defaults = {
            "home": tmp_path / "home",
            "clickhouse_database": name,
            "kafka_brokers": f"127.0.0.1:{free_port()}",  # nobody there: a Kafka table then waits
            "kafka_group": name,
        }
        given.append(clickhouse_server.model_copy(update=defaults | changes))
        return given[-1]

    yield new
    for settings in given:
        drop_database(settings)


@pytest.fixture
def database(new_database: Callable[..., Settings]) -> Settings:
    return new_database()


@pytest.fixture(scope="module")
def standin_broker() -> Iterator[Producer]:
    """The stand-in broker of the local stack, in this process, with the topic of the settings."""
    producer = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    producer.list_topics("transactions", timeout=10)  # asking for it makes it
    yield producer


def address(broker: Producer) -> str:
    first = next(iter(broker.list_topics(timeout=10).brokers.values()))
    return f"{first.host}:{first.port}"


@pytest.fixture
def versions(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes versions, given as name = (statements, rollback statements), and returns their folder."""

    def write(**contents: tuple[str, str]) -> Path:
        folder = tmp_path / "versions"
        folder.mkdir(exist_ok=True)
        for name, (statements, rollback) in contents.items():
            (folder / f"{name.lstrip('v')}.sql").write_text(statements)
            (folder / f"{name.lstrip('v')}.rollback.sql").write_text(rollback)
        lock_file.write_lock(folder, sorted(path.stem for path in folder.glob("*.sql") if "rollback" not in path.name))
        return folder

    return write


def objects(settings: Settings) -> dict[str, str]:
    """Return how the engine itself spells each object of the schema, without the name of its database."""
    with connect(settings) as client:
        rows = client.query(
            "SELECT name, create_table_query FROM system.tables"
            " WHERE database = currentDatabase() AND name NOT LIKE '\\\\_yoyo%'"
        ).result_rows
    return {name: query.replace(f"{settings.clickhouse_database}.", "") for name, query in rows}


def rows(settings: Settings, sql: str) -> list[tuple]:
    with connect(settings) as client:
        return list(client.query(sql).result_rows)


def states(settings: Settings, folder: Path = CHECKOUT / "migrations" / "versions") -> dict[str, str]:
    return {status.version: status.state for status in runner.status(settings, folder)}


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {WAIT_S} s"
        time.sleep(0.05)


def finish(process: subprocess.Popen) -> tuple[int, list[str], str]:
    """Return exit code, the lines of stdout, and stderr."""
    try:
        out, err = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
    return process.returncode, out.splitlines(), err


def test_the_versions_give_exactly_what_the_files_say(new_database: Callable[..., Settings]) -> None:
    migrated, loaded = new_database(), new_database()
    runner.up(migrated)
    with connect(loaded, database="") as client:
        client.command(f"CREATE DATABASE {loaded.clickhouse_database}")
    # Whatever order the files depend on each other in: those that fail wait for the others.
    waiting = dict(FILES)
    with connect(loaded) as client:
        while waiting:
            failures = {}
            for name, path in waiting.items():
                try:
                    client.command(named_collection.own(path.read_text(), migrated.clickhouse_database))
                except DatabaseError as error:
                    failures[name] = error
            assert len(failures) < len(waiting), failures
            waiting = {name: FILES[name] for name in failures}

    from_versions, from_files = objects(migrated), objects(loaded)
    assert sorted(from_files) == sorted(FILES), "each file holds one object, named as the file is"
    assert sorted(from_versions) == sorted(from_files)
    for name in from_files:
        assert from_versions[name] == from_files[name], name


def test_the_life_of_a_schema_on_the_command_line(
    database: Settings,
    paystream: Callable[..., subprocess.Popen],
    paystream_here: Callable[..., tuple[int, str, list[str]]],
) -> None:
    settings = database

    def migrate(*arguments: str) -> tuple[int, list[str], list[str]]:
        code, out, err = paystream_here(settings, "migrate", *arguments)
        return code, out.splitlines(), err

    assert migrate("status") == (
        0,
        [f"migrate_status version={name} state=pending applied_at=none" for name in ALL],
        [],
    )
    code, _, [line] = migrate("down")
    assert code == 2 and "does not exist" in line and "`paystream migrate up`" in line

    code, out, err = finish(paystream(settings, "migrate", "up"))
    assert code == 0
    assert [re.sub(r"statements=\d+ seconds=\d+\.\d+", "…", line) for line in out] == [
        *[f"migrate_applied version={name} …" for name in ALL],
        f"migrate_up status=migrated version={ALL[-1]} kafka_settings_changed=true",
    ]
    # A broker that cannot be reached is worth a line, and no failure.
    assert err.count("\n") == 1 and err.startswith(f"note: Kafka '{settings.kafka_brokers}' cannot be reached")

    code, out, _ = migrate("up")
    assert (code, out) == (
        0,
        [f'migrate_up status="nothing to do" version={ALL[-1]} kafka_settings_changed=false'],
    )

    code, out, err = migrate("status", "--json")
    assert (code, err) == (0, [])
    assert [(status["version"], status["state"]) for status in json.loads("\n".join(out))] == [
        (name, "applied") for name in ALL
    ]

    assert "shards" in objects(settings)["merchant_days_current"]
    assert migrate("down")[0] == 0
    assert "shards" not in objects(settings)["merchant_days_current"]

    assert "aggregate_functions_null_for_empty" in objects(settings)["merchant_days_mv"]
    assert migrate("down")[0] == 0
    assert "aggregate_functions_null_for_empty" not in objects(settings)["merchant_days_mv"]

    assert "rejected" in objects(settings)["dimension_snapshots"]
    assert migrate("down")[0] == 0
    assert "rejected" not in objects(settings)["dimension_snapshots"]

    everything = set(objects(settings))
    assert migrate("down")[0] == 0
    assert everything - set(objects(settings)) == {"dimension_checks"}

    assert "INTERVAL 1 YEAR" in objects(settings)["ledger_mv"] or "toIntervalYear(1)" in objects(settings)["ledger_mv"]
    assert migrate("down")[0] == 0
    assert "Year" not in objects(settings)["ledger_mv"] and "YEAR" not in objects(settings)["ledger_mv"]

    assert "is_itself" in objects(settings)["fx_rate_periods"]
    assert migrate("down")[0] == 0
    assert "is_itself" not in objects(settings)["fx_rate_periods"]

    everything = set(objects(settings))
    flush = "SELECT extract(create_table_query, 'kafka_flush_interval_ms = (\\d+)') FROM system.tables"
    of_queue = " WHERE database = currentDatabase() AND name = 'transactions_queue'"
    assert rows(settings, flush + of_queue) == [("100",)]
    assert migrate("down")[0] == 0
    assert set(objects(settings)) == everything
    assert rows(settings, flush + of_queue) == [("150",)]

    assert "os_threads_nice_value_query" in objects(settings)["merchant_slots_mv"]
    assert migrate("down")[0] == 0
    assert set(objects(settings)) == everything
    assert "os_threads_nice_value_query" not in objects(settings)["merchant_slots_mv"]

    # Each refresh leaves a row that says that it was complete, and one may have run by now.
    assert migrate("down", "--allow-destructive")[0] == 0
    assert everything - set(objects(settings)) == {"merchant_days_by_currency"}
    assert "FROM merchant_days_current" in objects(settings)["report_settlement_by_day"]

    everything = set(objects(settings))
    assert migrate("down", "--allow-destructive")[0] == 0
    assert everything - set(objects(settings)) == ROLLUPS
    assert "FROM transactions_current" in objects(settings)["report_merchant_by_day"]

    everything = set(objects(settings))
    assert rows(settings, flush + of_queue) == [("150",)]
    code, out, _ = migrate("down")
    assert code == 0 and out[-1] == 'migrate_down status="taken back"'
    assert set(objects(settings)) == everything
    assert rows(settings, flush + of_queue) == [("200",)]

    assert migrate("down")[0] == 0
    assert everything - set(objects(settings)) == {"audits"}
    columns = "SELECT name FROM system.columns WHERE database = currentDatabase() AND table = '{}'"
    assert not {"timed", "late"} & {name for (name,) in rows(settings, columns.format("ingest_ledger"))}

    everything = set(objects(settings))
    assert migrate("down")[0] == 0
    assert everything - set(objects(settings)) == {
        "fx_rates_history",
        "merchants_history",
        "repaired_days",
        "transactions_to_repair",
    }
    # What the version changed is as the versions before it made it: a column less, in the view on it too.
    for table in ("transactions", "transactions_current"):
        names = {name for (name,) in rows(settings, columns.format(table))}
        assert {"ingested_at"} == {"ingested_at", "enriched_at"} & names
    kept, taken_back = ALL[: ALL.index("0006_repair")], ALL[ALL.index("0006_repair") :]
    assert states(settings) == dict.fromkeys(kept, "applied") | dict.fromkeys(taken_back, "pending")

    with connect(settings) as client:
        client.command("INSERT INTO merchants VALUES (1, 'A', 'DE', '5411', 1), (2, 'B', 'FR', '5412', 1)")
        client.command("INSERT INTO quarantine (kafka_offset, quarantined_at) SELECT 7, now()")
    before = objects(settings)
    code, out, [line] = migrate("down", "--all")
    assert (code, out) == (2, [])
    assert "merchants (2 rows), quarantine (1 row)" in line and "--allow-destructive" in line
    assert objects(settings) == before
    assert rows(settings, "SELECT count() FROM merchants") == [(2,)]

    code, out, _ = migrate("down", "--all", "--allow-destructive", "--json")
    assert code == 0
    assert json.loads("\n".join(out)) == {"status": "taken back", "taken_back": kept[::-1]}
    assert objects(settings) == {}
    code, out, _ = migrate("down")
    assert (code, out) == (0, ['migrate_down status="nothing to do"'])


def test_the_reporting_currency_has_its_rate_before_any_file_was_loaded(new_database: Callable[..., Settings]) -> None:
    settings = new_database(reporting_currency="CHF")
    on_any_day = "SELECT dictGet('fx_rates_dict', 'rate', tuple('{}'), toDate('2019-06-01'))"
    runner.up(settings)
    assert rows(settings, on_any_day.format("CHF")) == [(1,)]
    # Another currency is one while nothing depends on it.
    settings = settings.model_copy(update={"reporting_currency": "EUR"})
    runner.up(settings)
    assert rows(settings, on_any_day.format("EUR")) == [(1,)]
    assert rows(settings, "SELECT currency FROM fx_rates") == [("EUR",)]
    # What was loaded stays as it is.
    with connect(settings) as client:
        client.command("INSERT INTO fx_rates VALUES ('EUR', '2026-11-02', 1, 'EUR', 1)")
    before = rows(settings, "SELECT * FROM fx_rates ORDER BY ALL")
    runner.up(settings.model_copy(update={"reporting_currency": "USD"}))
    assert rows(settings, "SELECT * FROM fx_rates ORDER BY ALL") == before
    with pytest.raises(UsageError, match="fx_rates"):
        runner.down(settings, everything=True)
    # The rate that nobody loaded is no loss. Of the roll-ups a refresh may have left a row by now.
    with connect(settings) as client:
        assert not reporting_currency.is_all(client)
        client.command("ALTER TABLE fx_rates DELETE WHERE snapshot_id = 1 SETTINGS mutations_sync = 1")
        assert reporting_currency.is_all(client)


def test_status_creates_nothing(database: Settings) -> None:
    assert states(database) == dict.fromkeys(ALL, "pending")
    with pytest.raises(UsageError, match=r"does not exist\. Create the schema with `paystream migrate up`"):
        rows(database, "SELECT 1")


def test_down_to_a_version(database: Settings, versions: Callable[..., Path]) -> None:
    folder = versions(
        v0001_a=("CREATE TABLE a (x UInt8) ENGINE = Null;", "DROP TABLE IF EXISTS a SYNC;"),
        v0002_b=("CREATE TABLE b (x UInt8) ENGINE = Null;", "DROP TABLE IF EXISTS b SYNC;"),
        v0003_c=("CREATE TABLE c (x UInt8) ENGINE = Null;", "DROP TABLE IF EXISTS c SYNC;"),
    )
    runner.up(database, folder)
    with pytest.raises(UsageError, match="0001_a, 0002_b, 0003_c"):
        runner.down(database, folder, to="0004_d")
    assert [moved.version for moved in runner.down(database, folder, to="0001_a")] == ["0003_c", "0002_b"]
    assert set(objects(database)) == {"a"}
    assert runner.down(database, folder, to="0001_a") == []
    (folder / "0001_a.sql").unlink()
    (folder / "0001_a.rollback.sql").unlink()
    lock_file.write_lock(folder, ["0002_b", "0003_c"])
    assert states(database, folder) == {"0002_b": "pending", "0003_c": "pending", "0001_a": "unknown"}
    with pytest.raises(UsageError, match="'0001_a' cannot be taken back: it is not among the files"):
        runner.down(database, folder)


def test_down_refuses_to_drop_a_column_that_holds_values(database: Settings, versions: Callable[..., Path]) -> None:
    folder = versions(
        v0001_a=("CREATE TABLE a (x UInt8) ENGINE = MergeTree ORDER BY x;", "DROP TABLE IF EXISTS a SYNC;"),
        v0002_b=("ALTER TABLE a ADD COLUMN y UInt8;", "ALTER TABLE a DROP COLUMN IF EXISTS y;"),
    )
    runner.up(database, folder)
    with connect(database) as client:
        runner.down(database, folder)
        client.command("INSERT INTO a VALUES (1)")
        runner.up(database, folder)
        runner.down(database, folder)  # the row has no y
        runner.up(database, folder)
        client.command("INSERT INTO a VALUES (2, 3), (4, 5)")
        with pytest.raises(UsageError, match=r"'0002_b' cannot be taken back: that would drop a\.y \(2 rows\)"):
            runner.down(database, folder)
        assert rows(database, "SELECT x, y FROM a ORDER BY x") == [(1, 0), (2, 3), (4, 5)]
        runner.down(database, folder, allow_destructive=True)
    assert rows(database, "SELECT * FROM a ORDER BY x") == [(1,), (2,), (4,)]


def test_a_server_lost_between_two_statements(
    start_clickhouse: Callable[[Path], Server], versions: Callable[..., Path], tmp_path: Path
) -> None:
    folder = versions(
        v0001_a=("CREATE TABLE a (x UInt8) ENGINE = Null;", "DROP TABLE IF EXISTS a SYNC;"),
        v0002_b=("CREATE TABLE b (x UInt8) ENGINE = Null;", "DROP TABLE IF EXISTS b SYNC;"),
    )
    server = start_clickhouse(tmp_path / "data")

    def kill(_: runner.Moved) -> None:
        server.process.kill()
        server.process.wait()

    with pytest.raises(ServiceUnavailable, match=r"'0002_b' was interrupted: ClickHouse was lost: .*break-lock --yes"):
        runner.up(server.settings, folder, on_applied=kill)


def test_statements_are_told_apart_whatever_they_quote(database: Settings, versions: Callable[..., Path]) -> None:
    folder = versions(
        v0001_quotes=(
            "-- one; two\n-- depends:\n\n-- it's; three\n"
            "CREATE TABLE a (x String DEFAULT ';', y String DEFAULT 'it\\'s; \\\\.', z String DEFAULT '--;')"
            " ENGINE = Null COMMENT 'a; /* b';\n\n"
            "/* don't; */ CREATE TABLE b (`c;d` UInt8) -- last; word\nENGINE = Null -- end; of it\n;\n",
            "DROP TABLE IF EXISTS b SYNC;\nDROP TABLE IF EXISTS a SYNC; -- done; really\n",
        )
    )
    runner.up(database, folder)
    defaults = rows(
        database,
        "SELECT table, name, default_expression FROM system.columns"
        " WHERE database = currentDatabase() AND table IN ('a', 'b') ORDER BY table, position",
    )
    assert defaults == [("a", "x", "';'"), ("a", "y", r"'it\'s; \\.'"), ("a", "z", "'--;'"), ("b", "c;d", "")]
    runner.down(database, folder)
    assert objects(database) == {}


BROKEN = (
    "CREATE TABLE b1 (x UInt8) ENGINE = MergeTree ORDER BY x;\n"
    "-- why\nCREATE TABLE b2 (x UInt8) ENGINE = NoSuchEngine;\n"
    "CREATE TABLE b3 (x UInt8) ENGINE = MergeTree ORDER BY x;\n"
)
DROPS = "DROP TABLE IF EXISTS b3 SYNC;\nDROP TABLE IF EXISTS b2 SYNC;\nDROP TABLE IF EXISTS b1 SYNC;\n"


def test_a_failing_version_leaves_nothing_half_done(
    database: Settings, versions: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    good = ("CREATE TABLE a (x UInt8) ENGINE = Null;", "DROP TABLE IF EXISTS a SYNC;")
    folder = versions(v0001_good=good, v0002_broken=(BROKEN, DROPS))
    with pytest.raises(PaystreamError) as caught:
        runner.up(database, folder)
    message = str(caught.value)
    assert caught.value.exit_code == 1
    assert message.startswith("Version '0002_broken' failed at b2: Unknown table engine NoSuchEngine")
    assert "\n" not in message and "http" not in message
    assert ". Step 1 was taken back; the schema is at 0001_good. " in message
    assert capfd.readouterr() == ("", "")  # yoyo would print a traceback
    assert set(objects(database)) == {"a"}
    assert states(database, folder) == {"0001_good": "applied", "0002_broken": "pending"}

    versions(v0002_broken=(BROKEN.replace("NoSuchEngine", "Memory"), DROPS))
    assert [moved.version for moved in runner.up(database, folder).applied] == ["0002_broken"]
    assert set(objects(database)) == {"a", "b1", "b2", "b3"}

    # A rollback that stops half-way says so, and the next one goes on from there.
    versions(v0002_broken=(BROKEN, DROPS.replace("TABLE IF EXISTS b2", "TABBLE b2")))
    with pytest.raises(PaystreamError, match="It is marked unfinished"):
        runner.down(database, folder)
    assert states(database, folder)["0002_broken"] == "unfinished"
    assert set(objects(database)) == {"a", "b1", "b2"}
    with pytest.raises(PaystreamError, match=r"taking back what an earlier try left: .*It is marked unfinished"):
        runner.up(database, folder)
    versions(v0002_broken=(BROKEN, DROPS))
    runner.down(database, folder)
    assert set(objects(database)) == {"a"}


def test_a_failing_version_takes_back_only_what_it_did(database: Settings, versions: Callable[..., Path]) -> None:
    folder = versions(v0001_first=("CREATE TABLE a (x UInt8) ENGINE = Null;", "DROP TABLE IF EXISTS a SYNC;"))
    runner.up(database, folder)
    with connect(database) as client:
        client.command("CREATE TABLE b2 ENGINE = MergeTree ORDER BY x AS SELECT 1 AS x")  # by hand, before the version
    versions(v0002_second=(BROKEN.replace("NoSuchEngine", "Memory"), DROPS))
    with pytest.raises(PaystreamError, match=r"'0002_second' failed at b2: .*already exists"):
        runner.up(database, folder)
    assert set(objects(database)) == {"a", "b2"}
    assert rows(database, "SELECT x FROM b2") == [(1,)]


@pytest.mark.parametrize(
    ("statements", "rollback", "complaint"),
    [
        ("CREATE TABLE a (x UInt8) ENGINE = Null;", "", "it has 1 statements and its rollback 0"),
        # yoyo's splitter takes the quote after an escaped backslash for an escaped quote, and sees one statement here.
        (r"SELECT '\\'; SELECT 'a';", "SELECT 1; SELECT 2;", "told apart"),
        ("-- depends: 0000_gone\nSELECT 1;", "SELECT 1;", "cannot be ordered"),
    ],
)
def test_versions_that_do_not_fit_are_refused_before_anything_runs(
    database: Settings, versions: Callable[..., Path], statements: str, rollback: str, complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        runner.up(database, versions(v0001_wrong=(statements, rollback)))
    with pytest.raises(UsageError, match="does not exist"):
        rows(database, "SELECT 1")


def test_only_one_migrates_at_a_time(database: Settings, versions: Callable[..., Path]) -> None:
    migration = ("CREATE TABLE a (x UInt8) ENGINE = Null;", "DROP TABLE IF EXISTS a SYNC;")
    folder = versions(v0001_first=migration)
    with connect(database, database="") as client:
        client.command(f"CREATE DATABASE {database.clickhouse_database}")
    with ClickHouseBackend.of(database) as backend, backend.lock():
        with pytest.raises(PaystreamError) as caught:
            runner.up(database, folder, lock_timeout_s=0.5)
        assert caught.value.exit_code == 1
        for part in (f"process {os.getpid()} ", socket.gethostname(), " UTC", "`paystream migrate break-lock --yes`"):
            assert part in str(caught.value)
        assert objects(database) == {}
    assert runner.lock_holders(database) == {}
    assert len(runner.up(database, folder).applied) == 1


def test_two_migrators_at_once_share_the_work(database: Settings, paystream: Callable[..., subprocess.Popen]) -> None:
    processes = [paystream(database, "migrate", "up") for _ in range(2)]
    results = [finish(process) for process in processes]
    assert [code for code, _, _ in results] == [0, 0], results
    applied = [line.split()[1] for _, out, _ in results for line in out if line.startswith("migrate_applied")]
    assert sorted(applied) == [f"version={name}" for name in ALL]
    assert set(objects(database)) == set(FILES)


def test_a_migrator_killed_at_the_first_step_back_is_cleaned_up_after(
    database: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server finishes the DROP of the Kafka table whose migrator died meanwhile."""
    runner.up(database)
    drop = ClickHouseBackend._drop_kafka_tables_first

    def drop_and_die(backend: ClickHouseBackend, rollbacks: list[str]) -> None:
        drop(backend, rollbacks)
        if any("transactions_queue" in text for text in rollbacks if text):
            raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(ClickHouseBackend, "_drop_kafka_tables_first", drop_and_die)
        with pytest.raises(KeyboardInterrupt):
            runner.down(database, to="0011_rollups_give_way", allow_destructive=True)
    assert "transactions_queue" not in objects(database)
    with ClickHouseBackend.of(database) as opened:
        assert opened.states()["0012_flush_100_ms"].state == "unfinished"
    runner.up(database, allow_destructive=True)
    assert "kafka_flush_interval_ms = 100" in objects(database)["transactions_queue"]


def test_a_killed_migrator_is_cleaned_up_after(database: Settings, versions: Callable[..., Path]) -> None:
    folder = versions(
        v0001_slow=(
            "CREATE TABLE first (x UInt8) ENGINE = MergeTree ORDER BY x;\n"
            "INSERT INTO first VALUES (1);\n"
            "SELECT sleepEachRow(1) FROM numbers(8) SETTINGS max_block_size = 1;\n"
            "CREATE TABLE second (x UInt8) ENGINE = MergeTree ORDER BY x;\n",
            "DROP TABLE IF EXISTS second SYNC;\n"
            "SELECT 'nothing';\n"
            "TRUNCATE TABLE IF EXISTS first;\n"
            "DROP TABLE IF EXISTS first SYNC;\n",
        )
    )
    program = (
        "import sys; from pathlib import Path; from paystream.migrations.runner import up;"
        " from paystream.settings import load_settings; up(load_settings(), Path(sys.argv[1]))"
    )
    migrator = subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], cwd=CHECKOUT, env=os.environ | database.environment()
    )
    at_work = "SELECT count() FROM system.processes WHERE query LIKE '%sleepEachRow%' AND query NOT LIKE '%processes%'"
    try:
        wait_for(lambda: _count(database, "first") == 1, "the version's second statement")
        wait_for(lambda: rows(database, at_work) == [(1,)], "its third")
    finally:
        migrator.kill()
        migrator.wait()
    assert set(objects(database)) == {"first"}
    assert states(database, folder) == {"0001_slow": "unfinished"}

    # The server still works on its last statement, which is waited for; then its lock is in nobody's way.
    told: list[str] = []
    with pytest.raises(UsageError, match=r"would drop first \(1 row\)\. Repeat with --allow-destructive"):
        runner.up(database, folder, lock_timeout_s=0.2, tell=told.append)
    assert rows(database, at_work) == [(0,)]
    assert [text.partition(" FROM")[0] for text in told] == [
        "waiting for a statement of whoever holds the lock: SELECT sleepEachRow(1)"
    ]
    runner.up(database, folder, allow_destructive=True)
    assert states(database, folder) == {"0001_slow": "applied"}
    assert set(objects(database)) == {"first", "second"}
    assert rows(database, "SELECT x FROM first") == [(1,)]
    assert rows(database, "SELECT name FROM system.tables WHERE name LIKE '_yoyo_lock%'") == []


def test_a_statement_may_take_longer_than_any_request(
    database: Settings, versions: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connect.__wrapped__.__kwdefaults__, "timeout_s", 1)  # what every other request may take
    monkeypatch.setattr(backend, "TELL_AFTER_S", 1)
    folder = versions(v0001_slow=("SELECT sleepEachRow(1) FROM numbers(3) SETTINGS max_block_size = 1;", "SELECT 1;"))
    told: list[str] = []
    assert [moved.version for moved in runner.up(database, folder, tell=told.append).applied] == ["0001_slow"]
    assert [text[:60] for text in told] == ["ClickHouse has worked for 1 s on: SELECT sleepEachRow(1) FRO"]


@pytest.mark.parametrize("change", [{"boot": "another"}, {"namespace": "pid:[1]"}, {}])
def test_the_lock_of_a_migrator_that_may_live_is_broken_by_a_person_alone(
    database: Settings,
    versions: Callable[..., Path],
    paystream_here: Callable[..., tuple[int, str, list[str]]],
    change: dict[str, str],
) -> None:
    folder = versions(v0001_first=("CREATE TABLE a (x UInt8) ENGINE = Null;", "DROP TABLE IF EXISTS a SYNC;"))
    runner.up(database, folder)
    owner = {"user": "ops", "host": "elsewhere", "session": "none", **identity(), **change}
    with connect(database) as client:
        client.command(f"CREATE TABLE _yoyo_lock (held UInt8) ENGINE = Memory COMMENT '{json.dumps(owner)}'")
    who = f"process {os.getpid()} of ops on elsewhere, since "
    with pytest.raises(PaystreamError, match=f"{who}.*break-lock"):
        runner.up(database, folder, lock_timeout_s=0.2)
    code, out, [line] = paystream_here(database, "migrate", "break-lock")
    assert (code, out) == (2, "") and who in line and "--yes" in line
    code, out, err = paystream_here(database, "migrate", "break-lock", "--yes")
    assert (code, err) == (0, []) and out.startswith("migrate_break_lock status=removed")
    runner.up(database, folder, lock_timeout_s=0.2)


def _count(settings: Settings, table: str) -> int:
    try:
        return rows(settings, f"SELECT count() FROM {table}")[0][0]
    except (UsageError, DatabaseError):  # not there yet
        return 0


def test_the_kafka_table_follows_the_settings(new_database: Callable[..., Settings], standin_broker: Producer) -> None:
    # Two partitions: quarantine takes one partition, offset and millisecond for one message, whatever the topic.
    for partition, topic in enumerate(("one", "two")):
        standin_broker.produce(topic, f"from {topic}".encode(), partition=partition)
    assert standin_broker.flush(10) == 0
    settings = new_database(kafka_brokers=address(standin_broker), kafka_topic="one")

    def refused() -> list[str]:
        return sorted(message for (message,) in rows(settings, "SELECT raw_message FROM quarantine FINAL"))

    assert runner.up(settings).collection_changed
    wait_for(lambda: refused() == ["from one"], "the message of the first topic")
    assert not runner.up(settings).collection_changed
    moved = settings.model_copy(update={"kafka_topic": "two"})
    assert runner.up(moved).collection_changed
    wait_for(lambda: refused() == ["from one", "from two"], "the message of the second topic")
    assert not runner.up(moved).collection_changed


def test_a_kafka_table_left_detached_is_attached_again(database: Settings) -> None:
    runner.up(database)
    with connect(database) as client:
        client.command("DETACH TABLE transactions_queue SYNC")  # where a kill between DETACH and ATTACH leaves it
    changed = database.model_copy(update={"kafka_group": "another"})
    runner.up(changed)
    assert set(objects(database)) == set(FILES)


def test_the_named_collections_of_a_database_come_and_go_with_it(
    new_database: Callable[..., Settings], standin_broker: Producer
) -> None:
    # With a broker that cannot be reached, dropping the view on the Kafka table takes several seconds more.
    own, other = (new_database(kafka_brokers=address(standin_broker)) for _ in range(2))
    runner.up(own)
    runner.up(other)

    def held() -> set[str]:
        return {name for (name,) in rows(own, "SELECT name FROM system.named_collections")}

    collections = [
        {f"{each.clickhouse_database}_{kind}" for kind in ("kafka", "dictionaries")} for each in (own, other)
    ]
    assert held() >= collections[0] | collections[1]
    # Refreshes may have left rows that say that they were complete.
    runner.down(own, everything=True, allow_destructive=True)
    assert not held() & collections[0] and held() >= collections[1]
    runner.down(other, everything=True, allow_destructive=True)
    assert not held() & collections[1]


def test_a_password_is_shown_nowhere(
    new_database: Callable[..., Settings], paystream: Callable[..., subprocess.Popen]
) -> None:
    secret = 's3cr3t\'; DROP \\ "x"'
    settings = new_database(
        kafka_security_protocol="SASL_PLAINTEXT",
        kafka_sasl_mechanism="PLAIN",
        kafka_sasl_username="paystream",
        kafka_sasl_password=SecretStr(secret),
    )
    code, out, err = finish(paystream(settings, "migrate", "up"))
    assert code == 0
    shown = [
        *out,
        err,
        rows(settings, "SELECT * FROM system.tables WHERE database = currentDatabase()"),
        rows(settings, "SHOW CREATE TABLE transactions_queue"),
        rows(settings, "SELECT * FROM system.named_collections"),
        rows(settings, "SELECT * FROM _yoyo_log"),
    ]
    assert "s3cr3t" not in repr(shown)
    # It did arrive: with less set, what was set before is deleted.
    assert "kafka_sasl_password" in collection_keys(settings)
    plain = {"kafka_security_protocol": "PLAINTEXT", "kafka_sasl_password": None, "kafka_sasl_mechanism": None}
    assert runner.up(settings.model_copy(update=plain)).collection_changed
    assert "kafka_sasl_password" not in collection_keys(settings)


def collection_keys(settings: Settings) -> set[str]:
    keys = "SELECT mapKeys(collection) FROM system.named_collections"
    return set(rows(settings, f"{keys} WHERE name = '{settings.clickhouse_database}_kafka'")[0][0])


def test_keys_of_the_collection_are_the_settings_and_what_somebody_added(database: Settings) -> None:
    tls = {
        "kafka_security_protocol": "SSL",
        "kafka_ssl_ca_location": "/etc/kafka/ca.pem",
        "kafka_client_settings": "socket.keepalive.enable=true,client.rack=a",
    }
    runner.up(database.model_copy(update=tls))
    of_tls = {"kafka.ssl_ca_location", "kafka.socket_keepalive_enable", "kafka.client_rack"}
    assert collection_keys(database) >= of_tls
    collection = f"{database.clickhouse_database}_kafka"
    with connect(database) as client:
        client.command(f"ALTER NAMED COLLECTION {collection} SET `kafka.broker_address_family` = 'v4'")
    assert runner.up(database).collection_changed
    assert not collection_keys(database) & of_tls
    assert "kafka.broker_address_family" in collection_keys(database)


def test_yoyo_itself_understands_the_database(database: Settings, versions: Callable[..., Path]) -> None:
    folder = versions(v0001_first=("CREATE TABLE a (x UInt8) ENGINE = Null;", "DROP TABLE IF EXISTS a SYNC;"))
    runner.up(database, folder)
    uri = f"clickhouse://default@127.0.0.1:{database.clickhouse_port}/{database.clickhouse_database}"
    with get_backend(uri) as backend:
        migrations = read_migrations(str(folder))
        assert [migration.id for migration in backend.to_rollback(migrations)] == ["0001_first"]
        backend.rollback_migrations(backend.to_rollback(migrations))
        assert [migration.id for migration in backend.to_apply(migrations)] == ["0001_first"]
    assert objects(database) == {}
