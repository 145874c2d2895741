"""The faults: what is done to a pipeline while payments are sent through it, and what shows that it was hit.

Each fault is a function that inflicts it on a running `Scene`, mends it, and says in a sentence what shows that it bit.
A fault that did not bite has tested nothing, and raises `DidNotBite`. What hits one server hits a node of a cluster,
chosen at random; the others go on.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from typing import Any

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from confluent_kafka import Consumer, ConsumerGroupState, ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from paystream.clickhouse import CANNOT_READ_ALL_DATA, CORRUPTED_DATA, connect, is_code
from paystream.devstack import stack
from paystream.errors import CheckFailed, PaystreamError
from paystream.group import partitions_assigned
from paystream.kafka import client_config, existing_partitions
from paystream.loader import sample
from paystream.loadtest.plan import Plan
from paystream.loadtest.probe import Probe
from paystream.migrations import named_collection, runner
from paystream.migrations.history import read_history
from paystream.nodes import Node, Nodes
from paystream.settings import Settings

KILL_WITHIN_S = 8.0
"""A kill comes at a random moment within this time of the restart before it: some strike while the consumer group still
waits for the killed members' session to end (6 s), others while messages are read."""

AIM_S = 1.0
"""How long an aimed kill waits for the moment between storing a block and committing its offsets."""

RESUME_EVERY = 5
"""Before every fifth kill, ingest gets the time to resume, to measure how long that takes."""

NOTICE_S = 60
"""How long a fault may take to show."""

RESUME_S = 120
"""How long ingest may take to resume once a fault is mended; beyond it, the fault's test fails."""

CONSUMERS = 2
"""Of each server's Kafka table, as sql/1_ingest/transactions_queue.sql says."""

LOOK_EVERY_S = 0.05
FILL_BLOCK = 1 << 20


class DidNotBite(CheckFailed):
    """A fault that left no trace: its test has tested nothing."""


@dataclass(frozen=True)
class Restart:
    """A restart: when it was ordered and when the parts answered again, in microseconds since 1970."""

    ordered_us: int
    answered_us: int


