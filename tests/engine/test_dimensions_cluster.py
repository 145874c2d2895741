"""Dimensions on a cluster of two real nodes: one snapshot everywhere, whoever or whatever is killed meanwhile."""

import random
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.httputil import close_managers
from kill_at_random import run_and_kill
from test_dimensions import REFRESH_WHEN_READY, load_merchants, merchants_file

from paystream import nodes
from paystream.clickhouse import connect
from paystream.devstack.clickhouse_server import Instance, running
from paystream.errors import CheckFailed, PaystreamError
from paystream.loader import history
from paystream.loader import repair as repairing
from paystream.loader.dimension import MERCHANTS
from paystream.loader.merchants import read_merchants
from paystream.loader.refresh import Refreshed, refresh, roll_back
from paystream.loader.repair import preview, repair
from paystream.loader.source import read_source
from paystream.migrations import runner
from paystream.settings import Settings

PaystreamHere = Callable[..., tuple[int, str, list[str]]]

CONFIGURATION = """<clickhouse>
    <macros><shard>{shard}</shard></macros>
    <remote_servers><pair>{shards}</pair></remote_servers>
</clickhouse>"""
SHARD = "<shard><replica><host>127.0.0.1</host><port>{port}</port></replica></shard>"


@dataclass
class Pair:
    """Two nodes, a shard each, that a test can kill and start again."""

    instances: list[Instance]
    settings: Settings
    running: dict[int, ExitStack] = field(default_factory=dict)
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, number: int) -> None:
        shards = "".join(SHARD.format(port=instance.native_port) for instance in self.instances)
        files = {"conf.d/cluster.xml": CONFIGURATION.format(shard=number + 1, shards=shards)}
        stack = ExitStack()
        self.processes[number] = stack.enter_context(running(self.instances[number], files))
        self.running[number] = stack

    def kill(self, number: int) -> None:
        self.processes[number].kill()
        self.processes[number].wait()
        self.running.pop(number).close()

    def at(self, number: int) -> Settings:
        """Return the settings through this node."""
        instance = self.instances[number]
        return self.settings.model_copy(update={"clickhouse_port": instance.http_port})

    def rows(self, number: int, sql: str) -> list[tuple[Any, ...]]:
        with connect(self.at(number)) as client:
            return [tuple(row) for row in client.query(sql).result_rows]

    def state(self, number: int) -> list[list[tuple[Any, ...]]]:
        """Return all of merchants that a node has, which has to be the same on both."""
        return [
            self.rows(number, f"SELECT {what}")
            for what in (
                "* FROM merchants ORDER BY merchant_id",
                "* FROM merchants_dict ORDER BY merchant_id",
                "* FROM merchants_history ORDER BY snapshot_id, merchant_id",
                "* FROM dimension_snapshots ORDER BY dimension, snapshot_id",
                "name FROM system.tables WHERE database = currentDatabase()"
                " AND match(name, '_(refresh|staging|repair)(_|$)')"
                " AND name != 'transactions_to_repair'",
            )
        ]

    def names(self, number: int) -> list[tuple[str, int, int]]:
        return self.rows(number, "SELECT merchant_name, snapshot_id, count() FROM merchants_dict GROUP BY 1, 2")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folders = [tmp_path_factory.mktemp(f"node{number}") for number in (1, 2)]
    instances = [Instance.within(folder) for folder in folders]
    settings = Settings(
        _env_file=None,
        home=tmp_path_factory.mktemp("home") / "home",
        clickhouse_host="127.0.0.1",
        clickhouse_port=instances[0].http_port,
        clickhouse_cluster="pair",
        clickhouse_nodes=",".join(f"127.0.0.1:{instance.http_port}" for instance in instances),
        kafka_brokers="127.0.0.1:1",
        dims_row_fall_limit=1.0,
    )
    pair = Pair(instances, settings)
    try:
        for number in (0, 1):
            pair.start(number)
        runner.up(settings)
        yield pair
    finally:
        close_managers()
        for stack in pair.running.values():
            stack.close()


@pytest.fixture
def pair(servers: Pair, monkeypatch: pytest.MonkeyPatch) -> Pair:
    """The nodes as a test before has left them: with the same snapshot, if any."""
    monkeypatch.setattr(repairing, "SETTLE_S", 0.0)
    for number in {0, 1} - set(servers.running):
        servers.start(number)
    return servers


