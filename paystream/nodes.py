"""The servers that hold the schema: one server alone, or every node of a cluster, each at its own HTTP address.

A cluster is one or more sets of nodes. A set has one node for each shard (or several, that replicate each other) and
a consumer group of its own, so that it holds all payments by itself. Which shard of which set a node is say its own
macros: ``shard``, ``set`` (default 1) and ``replica``. Two clusters of ``remote_servers`` tell the nodes of each other:
``NAME``, in which a shard's nodes of all sets are its replicas, is what is read through; ``NAME_set``, needed where
there are several sets, has the nodes of the node's own set alone, and is what ingest writes through.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError

from paystream.clickhouse import ACCESS_DENIED, answering, cause_of, connect, is_code
from paystream.errors import PaystreamError, ServiceUnavailable, UsageError
from paystream.settings import Settings

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

FIRST_SET = "1"
LOOK_TIMEOUT_S = 10
"""A node that takes longer to say what it is does not answer: its process may stand still."""

_LENIENT = {"skip_unavailable_shards": 1, "connections_with_failover_max_tries": 1, "handshake_timeout_ms": 1000}

_TAKEN = re.compile(r"\b(FROM|JOIN) (transactions|quarantine|ingest_ledger)\b")
"""Tables that hold what was taken from Kafka, where SQL reads them."""


@dataclass(frozen=True)
class Node:
    """A server that answers."""

    settings: Settings
    """The command's settings, at this server, with its set's consumer group."""
    shard: int = 1
    set: str = FIRST_SET
    replica: str = ""
    version: str = ""

    @property
    def address(self) -> str:
        """Return its HTTP address."""
        return address_of(self.settings.clickhouse_host, self.settings.clickhouse_port)

    def told(self, what: str) -> str:
        """Return what is being done, for messages: with the server's address, where it is one of a cluster."""
        return f"{what} on node '{self.address}'" if self.settings.clickhouse_cluster else what


@dataclass(frozen=True)
class Away:
    """A node that does not answer, at its HTTP address, or its native one where no other is known."""

    address: str
    cause: str

    def __str__(self) -> str:
        return f"node '{self.address}' does not answer: {self.cause}"


@dataclass(frozen=True)
class Nodes:
    """All servers that hold the schema.

    Attributes:
        cluster: what reads go through; ``""`` for one server.
        writes: the cluster that ingest writes through.
        is_replicated: whether a shard of a set has several nodes.
        shards: how many shards the cluster has.
        present: the nodes that answer, by set and shard.
        away: those that do not.
        behind: the addresses of those whose remote_servers lack nodes that others have, as while a cluster grows.
    """

    cluster: str
    writes: str
    is_replicated: bool
    shards: int
    present: tuple[Node, ...]
    away: tuple[Away, ...] = ()
    behind: tuple[str, ...] = ()

    @property
    def entry(self) -> Settings:
        """Return the settings of the node to read through: the configured one, or another where that is away."""
        return self.present[0].settings

    @property
    def in_order(self) -> list[Node]:
        """Return the nodes that answer, in an order that is the same through whichever of them one comes."""
        return sorted(self.present, key=lambda node: (node.set, node.shard, node.replica))

    @property
    def sets(self) -> list[str]:
        """Return the sets that have a node which answers."""
        return list(dict.fromkeys(node.set for node in self.present))

    def of_each_shard(self) -> list[Node]:
        """Return a node of each shard of each set: those of one shard replicate each other."""
        first = {(node.set, node.shard): node for node in reversed(self.in_order)}
        return [node for node in self.in_order if node in first.values()]

    def share(self, table: str) -> str:
        """Return the name of the table that has a server's own rows of one that is split over the shards."""
        return f"{table}_local" if self.cluster else table

    def first_of_sets(self) -> list[Node]:
        """Return a node of each set, to do through it what every set needs once."""
        return [next(node for node in self.present if node.set == name) for name in self.sets]

    def lacking(self, set_name: str = "") -> list[int]:
        """Return the shards of which no node answers, of one set or of any."""
        here = {node.shard for node in self.present if set_name in ("", node.set)}
        return [shard for shard in range(1, self.shards + 1) if shard not in here]

    def of_one_set(self) -> Node:
        """Return the node to read a set's own rows through: of a set that is whole, where there is one."""
        return next((node for node in self.present if not self.lacking(node.set)), self.present[0])

    def in_one_set(self, text: str) -> str:
        """Return SQL that reads, on a node, what its own set took from Kafka, and no node of another set.

        The sets have each read everything, but not each in the same place: of the blocks in the ledger, a shard of one
        set and another shard of another are not all. Where there is one set, the tables over the shards read just that.
        """
        if self.writes == self.cluster:
            return text
        database = self.entry.clickhouse_database
        return _TAKEN.sub(rf"\1 cluster('{self.writes}', '{database}', '\2_local')", text)

    def leave_out_away(self, client: Client) -> None:
        """Have a client's queries leave out shards of which no node answers, after a second and not half a minute."""
        for name, value in _LENIENT.items():
            client.set_client_setting(name, value)

    def require_all(self, what: str) -> None:
        """Make sure that every node answers, before anything is changed.

        Raises:
            ServiceUnavailable: naming those that do not.
        """
        if self.away:
            raise ServiceUnavailable(f"{what}: {self.told_away}. Nothing was changed. Start it, then run this again.")

    def require_shards(self, what: str) -> None:
        """Make sure that a node of every shard answers: what reads through the others would be a part of the whole.

        Raises:
            ServiceUnavailable: naming those that do not.
        """
        if self.lacking():
            raise ServiceUnavailable(
                f"{what}: the rows of {self.told_lacking} would be missing: {self.told_away}. "
                "Start it, then run this again."
            )

    @property
    def told_lacking(self) -> str:
        """Name the shards of which no node answers."""
        return " and ".join(f"shard {shard}" for shard in self.lacking())

    @property
    def told_away(self) -> str:
        """Say which nodes do not answer, and why."""
        return "; ".join(map(str, self.away))