@dataclass
class Scene:
    """A running pipeline with payments on their way through it, and what was done to it so far.

    Attributes:
        nodes: the servers, all of which answered before the fault.
        kills_wanted: how many kills a fault that kills repeatedly makes.
        away_s: how long a node is away.
        kills: how many processes were ended by SIGKILL.
        duplicate_rows: offsets that were found in the table more than once, before FINAL, each time someone looked.
    """

    settings: Settings
    nodes: Nodes
    plan: Plan
    probe: Probe
    kills_wanted: int
    away_s: float = 300.0
    kills: int = 0
    duplicate_rows: int = 0
    restarts: list[Restart] = field(default_factory=list)
    _admin: AdminClient | None = None
    _looked_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @cached_property
    def dice(self) -> random.Random:
        """Return what decides on moments and nodes."""
        return random.Random(self.plan.seed)

    @cached_property
    def struck(self) -> Node:
        """Return the server that the fault hits: any one of a cluster."""
        return self.dice.choice(self.nodes.present)

    @cached_property
    def siblings(self) -> list[Node]:
        """Return the servers that read with the same consumer group, the struck one among them."""
        return [node for node in self.nodes.present if node.set == self.struck.set]

    @property
    def is_cluster(self) -> bool:
        return bool(self.nodes.cluster)

    def part(self, node: Node) -> stack.PartName:
        """Return the name that a server has in the stack."""
        return stack.clickhouse_name(self.settings, node.address)

    @contextmanager
    def client(self, node: Node | None = None) -> Iterator[Client]:
        """Connect to a server, by default to one of those that answered before the fault."""
        with connect((node or self.nodes.present[0]).settings, timeout_s=20) as client:
            yield client

    def rows(self, sql: str, node: Node | None = None, **parameters: Any) -> list[tuple]:
        with self.client(node) as client:
            return list(client.query(sql, parameters=parameters).result_rows)

    def command(self, sql: str, node: Node | None = None) -> None:
        with self.client(node) as client:
            client.command(sql)

    def rows_of_all(self, sql: str) -> list[tuple]:
        """Return what the servers answer that do."""
        found = []
        for node in self.nodes.present:
            with contextlib.suppress(PaystreamError, ClickHouseError):
                found += self.rows(sql, node)
        return found

    def end(self, part: stack.PartName, number: signal.Signals) -> None:
        """Send a signal that ends a part, and wait until it has ended."""
        stack.kill(self.settings, part, number)
        self.wait(lambda: part not in stack.pids(self.settings), f"the {part} did not end by {number.name}")
        self.kills += number is signal.SIGKILL

    def start(self) -> None:
        """Start what is not running, and note how long that took."""
        ordered_us = time.time_ns() // 1000
        stack.start(self.settings, "kafka")
        self.restarts.append(Restart(ordered_us, time.time_ns() // 1000))

    def wait(self, condition: Callable[[], Any], otherwise: str, seconds: float = NOTICE_S) -> None:
        """Wait until a condition holds.

        Raises:
            DidNotBite: it does not hold within the time.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise DidNotBite(f"Fault: {otherwise} within {seconds:.0f} s. Read the logs in '{self.settings.home}'.")
            time.sleep(LOOK_EVERY_S)

    def wait_resumed(self) -> None:
        """Wait until a payment that is made from now on can be read.

        Raises:
            CheckFailed: none can within two minutes.
        """
        since_us = time.time_ns() // 1000
        deadline = time.monotonic() + RESUME_S
        while not self.probe.has_seen_since(since_us):
            if time.monotonic() > deadline:
                raise CheckFailed(
                    f"Ingest did not resume within {RESUME_S} s of the end of the fault; it runs into: "
                    f"{self.consumer_errors() or 'nothing'}. Look at the logs in '{self.settings.home}'."
                )
            time.sleep(LOOK_EVERY_S)

    def count_duplicate_rows(self) -> None:
        """Count the offsets that came into the table since the last count and are in it twice now, before FINAL.

        A lower bound: merges remove some before anyone can look.
        """
        now = datetime.now(UTC)
        [[twice]] = self.rows(
            """
            SELECT count()
            FROM
            (
                SELECT 1
                FROM transactions
                GROUP BY kafka_partition, kafka_offset
                HAVING count() > 1 AND max(ingested_at) >= {since:DateTime64(3, 'UTC')}
            )
            """,
            since=self._looked_at,
        )
        self.duplicate_rows += twice
        self._looked_at = now

    def is_reading(self) -> bool:
        """Return whether a block was stored in the last 3 s: half the time that a group waits for a killed member."""
        ledger = self.nodes.share("ingest_ledger")
        read = self.rows_of_all(f"SELECT max(read_at) > now64(3) - INTERVAL 3 SECOND FROM {ledger}")
        return any(reading for [reading] in read)

    def wait_stored(self, longest_s: float) -> None:
        """Return once another block has been stored, or after so many seconds without one."""
        query = "SELECT max(read_at) FROM ingest_ledger"
        deadline = time.monotonic() + longest_s
        with self.client() as client:
            before = client.query(query).result_rows
            while client.query(query).result_rows == before and time.monotonic() < deadline:
                pass

    def consumer_errors(self) -> str:
        """Return the last exceptions of the Kafka table's consumers."""
        consumers = self.rows_of_all(
            "SELECT exceptions.text FROM system.kafka_consumers WHERE database = currentDatabase()"
        )
        return " ".join(text for [texts] in consumers for text in texts)

    def consumer_errors_lately(self) -> str:
        """Return what the consumers ran into within the last second."""
        consumers = self.rows_of_all(
            "SELECT arrayFilter((text, time) -> time >= now() - 1, exceptions.text, exceptions.time)"
            " FROM system.kafka_consumers WHERE database = currentDatabase()"
        )
        return " ".join(text for [texts] in consumers for text in texts)

    def members(self) -> int:
        """Return how many members the struck server's consumer group has."""
        group = self.struck.settings.kafka_group
        self._admin = self._admin or AdminClient(client_config(self.settings) | {"log_level": 0})
        described = self._admin.describe_consumer_groups([group], request_timeout=5)[group].result(6)
        is_empty = described.state in (ConsumerGroupState.EMPTY, ConsumerGroupState.DEAD)
        return 0 if is_empty else len(described.members)

    def wait_dropped(self, gone: int = 1) -> None:
        """Wait until the broker has dropped the members of so many servers of the group, which takes a session
        timeout."""
        left = CONSUMERS * (len(self.siblings) - gone)
        self.wait(lambda: self.members() <= left, "the broker did not drop the group's members")

    def partitions_assigned(self) -> int:
        """Return how many partitions the servers of the struck one's group have."""
        return partitions_assigned(replace(self.nodes, present=tuple(self.siblings)))


# Crashes


def clickhouse_killed(scene: Scene) -> str:
    struck = 0
    for number in range(scene.kills_wanted):
        is_last_chance = number == scene.kills_wanted - 1 and not struck
        if number and (number % RESUME_EVERY == 0 or is_last_chance):
            scene.wait_resumed()
        node = scene.dice.choice(scene.nodes.present)
        time.sleep(scene.dice.uniform(0, KILL_WITHIN_S))
        scene.count_duplicate_rows()
        struck += scene.is_reading()
        if number % 2:
            scene.wait_stored(AIM_S)
        scene.end(scene.part(node), signal.SIGKILL)
        scene.start()
        if number % 2:
            # Until the process ends, so that what is stored twice now can be counted before a merge removes it.
            scene.command(f"SYSTEM STOP MERGES {scene.nodes.share('transactions')}", node)
    scene.wait_resumed()
    scene.count_duplicate_rows()
    for node in scene.nodes.present:
        scene.command(f"SYSTEM START MERGES {scene.nodes.share('transactions')}", node)
    if not struck:
        raise DidNotBite("ClickHouse was never killed while it read. Make more kills with --kills.")
    return f"{struck} of {scene.kills_wanted} kills struck while messages were being stored"


def broker_restarted(scene: Scene, number: signal.Signals) -> str:
    scene.end("broker", number)
    scene.start()
    scene.wait_resumed()
    return "the broker came back as a new process"


def both_killed(scene: Scene) -> str:
    scene.end("broker", signal.SIGKILL)
    # What was fetched is stored and can no longer be committed, so it must be delivered again.
    scene.wait_stored(AIM_S)
    scene.end(scene.part(scene.struck), signal.SIGKILL)
    scene.start()
    scene.wait_resumed()
    return "both came back as new processes"


def nodes_killed(scene: Scene) -> str:
    scene.wait_stored(AIM_S)
    for node in scene.siblings:
        stack.kill(scene.settings, scene.part(node), signal.SIGKILL)
    for node in scene.siblings:
        name = scene.part(node)
        scene.wait(lambda name=name: name not in stack.pids(scene.settings), f"the {name} did not end by SIGKILL")
    scene.kills += len(scene.siblings)
    scene.start()
    scene.wait_resumed()
    return f"all {len(scene.siblings)} nodes of a set came back as new processes"


def node_away(scene: Scene) -> str:
    scene.end(scene.part(scene.struck), signal.SIGKILL)
    gone_us = time.time_ns() // 1000
    time.sleep(scene.away_s)
    seen = sum(sighting.intended_us >= gone_us for sighting in scene.probe.sightings)
    if seen and len(scene.nodes.sets) == 1:
        raise DidNotBite("A node was away, and payments made meanwhile could be read, of which half are its own.")
    scene.start()
    scene.wait_resumed()
    read = "could be read through the other set" if seen else "could not be read"
    return f"payments made while it was away for {scene.away_s:.0f} s {read}"


def clickhouse_stopped(scene: Scene) -> str:
    scene.end(scene.part(scene.struck), signal.SIGTERM)
    scene.wait_dropped()
    scene.start()
    scene.wait_resumed()
    return "the broker had dropped the group's members"


# Pauses


def clickhouse_paused(scene: Scene) -> str:
    name = scene.part(scene.struck)
    stack.kill(scene.settings, name, signal.SIGSTOP)
    try:
        scene.wait_dropped()
    finally:
        stack.kill(scene.settings, name, signal.SIGCONT)
    scene.wait_resumed()
    return "the broker had dropped the group's members"


def broker_paused(scene: Scene) -> str:
    stack.kill(scene.settings, "broker", signal.SIGSTOP)
    paused_us = time.time_ns() // 1000
    try:
        time.sleep(PAUSE_S)
        unseen = not scene.probe.has_seen_since(paused_us)
    finally:
        stack.kill(scene.settings, "broker", signal.SIGCONT)
    if not unseen:
        raise DidNotBite("The broker was paused, and payments made meanwhile could be read.")
    scene.wait_resumed()
    return f"nothing arrived for {PAUSE_S} s"


PAUSE_S = 10
"""How long the broker is paused: longer than a consumer's session."""


# The consumer group


def rebalance(scene: Scene) -> str:
    taken: list[int] = []

    def hold(consumer: Consumer, partitions: list[TopicPartition]) -> None:
        taken[:] = [partition.partition for partition in partitions]
        consumer.assign(partitions)
        consumer.pause(partitions)

    all_partitions = len(existing_partitions(scene.settings))
    consumer = Consumer(
        client_config(scene.settings)
        | {"group.id": scene.struck.settings.kafka_group, "enable.auto.commit": False, "log_level": 0}
        # Partitions go to members by the order of their names; a cluster may have as many as there are partitions.
        | {"client.id": "0-loadtest"}
    )
    try:
        consumer.subscribe([scene.settings.kafka_topic], on_assign=hold)

        def holds_some() -> bool:
            consumer.poll(0.1)
            return bool(taken) and scene.partitions_assigned() == all_partitions - len(taken)

        scene.wait(holds_some, "another consumer in the group was given no partition")
    finally:
        consumer.close()
    scene.wait(
        lambda: scene.partitions_assigned() == all_partitions, "ClickHouse did not get all partitions back", RESUME_S
    )
    scene.wait_resumed()
    return f"another consumer of the group held {len(taken)} of {all_partitions} partitions"


def offsets_rewound(scene: Scene) -> str:
    settings = scene.settings
    partitions = existing_partitions(settings)
    group = scene.struck.settings.kafka_group
    an_hour_ago_ms = int((datetime.now(UTC) - timedelta(hours=1)).timestamp() * 1000)
    consumer = Consumer(client_config(settings) | {"group.id": group, "log_level": 0})
    try:
        for node in scene.siblings:
            scene.command("DETACH TABLE transactions_queue SYNC", node)
        try:
            scene.wait_dropped(len(scene.siblings))
            topic = settings.kafka_topic
            committed = consumer.committed([TopicPartition(topic, partition) for partition in partitions], 10)
            then = [TopicPartition(topic, partition, an_hour_ago_ms) for partition in partitions]
            rewound = consumer.offsets_for_times(then, 10)
            admin = AdminClient(client_config(settings) | {"log_level": 0})
            wanted = ConsumerGroupTopicPartitions(group, rewound)
            admin.alter_consumer_group_offsets([wanted], request_timeout=10)[group].result(11)
        finally:
            for node in scene.siblings:
                scene.command("ATTACH TABLE transactions_queue", node)
    finally:
        consumer.close()
    distance = sum(place.offset for place in committed) - sum(place.offset for place in rewound)
    if distance <= 0:
        raise DidNotBite("The group's offsets were where they were an hour ago: no message was delivered again.")
    scene.wait_resumed()
    return f"the group's offsets were {distance:,} messages further back"


# Broken objects


def view_throws(scene: Scene) -> str:
    [[select]] = scene.rows(
        "SELECT as_select FROM system.tables WHERE database = currentDatabase() AND name = 'ledger_mv'", scene.struck
    )
    # The last of the three views: when it throws, the others have stored what they make of the block.
    broken = select.replace("count()", "count() + throwIf(count() > 0, 'broken by loadtest faults')", 1)
    scene.command(f"ALTER TABLE ledger_mv MODIFY QUERY {broken}", scene.struck)
    try:
        scene.wait(
            lambda: "broken by loadtest faults" in scene.consumer_errors(), "the view was changed, and no block failed"
        )
        scene.count_duplicate_rows()
    finally:
        scene.command(f"ALTER TABLE ledger_mv MODIFY QUERY {select}", scene.struck)
    scene.wait_resumed()
    return "blocks failed with the view's exception"


def dictionary_fails(scene: Scene) -> str:
    # As after a changed password: a loaded dictionary keeps what it has, so it takes a new process to fail.
    login = named_collection.own(named_collection.DICTIONARIES, scene.settings.clickhouse_database)
    scene.command(f"ALTER NAMED COLLECTION {login} SET user = 'nobody'", scene.struck)
    try:
        scene.end(scene.part(scene.struck), signal.SIGKILL)
        stack.start(scene.settings, "kafka")
        scene.wait(lambda: "_dict" in scene.consumer_errors(), "no block failed of the dictionaries that can't load")
    finally:
        runner.up(scene.settings)  # what an operator would type: it writes the collection anew
    scene.wait_resumed()
    return "blocks failed, since the dictionaries could not log in"


def poison(scene: Scene) -> str:
    began_us = scene.plan.started_us
    end_us = began_us + POISONED_S * 1_000_000
    scene.wait(lambda: scene.probe.has_seen_since(end_us), "no payment between the poison could be read", RESUME_S)
    [[refused]] = scene.rows(
        "SELECT count() FROM quarantine WHERE quarantined_at >= fromUnixTimestamp64Micro({began:Int64})", began=began_us
    )
    if not refused:
        raise DidNotBite("No message was refused: there was no poison among them.")
    return f"{refused:,} messages were in quarantine by then"


POISONED_S = 10
"""For so many seconds of sending, there is poison among the messages."""


# The disk


# Each reads all that a merge wrote; the ledger's condition makes it read the skip index.
_READ_ALL = {
    "transactions": "SELECT count() FROM transactions WHERE NOT ignore(*)",
    "ingest_ledger": "SELECT count() FROM ingest_ledger WHERE read_at > toDateTime64(0, 3) AND NOT ignore(*)",
}


def reload_if_unreadable(client: Client, suffix: str = "") -> bool:
    """Reload each table in which a merge cut short by a full disk left an unreadable part; say whether any was.

    The engine then sets that part aside and takes those that it was merged from, which it keeps for eight minutes.
    ``suffix`` is that of the tables' names.
    """
    reloaded = False
    for name, query in _READ_ALL.items():
        table = f"{name}{suffix}"
        everything = query.replace(f"FROM {name} ", f"FROM {table} ")
        try:
            client.query(everything)
        except ClickHouseError as error:
            if not is_code(error, CORRUPTED_DATA) and not is_code(error, CANNOT_READ_ALL_DATA):
                raise
            client.command(f"DETACH TABLE {table} SYNC")
            client.command(f"ATTACH TABLE {table}")
            client.query(everything)
            reloaded = True
    return reloaded


def disk_full(scene: Scene) -> str:
    # Of a cluster the last node has the small disk.
    node = max(scene.nodes.present, key=lambda node: (node.set, node.shard))
    filler = stack.clickhouse_disk(scene.settings, scene.part(node)) / "filler"
    try:
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(FILL_BLOCK))

        # What merges free is filled again, or the disk would be full for a moment only.
        def fails() -> bool:
            with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
                while file.write(bytes(4096)) == 4096:
                    pass
            return "No space left" in scene.consumer_errors() or "NOT_ENOUGH_SPACE" in scene.consumer_errors()

        scene.wait(fails, "no block failed on the full disk")
    finally:
        filler.unlink(missing_ok=True)
    scene.wait(lambda: not scene.consumer_errors_lately(), "blocks go on failing on a disk with space")
    with scene.client(node) as client:
        reloaded = reload_if_unreadable(client, "_local" if scene.is_cluster else "")
    scene.wait_resumed()
    also = ", and a merge had left a part to load anew" if reloaded else ""
    return f"blocks failed with 'No space left on device'{also}"


# Operators' commands


def refresh_dies(scene: Scene) -> str:
    file = scene.settings.home / "merchants.csv"
    sample.write_merchants(file, len(scene.plan.merchants), seed=scene.dice.randrange(2, 1 << 30))
    told = _dies_within(scene, ["dims", "refresh", "merchants", "--from", str(file)])
    content = "SELECT count(), groupBitXor(cityHash64(merchant_id, merchant_name, country)) FROM merchants"
    serving = {tuple(scene.rows(content, node)[0]) for node in scene.nodes.present}
    if len(serving) > 1:
        raise CheckFailed(f"After the refresh the nodes serve different merchants: {serving}.")
    return told


def migration_dies(scene: Scene) -> str:
    *_, before, _newest = read_history()
    down = _dies_within(scene, ["migrate", "down", "--to", before.id])
    up = _dies_within(scene, ["migrate", "up"])
    return f"{down}; {up}"


COMMAND_KILL_S = (0.5, 3.0)
"""When a node dies, from the start of a command: a process takes half a second until it is at work."""

COMMAND_TRIES = 10
COMMAND_LIMIT_S = 300


def _dies_within(scene: Scene, command: list[str]) -> str:
    """Run a command, kill a node at a random moment meanwhile, start it, and run the command again until it is done."""
    name = f"`paystream {' '.join(command[:3])}`"
    process = _paystream(scene.settings, command)
    time.sleep(scene.dice.uniform(*COMMAND_KILL_S))
    was_running = process.poll() is None
    scene.end(scene.part(scene.struck), signal.SIGKILL)
    code, _ = _ended(process)
    scene.start()
    if not was_running:
        raise DidNotBite(f"{name} had ended before the node was killed. Run this fault again.")
    for _ in range(COMMAND_TRIES):
        again, said = _ended(_paystream(scene.settings, command))
        if again == 0:
            scene.wait_resumed()
            return f"{name} ended with code {code}, and well when it was run again"
    raise CheckFailed(f"{name} does not end well once the node is back: {said}")


def _paystream(settings: Settings, command: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "paystream", *command],
        env=os.environ | settings.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _ended(process: subprocess.Popen) -> tuple[int, str]:
    """Return the exit code and the last line of the errors."""
    try:
        _, errors = process.communicate(timeout=COMMAND_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise CheckFailed(f"`{' '.join(process.args[2:])}` had not ended after {COMMAND_LIMIT_S} s.") from None
    return process.returncode, (errors.splitlines() or [""])[-1]


@dataclass(frozen=True)
class Fault:
    """A fault by name.

    Attributes:
        inflict: inflicts and mends it; returns what shows that it bit.
        rate_per_second: of the payments sent meanwhile.
        malformed_share: the share of the messages that is poison.
        disk_mib: the size of a disk of its own for ClickHouse, or a cluster's last node; None where it needs none.
        needs_cluster: whether there is nothing of it on one server.
    """

    name: str
    what: str
    inflict: Callable[[Scene], str]
    rate_per_second: int = 1000
    malformed_share: float = 0.0
    disk_mib: int | None = None
    needs_cluster: bool = False


FAULTS = (
    Fault("clickhouse-killed", "kill -9 of ClickHouse, again and again at random moments", clickhouse_killed),
    Fault("clickhouse-stopped", "ClickHouse stopped for longer than the consumers' session", clickhouse_stopped),
    Fault("clickhouse-paused", "SIGSTOP of ClickHouse for longer than the consumers' session", clickhouse_paused),
    Fault("broker-killed", "kill -9 of the broker", partial(broker_restarted, number=signal.SIGKILL)),
    Fault("broker-restarted", "clean restart of the broker", partial(broker_restarted, number=signal.SIGTERM)),
    Fault("broker-paused", f"SIGSTOP of the broker for {PAUSE_S} s", broker_paused),
    Fault("both-killed", "kill -9 of the broker and of ClickHouse", both_killed),
    Fault("rebalance", "another consumer joins the group and leaves it", rebalance),
    Fault("view-throws", "a view throws, and is repaired", view_throws),
    Fault("dictionary-fails", "dictionaries can't load after a restart, and are repaired", dictionary_fails),
    Fault("poison-message", "a poison message now and then between good ones", poison, 500, 0.002),
    Fault("poison-share", "1% poison at 5,000/s", poison, 5000, 0.01),
    Fault("offsets-rewound", "the group's offsets set back by an hour", offsets_rewound),
    Fault("node-away", "kill -9 of a node, which stays away for minutes", node_away, needs_cluster=True),
    Fault("nodes-killed", "kill -9 of all nodes of a set at once", nodes_killed, needs_cluster=True),
    Fault("refresh-killed", "a node dies within a refresh, which is run again", refresh_dies, needs_cluster=True),
    Fault("migration-killed", "a node dies within migrate down, and within up", migration_dies, needs_cluster=True),
    Fault("disk-full", "no space left on ClickHouse's disk, and freed", disk_full, disk_mib=128),
)
