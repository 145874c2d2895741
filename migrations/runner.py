"""Bring a database to the newest version of the schema, and back.

Where the settings name a cluster, every node runs the same versions itself, as ``cluster.py`` renders them, and keeps
its own record of them, and its own lock: version by version, each on all nodes before the next.
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clickhouse_connect.driver.binding import quote_identifier
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import OperationalError

from paystream import group, lock
from paystream.broker import open_broker
from paystream.clickhouse import answering, cause_of, connect
from paystream.errors import PaystreamError, ServiceUnavailable, UsageError
from paystream.loader.share import copy_whole_tables
from paystream.migrations import named_collection, reporting_currency
from paystream.migrations.backend import ClickHouseBackend, StatementFailed, UndoFailed, VersionState
from paystream.migrations.history import Version, irreversible, object_name, read_history
from paystream.migrations.plan import PAUSE_S, Live, Step, explain
from paystream.migrations.sharding import Sharding
from paystream.nodes import Node, Nodes, each, find, naming
from paystream.settings import Settings

if TYPE_CHECKING:
    from paystream.migrations.cluster import Cluster

# All versions take a few seconds, on a busy machine more than ten.
LOCK_TIMEOUT_S = 30

_CLUSTER = "cluster"
"""The operation in the migrations' log whose comment is the cluster that the versions are applied to."""

OLDEST_SERVER = (25, 9)
"""Older ones do not know a setting of the schema (os_threads_nice_value_query, by ClickHouse's settings history)."""


@dataclass(frozen=True)
class VersionStatus:
    """Where a database stands with one version. ``unknown``: applied, but not among the files."""

    version: str
    state: Literal["applied", "pending", "unfinished", "unknown"]
    applied_at: datetime | None
    """UTC; None unless it is applied."""
    node: str = ""
    """The address of the node of a cluster."""


@dataclass(frozen=True)
class Moved:
    """One version that was applied or taken back."""

    version: str
    statements: int
    seconds: float
    node: str = ""
    """The address of the node of a cluster."""


@dataclass(frozen=True)
class Upgrade:
    """What ``up`` did."""

    applied: tuple[Moved, ...]
    newest: str
    """The version that the schema is at."""
    collection_changed: bool
    """Whether the Kafka tables now connect with other settings than before."""


def status(settings: Settings, folder: Path | None = None) -> list[VersionStatus]:
    """Return where each node that answers stands with each version, oldest first. Works before the database exists.

    Raises:
        ServiceUnavailable: ClickHouse cannot be reached.
        UsageError: the versions cannot be read.
    """
    known = [version.id for version in read_history(folder, finished=False)]
    nodes = find(settings)
    result = []
    for node in nodes.present:
        states: dict[str, VersionState] = {}
        with naming(node, nodes):
            if database_exists(node.settings):
                with _migrating(settings), ClickHouseBackend.of(node.settings) as backend:
                    states = backend.states()
        for name in known + sorted(set(states) - set(known)):
            state = states[name].state if name in states else "pending"
            applied_at = states[name].changed_at if state == "applied" else None
            address = node.address if nodes.cluster else ""
            result.append(VersionStatus(name, state if name in known else "unknown", applied_at, address))
    return result


def plan(settings: Settings, folder: Path | None = None) -> list[Step]:
    """Return each statement that ``up`` would run now, in order, with what it means for the rows that are there.

    Changes nothing, and works before the database exists. Of a cluster, a step says on which nodes it would run.

    Raises:
        ServiceUnavailable: ClickHouse cannot be reached.
        UsageError: the versions cannot be used, a server is too old, or the versions are applied otherwise than the
            settings say.
    """
    nodes = find(settings)
    history = _history(settings, folder, nodes)
    steps: dict[tuple[str, int, str, str], Step] = {}
    for node in nodes.present:
        with naming(node, nodes):
            for step in _plan(node.settings, history):
                key = (step.version, step.number, step.direction, step.statement)
                before = steps.get(key, step)
                # What it means differs in rows alone; what loses some is what has to be read.
                shown = step if step.destructive > before.destructive else before
                steps[key] = replace(shown, nodes=(*before.nodes, node.address) if nodes.cluster else ())
    order = ["", *(version.id for version in history)]
    return sorted(steps.values(), key=lambda step: order.index(step.version))


