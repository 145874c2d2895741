"""Which ClickHouse servers the local stack has: one, or the nodes of a cluster in one or more sets of shards.

A node keeps its number, and with it its ports, its data and its place in the cluster: what a growing cluster adds comes
after those that it has. ``run/cluster.json`` remembers the places until the data is deleted.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paystream.errors import UsageError
from paystream.output import counted
from paystream.settings import Settings

Address = tuple[str, int]

CONFIGURATION_FILE = "conf.d/cluster.xml"


@dataclass(frozen=True)
class Server:
    """One ClickHouse: the name of its part, where it listens, and its place in the cluster (0: there is none)."""

    name: str
    http: Address
    native: Address
    set: int = 0
    shard: int = 0


def servers(settings: Settings, nodes: int | None, sets: int | None) -> list[Server]:
    """Return the servers that the settings, what was asked for, and what the home had before amount to.

    Args:
        settings: its ``clickhouse_cluster`` is the cluster's name; ``""`` for one server.
        nodes: nodes in each set; None for as many as before, or as ``clickhouse_nodes`` names, or one.
        sets: sets of nodes; None for as many as before, or one.

    Raises:
        UsageError: these contradict each other, or would leave out data that the home has.
    """
    cluster, home = settings.clickhouse_cluster, settings.home.resolve()
    stack = f"Local stack '{home}'"
    file = remembered_in(home)
    had = json.loads(file.read_text()) if file.exists() else {"cluster": "", "places": []}
    places = [(set_number, shard) for set_number, shard in had["places"]]
    anew = "set PAYSTREAM_HOME to another folder, or delete the data with `paystream down --delete-data`"
    if not cluster:
        if max(nodes or 1, sets or 1) > 1:
            raise UsageError(
                f"{stack}: several nodes are a cluster, which needs a name. Set PAYSTREAM_CLICKHOUSE_CLUSTER=paystream."
            )
        if places:
            raise UsageError(
                f"{stack}: its data is that of cluster '{had['cluster']}', and the settings name no cluster. "
                f"Set PAYSTREAM_CLICKHOUSE_CLUSTER={had['cluster']}, or {anew}."
            )
        host = settings.clickhouse_host
        return [Server("clickhouse", (host, settings.clickhouse_port), (host, settings.clickhouse_native_port))]
    if not places and (home / "clickhouse").exists():
        raise UsageError(
            f"{stack}: its data is that of one server, and PAYSTREAM_CLICKHOUSE_CLUSTER asks for a cluster. "
            f"Unset it, or {anew}."
        )
    if places and had["cluster"] != cluster:
        raise UsageError(
            f"{stack}: its data is that of cluster '{had['cluster']}', and PAYSTREAM_CLICKHOUSE_CLUSTER says "
            f"'{cluster}'. Correct it, or {anew}."
        )
    named = settings.node_addresses
    had_sets, had_shards = (max(numbers) for numbers in zip((0, 0), *places, strict=True))
    sets = sets or had_sets or 1
    nodes = nodes or had_shards or len(named) // sets or 1
    if nodes < had_shards:
        raise UsageError(
            f"{stack}: a set has {had_shards} nodes, and each holds a share of the payments; `--nodes {nodes}` would "
            f"leave some out. Omit it, or {anew}."
        )
    if sets < had_sets:
        raise UsageError(
            f"{stack}: it has {had_sets} sets of nodes, and one that is left out would miss payments; `--sets {sets}` "
            f"asks for fewer. Omit it, or {anew}."
        )
    if named and len(named) != nodes * sets:
        raise UsageError(
            f"{stack}: PAYSTREAM_CLICKHOUSE_NODES names {counted(len(named), 'node')}, and a cluster of "
            f"`--nodes {nodes} --sets {sets}` has {nodes * sets}. Correct one of them."
        )
    wanted = [(set_number, shard) for set_number in range(1, sets + 1) for shard in range(1, nodes + 1)]
    places += [place for place in wanted if place not in places]
    https = named or [(settings.clickhouse_host, settings.clickhouse_port + number) for number in range(len(places))]
    return [
        Server(f"clickhouse-{number + 1}", http, (http[0], settings.clickhouse_native_port + number), *place)
        for number, (http, place) in enumerate(zip(https, places, strict=True))
    ]


def remembered_in(home: Path) -> Path:
    """Return the file that remembers the cluster's name and, by the nodes' numbers, their places."""
    return home / "run" / "cluster.json"


def remembered_text(cluster: str, nodes: Sequence[Server]) -> str:
    """Return what that file says of a cluster."""
    return json.dumps({"cluster": cluster, "places": [[node.set, node.shard] for node in nodes]}) + "\n"


def configuration(cluster: str, nodes: Sequence[Server], own: Server) -> str:
    """Return what a node is told of its cluster, as a configuration file.

    Whoever reads through ``cluster`` on it reads its own set, and another set's node where the own one does not answer.
    """

    def shards(sets: set[int]) -> str:
        replicas: dict[int, str] = {}
        for node in (node for node in nodes if node.set in sets):
            (host, port), priority = node.native, 1 if node.set == own.set else 2
            replicas.setdefault(node.shard, "")
            replicas[node.shard] += (
                f"<replica><host>{host}</host><port>{port}</port><priority>{priority}</priority></replica>"
            )
        return "".join(
            f"\n            <shard><internal_replication>true</internal_replication>{replicas[shard]}</shard>"
            for shard in sorted(replicas)
        )

    sets = {node.set for node in nodes}
    clusters = {cluster: shards(sets)} | ({f"{cluster}_set": shards({own.set})} if len(sets) > 1 else {})
    told = "".join(f"\n        <{name}>{text}\n        </{name}>" for name, text in clusters.items())
    return f"""\
<clickhouse>
    <remote_servers replace="replace">{told}
    </remote_servers>
    <macros>
        <cluster>{cluster}</cluster><set>{own.set}</set><shard>{own.shard}</shard><replica>{own.set}</replica>
    </macros>
</clickhouse>
"""
