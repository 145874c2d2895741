"""`paystream loadtest` where nothing can run, and a producer whose broker goes away."""

import json

import pytest
from confluent_kafka import Producer

from paystream.loadtest import generator


def finish(process):
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err.splitlines()


def test_list_names_the_shipped_workloads(own_settings, paystream):
    code, out, err = finish(paystream(own_settings, "loadtest", "list"))
    assert (code, err) == (0, [])
    assert out.splitlines()[1] == (
        "workload name=demo rate_per_second=500 duration_seconds=60 duplicate_share=0.01 p95_seconds=5.0"
    )
    code, out, err = finish(paystream(own_settings, "loadtest", "list", "--json"))
    assert {workload["name"]: workload["rate_per_second"] for workload in json.loads(out)}["ten_times"] == 5_000


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ["tomorrow"],
            2,
            "Workload 'tomorrow': no such workload. Name a file, or one of: daily, demo, hundred_times, poison, smoke,",
        ),
        (["smoke", "--json", "absent/result.json"], 2, "Result file 'absent/result.json' cannot be written: No such"),
        (["smoke"], 3, "cannot be reached"),
    ],
)
def test_what_cannot_run_is_said_in_one_line(own_settings, paystream, arguments, code, said):
    exit_code, out, err = finish(paystream(own_settings, "loadtest", "run", *arguments))
    assert (exit_code, out, len(err)) == (code, "", 1), err
    assert said in err[0]


def test_messages_that_no_broker_confirms_are_named(monkeypatch):
    monkeypatch.setattr(generator, "DELIVERY_TIMEOUT_S", 1)
    broker = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    [address] = broker.list_topics(timeout=10).brokers.values()
    producer = generator._Producer({"bootstrap.servers": f"{address.host}:{address.port}"}, "t")
    producer.kafka.produce("t", b"value", b"confirmed")
    assert producer.kafka.flush(10) == 0
    del broker
    for number in range(5):
        producer.kafka.produce("t", b"value", b"key-%d" % number)
    producer.finish()
    assert sorted(producer.rejected) == [f"key-{number}" for number in range(5)]
    assert producer.first_error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["node-away"], "Fault 'node-away': it is one of a cluster. Say with --nodes how many nodes that has."),
        (
            ["node-lost", "--nodes", "2"],
            "Fault 'node-lost': there is none of that name. Name some of: clickhouse-killed,",
        ),
        (["--sets", "2"], "Option '--sets': sets are of a cluster's nodes. Say with --nodes how many each has."),
    ],
)
def test_faults_of_a_cluster_need_one(own_settings, paystream_here, arguments, said):
    code, out, err = paystream_here(own_settings, "loadtest", "faults", *arguments)
    assert (code, out) == (2, "")
    assert said in err[-1]


def test_a_clusters_faults_are_listed_with_its_nodes(own_settings, paystream_here):
    lists = [paystream_here(own_settings, "loadtest", "faults", "--list", *more)[1] for more in ([], ["--nodes", "2"])]
    assert ["name=node-away " in listed for listed in lists] == [False, True]
    assert all("name=clickhouse-killed " in listed for listed in lists)