def _plan(settings: Settings, history: list[Version]) -> list[Step]:
    if not database_exists(settings):
        with _migrating(settings), connect(settings, database="") as client:
            return _from_nothing(settings, history, _collections(client))
    with _migrating(settings), ClickHouseBackend.of(settings) as backend:
        states = backend.states()
        _refuse_other_cluster(settings, backend, states)
        pending, unfinished = _pending(history, states)
        steps: list[Step] = []
        if not named_collection.is_current(backend, settings) or group.look(backend.connection, settings):
            there = named_collection.existing(backend, _kafka_tables(settings, history))
            anew = named_collection.taking_over(backend, settings)
            steps = _collection_steps(settings, _collections(backend.connection), 1, there, anew)
            if left := _left_unread(backend, settings):
                steps = [*steps[:-1], replace(steps[-1], means=f"{steps[-1].means}; {left}")]
        return [*steps, *explain(pending, unfinished, Live.read(backend.connection))]


def plan_all(settings: Settings, folder: Path | None = None) -> list[Step]:
    """Return each statement that ``up`` would run on an empty server, asking none, or on each node of a cluster.

    Raises:
        UsageError: the versions cannot be used.
        ServiceUnavailable: no node of the cluster answers.
    """
    return _from_nothing(settings, _history(settings, folder, find(settings)), set())


def up(
    settings: Settings,
    folder: Path | None = None,
    *,
    allow_destructive: bool = False,
    leave_unread: bool = False,
    skip_away: bool = False,
    grow: tuple[int, datetime] | None = None,
    lock_timeout_s: float = LOCK_TIMEOUT_S,
    on_applied: Callable[[Moved], None] = lambda moved: None,
    tell: Callable[[str], None] = lambda text: None,
) -> Upgrade:
    """Create the database and the named collection where missing, and apply every pending version in order.

    A version left unfinished is taken back first. When a version fails, its completed steps are taken back, and the
    versions before it stay. On a cluster, the nodes that had applied it already keep it, and the next run goes on from
    there. A node that is new gets the dimensions of the others before it reads the topic.

    Args:
        settings: the database, and the Kafka connection that the named collection is made equal to.
        folder: where the versions are; else in the project.
        allow_destructive: go on where rows or values are lost for good, also in taking an unfinished version back.
        leave_unread: go on where another topic is read from now on, and messages of the one so far are unread.
        skip_away: go on without the nodes of a cluster that do not answer.
        grow: spread payments that are created from a moment on over so many shards.
        lock_timeout_s: seconds to wait for another migrator.
        on_applied: called after each version, on each node.
        tell: told, in a sentence, what takes long.

    Raises:
        PaystreamError: a version failed, or somebody else is migrating.
        ServiceUnavailable: ClickHouse cannot be reached, or went away, or a node does not answer.
        UsageError: the versions cannot be used, a server is too old, the versions are applied otherwise than the
            settings say, rows would be lost, messages would be left unread, or others read with the consumer group;
            nothing was attempted.
    """
    nodes = find(settings)
    if not skip_away:
        nodes.require_all(f"Migration of database '{settings.clickhouse_database}'")
    sharding = sharding_of(nodes)
    if grow:
        sharding = sharding.grown(*grow)
    history = _history(settings, folder, nodes, sharding)
    for node in nodes.present:
        with naming(node, nodes):
            _refuse_background_inserts(node, nodes)
            if not database_exists(node.settings):
                with _migrating(settings), connect(node.settings, database="") as client:
                    client.command(_create_database(settings))
    with ExitStack() as stack:
        targets = []
        for node in sorted(nodes.present, key=lambda node: node.address):
            with naming(node, nodes):
                backend = stack.enter_context(_locked(node.settings, lock_timeout_s, tell))
                targets.append(_Target(node, nodes, backend))
        for target in targets:
            with naming(target.node, nodes):
                _examine(target, history, allow_destructive, leave_unread)
        for target in targets:
            with naming(target.node, nodes):
                if target.backend.newest_comment(_CLUSTER) != settings.clickhouse_cluster:
                    target.backend.log(_CLUSTER, settings.clickhouse_database, settings.clickhouse_cluster)
                if target.is_new:
                    # Nothing is read before it has the dimensions.
                    named_collection.write_of_nobody(target.backend, target.node.settings)
                else:
                    target.attach()
        applied = _move_all(targets, history, "apply", history, on_applied)
        for target in targets:
            with naming(target.node, nodes):
                _spread(target, sharding)
                reporting_currency.seed(target.backend.connection, settings)
        if any(target.is_new for target in targets):
            copy_whole_tables(nodes, [target.node for target in targets if target.is_new], tell)
        for target in targets:
            with naming(target.node, nodes):
                if target.is_new:
                    target.attach()
    return Upgrade(tuple(applied), history[-1].id, any(target.attached for target in targets))