def find(settings: Settings, timeout_s: float = LOOK_TIMEOUT_S) -> Nodes:
    """Return the servers that hold the schema. One server is not asked; the nodes of a cluster are.

    Args:
        settings: the command's.
        timeout_s: a node that takes longer to answer is away.

    Raises:
        ServiceUnavailable: no node answers, or without ``clickhouse_nodes`` the configured one does not.
        UsageError: the cluster is not what the settings, ``remote_servers`` and the nodes' macros say of it.
    """
    if not settings.clickhouse_cluster:
        return Nodes("", "", False, 1, (Node(settings),))
    addresses, away = _addresses(settings, timeout_s)
    named = len(addresses) + len(away)
    looks = side_by_side(addresses, lambda address: _look(settings.at(*address), timeout_s))
    away += [look for look in looks if isinstance(look, Away)]
    seen = [look for look in looks if isinstance(look, _Look)]
    if not seen:
        told = "; ".join(f"'{node.address}': {node.cause}" for node in away)
        raise ServiceUnavailable(f"Cluster '{settings.clickhouse_cluster}': no node answers: {told}. Start them.")
    for look in seen:
        _refuse_contradictions(look, named)
    _refuse_twins(seen)
    widest = max(seen, key=lambda look: len(look.hosts))
    if len(widest.hosts) < named:
        raise UsageError(
            f"Cluster '{settings.clickhouse_cluster}': PAYSTREAM_CLICKHOUSE_NODES names {named} nodes, and no node has "
            f"more than {len(widest.hosts)} in remote_servers. Make the two agree."
        )
    replicas = Counter(shard for cluster, shard, _ in widest.members if cluster == widest.writes)
    configured = address_of(settings.clickhouse_host, settings.clickhouse_port)
    present = sorted(
        (look.node for look in seen), key=lambda node: (node.address != configured, node.set, node.shard, node.replica)
    )
    behind = tuple(look.node.address for look in seen if len(look.hosts) < len(widest.hosts))
    return Nodes(
        settings.clickhouse_cluster,
        widest.writes,
        max(replicas.values()) > 1,
        len(replicas),
        tuple(present),
        tuple(away),
        behind,
    )


def each(
    nodes: Nodes, what: str, ask: Callable[[Node, Client], Answer], database: str | None = None
) -> list[tuple[Node, Answer]]:
    """Return what a function gives for each node that answers, asked side by side, each with a client of its own.

    Args:
        nodes: the servers.
        what: what is being done, for messages.
        ask: is given the node and the client.
        database: as for ``connect``.

    Raises:
        ServiceUnavailable, UsageError, PaystreamError: as ``answering``; the message names the node.
    """

    def ask_one(node: Node) -> tuple[Node, Answer]:
        with answering(node.told(what)), connect(node.settings, database=database) as client:
            return node, ask(node, client)

    return side_by_side(nodes.present, ask_one)


