"""What is healthy, and what the first line says when it is not."""

from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest
from statuses import AT, HEALTHY, NODE, SECOND, lag, on_cluster

from paystream.group import Group, Member
from paystream.settings import Settings
from paystream.status.health import duration, judge
from paystream.status.state import (
    Backlog,
    FailedLoad,
    Flow,
    NodeState,
    Objective,
    Pending,
    Refusals,
    ReportFreshness,
    SetState,
    Status,
    Subject,
    TableParts,
    Unmeasured,
)

SETTINGS = Settings(_env_file=None)
OWN = Member("ClickHouse-db1-paystream-transactions_queue-0", "10.0.0.6", True, ["transactions"], [0])


def reading(*members: Member) -> Backlog:
    """Return the backlog of one partition, with a group that has these members beside our own, or in its place."""
    beside = [] if any(member.is_own for member in members) else [OWN]
    return replace(lag(), group=Group(True, [*beside, *members]))


def test_healthy_needs_no_reason() -> None:
    verdict = judge(HEALTHY, SETTINGS)
    assert (verdict.word, verdict.line, verdict.exit_code, verdict.problems) == ("healthy", "healthy", 0, [])


@pytest.mark.parametrize(
    ("change", "name", "text"),
    [
        ({"backlog": lag(messages=9000, seconds=61)}, "lag", "9,000 messages unread, the oldest for 61 s (limit 60 s)"),
        (
            {"backlog": lag(seconds=3600 * 145, expires_s=3600 * 23)},
            "expiry",
            "unread messages expire in 23 h (limit 24 h)",
        ),
        (
            {"backlog": lag(messages=40, seconds=61, blocked=40, blocked_from=7)},
            "transaction",
            "40 messages wait behind an open transaction since 2026-11-25 11:58:59 UTC (partition 0, offset 7)",
        ),
        (
            {"backlog": reading(Member("ClickHouse-db2-staging-transactions_queue-0", "10.0.0.7", False, [], []))},
            "group",
            "database 'staging' of the ClickHouse server 'db2' (10.0.0.7) reads with consumer group 'paystream' too",
        ),
        (
            {"backlog": reading(replace(OWN, partitions=[]))},
            "unassigned",
            "nobody reads partition 0 of topic 'transactions'",
        ),
        (
            {"assigned_topics": ["payments"]},
            "settings",
            "transactions_queue reads topic 'payments', and the settings say 'transactions'",
        ),
        (
            {"assigned_topics": ["transactions"], "backlog": replace(lag(), group=Group(True, []))},
            "settings",
            "transactions_queue reads with another consumer group than 'paystream', or from other brokers",
        ),
        ({"backlog": lag(expired=7)}, "expired", "7 messages expired unread"),
        (
            {"flow": Flow(1000, 3.3, 0, 1000, 0, 1.0, 301.0, 400.0)},
            "latency",
            "95 % of payments are stored within 5 min (limit 5 min)",
        ),
        (
            {"objective": replace(HEALTHY.objective, in_time_share=0.94, budget_spent_share=1.2)},
            "objective",
            "only 94.00% of 30 days' payments were stored within five minutes (objective 95%)",
        ),
        (
            {"last_audit": replace(HEALTHY.last_audit, verdict="loss", lost=3, age_hours=0.5)},
            "audit",
            "the last audit, 30 min ago, said loss (3 lost, 0 expired)",
        ),
        (
            {"flow": Flow(1000, 3.3, 20, 980, 0, 0.1, 0.2, 0.3), "refusals": [Refusals("currency_unknown", 20, 4.0)]},
            "refused",
            "2.00% of the messages are refused (limit 1.00%), most for currency_unknown",
        ),
        (
            {"parts": [TableParts("transactions", 900, 501)]},
            "parts",
            "501 parts in a partition of transactions (limit 500)",
        ),
        (
            {"failed_loads": [FailedLoad("dictionary", "fx_rates_dict", "no\nsuch host")]},
            "load",
            "dictionary fx_rates_dict failed to load: no such host",
        ),
        ({"reports": ReportFreshness(AT, 301.0)}, "reports", "reports are 5 min behind (limit 5 min)"),
        (
            {
                "reports": ReportFreshness(None, None),
                "objective": replace(HEALTHY.objective, since=AT - timedelta(hours=3)),
            },
            "reports",
            "reports were never computed",
        ),
        ({"dimensions": HEALTHY.dimensions[:1]}, "dimension", "merchants was never loaded"),
        (
            {"dimensions": [HEALTHY.dimensions[0], replace(HEALTHY.dimensions[1], age_hours=145)]},
            "dimension",
            "merchants was loaded or found unchanged 6 d ago (limit 6 d)",
        ),
        (
            {"dimensions": [replace(HEALTHY.dimensions[0], newest_quote=date(2026, 11, 18)), HEALTHY.dimensions[1]]},
            "quote",
            "the newest exchange rate is 7 days old",
        ),
        (
            {"missing": ["transactions_mv", "quarantine_mv"]},
            "schema",
            "transactions_mv, quarantine_mv missing or detached: what is read is not stored",
        ),
        (
            {"backlog": lag(seconds=11), "ingest_error": "Code: 395. Value"},
            "lag",
            "12 messages unread, the oldest for 11 s, ingest runs into: Code: 395. Value",
        ),
        ({"flow": Flow(2, 0.01, 2, 0, 0, None, None, None)}, "refused", "100.00% of the messages are refused"),
        (
            {"last_audit": replace(HEALTHY.last_audit, age_hours=25)},
            "audit",
            "the last audit was 25 h ago (limit 24 h)",
        ),
        (
            {"last_audit": None, "objective": replace(HEALTHY.objective, since=AT - timedelta(hours=25))},
            "audit",
            "what was stored was never audited",
        ),
        (
            {"pending": Pending(100, 60, 2000)},
            "pending",
            "8.0% of the payments came in without merchant or rate (limit 5%)",
        ),
    ],
)
def test_each_reason_is_in_the_first_line(change: dict[str, Any], name: str, text: str) -> None:
    verdict = judge(replace(HEALTHY, **change), SETTINGS)
    assert (verdict.exit_code, verdict.word) == (1, "not healthy")
    assert text in verdict.line
    assert [problem.text for problem in verdict.problems if problem.name == name] == [
        next(problem.text for problem in verdict.problems if text in problem.text)
    ]