@dataclass
class _Target:
    """A server to migrate."""

    node: Node
    nodes: Nodes
    backend: ClickHouseBackend
    pending: list[Version] = field(default_factory=list)
    kafka_tables: list[str] = field(default_factory=list)
    is_current: bool = True
    is_new: bool = False
    """Whether it joins nodes that have the schema."""
    attached: bool = False

    def attach(self) -> None:
        """Make the named collections what the settings say, and have the Kafka table read with them."""
        settings = self.node.settings
        self.attached = not self.is_current or bool(group.look(self.backend.connection, settings))
        named_collection.sync(self.backend, settings, self.kafka_tables, self.attached)


def _examine(target: _Target, history: list[Version], allow_destructive: bool, leave_unread: bool) -> None:
    """Find out what there is to do on a server, and refuse what should not be done, before anything is changed."""
    settings, backend = target.node.settings, target.backend
    backend.ensure_internal_schema_updated()
    states = backend.states()
    _refuse_other_cluster(settings, backend, states)
    target.pending, unfinished = _pending(history, states)
    if target.pending and not allow_destructive:
        _refuse_to_lose_rows(backend, [version for version in target.pending if version.id in unfinished])
        _refuse_destruction(explain(target.pending, unfinished, Live.read(backend.connection)))
    target.kafka_tables = _kafka_tables(settings, history)
    target.is_current = named_collection.is_current(backend, settings)
    target.is_new = bool(target.nodes.cluster) and not target.is_current and not named_collection.read_so_far(backend)
    if target.kafka_tables and not target.is_current:
        group.refuse_others(settings)
        if not leave_unread and (left := _left_unread(backend, settings)):
            raise UsageError(
                f"Topic '{settings.kafka_topic}' cannot be read yet: {left}. Let the Kafka table read those first, "
                "with the topic as it was, or repeat with --leave-unread to leave them."
            )


