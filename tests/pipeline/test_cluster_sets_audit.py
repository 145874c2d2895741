"""`paystream audit` of two sets of nodes, which must have the same payments."""

import json
import signal
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial

import pytest
from clickhouse_connect.driver.httputil import close_managers
from stacks import running
from test_cluster_audit import (
    LACKS_AMOUNT,
    PARTITIONS,
    SENT,
    YESTERDAY,
    audit,
    command,
    node,
    produce,
    rows,
    wait_until,
)

from paystream.devstack import stack as local_stack
from paystream.migrations import runner
from paystream.settings import Settings

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]

Run = Callable[..., tuple[int, str, list[str]]]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory, make_settings: Callable[..., Settings]) -> Iterator[Settings]:
    """The settings of two sets of one node each, of which each has stored ``SENT`` and refused ``LACKS_AMOUNT``."""
    shape = {"nodes": 1, "sets": 2}
    with running(make_settings(tmp_path_factory.mktemp("sets"), **shape), **shape) as settings:
        runner.up(settings)
        produce(settings, *SENT, *LACKS_AMOUNT)
        for number in (1, 2):
            own = node(settings, number)
            wait_until(lambda own=own: rows(own, "SELECT count() FROM transactions_local") == [(len(SENT),)])
            wait_until(lambda own=own: rows(own, "SELECT count() FROM quarantine_local") == [(len(LACKS_AMOUNT),)])
        yield settings


@pytest.fixture(scope="module")
def run(sets: Settings, paystream_here: Run) -> Run:
    return partial(paystream_here, sets)


def test_each_set_has_read_everything_and_they_agree(run: Run) -> None:
    code, result = audit(run, "--deep")
    assert (code, result["verdict"]) == (0, "complete"), result["advice"]
    assert [partition["set"] for partition in result["partitions"]] == ["1"] * PARTITIONS + ["2"] * PARTITIONS
    assert sum(partition["stored"] for partition in result["partitions"]) == 2 * (len(SENT) + len(LACKS_AMOUNT))
    half_hours = {(fields["created_at"][:13], int(fields["created_at"][14:16]) // 30) for fields in SENT}
    expected = {"sets": ["1", "2"], "half_hours": len(half_hours), "in_motion": 0, "differences": 0}
    assert {name: result["cluster"]["sets"][name] for name in expected} == expected


def test_what_one_set_lacks_is_told_by_day_and_shard(sets: Settings, run: Run) -> None:
    gone = next(fields for fields in SENT if fields["currency"] == "USD")
    total = sum(Decimal(fields["amount"]) for fields in SENT if fields["currency"] == "USD")
    of_slot = [
        fields
        for fields in SENT
        if fields["currency"] == "USD"
        and fields["created_at"][:14] == gone["created_at"][:14]
        and int(fields["created_at"][14:16]) // 30 == int(gone["created_at"][14:16]) // 30
    ]
    there = sum(Decimal(fields["amount"]) for fields in of_slot)
    assert there < total
    where = f"transaction_id = '{gone['transaction_id']}'"
    command(sets, 2, f"DELETE FROM transactions_local WHERE {where}")
    code, result = audit(run)
    assert (code, result["verdict"]) == (1, "misplaced")
    [example] = result["cluster"]["sets"]["examples"]
    assert (example["day"], example["shard"], example["sets"]) == (f"{YESTERDAY:%Y-%m-%d}", 1, ["1", "2"])
    assert (example["currency"], example["status"]) == ("USD", "authorized")
    assert example["transactions"] == [len(of_slot), len(of_slot) - 1]
    assert [Decimal(str(amount)) for amount in example["amount"]] == [there, there - Decimal(gone["amount"])]
    assert "Sets 1 and 2 differ on" in "".join(result["advice"])
    # Once more through Kafka: what the other set has of it is the same.
    produce(sets, gone)
    wait_until(lambda: rows(node(sets, 2), f"SELECT count() FROM transactions_local WHERE {where}") == [(1,)])
    wait_until(lambda: audit(run)[0] == 0)


def test_half_hours_that_a_set_is_still_reading_are_not_compared(sets: Settings, run: Run) -> None:
    changed = SENT[7] | {"amount": "1.00", "updated_at": f"{YESTERDAY:%Y-%m-%d}T20:00:00Z"}
    command(sets, 2, "DETACH TABLE transactions_queue SYNC")
    try:
        produce(sets, changed)
        changed_here = f"SELECT count() FROM transactions_local FINAL WHERE amount = 1 AND {_of(changed)}"
        wait_until(lambda: rows(node(sets, 1), changed_here) == [(1,)])
        code, result = audit(run)
        assert (code, result["verdict"], result["cluster"]["sets"]["in_motion"]) == (0, "complete", 1)
        assert sum(partition["in_flight"] for partition in result["partitions"] if partition["set"] == "2") == 1
    finally:
        command(sets, 2, "ATTACH TABLE transactions_queue")
    wait_until(lambda: rows(node(sets, 2), changed_here) == [(1,)])
    wait_until(lambda: audit(run)[1]["cluster"]["sets"]["in_motion"] == 0)


def test_other_snapshots_are_no_fault(sets: Settings, run: Run) -> None:
    columns = "amount_reporting, reporting_currency, enrichment_revision"
    command(
        sets,
        2,
        f"INSERT INTO transactions_local SELECT * REPLACE (toDecimal128(1, 4) AS amount_reporting, 'EUR' AS"
        f" reporting_currency, 7 AS enrichment_revision) FROM transactions_local FINAL WHERE {_of(SENT[3])}",
    )
    assert rows(node(sets, 2), f"SELECT {columns} FROM transactions_local FINAL WHERE {_of(SENT[3])}") == [
        (Decimal(1), "EUR", 7)
    ]
    code, result = audit(run)
    assert (code, result["verdict"]) == (0, "complete")
    assert result["cluster"]["sets"]["enriched_otherwise"] == 1
    assert "other snapshots of rates" in "".join(result["advice"])


def test_with_a_set_away_the_other_answers(sets: Settings, run: Run) -> None:
    away = f"127.0.0.1:{sets.node_addresses[0][1]}"
    close_managers()
    local_stack.kill(sets, "clickhouse-1", signal.SIGKILL)
    try:
        code, result = audit(run)
        assert (code, result["verdict"], result["holes"]["lost"]) == (1, "incomplete", 0)
        assert result["cluster"]["unseen"][0].startswith(f"node '{away}' does not answer: ")
        assert sum(partition["stored"] for partition in result["partitions"]) >= len(SENT) + len(LACKS_AMOUNT)
        code, out, err = run("quarantine", "list", "--json")
        assert (code, json.loads(out)[0]["messages"]) == (0, len(LACKS_AMOUNT)), err
        day = f"{YESTERDAY:%Y-%m-%d}"
        assert run("report", "currency_exposure_by_day", "--day", day)[0] == 0
    finally:
        local_stack.start(sets, "kafka")


def _of(fields: dict) -> str:
    return f"transaction_id = '{fields['transaction_id']}'"