def in_sets(**second: Any) -> Status:
    """Return the status of a cluster of two sets, of which the second has some things changed."""
    sets = [SetState(name, f"paystream-{name}", HEALTHY.backlog, HEALTHY.reports) for name in ("1", "2")]
    nodes = [replace(node, set=name) for name in ("1", "2") for node in (NODE, SECOND)]
    return on_cluster(*nodes, sets=[sets[0], replace(sets[1], **second)])


@pytest.mark.parametrize(
    ("status", "name", "text"),
    [
        (
            on_cluster(NODE, NodeState("10.0.0.2:8123", "Connection refused")),
            "node",
            "node '10.0.0.2:8123' cannot be asked: Connection refused; no figure has what is stored on shard 2 of 2",
        ),
        (
            on_cluster(NODE, replace(SECOND, snapshots={"fx": 2, "merchants": 9})),
            "snapshot",
            "node '10.0.0.2:8123' has older dimensions: fx 2 (newest 3)",
        ),
        (
            on_cluster(replace(NODE, snapshots={}), SECOND),
            "snapshot",
            "node '10.0.0.1:8123' has older dimensions: fx never loaded (newest 3), merchants never loaded (newest 9)",
        ),
        (
            on_cluster(NODE, replace(SECOND, schema="0017_whatever")),
            "version",
            "node '10.0.0.2:8123' has the schema 0017_whatever, and the newest is 0018_rollups_by_shard",
        ),
        (
            on_cluster(NODE, SECOND, replace(SECOND, address="10.0.0.3:8123", shard=3), shards=3),
            "sharding",
            "shard 3 of 3 takes no payments: run `paystream cluster add-shard`",
        ),
        (
            on_cluster(NODE, replace(SECOND, sharding="cityHash64(transaction_id) % 3")),
            "sharding",
            "nodes send payments to different shards: '10.0.0.1:8123' by cityHash64(transaction_id) % 2, "
            "'10.0.0.2:8123' by cityHash64(transaction_id) % 3; run `paystream migrate up`",
        ),
        (
            in_sets(backlog=lag(messages=9000, seconds=61)),
            "set",
            "set 2 is behind: 9,000 messages unread, the oldest for 61 s",
        ),
        (in_sets(reports=ReportFreshness(AT, 301.0)), "set", "set 2 is behind: reports by 5 min"),
    ],
)
def test_each_reason_of_a_cluster_names_its_node_or_set(status: Status, name: str, text: str) -> None:
    verdict = judge(status, SETTINGS)
    assert (verdict.exit_code, verdict.line) == (1, f"not healthy: {text}")
    assert {problem.name for problem in verdict.problems} == {name}