def down(
    settings: Settings,
    folder: Path | None = None,
    *,
    to: str | None = None,
    everything: bool = False,
    allow_destructive: bool = False,
    lock_timeout_s: float = LOCK_TIMEOUT_S,
    on_taken_back: Callable[[Moved], None] = lambda moved: None,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Moved]:
    """Take back the newest version, and return what was taken back.

    With the last version, the named collection goes too, unless another database uses it; the database stays.

    Args:
        settings: where the database is.
        folder: where the versions are; else in the project.
        to: take back every version newer than this one instead.
        everything: take back all versions instead.
        allow_destructive: do it even where it drops a table with rows.
        lock_timeout_s: seconds to wait for another migrator.
        on_taken_back: called after each version, on each node.
        tell: told, in a sentence, what takes long.

    Raises:
        PaystreamError: a step failed, or somebody else is migrating.
        ServiceUnavailable: ClickHouse cannot be reached, or went away, or a node does not answer.
        UsageError: rows would be lost, ``to`` is no version, the newest version is not among the files, or the versions
            are applied otherwise than the settings say; nothing was attempted.
    """
    nodes = find(settings)
    nodes.require_all(f"Migration of database '{settings.clickhouse_database}'")
    history = _history(settings, folder, nodes)
    known = [version.id for version in history]
    if to is not None and to not in known:
        raise UsageError(f"Version '{to}' does not exist. Choose one of {', '.join(known)}.")
    with ExitStack() as stack:
        targets, present = [], {}
        for node in sorted(nodes.present, key=lambda node: node.address):
            with naming(node, nodes):
                backend = stack.enter_context(_locked(node.settings, lock_timeout_s, tell))
                states = backend.states()
                _refuse_other_cluster(settings, backend, states)
                if unknown := sorted(set(states) - set(known)):
                    raise UsageError(
                        f"Version '{unknown[-1]}' cannot be taken back: it is not among the files. "
                        "Use the checkout that it was applied from."
                    )
                targets.append(_Target(node, nodes, backend))
                present[node.address] = [version for version in reversed(history) if version.id in states]
        on_any = [version for version in reversed(history) if any(version in there for there in present.values())]
        if to is not None:
            chosen = [version for version in on_any if known.index(version.id) > known.index(to)]
        else:
            chosen = on_any if everything else on_any[:1]
        for target in targets:
            target.pending = [version for version in chosen if version in present[target.node.address]]
            if not allow_destructive:
                with naming(target.node, nodes):
                    _refuse_to_lose_rows(target.backend, target.pending)
        if not allow_destructive:
            _refuse_irreversible(chosen)
        taken_back = _move_all(targets, chosen, "rollback", history, on_taken_back)
        for target in targets:
            if target.pending and target.pending == present[target.node.address]:
                with naming(target.node, nodes):
                    named_collection.drop_unused(target.backend, target.node.settings)
    return taken_back


def lock_holders(settings: Settings) -> dict[str, str]:
    """Return who migrates the database at the moment and since when, by the server's address; empty: nobody does."""
    holders = {}
    for node in find(settings).present:
        with _migrating(settings), ClickHouseBackend.of(node.settings) as backend:
            if other := lock.holder(backend.connection, backend.lock_table):
                holders[node.address] = str(other)
    return holders


def break_lock(settings: Settings) -> None:
    """Remove the lock of a migrator that was killed. One that still runs would no longer be alone."""
    for node in find(settings).present:
        with _migrating(settings), ClickHouseBackend.of(node.settings) as backend:
            lock.remove(backend.connection, backend.lock_table)


def database_exists(settings: Settings) -> bool:
    """Return whether the configured database is there, after making sure that the server is new enough.

    Raises:
        ServiceUnavailable: ClickHouse cannot be reached.
        UsageError: the server is too old.
    """
    with _migrating(settings), connect(settings, database="") as client:
        refuse_old_server(settings, client.server_version)
        return bool(
            client.query(
                "SELECT count() FROM system.databases WHERE name = {name:String}",
                parameters={"name": settings.clickhouse_database},
            ).first_row[0]
        )


def refuse_old_server(settings: Settings, server_version: str) -> None:
    """Make sure that a server can run the schema.

    Raises:
        UsageError: it is older than ``OLDEST_SERVER``.
    """
    if tuple(int(part) for part in re.findall(r"\d+", server_version)[:2]) < OLDEST_SERVER:
        raise UsageError(
            f"ClickHouse '{settings.clickhouse_host}:{settings.clickhouse_port}' is too old: it is {server_version}, "
            f"and the schema needs {OLDEST_SERVER[0]}.{OLDEST_SERVER[1]}. Upgrade the server; nothing was changed."
        )


def _history(settings: Settings, folder: Path | None, nodes: Nodes, sharding: Sharding | None = None) -> list[Version]:
    """Return all versions as each server is to run them."""
    history = [
        version.with_steps(
            tuple(named_collection.own(text, settings.clickhouse_database) for text in step)
            for step in zip(version.statements, version.rollbacks, strict=True)
        )
        for version in read_history(folder)
    ]
    if not nodes.cluster:
        return history
    # sqlglot, which this takes, is not for one server to wait for.
    from paystream.migrations.cluster import rendered

    cluster = cluster_for(nodes, sharding)
    return [rendered(version, cluster) for version in history]