def newest(pair: Pair) -> int:
    return max(snapshot_id for number in (0, 1) for _, snapshot_id, _ in pair.names(number) or [("", 0, 0)])


def test_a_refresh_and_a_rollback_leave_the_same_on_both_nodes(pair: Pair, tmp_path: Path) -> None:
    first = load_merchants(pair.at(0), merchants_file(tmp_path, "One"))
    second = load_merchants(pair.at(1), merchants_file(tmp_path, "Two", count=2))
    assert (first.snapshot_id, second.snapshot_id) == (1, 2)
    assert pair.names(0) == pair.names(1) == [("Two", 2, 2)]
    assert load_merchants(pair.at(0), tmp_path / "Two.csv").result == "unchanged"
    checks = "SELECT dimension, snapshot_id, checked_at FROM dimension_checks"
    assert pair.rows(0, checks) == pair.rows(1, checks) and len(pair.rows(0, checks)) == 1
    assert roll_back(pair.at(1), MERCHANTS, 1).snapshot_id == 3
    assert pair.names(0) == pair.names(1) == [("One", 3, 3)]
    assert pair.state(0) == pair.state(1)
    assert pair.state(0)[-1] == []


def test_each_nodes_payments_are_repaired_where_they_are(pair: Pair, tmp_path: Path) -> None:
    load_merchants(pair.at(0), merchants_file(tmp_path, "Known", count=10))
    chance = random.Random(1)
    ids = [str(uuid.UUID(int=chance.getrandbits(128))) for _ in range(40)]
    paid = "10, 'USD', 'settled', '2026-10-04 00:00:00'"
    values = ", ".join(
        f"('{key}', '2026-10-0{1 + number % 3} 12:00:00', {number % 20 + 1}, {paid})" for number, key in enumerate(ids)
    )
    with connect(pair.at(0)) as client:
        client.command(
            "INSERT INTO transactions_to_shards "
            f"(transaction_id, created_at, merchant_id, amount, currency, status, updated_at) VALUES {values}"
        )
    shares = [pair.rows(number, "SELECT count() FROM transactions_local")[0][0] for number in (0, 1)]
    assert sum(shares) == 40 and min(shares) > 0
    # Numbers 1 to 10 of 20 are known; the reporting currency has its rate without a file, so all 40 rows change.
    announced = preview(pair.at(1))
    assert sum(move.rows for move in announced) == 40
    assert [(move.day.day, move.rows) for move in announced] == [(3, 13), (2, 13), (1, 14)]
    assert repair(pair.at(1)).rows == 40
    stored = "SELECT toString(transaction_id), merchant_name, amount_reporting, _shard_num FROM transactions FINAL"
    assert {row[:3] for row in pair.rows(0, stored)} == {
        (key, "Known" if number % 20 < 10 else "", Decimal(10)) for number, key in enumerate(ids)
    }
    assert [pair.rows(number, "SELECT count() FROM transactions_local FINAL")[0][0] for number in (0, 1)] == shares
    assert repair(pair.at(0)).rows == 0 and preview(pair.at(0)) == []
    load_merchants(pair.at(0), merchants_file(tmp_path, "More", count=20))
    with ThreadPoolExecutor(2) as threads:
        done = [threads.submit(repair, pair.at(number)) for number in (0, 1)]
    assert sorted(each.result().rows for each in done) == [0, 20]
    assert pair.state(0)[-1] == pair.state(1)[-1] == []