def side_by_side(them: Collection[Asked], ask: Callable[[Asked], Answer]) -> list[Answer]:
    """Return what a function gives for each of them, all at once, in their order."""
    if len(them) <= 1:
        return [ask(one) for one in them]
    with ThreadPoolExecutor(max_workers=16) as pool:
        return list(pool.map(ask, them))


@contextmanager
def naming(node: Node, nodes: Nodes) -> Iterator[None]:
    """Have what goes wrong meanwhile say on which node of a cluster it did."""
    try:
        yield
    except PaystreamError as error:
        if nodes.cluster and node.address not in str(error):
            raise type(error)(f"Node '{node.address}': {error}") from error
        raise


def address_of(host: str, port: int) -> str:
    """Return host and port in one text, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True)
class _Look:
    """What one node says of itself and of the cluster."""

    node: Node
    writes: str
    members: list[tuple[str, int, bool]]
    """Of both clusters, for each node: the cluster, the shard's number, and whether it is this node."""
    hosts: list[str]
    """The native addresses of the cluster's nodes."""


def _addresses(settings: Settings, timeout_s: float) -> tuple[list[tuple[str, int]], list[Away]]:
    """Return the HTTP addresses of the nodes, and those nodes of which none can be learnt."""
    if settings.clickhouse_nodes:
        addresses = settings.node_addresses
        if twice := [address_of(*address) for address, times in Counter(addresses).items() if times > 1]:
            raise UsageError(f"PAYSTREAM_CLICKHOUSE_NODES names '{twice[0]}' twice. Name each node once.")
        return addresses, []
    cluster = settings.clickhouse_cluster
    port = "https_port" if settings.clickhouse_secure else "http_port"
    with _through(settings), connect(settings, database="", timeout_s=timeout_s + 6) as client:
        listed = client.query(
            "SELECT host_name, port FROM system.clusters WHERE cluster = {cluster:String}",
            parameters={"cluster": cluster},
        ).result_rows
        listed = [tuple(place) for place in listed]
        if not listed:
            raise _unknown(settings, client)
        try:
            heard = {
                (host, native): http
                for host, native, http in client.query(
                    f"SELECT host_name, port, getServerPort('{port}')"
                    f" FROM clusterAllReplicas('{cluster}', system.clusters)"
                    f" WHERE cluster = '{cluster}' AND is_local SETTINGS skip_unavailable_shards = 1,"
                    # Else a node that hangs is waited for. On a connection that was open, the server does that for 5 s.
                    " receive_timeout = 1, handshake_timeout_ms = 1000, connections_with_failover_max_tries = 1"
                ).result_rows
            }
        except DatabaseError as error:
            # Who may ask other servers may ask any, which is no right for everybody: then the port is the same on all.
            if not is_code(error, ACCESS_DENIED):
                raise
            heard = {place: settings.clickhouse_port for place in listed}
    if len({(host, http) for (host, _), http in heard.items()}) < len(heard):
        raise UsageError(
            f"Cluster '{cluster}': its nodes are on one host, and user '{settings.clickhouse_user}' may not ask them "
            "for their HTTP ports. Name them in PAYSTREAM_CLICKHOUSE_NODES."
        )
    away = [
        Away(f"{host}:{native} (native protocol)", "it does not answer other nodes")
        for host, native in listed
        if (host, native) not in heard
    ]
    return [(host, http) for (host, _), http in heard.items()], away


@contextmanager
def _through(settings: Settings) -> Iterator[None]:
    """Say what helps where the node that tells of the others is away."""
    try:
        with answering(f"Cluster '{settings.clickhouse_cluster}'"):
            yield
    except ServiceUnavailable as error:
        told = f"{str(error).rstrip('.')}. Or name all nodes in PAYSTREAM_CLICKHOUSE_NODES to go through another one."
        raise ServiceUnavailable(told) from error