def cluster_for(nodes: Nodes, sharding: Sharding | None = None) -> "Cluster":
    """Return what statements are rendered for, with the sharding that the nodes have, if not another one.

    Raises:
        UsageError: the cluster's or the database's name is no identifier.
        ServiceUnavailable: a node was lost on the way.
    """
    from paystream.migrations.cluster import cluster_of

    database = nodes.entry.clickhouse_database
    return cluster_of(
        nodes.cluster,
        nodes.writes,
        database,
        sharding or sharding_of(nodes),
        is_replicated=nodes.is_replicated,
    )


def sharding_of(nodes: Nodes) -> Sharding:
    """Return how the nodes spread rows over the shards; as they are at present, where no node has any table yet.

    Nodes differ where the growth of the cluster was cut off: the one that knows most is right.
    """
    known = [found for _, found in each(nodes, "Sharding", _sharding_on, database="") if found]
    return max(known, key=lambda sharding: len(sharding.before), default=Sharding(nodes.shards))


def _sharding_on(node: Node, client: Client) -> Sharding | None:
    rows = client.query(
        "SELECT engine_full FROM system.tables WHERE database = {database:String} AND name = 'transactions_to_shards'",
        parameters={"database": node.settings.clickhouse_database},
    ).result_rows
    return Sharding.parsed(rows[0][0]) if rows else None


def _spread(target: _Target, sharding: Sharding) -> None:
    """Have a node send each row to its shard, as all nodes are to do from now on."""
    if not target.nodes.cluster or _sharding_on(target.node, target.backend.connection) in (None, sharding):
        return
    from paystream.migrations.cluster import to_shards

    cluster = cluster_for(target.nodes, sharding)
    for table in cluster.keys:
        if target.backend.connection.command(f"EXISTS TABLE {table}_to_shards"):
            target.backend.connection.command(to_shards(table, cluster))


def _refuse_background_inserts(node: Node, nodes: Nodes) -> None:
    if not nodes.cluster:
        return
    with _migrating(node.settings), connect(node.settings, database="") as client:
        setting = client.server_settings.get("distributed_foreground_insert")
    if setting and setting.value not in ("1", "true"):
        raise UsageError(
            f"Node '{node.address}' cannot hold the schema: its setting distributed_foreground_insert is "
            f"{setting.value}, so offsets would be committed while rows wait in its queue. Set it to 1 in the default "
            "profile; nothing was changed."
        )


def _refuse_other_cluster(settings: Settings, backend: ClickHouseBackend, states: dict[str, VersionState]) -> None:
    """Make sure that the versions that are applied are so where the settings say."""
    database, now = settings.clickhouse_database, settings.clickhouse_cluster
    was = backend.newest_comment(_CLUSTER)
    if states and was != now:
        here, there = (f"cluster '{name}'" if name else "one server alone" for name in (now, was))
        raise UsageError(
            f"Database '{database}' cannot be migrated on {here}: its versions were applied to {there}. Set "
            f"PAYSTREAM_CLICKHOUSE_CLUSTER={was or '(empty)'}, or give the {'cluster' if now else 'server'} a database "
            "of its own with PAYSTREAM_CLICKHOUSE_DATABASE."
        )


def _pending(history: list[Version], states: dict[str, VersionState]) -> tuple[list[Version], dict[str, int]]:
    """Return the versions that are not applied, and how many steps of the unfinished ones may have run."""
    known = {version.id for version in history}
    if unknown := sorted(set(states) - known):
        raise UsageError(
            f"Version '{unknown[-1]}' is applied, but not among the files. Use the checkout that it was applied from, "
            "or a newer one."
        )
    pending = [version for version in history if version.id not in states or states[version.id].state != "applied"]
    if pending:
        newest = max((name for name, state in states.items() if state.state == "applied"), default="")
        if pending[0].id < newest and pending[0].id not in states:
            raise UsageError(
                f"Version '{pending[0].id}' is out of order: {newest}, which comes after it, is applied already. "
                "Give it the next number."
            )
    return pending, {version.id: states[version.id].steps for version in pending if version.id in states}


def _create_database(settings: Settings) -> str:
    return f"CREATE DATABASE IF NOT EXISTS {quote_identifier(settings.clickhouse_database)}"


