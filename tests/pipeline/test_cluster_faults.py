"""Faults on two real nodes with Apache Kafka: nothing lost, nothing counted twice, the same reports on both."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack

import batch
import pytest
from clickhouse_connect.driver.httputil import close_managers
from test_faults import messages

from paystream.clickhouse import connect
from paystream.errors import UsageError
from paystream.loadtest.drain import drain
from paystream.loadtest.fault_run import prepared_stack, run_fault
from paystream.loadtest.faults import Fault, Scene
from paystream.loadtest.plan import Plan
from paystream.loadtest.removal import remove
from paystream.nodes import find
from paystream.settings import Settings

# A cluster starts, and is filled, in a minute where three files share two cores.
pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Two nodes with schema and dimensions, which a cluster of the ``faults`` command has too."""
    with prepared_stack(tmp_path_factory.mktemp("cluster") / "home", nodes=2) as settings:
        try:
            yield settings
        finally:
            close_managers()  # a server that stops waits five seconds for clients that are still connected


def test_a_node_that_dies_loses_nothing_and_both_nodes_report_what_was_sent(cluster: Settings) -> None:
    ended: list[Plan] = []

    def killed(scene: Scene) -> str:
        scene.end(scene.part(scene.struck), signal.SIGKILL)
        failed = scene.probe.failures
        scene.wait(lambda: scene.probe.failures > failed, "no read failed while the node was away")
        scene.start()
        scene.wait_resumed()
        ended.append(scene.plan)
        return "reads failed while the node was away"

    outcome = run_fault(cluster, Fault("node-killed", "kill -9 of a node", killed, 500, 0.01), 1, print)
    assert (outcome.problems, outcome.kills) == ([], 1)
    assert outcome.found.refused_as_planned == outcome.found.malformed_messages > 0
    assert 0 < outcome.reads_failed_s < outcome.outage_s + 60
    with ExitStack() as connections:
        first, second = (connections.enter_context(connect(node.settings)) for node in find(cluster).present)
        shares = [client.query("SELECT count() FROM transactions_local").first_row[0] for client in (first, second)]
        assert min(shares) > sum(shares) / 3
        refused = set(first.query("SELECT kafka_partition, kafka_offset FROM quarantine").result_rows)
        merchants, quotes = batch.dimensions(first)
        sent = [message for place, message in messages(cluster) if place not in refused]
        expected = batch.payments(sent, merchants, quotes)
        assert len(expected) == outcome.found.accepted
        batch.complete_reports(first, 120, beside=[second])
        for client in (first, second):
            batch.compare(client, expected)

    # And away again, from both nodes.
    [plan] = ended
    removed = remove(cluster, plan.seed, outcome.sent.sent)
    assert (removed.payments, removed.refused) == (outcome.found.accepted, len(refused))
    for node in find(cluster).present:
        with connect(node.settings) as client:
            assert client.query(
                "SELECT (SELECT count() FROM transactions_local), (SELECT count() FROM quarantine_local)"
            ).first_row == (0, 0)


def test_what_a_cluster_has_no_figure_for_is_refused(cluster: Settings) -> None:
    with pytest.raises(UsageError, match=r"Drain on cluster 'paystream': .*Measure one server"):
        drain(cluster, 1000)