def test_what_is_no_reason_on_a_cluster() -> None:
    other = replace(SECOND, version="26.9.1.1")  # an upgrade goes node by node
    for status in (on_cluster(), in_sets(), on_cluster(NODE, other)):
        assert judge(status, SETTINGS).problems == []
    # Where another set has its shard, nothing is missing from the figures.
    verdict = judge(on_cluster(NODE, SECOND, replace(NODE, address="c", set="2"), NodeState("d", "Gone")), SETTINGS)
    assert verdict.line == "not healthy: node 'd' cannot be asked: Gone"


@pytest.mark.parametrize(
    "change",
    [
        {"backlog": lag(messages=3, seconds=59, blocked=3, blocked_from=7)},  # a transaction that is under way
        {"backlog": replace(lag(), group=Group(False, [])), "assigned_topics": ["transactions"]},  # a rebalance
        {"backlog": reading(OWN), "assigned_topics": ["transactions"]},
        {"backlog": lag(seconds=59, expires_s=50.0)},  # a topic that keeps everything for two minutes
        {"flow": Flow(12, 0.04, 9, 3, 0, 0.1, 0.2, 0.3)},  # three quarters, but of next to nothing
        {"pending": Pending(3, 0, 4)},
        {"last_audit": None},
        {"ingest_error": "Code: 210. Connection refused"},  # a broker that restarts: nothing waits for long
        {"objective": Objective(100, 9, 0.91, 1.8, AT)},  # nine late ones, in the first minutes of a new system
        {"flow": Flow(9, 0.03, 0, 9, 0, 400.0, 400.0, 400.0)},
        {"missing": ["transactions_mv"], "flow": None},  # there is no schema at all: that is said already
        {"objective": None, "flow": None, "backlog": None, "parts": None, "dimensions": None, "pending": None},
    ],
)
def test_what_is_no_reason(change: dict[str, Any]) -> None:
    assert judge(replace(HEALTHY, **change), SETTINGS).exit_code == 0


def test_what_ingest_runs_into_stands_beside_the_lag() -> None:
    status = replace(HEALTHY, backlog=lag(seconds=90), ingest_error="Code: 60.\n  No table")
    assert judge(status, SETTINGS).line.endswith("(limit 60 s), ingest runs into: Code: 60. No table")


@pytest.mark.parametrize(("codes", "expected"), [([2], 2), ([3, 1], 3), ([1], 1), ([2, 3], 3)])
def test_what_cannot_be_measured_decides_the_exit_code(codes: list[int], expected: int) -> None:
    unmeasured = [Unmeasured(Subject.PARTS, "It was refused.", code) for code in codes]
    verdict = judge(replace(HEALTHY, unmeasured=unmeasured, parts=None), SETTINGS)
    assert verdict.exit_code == expected
    assert verdict.word == ("not healthy" if expected == 1 else "unknown")
    assert "cannot tell parts: It was refused" in verdict.line


def test_limits_are_settings() -> None:
    strict = Settings(
        _env_file=None,
        status_lag_limit_seconds=0.1,
        status_refused_share_limit=0,
        status_dimension_age_limit_hours=5.5,
        status_expiry_limit_hours=25,
    )
    assert [problem.name for problem in judge(HEALTHY, strict).problems] == ["lag", "refused", "dimension", "quote"]


def test_each_dimension_may_have_a_limit_of_its_own() -> None:
    old = replace(HEALTHY, dimensions=[HEALTHY.dimensions[0], replace(HEALTHY.dimensions[1], age_hours=800)])
    assert [problem.name for problem in judge(old, SETTINGS).problems] == ["dimension"]
    assert judge(old, SETTINGS.model_copy(update={"status_merchants_age_limit_hours": 900})).problems == []
    assert [
        problem.name for problem in judge(old, SETTINGS.model_copy(update={"status_fx_age_limit_hours": 4})).problems
    ] == [
        "dimension",
        "dimension",
        "quote",
    ]


def test_a_topic_that_keeps_little_is_in_no_danger_at_first() -> None:
    day = 24 * 3600.0
    names = [judge(replace(HEALTHY, backlog=lag(seconds=s, expires_s=day - s)), SETTINGS) for s in (600, day * 0.6)]
    assert [[problem.name for problem in verdict.problems] for verdict in names] == [["lag"], ["expiry", "lag"]]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0312, "0.0312 s"),
        (9.99, "9.99 s"),
        (61, "61 s"),
        (150, "2.5 min"),
        (7200, "2 h"),
        (518_400, "6 d"),
    ],
)
def test_durations_are_in_the_unit_that_people_grasp(seconds: float, text: str) -> None:
    assert duration(seconds) == text