def _from_nothing(settings: Settings, history: list[Version], collections: set[str]) -> list[Step]:
    create = Step("", 1, "apply", _create_database(settings), "creates the database")
    return [create, *_collection_steps(settings, collections, 2, []), *explain(history, {}, Live())]


def _collections(client: Client) -> set[str]:
    return {name for (name,) in client.query("SELECT name FROM system.named_collections").result_rows}


def _collection_steps(
    settings: Settings, collections: set[str], first: int, kafka_tables: list[str], anew: Sequence[str] = ()
) -> list[Step]:
    told: list[tuple[str, str]] = []
    for collection, what in (
        (named_collection.DICTIONARIES, "the dictionaries' login"),
        (named_collection.KAFKA, "Kafka's connection"),
    ):
        name = named_collection.own(collection, settings.clickhouse_database)
        start = f"ALTER NAMED COLLECTION {name} SET" if name in collections else f"CREATE NAMED COLLECTION {name} AS"
        told.append((f"{start} …", f"writes {what} from the settings"))
    told += [(statement, f"gives {object_name(statement)} this database's own connection") for statement in anew]
    for table in kafka_tables:
        told.append((f"DETACH TABLE IF EXISTS {table} SYNC", f"pauses ingest for about {PAUSE_S} s"))
        told.append((f"ATTACH TABLE {table}", "ingest goes on with the new connection"))
    return [Step("", number, "apply", *texts) for number, texts in enumerate(told, start=first)]


def _kafka_tables(settings: Settings, history: list[Version]) -> list[str]:
    collection = named_collection.own(named_collection.KAFKA, settings.clickhouse_database)
    return [table for version in history for table in version.tables_reading(collection)]


def _left_unread(backend: ClickHouseBackend, settings: Settings) -> str:
    """Return in words what of the topic so far stays unread once the settings' topic is read; ``""`` for nothing."""
    # Versions before this one did not write it down.
    [[assigned]] = backend.connection.query(group.ASSIGNED_TOPICS).result_rows
    reading = [(topic, settings.kafka_group) for topic in assigned]
    topic, consumer_group = named_collection.read_so_far(backend) or (reading and reading[0]) or ("", "")
    if topic in ("", settings.kafka_topic):
        return ""
    before = settings.model_copy(update={"kafka_topic": topic, "kafka_group": consumer_group})
    try:
        with open_broker(before) as broker:
            unread = sum(position.waiting for position in broker.positions())
    except ServiceUnavailable:
        return f"what is unread of topic '{topic}' could not be counted, since Kafka does not answer"
    except UsageError:  # the topic is gone
        return ""
    return f"{unread:,} messages of topic '{topic}' stay unread, and nobody reads them any more" if unread else ""


def _move_all(
    targets: list[_Target],
    versions: list[Version],
    direction: Literal["apply", "rollback"],
    history: list[Version],
    on_moved: Callable[[Moved], None],
) -> list[Moved]:
    """Apply or take back each version on every server that has it pending, before the next version."""
    moved = []
    for version in versions:
        for target in targets:
            if version in target.pending:
                with naming(target.node, target.nodes):
                    moved.append(_move(target, version, direction, history, on_moved))
    return moved


def _move(
    target: _Target,
    version: Version,
    direction: Literal["apply", "rollback"],
    history: list[Version],
    on_moved: Callable[[Moved], None],
) -> Moved:
    started = time.monotonic()
    try:
        if direction == "apply":
            target.backend.apply_one(version.migration)
        else:
            target.backend.rollback_one(version.migration)
    except (StatementFailed, UndoFailed, OperationalError) as error:
        raise _failure(version, direction, history, error) from error
    address = target.node.address if target.nodes.cluster else ""
    moved = Moved(version.id, len(version.statements), time.monotonic() - started, address)
    on_moved(moved)
    return moved