def test_without_a_node_it_is_refused_or_skipped_and_the_node_catches_up(
    pair: Pair, paystream_here: PaystreamHere, tmp_path: Path
) -> None:
    load_merchants(pair.at(0), merchants_file(tmp_path, "Before"))
    old = newest(pair)
    before, away = pair.state(0), pair.settings.clickhouse_nodes.split(",")[1]
    pair.kill(1)
    path = str(merchants_file(tmp_path, "After", count=5))
    again = ("dims", "refresh", "merchants", "--from", path)
    for arguments in (again, ("dims", "rollback", "merchants", "--to", "1"), ("dims", "repair")):
        code, out, err = paystream_here(pair.at(0), *arguments)
        assert (code, out, len(err)) == (3, "", 1)
        assert f"node '{away}' does not answer" in err[0] and "Nothing was changed." in err[0]
    assert pair.state(0) == before
    # Through the node that is away, too, since the others are named.
    code, out, err = paystream_here(pair.at(1), *again, "--skip-away")
    assert code == 0 and f"result=loaded snapshot_id={old + 1} rows=5 " in out
    assert err[0].startswith(f"note: Refresh of 'merchants': without '{away}', which did not answer.")
    assert pair.names(0) == [("After", old + 1, 5)]

    pair.start(1)
    assert pair.names(1) == [("Before", old, 3)]
    served = history.serving(nodes.find(pair.at(0)))
    assert [served[address]["merchants"] for address in pair.settings.clickhouse_nodes.split(",")] == [old + 1, old]
    code, _, err = paystream_here(pair.at(0), "dims", "history", "merchants")
    assert code == 0
    assert err[0].startswith(
        f"note: Snapshots of 'merchants': node '{away}' serves {old}, and the newest is {old + 1}. "
    )
    with pytest.raises(CheckFailed, match=f"node '{away}' serves {old}, and the newest is {old + 1}"):
        repair(pair.at(0))
    code, out, err = paystream_here(pair.at(0), *again)
    assert (code, err) == (0, []) and f"result=unchanged snapshot_id={old + 1} " in out
    assert pair.state(0) == pair.state(1)
    assert pair.names(1) == [("After", old + 1, 5)]


def test_a_number_that_a_node_may_have_used_is_not_given_away_again(pair: Pair, tmp_path: Path) -> None:
    """A swap that came to one node only, which then went away: the next snapshot has another number."""
    path = merchants_file(tmp_path, "Base")
    load_merchants(pair.at(0), path)
    old = newest(pair)
    with connect(pair.at(0)) as client, connect(pair.at(1)) as other:
        for each in (client, other):
            each.command(
                f"INSERT INTO merchants_history SELECT merchant_id, 'Cut off', 'DE', '0742', {old + 1} FROM merchants"
            )
        client.command("CREATE TABLE merchants_staging_aaaaaaaaaaaa AS merchants")
        client.command(
            f"INSERT INTO merchants_staging_aaaaaaaaaaaa SELECT * FROM merchants_history WHERE snapshot_id = {old + 1}"
        )
        client.command("CREATE TABLE merchants_refresh_aaaaaaaaaaaa AS dimension_snapshots")
        client.command(
            "INSERT INTO merchants_refresh_aaaaaaaaaaaa (dimension, snapshot_id, checksum, row_count)"
            f" VALUES ('merchants', {old + 1}, 'c', 3)"
        )
        client.command("EXCHANGE TABLES merchants AND merchants_staging_aaaaaaaaaaaa")
    pair.kill(0)
    source = merchants_file(tmp_path, "Meanwhile", count=4)
    read = read_source("Merchants file", source)
    done = refresh(pair.at(1), MERCHANTS, read, read_merchants(read).columns, skip_away=True)
    assert (done.snapshot_id, done.away) == (old + 2, (pair.settings.clickhouse_nodes.split(",")[0],))
    pair.start(0)
    assert load_merchants(pair.at(0), source).result == "unchanged"
    assert pair.state(0) == pair.state(1)
    assert [row[1] for row in pair.state(1)[3]][-3:] == [old, old + 1, old + 2]
    assert {row[1] for row in pair.state(1)[2] if row[4] == old + 1} == {"Cut off"}


def settled(pair: Pair, path: Path, through: int, name: str, count: int) -> None:
    """Run the same refresh again and see that both nodes have it."""
    assert load_merchants(pair.at(through), path).result in ("loaded", "unchanged")
    states = [pair.state(number) for number in (0, 1)]
    assert states[0] == states[1]
    assert states[0][-1] == []
    [(served, snapshot_id, rows)] = pair.names(0)
    assert (served, rows) == (name, count)
    assert states[0][3][-1][1] == snapshot_id


