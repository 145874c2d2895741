"""`paystream audit`, `quarantine`, `report` and `rollup` on two nodes: they see all, or say what not."""

import json
import signal
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial

import pytest
import waiting
from clickhouse_connect.driver.httputil import close_managers
from confluent_kafka import Producer
from payments import payment, rfc3339
from stacks import running

from paystream.clickhouse import connect
from paystream.devstack import stack as local_stack
from paystream.kafka import client_config
from paystream.lock import locked
from paystream.migrations import runner
from paystream.quarantine.replay import LOCK
from paystream.settings import Settings

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]

Run = Callable[..., tuple[int, str, list[str]]]

YESTERDAY = (datetime.now(UTC) - timedelta(days=1)).replace(hour=9, minute=10)
SENT = [
    payment(
        merchant_id=1 + number % 5,
        amount=f"{number}.25",
        currency="EUR" if number % 3 else "USD",
        created_at=rfc3339(YESTERDAY + timedelta(minutes=number % 90)),
        updated_at=rfc3339(YESTERDAY + timedelta(hours=2)),
    )
    for number in range(400)
]
"""Payments whose sums the tests know."""
LACKS_AMOUNT = [payment(amount=...) for _ in range(8)]
PARTITIONS = 4


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, make_settings: Callable[..., Settings]) -> Iterator[Settings]:
    """The settings of two nodes that have stored ``SENT`` and refused ``LACKS_AMOUNT``."""
    with running(make_settings(tmp_path_factory.mktemp("cluster"), nodes=2)) as settings:
        runner.up(settings)
        # Each node is to read some of it.
        readers = "SELECT sum(length(assignments.partition_id)) FROM system.kafka_consumers"
        wait_until(lambda: [rows(node(settings, number), readers) for number in (1, 2)] == [[(PARTITIONS // 2,)]] * 2)
        produce(settings, *SENT, *LACKS_AMOUNT)
        wait_until(lambda: rows(settings, "SELECT count() FROM transactions") == [(len(SENT),)])
        wait_until(lambda: rows(settings, "SELECT count() FROM quarantine") == [(len(LACKS_AMOUNT),)])
        yield settings


@pytest.fixture(scope="module")
def run(cluster: Settings, paystream_here: Run) -> Run:
    return partial(paystream_here, cluster)


def produce(settings: Settings, *payments: dict) -> None:
    producer = Producer(client_config(settings) | {"log_level": 0})
    for number, fields in enumerate(payments):
        value = json.dumps(fields).encode()
        producer.produce(settings.kafka_topic, value, fields["transaction_id"], partition=number % PARTITIONS)
    assert producer.flush(30) == 0


def node(settings: Settings, number: int) -> Settings:
    """Return settings whose configured node is this one, from 1."""
    return settings.at(*settings.node_addresses[number - 1])


def rows(settings: Settings, sql: str) -> list[tuple]:
    with connect(settings) as client:
        return list(client.query(sql).result_rows)


def command(settings: Settings, number: int, sql: str) -> None:
    with connect(node(settings, number)) as client:
        client.command(sql)


wait_until = partial(waiting.wait_until, seconds=120, every_s=0.2)


def audit(run: Run, *arguments: str) -> tuple[int, dict]:
    code, out, err = run("audit", "--json", *arguments)
    assert out, err
    return code, json.loads(out)


def test_both_nodes_together_have_everything(cluster: Settings, run: Run) -> None:
    both = [rows(node(cluster, number), "SELECT sum(messages) FROM ingest_ledger_local")[0][0] for number in (1, 2)]
    assert min(both) > 0 and sum(both) == len(SENT) + len(LACKS_AMOUNT)
    code, result = audit(run, "--deep")
    assert (code, result["verdict"]) == (0, "complete")
    read = [partition["stored"] for partition in result["partitions"]]
    assert read == [(len(SENT) + len(LACKS_AMOUNT)) // PARTITIONS] * PARTITIONS
    assert sum(partition["refused"] for partition in result["partitions"]) == len(LACKS_AMOUNT)
    assert [partition["absent_rows"] for partition in result["partitions"]] == [0] * PARTITIONS
    assert result["cluster"] == {"unseen": [], "misplaced": [], "on_two_shards": 0, "example": "", "sets": None}
    assert "set" not in result["partitions"][0]
    for number in (1, 2):
        sql = "SELECT is_deep, verdict FROM audits ORDER BY audited_at DESC LIMIT 1"
        assert rows(node(cluster, number), sql) == [(True, "complete")]


@pytest.mark.parametrize("deep", [False, True])
def test_a_payment_on_two_shards_and_one_on_the_wrong_shard_are_found(cluster: Settings, run: Run, deep: bool) -> None:
    [[moved]] = rows(node(cluster, 1), "SELECT toString(transaction_id) FROM transactions_local LIMIT 1")
    home, away = f"127.0.0.1:{cluster.node_addresses[0][1]}", f"127.0.0.1:{cluster.node_addresses[1][1]}"
    arguments = ["--deep"] if deep else []
    command(cluster, 2, f"INSERT INTO transactions_local SELECT * FROM transactions WHERE transaction_id = '{moved}'")
    code, result = audit(run, *arguments)
    assert (code, result["verdict"]) == (1, "misplaced")
    assert result["cluster"]["misplaced"] == [{"node": away, "shard": 2, "rows": 1, "example": moved}]
    assert (result["cluster"]["on_two_shards"], result["cluster"]["example"]) == (1, moved)
    assert f"1 rows of payments lie on node '{away}' (shard 2) and belong to another, such as" in result["advice"][0]
    assert home not in "".join(result["advice"])
    command(cluster, 1, f"DELETE FROM transactions_local WHERE transaction_id = '{moved}'")
    code, result = audit(run, *arguments)
    assert (code, result["verdict"], result["cluster"]["on_two_shards"]) == (1, "misplaced", 0)
    assert [place["example"] for place in result["cluster"]["misplaced"]] == [moved]

    # As the runbook has it: where it belongs first.
    expression = rows(cluster, "SELECT engine_full FROM system.tables WHERE name = 'transactions_to_shards'")[0][0]
    assert "cityHash64(transaction_id) % 2" in expression
    wrong = "cityHash64(transaction_id) % 2 != getMacro('shard')::Int8 - 1"
    command(cluster, 2, f"INSERT INTO transactions_to_shards SELECT * FROM transactions_local WHERE {wrong}")
    command(cluster, 2, f"DELETE FROM transactions_local WHERE {wrong}")
    assert audit(run, *arguments)[0] == 0


def test_a_hole_in_the_ledger_of_one_node_is_found(cluster: Settings, run: Run) -> None:
    block = "ORDER BY kafka_partition, first_offset LIMIT 1"
    [[partition, first, messages]] = rows(
        node(cluster, 2), f"SELECT kafka_partition, first_offset, messages FROM ingest_ledger_local {block}"
    )
    command(cluster, 2, "DROP TABLE IF EXISTS kept")
    command(cluster, 2, "CREATE TABLE kept ENGINE = MergeTree ORDER BY () AS SELECT * FROM ingest_ledger_local")
    command(
        cluster,
        2,
        f"DELETE FROM ingest_ledger_local WHERE kafka_partition = {partition} AND first_offset = {first}",
    )
    code, result = audit(run)
    assert (code, result["verdict"], result["holes"]["lost"]) == (1, "loss", messages)
    assert result["partitions"][partition]["holes"]["lost"] == messages
    command(cluster, 2, "TRUNCATE TABLE ingest_ledger_local")
    command(cluster, 2, "INSERT INTO ingest_ledger_local SELECT * FROM kept")
    command(cluster, 2, "DROP TABLE kept SYNC")
    assert audit(run)[0] == 0


def test_rows_that_are_gone_from_one_node_are_found(cluster: Settings, run: Run) -> None:
    [[gone]] = rows(node(cluster, 2), "SELECT toString(transaction_id) FROM transactions_local LIMIT 1")
    command(cluster, 2, "DROP TABLE IF EXISTS kept")
    command(
        cluster,
        2,
        "CREATE TABLE kept ENGINE = MergeTree ORDER BY () AS"
        f" SELECT * FROM transactions_local WHERE transaction_id = '{gone}'",
    )
    command(cluster, 2, f"DELETE FROM transactions_local WHERE transaction_id = '{gone}'")
    code, result = audit(run, "--deep")
    assert (code, result["verdict"]) == (1, "loss")
    assert sum(partition["absent_rows"] for partition in result["partitions"]) == 1
    command(cluster, 2, "INSERT INTO transactions_local SELECT * FROM kept")
    command(cluster, 2, "DROP TABLE kept SYNC")
    assert audit(run, "--deep")[0] == 0


@pytest.mark.on_demand
def test_reports_are_sums_of_both_shards_and_a_rebuild_mends_one(cluster: Settings, run: Run) -> None:
    day = f"{YESTERDAY:%Y-%m-%d}"
    expected = Counter()
    for fields in SENT:
        expected[fields["currency"]] += Decimal(fields["amount"])

    def exposure(*arguments: str) -> dict[str, Decimal]:
        code, out, err = run("report", "currency_exposure_by_day", "--day", day, "--format", "json", *arguments)
        assert code == 0, err
        sums = Counter()
        for row in json.loads(out):
            sums[row["currency"]] += Decimal(str(row["authorized_amount"]))
        return sums

    assert exposure("--wait") == expected
    wait_until(lambda: run("audit", "--reports")[0] == 0)
    # Refreshes look at what is new again for a minute or two, and the audit leaves out what they have yet to look at.
    newest = "SELECT max(complete_until) FROM merchant_slots_local WHERE notEmpty(payments)"
    reached = "SELECT max(settled_until) FROM rollup_state_local WHERE view = 'volume_hours_mv'"
    wait_until(lambda: rows(node(cluster, 2), f"SELECT ({newest}) < ({reached})") == [(1,)], seconds=240)
    command(cluster, 2, "SYSTEM STOP VIEW volume_hours_mv")
    # All but what says how far they have come.
    command(cluster, 2, "DELETE FROM volume_hours_local WHERE toYear(hour) > 1970")
    code, out, _ = run("audit", "--reports", "--json")
    result = json.loads(out)
    assert (code, result["verdict"]) == (1, "drift")
    assert {example["rollup"] for example in result["examples"]} == {"volume_hours"}
    code, out, err = run("rollup", "rebuild", "--from", day, "--to", day, "--json")
    assert (code, json.loads(out)["rows"]) == (0, len(SENT)), err
    assert exposure() == expected
    command(cluster, 2, "SYSTEM START VIEW volume_hours_mv")
    assert run("audit", "--reports")[0] == 0
    [[shards]] = rows(cluster, "SELECT uniqExact(_shard_num) FROM volume_hours")
    assert shards == 2


def test_replays_are_recorded_on_both_nodes_and_exclude_each_other(cluster: Settings, run: Run) -> None:
    code, out, err = run("quarantine", "list", "--json")
    assert code == 0, err
    [group] = json.loads(out)
    assert (group["messages"], group["replayed"], len(group["partitions"])) == (len(LACKS_AMOUNT), 0, PARTITIONS)
    choice = ["--since", "1h", "--max", "100"]
    second = partial(run, PAYSTREAM_CLICKHOUSE_PORT=str(cluster.node_addresses[1][1]))
    with connect(node(cluster, 1)) as client, locked(client, LOCK, "a test"):
        code, _, err = second("quarantine", "replay", *choice)
        assert code == 1 and "another one is running" in err[0]
    code, out, err = second("quarantine", "replay", *choice, "--json")
    assert (code, json.loads(out)["sent"]) == (0, len(LACKS_AMOUNT)), err
    records = "SELECT state, count() FROM quarantine_replays FINAL GROUP BY state"
    for number in (1, 2):
        assert rows(node(cluster, number), records) == [("sent", len(LACKS_AMOUNT))]
    wait_until(lambda: json.loads(run("quarantine", "list", "--json")[1])[0]["refused_again"] == len(LACKS_AMOUNT))

    # A node that was lost while they were recorded is given what it lacks, and nothing is sent twice.
    command(cluster, 2, "TRUNCATE TABLE quarantine_replays")
    code, out, err = second("quarantine", "replay", *choice, "--json")
    assert (code, json.loads(out)["sent"], json.loads(out)["found_sent"]) == (0, 0, 0), err
    assert rows(node(cluster, 2), records) == [("sent", len(LACKS_AMOUNT))]
    assert rows(cluster, "SELECT count() FROM quarantine FINAL") == [(2 * len(LACKS_AMOUNT),)]

    # Repaired: it is read by now and stored, whichever node reads it.
    stored = payment(transaction_id=str(uuid.uuid4()))
    produce(cluster, stored)
    wait_until(
        lambda: (
            rows(cluster, f"SELECT count() FROM transactions WHERE transaction_id = '{stored['transaction_id']}'")
            == [(1,)]
        )
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.on_demand)])
def test_with_a_node_away_nothing_is_taken_for_whole(cluster: Settings, run: Run, number: signal.Signals) -> None:
    away = f"127.0.0.1:{cluster.node_addresses[1][1]}"
    close_managers()
    local_stack.kill(cluster, "clickhouse-2", number)
    began = time.monotonic()
    try:
        code, result = audit(run)
        assert (code, result["verdict"]) == (1, "incomplete")
        assert result["holes"]["lost"] == 0 < result["holes"]["unchecked"]
        [unseen] = result["cluster"]["unseen"]
        assert unseen.startswith(f"node '{away}' does not answer: ")
        assert f"Node '{away}' does not answer" in "".join(result["advice"])
        sql = "SELECT verdict FROM audits ORDER BY audited_at DESC LIMIT 1"
        assert rows(node(cluster, 1), sql) == [("incomplete",)]

        code, out, err = run("quarantine", "list")
        assert code == 1 and "those on shard 2 are not in it" in err[0] and away in err[0]
        [[here]] = rows(node(cluster, 1), "SELECT count() FROM quarantine_local FINAL")
        assert here and out.startswith("quarantine reason=") and " stored=0 " in out
        for arguments in (
            ["quarantine", "replay", "--since", "1h"],
            ["rollup", "rebuild"],
            ["report", "settlement_by_day", "--day", f"{YESTERDAY:%Y-%m-%d}"],
        ):
            code, out, err = run(*arguments)
            assert (code, out, len(err)) == (3, "", 1), arguments
            assert f"node '{away}' does not answer: " in err[0]
        code, out, err = run("audit", "--reports")
        assert code == 1 and "verdict=incomplete" in out and away in err[0]
        assert time.monotonic() - began < 150
    finally:
        if number == signal.SIGSTOP:
            local_stack.kill(cluster, "clickhouse-2", signal.SIGCONT)
        else:
            local_stack.start(cluster, "kafka")
    wait_until(lambda: audit(run)[0] == 0)
