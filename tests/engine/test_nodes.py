"""Clusters that are not what the settings, `remote_servers` and the nodes' macros say of them."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from server_process import running_server

from paystream.devstack.clickhouse_server import Instance
from paystream.errors import ServiceUnavailable, UsageError
from paystream.nodes import find
from paystream.settings import Settings

# Servers 0 and 1 are shards 1 and 2 by their macros, 2 is one more shard 1, 3 has no such macro; 4 does not run.
MACROS = ["<shard>1</shard>", "<shard>2</shard>", "<shard>1</shard>", "", ""]


def cluster_xml(own: int, natives: list[int]) -> str:
    """Return clusters of all kinds of mistakes, as a server knows them."""

    def shards(*servers: int, weight: str = "") -> str:
        return "".join(
            f"<shard>{weight}<replica><host>127.0.0.1</host><port>{natives[server]}</port></replica></shard>"
            for server in servers
        )

    clusters = {
        "payments": shards(0, 1),
        "swapped": shards(1, 0),
        "twins": shards(2, 0) if own == 2 else shards(0, 2),
        "growing": shards(0) if own == 0 else shards(0, 1),
        "weighted": shards(0, 1, weight="<weight>2</weight>"),
        "nameless": shards(0, 3),
        "half": shards(0, 4),
        "two_sets": "<shard>"
        + "".join(f"<replica><host>127.0.0.1</host><port>{natives[server]}</port></replica>" for server in (0, 2))
        + "</shard>",
    }
    told = "".join(f"<{name}>{text}</{name}>" for name, text in clusters.items())
    return (
        f'<clickhouse><remote_servers replace="replace">{told}</remote_servers>'
        f"<macros>{MACROS[own]}</macros></clickhouse>"
    )


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Settings]]:
    """Four servers, and the settings of one that does not run."""
    folder = tmp_path_factory.mktemp("nodes")
    instances = [Instance.within(folder / str(number)) for number in range(5)]
    natives = [instance.native_port for instance in instances]
    with ExitStack() as stack:
        running = [
            stack.enter_context(
                running_server(folder / str(number), {"conf.d/cluster.xml": cluster_xml(number, natives)}, instance)
            ).settings
            for number, instance in enumerate(instances[:4])
        ]
        yield [*running, running[0].at(instances[4].host, instances[4].http_port)]


def asked(servers: list[Settings], cluster: str, *numbers: int) -> Settings:
    """Return settings of a cluster that name these servers; the first is the configured one."""
    addresses = ",".join(f"127.0.0.1:{servers[number].clickhouse_port}" for number in numbers)
    return servers[numbers[0]].model_copy(update={"clickhouse_cluster": cluster, "clickhouse_nodes": addresses})


@pytest.mark.parametrize(
    ("cluster", "numbers", "cause"),
    [
        ("nowhere", (0, 1), r"Cluster 'nowhere' is not known to node '.*', which knows .*payments"),
        ("payments", (0,), r"has 2 nodes in remote_servers .* names 1\. Name all of them"),
        ("payments", (0, 1, 4), r"names 3 nodes, and no node has more than 2 in remote_servers"),
        ("payments", (0, 0), r"PAYSTREAM_CLICKHOUSE_NODES names '.*' twice"),
        ("swapped", (1, 0), r"by its macro `shard` it is shard \d, and by its remote_servers shard \d"),
        ("twins", (0, 2), r"both say that they are shard 1 of set 1"),
        ("weighted", (0, 1), r"a shard has weight 2 in remote_servers"),
        ("nameless", (0, 3), r"its macro `shard` is missing"),
    ],
)
def test_a_cluster_that_contradicts_itself_is_refused(
    servers: list[Settings], cluster: str, numbers: tuple[int, ...], cause: str
) -> None:
    with pytest.raises(UsageError, match=cause):
        find(asked(servers, cluster, *numbers))


@pytest.mark.parametrize("is_named", [True, False], ids=["named", "discovered"])
def test_nodes_are_found(servers: list[Settings], is_named: bool) -> None:
    settings = asked(servers, "payments", 1, 0)
    nodes = find(settings if is_named else settings.model_copy(update={"clickhouse_nodes": ""}))
    ports = [server.clickhouse_port for server in servers]
    # The configured one comes first: commands read through it.
    assert [(node.settings.clickhouse_port, node.shard) for node in nodes.present] == [(ports[1], 2), (ports[0], 1)]
    assert (nodes.shards, nodes.writes, nodes.is_replicated, nodes.away) == (2, "payments", False, ())


@pytest.mark.parametrize("is_named", [True, False], ids=["named", "discovered"])
def test_a_node_that_is_away_is_named(servers: list[Settings], is_named: bool) -> None:
    settings = asked(servers, "half", 0, 4)
    nodes = find(settings if is_named else settings.model_copy(update={"clickhouse_nodes": ""}))
    assert [node.shard for node in nodes.present] == [1]
    [away] = nodes.away
    assert away.address.startswith("127.0.0.1:")
    with pytest.raises(ServiceUnavailable) as refused:
        nodes.require_all("Refresh")
    assert str(refused.value).startswith(f"Refresh: node '{away.address}' does not answer: ")
    assert "Nothing was changed" in str(refused.value)


def test_the_configured_node_may_be_away_where_the_others_are_named(servers: list[Settings]) -> None:
    named = asked(servers, "half", 4, 0)
    assert find(named).entry.clickhouse_port == servers[0].clickhouse_port
    with pytest.raises(ServiceUnavailable, match="Or name all nodes in PAYSTREAM_CLICKHOUSE_NODES"):
        find(named.model_copy(update={"clickhouse_nodes": ""}))


def test_a_node_that_does_not_know_a_new_one_yet_is_behind(servers: list[Settings]) -> None:
    nodes = find(asked(servers, "growing", 0, 1))
    assert nodes.behind == (f"127.0.0.1:{servers[0].clickhouse_port}",)
    assert nodes.shards == 2


def test_one_server_is_not_asked() -> None:
    nodes = find(Settings(_env_file=None, clickhouse_port=1))
    assert (nodes.cluster, len(nodes.present), nodes.entry.clickhouse_port) == ("", 1, 1)