def _failure(
    version: Version, direction: str, history: list[Version], error: StatementFailed | UndoFailed | OperationalError
) -> PaystreamError:
    command = "paystream migrate up" if direction == "apply" else "paystream migrate down"
    at = f" at {object_name(error.statement)}" if isinstance(error, StatementFailed) else ""
    before = [earlier.id for earlier in history if earlier.id < version.id]
    stands = f"the schema is at {before[-1]}" if before else "no version is applied"
    if isinstance(error, OperationalError) or isinstance(error.__cause__, OperationalError):
        return ServiceUnavailable(
            f"Version '{version.id}' was interrupted{at}: ClickHouse was lost: {cause_of(error)}. What was done of it "
            "is recorded. When ClickHouse is back, run `paystream migrate break-lock --yes`, as the lock could not be "
            f"given back, then repeat `{command}`."
        )
    if direction == "apply" and isinstance(error, StatementFailed):
        done = version.statements.index(error.statement) if error.statement in version.statements else 0
        lost = [reason for text in version.rollbacks[:done] for reason in irreversible(text)]
        but = f", but for this: {'; '.join(lost)}" if lost else ""
        undone = {0: "It was the first step", 1: "Step 1 was taken back"}.get(
            done, f"Steps 1 to {done} were taken back"
        )
        return PaystreamError(
            f"Version '{version.id}' failed{at}: {error}. {undone}{but}; {stands}. "
            f"Correct the cause and repeat `{command}`."
        )
    return PaystreamError(
        f"Version '{version.id}' failed{at}: {error}. It is marked unfinished, some of its {len(version.statements)} "
        f"steps are in the database, and the versions before it are whole. Correct the cause and repeat `{command}`."
    )


def _refuse_destruction(steps: list[Step]) -> None:
    for step in steps:
        if step.destructive:
            raise UsageError(
                f"Version '{step.version}' would lose data in step {step.number}: {step.means}. "
                "See `paystream migrate plan`; repeat with --allow-destructive to lose it."
            )


def _refuse_irreversible(versions: list[Version]) -> None:
    for version in versions:
        if reasons := version.irreversible():
            raise UsageError(
                f"Version '{version.id}' cannot be taken back as it was: {'; '.join(reasons)}. "
                "Repeat with --allow-destructive to take back the rest."
            )


def _refuse_to_lose_rows(backend: ClickHouseBackend, versions: list[Version]) -> None:
    dropped = {table: version.id for version in versions for table in version.tables_dropped_by_rollback()}
    if reporting_currency.TABLE in dropped and reporting_currency.is_all(backend.connection):
        del dropped[reporting_currency.TABLE]
    rows = backend.connection.query(
        "SELECT name, total_rows FROM system.tables"
        " WHERE database = currentDatabase() AND has({tables:Array(String)}, name) AND total_rows > 0 ORDER BY name",
        parameters={"tables": list(dropped)},
    ).result_rows
    columns = {
        f"{table}.{column}": version.id
        for version in versions
        for table, column in version.columns_dropped_by_rollback()
        if table not in dropped
    }
    # Rows written before the column was added have none of it.
    rows = [
        *rows,
        *backend.connection.query(
            "SELECT concat(table, '.', column) AS name, sum(rows) FROM system.parts_columns"
            " WHERE database = currentDatabase() AND active AND has({columns:Array(String)}, name)"
            " GROUP BY name HAVING sum(rows) > 0 ORDER BY name",
            parameters={"columns": list(columns)},
        ).result_rows,
    ]
    if rows:
        names = "', '".join(dict.fromkeys((dropped | columns)[name] for name, _ in rows))
        counts = ", ".join(f"{name} ({count:,} {'row' if count == 1 else 'rows'})" for name, count in rows)
        raise UsageError(
            f"Version '{names}' cannot be taken back: that would drop {counts}. "
            "Repeat with --allow-destructive to lose them."
        )


@contextmanager
def _locked(settings: Settings, timeout_s: float, tell: Callable[[str], None]) -> Iterator[ClickHouseBackend]:
    try:
        with _migrating(settings), ClickHouseBackend.of(settings) as backend:
            backend.tell = tell
            with backend.lock(timeout_s):
                yield backend
    except lock.Held as held:
        raise PaystreamError(
            f"Database '{settings.clickhouse_database}' is being migrated by somebody else: {held.holder}. "
            "Wait for it, or if that process is gone, run `paystream migrate break-lock --yes`."
        ) from None


def _migrating(settings: Settings) -> AbstractContextManager[None]:
    return answering(f"Migration of database '{settings.clickhouse_database}'")