def _look(settings: Settings, timeout_s: float) -> _Look | Away:
    cluster = settings.clickhouse_cluster
    address = address_of(settings.clickhouse_host, settings.clickhouse_port)
    try:
        what = f"Cluster '{cluster}' on node '{address}'"
        with answering(what), connect(settings, database="", timeout_s=timeout_s) as client:
            macros = dict(client.query("SELECT macro, substitution FROM system.macros").result_rows)
            rows = client.query(
                "SELECT cluster, shard_num, toBool(is_local), host_name, port, shard_weight FROM system.clusters"
                " WHERE cluster IN ({own:String}, {writes:String})",
                parameters={"own": cluster, "writes": f"{cluster}_set"},
            ).result_rows
            if not any(name == cluster for name, *_ in rows):
                raise _unknown(settings, client)
            version = client.server_version
    except ServiceUnavailable as error:
        cause = cause_of(error.__cause__) if isinstance(error.__cause__, OperationalError) else str(error).rstrip(".")
        return Away(address, cause)
    if weights := {weight for *_, weight in rows} - {1}:
        raise UsageError(
            f"Node '{address}' of cluster '{cluster}': a shard has weight {weights.pop()} in remote_servers, and rows "
            "would go to other shards than their payments' earlier states. Leave the weights out."
        )
    shard = macros.get("shard", "")
    if not shard.isdigit():
        said = f"is '{shard}'" if shard else "is missing"
        raise UsageError(
            f"Node '{address}' of cluster '{cluster}': its macro `shard` {said}. Give it the number that its shard has "
            "in remote_servers, from 1."
        )
    set_name = macros.get("set", FIRST_SET)
    group = settings.kafka_group if set_name == FIRST_SET else f"{settings.kafka_group}-{set_name}"
    node = Node(
        settings.model_copy(update={"kafka_group": group}), int(shard), set_name, macros.get("replica", ""), version
    )
    writes = f"{cluster}_set" if any(name != cluster for name, *_ in rows) else cluster
    members = [(name, number, is_local) for name, number, is_local, *_ in rows]
    hosts = [f"{host}:{port}" for name, _, _, host, port, _ in rows if name == cluster]
    return _Look(node, writes, members, hosts)


def _unknown(settings: Settings, client: Client) -> UsageError:
    known = [name for (name,) in client.query("SELECT DISTINCT cluster FROM system.clusters ORDER BY 1").result_rows]
    address = address_of(settings.clickhouse_host, settings.clickhouse_port)
    return UsageError(
        f"Cluster '{settings.clickhouse_cluster}' is not known to node '{address}', which knows "
        f"{', '.join(known) or 'none'}. Correct its remote_servers, or PAYSTREAM_CLICKHOUSE_CLUSTER."
    )


def _refuse_contradictions(look: _Look, named: int) -> None:
    node, cluster = look.node, look.node.settings.clickhouse_cluster
    if len(look.hosts) > named:
        raise UsageError(
            f"Cluster '{cluster}': node '{node.address}' has {len(look.hosts)} nodes in remote_servers "
            f"({', '.join(look.hosts)}), and PAYSTREAM_CLICKHOUSE_NODES names {named}. Name all of them."
        )
    for name in {cluster, look.writes}:
        own = [number for member, number, is_local in look.members if member == name and is_local]
        # Behind translated addresses a node may not know itself there.
        if own and own != [node.shard]:
            says = f"shard {own[0]}" if len(own) == 1 else "several of them"
            raise UsageError(
                f"Node '{node.address}' of cluster '{name}': by its macro `shard` it is shard {node.shard}, and by "
                f"its remote_servers {says}. Correct the one that is wrong."
            )


def _refuse_twins(seen: list[_Look]) -> None:
    places: dict[tuple[str, int, str], Node] = {}
    for look in seen:
        node = look.node
        if twin := places.get((node.set, node.shard, node.replica)):
            raise UsageError(
                f"Nodes '{twin.address}' and '{node.address}' of cluster '{node.settings.clickhouse_cluster}' both say "
                f"that they are shard {node.shard} of set {node.set}. Give one of them its own macro `shard`, `set`, "
                "or `replica`."
            )
        places[node.set, node.shard, node.replica] = node
    if len({look.writes for look in seen}) > 1 or (
        len({look.node.set for look in seen}) > 1 and seen[0].writes == seen[0].node.settings.clickhouse_cluster
    ):
        cluster = seen[0].node.settings.clickhouse_cluster
        raise UsageError(
            f"Cluster '{cluster}' has several sets of nodes, and a node's remote_servers lack '{cluster}_set', the "
            "nodes of its own set. Ingest would write to another set. Add it."
        )