@pytest.mark.on_demand
@pytest.mark.timeout(900)
def test_a_refresh_killed_at_any_moment_is_completed_by_the_next_one(pair: Pair, tmp_path: Path) -> None:
    load_merchants(pair.at(0), merchants_file(tmp_path, "Round 0", count=2000))
    chance = random.Random(11)
    longest_s, killed = 0.0, 0
    for number in range(1, 10):
        path = merchants_file(tmp_path, f"Round {number}", count=2000)
        # The first runs to its end, to know how long there is something to interrupt.
        after_s = 120 if number == 1 else chance.uniform(0, longest_s)
        was_killed, worked_s = run_and_kill(
            REFRESH_WHEN_READY, str(path), settings=pair.at(number % 2), folder=tmp_path, after_s=after_s
        )
        longest_s, killed = max(longest_s, worked_s), killed + was_killed
        for node in (0, 1):
            [(name, _, rows)] = pair.names(node)
            assert name in (f"Round {number - 1}", f"Round {number}") and rows == 2000
        settled(pair, path, chance.randrange(2), f"Round {number}", 2000)
    assert killed >= 4


@pytest.mark.on_demand
@pytest.mark.timeout(900)
def test_a_node_killed_during_a_refresh_comes_back_with_the_same_snapshot(pair: Pair, tmp_path: Path) -> None:
    load_merchants(pair.at(0), merchants_file(tmp_path, "Turn 0", count=2000))
    chance = random.Random(12)
    started = time.monotonic()
    load_merchants(pair.at(0), merchants_file(tmp_path, "Turn 1", count=2000))
    usual_s = time.monotonic() - started
    for number in range(2, 6):
        path = merchants_file(tmp_path, f"Turn {number}", count=2000)
        # In a process of its own: what it leaves it leaves as the dead do.
        with ThreadPoolExecutor(1) as threads:
            run = threads.submit(
                run_and_kill, REFRESH_WHEN_READY, str(path), settings=pair.at(0), folder=tmp_path, after_s=120
            )
            time.sleep(chance.uniform(0.5, 1.5 + usual_s))  # a moment at random is what is tried
            pair.kill(number % 2)
            run.result()
        pair.start(number % 2)
        settled(pair, path, chance.randrange(2), f"Turn {number}", 2000)


def test_of_two_refreshes_through_different_nodes_one_gives_way(pair: Pair, tmp_path: Path) -> None:
    paths = [merchants_file(tmp_path, f"Run {number}", count=500) for number in range(6)]
    before = newest(pair)

    def attempt(number: int) -> Refreshed | None:
        try:
            return load_merchants(pair.at(number % 2), paths[number])
        except CheckFailed as error:
            assert "another one is running" in str(error)
            return None

    with ThreadPoolExecutor(3) as threads:
        done = [refreshed for refreshed in threads.map(attempt, range(6)) if refreshed]
    assert sorted(refreshed.snapshot_id for refreshed in done) == list(range(before + 1, before + 1 + len(done)))
    assert pair.state(0) == pair.state(1)
    last = max(done, key=lambda refreshed: refreshed.snapshot_id)
    assert pair.state(0)[3][-1][1:4:2] == (last.snapshot_id, last.checksum)


def test_a_dictionary_that_fails_on_one_node_leaves_the_old_snapshot_or_a_swap_to_complete(
    pair: Pair, tmp_path: Path
) -> None:
    load_merchants(pair.at(0), merchants_file(tmp_path, "Good"))
    before = pair.state(0)
    [(definition,)] = pair.rows(0, "SELECT create_table_query FROM system.tables WHERE name = 'merchants_dict'")
    with connect(pair.at(0)) as client:
        source = "QUERY 'SELECT * FROM paystream.merchants WHERE NOT throwIf(merchant_id = 5)'"
        client.command(definition.replace("TABLE 'merchants'", source).replace("CREATE", "CREATE OR REPLACE", 1))
    try:
        with pytest.raises(PaystreamError, match=f"on node '127.0.0.1:{pair.instances[0].http_port}'"):
            load_merchants(pair.at(1), merchants_file(tmp_path, "Bad", count=5))
        assert pair.state(0) == [before[0], before[1], *pair.state(0)[2:3], *before[3:]]
        assert pair.names(1) == pair.names(0)
    finally:
        with connect(pair.at(0)) as client:
            client.command(definition.replace("CREATE", "CREATE OR REPLACE", 1))
