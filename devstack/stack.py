"""Start and stop the local stack: a Kafka broker and ClickHouse, each server a process of its own, on loopback only.

Everything lives under ``settings.home``: ``kafka/`` and ``clickhouse/`` hold data, ``etc/clickhouse/`` ClickHouse's
configuration, ``logs/`` what the parts print, and ``run/`` a record of each running part. ``stack.lock`` marks the
folder as the stack's and admits one change at a time. Of a cluster each node has these for itself, ``clickhouse-1``
and so on.
"""

import contextlib
import errno
import fcntl
import ipaddress
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psutil
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from paystream.devstack import clickhouse_server, kafka_broker, local_cluster, maven, memory_broker
from paystream.devstack.last_words import last_words
from paystream.devstack.local_cluster import Address, Server
from paystream.devstack.local_users import users_xml
from paystream.devstack.ports import free_port, free_ports, free_run
from paystream.errors import PaystreamError, ServiceUnavailable, UsageError
from paystream.kafka import client_config
from paystream.process import boot, identity, is_alive
from paystream.settings import Settings

BrokerChoice = Literal["auto", "kafka", "memory"]
PartName = str
"""``broker``, and ``clickhouse``; of a cluster ``clickhouse-1``, ``clickhouse-2`` and so on."""

PARTITIONS = 4
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 20
LOCK_TIMEOUT_S = 60
PORT_RELEASE_S = 2
FULL_BYTES = 1 << 20
FOLDERS = ("kafka", "clickhouse", "etc", "logs", "run")
LABELS = {"kafka": "Apache Kafka", "memory": "Memory broker", "clickhouse": "ClickHouse"}
PORT_SETTINGS = ("PAYSTREAM_KAFKA_BROKERS", "PAYSTREAM_CLICKHOUSE_PORT", "PAYSTREAM_CLICKHOUSE_NATIVE_PORT")


@dataclass(frozen=True)
class Part:
    """One process of the stack, as its record in ``run/`` describes it."""

    name: PartName
    kind: Literal["kafka", "memory", "clickhouse"]
    address: str
    process: dict[str, Any]
    """Its ``paystream.process.identity``."""
    log: str
    native_address: str | None = None
    """Where ClickHouse speaks its native protocol; ``address`` is that of HTTP."""
    set: int | None = None
    shard: int | None = None
    """The place of a cluster's node."""

    @property
    def title(self) -> str:
        """Its name in output and of its log: a broker's says of which kind it is."""
        return self.kind if self.name == "broker" else self.name

    @property
    def pid(self) -> int:
        return self.process["pid"]

    @property
    def label(self) -> str:
        return f"{LABELS[self.kind]} '{self.address}'"


@dataclass(frozen=True)
class Stack:
    """A running stack: all its parts, those that this call started, and what the user should know about it."""

    parts: tuple[Part, ...]
    started: tuple[PartName, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Stopped:
    """How one part ended: by SIGTERM, by SIGKILL since it did not heed that, or earlier on its own."""

    part: Part
    how: Literal["stopped", "killed", "dead already"]


def settings_on_free_ports(home: Path, nodes: int = 0, sets: int = 1) -> Settings:
    """Return the settings of a stack in a folder, on free loopback ports, whatever the environment says.

    ``nodes`` is how many nodes each set of a cluster is to have; 0 for one server alone.
    """
    count = nodes * sets
    broker_port, *http_ports = free_ports(1 + max(count, 1))
    cluster = {
        "clickhouse_cluster": "paystream",
        "clickhouse_nodes": ",".join(f"127.0.0.1:{port}" for port in http_ports),
    }
    return Settings(
        _env_file=None,
        home=home,
        kafka_brokers=f"127.0.0.1:{broker_port}",
        clickhouse_host="127.0.0.1",
        clickhouse_port=http_ports[0],
        clickhouse_native_port=free_run(max(count, 1), besides=[broker_port, *http_ports]),
        **(cluster if count else {}),
    )


def start(
    settings: Settings,
    broker: BrokerChoice = "auto",
    clickhouse_disk_mib: int | None = None,
    nodes: int | None = None,
    sets: int | None = None,
) -> Stack:
    """Start what is not running yet and return once every part answers and the topic exists.

    ``auto`` takes Apache Kafka where Java is installed and the jars are there or can be fetched, and the in-memory
    broker elsewhere. If anything fails, or an exception such as KeyboardInterrupt arrives, the parts started by this
    call are stopped again before it is raised. Each wait is bounded.

    ``clickhouse_disk_mib`` is for tests of what a full disk does (Linux): ClickHouse's data, of a cluster its last
    node's, goes to a disk of that size in memory. Only its process sees that disk, others find it at
    ``clickhouse_disk``, and it ends with the process.

    ``nodes`` and ``sets`` are those of ``local_cluster.servers``. Where a running cluster grows, its other nodes are
    restarted one after the other: ClickHouse as it runs here does not read a changed configuration.

    Raises:
        UsageError: the settings address no local stack, a port is taken, Apache Kafka was asked for and is not
            installed, a running part differs from the settings, or the cluster differs from the one that the home has.
        ServiceUnavailable: a part ended or gave no answer; the message carries the last telling line of its log.
        PaystreamError: the stack's files cannot be written.
    """
    _planned(settings, nodes, sets)  # refused before anything is made
    home = settings.home.resolve()
    with _locked(home):
        broker_address, servers = _planned(settings, nodes, sets)
        running = {part.name: part for part in _recorded(home) if _process(part)}
        _check_unchanged(running, broker_address, servers, broker)
        absent = [server for server in servers if server.name not in running]
        _check_ports_free(settings, broker_address if "broker" not in running else None, absent)
        remembered = local_cluster.remembered_in(home)
        remembered_before = remembered.read_text() if remembered.exists() else None
        notes = []
        try:
            if settings.clickhouse_cluster:
                _write(remembered, local_cluster.remembered_text(settings.clickhouse_cluster, servers))
            if "broker" in running:
                kind = running["broker"].kind
            else:
                kind, note = _choose_broker(broker)
                notes += [note] if note else []
                _start_broker(home, kind, broker_address, servers)
            partitions = max(PARTITIONS, 2 * max(server.shard for server in servers))
            _wait(home, "broker", _broker_question(settings, kind, partitions))
            for server in absent:
                _start_clickhouse(settings, server, servers, clickhouse_disk_mib if server == servers[-1] else None)
            for server in servers:
                _wait_for_clickhouse(home, server)
                notes += _take_over(home / server.name)
            notes += _restart_outdated(settings, servers)
        except BaseException as error:
            with _signals_held():
                _end(home, [part for part in _recorded(home) if part.name not in running])
                if remembered_before is None:
                    remembered.unlink(missing_ok=True)
                else:
                    _write(remembered, remembered_before)
            if isinstance(error, OSError):
                raise PaystreamError(
                    f"Local stack '{home}': its files cannot be written: {error.strerror or error}. "
                    "Make room, or set PAYSTREAM_HOME to another folder."
                ) from error
            raise
        parts = tuple(_recorded(home))
        return Stack(parts, tuple(part.name for part in parts if part.name not in running), tuple(notes))


def restart(settings: Settings, name: PartName) -> None:
    """Start one ClickHouse, after stopping it if it runs; the other parts are left as they are.

    Raises:
        UsageError, ServiceUnavailable, PaystreamError: as ``start``; there is no such part.
    """
    home = settings.home.resolve()
    with _locked(home):
        _, servers = _planned(settings, None, None)
        known = [part.name for part in _recorded(home)]
        for server in servers:
            if server.name == name and name in known:
                return _restart(settings, server, servers)
    raise UsageError(
        f"Part '{name}' of the local stack: no ClickHouse of that name is in it, but {', '.join(known) or 'nothing'}. "
        "Start it with `paystream up`."
    )


def stop(settings: Settings) -> list[Stopped]:
    """Stop every part that any ``start`` on this home left running: ClickHouse, all nodes at once, then its broker.

    Each part gets SIGTERM and ``STOP_TIMEOUT_S`` seconds, then SIGKILL. Data stays.

    Raises:
        UsageError: another ``up`` or ``down`` is at work on this home.
    """
    home = settings.home.resolve()
    if not (home / "stack.lock").exists():
        return []
    with _locked(home):
        return _end(home, _recorded(home))


def delete_data(settings: Settings) -> list[str]:
    """Delete the folders that the stack made under its home, and return their names. Nothing else is touched.

    Raises:
        UsageError: a part is running, or another ``up`` or ``down`` is at work on this home.
        PaystreamError: a folder cannot be deleted.
    """
    home = settings.home.resolve()
    if not (home / "stack.lock").exists():
        return []
    with _locked(home):
        if pids(settings):
            raise UsageError(f"Local stack '{home}': it is running. Run `paystream down` before its data is deleted.")
        present = _folders(home)
        for folder in present:
            try:
                shutil.rmtree(folder)
            except OSError as error:
                raise PaystreamError(
                    f"Folder '{folder}' cannot be deleted: {error.strerror or error}. Delete it by hand."
                ) from error
        return [folder.name for folder in present]


def kill(settings: Settings, name: PartName, number: signal.Signals) -> None:
    """Send a signal to a running part, for tests of what a crash does.

    Raises:
        UsageError: the part is not running.
    """
    for part in _recorded(settings.home.resolve()):
        process = _process(part) if part.name == name else None
        if process:
            process.send_signal(number)
            return
    raise UsageError(f"Part '{name}' of the local stack: it is not running. Start it with `paystream up`.")


def clickhouse_disk(settings: Settings, name: PartName = "clickhouse") -> Path:
    """Return where another process finds a running ClickHouse's data folder, also when it is on a disk of its own.

    Raises:
        UsageError: it is not running.
    """
    pid = pids(settings).get(name)
    if pid is None:
        raise UsageError(f"Part '{name}' of the local stack: it is not running. Start it with `paystream up`.")
    return Path(f"/proc/{pid}/root{settings.home.resolve() / name}")


def clickhouse_name(settings: Settings, address: str) -> PartName:
    """Return the name of the part that is the ClickHouse at an HTTP address."""
    return next(server.name for server in local_cluster.servers(settings, None, None) if _text(server.http) == address)


def pids(settings: Settings) -> dict[PartName, int]:
    """Return the process ids of the parts that are running."""
    return {part.name: part.pid for part in _recorded(settings.home.resolve()) if _process(part)}


# Settings and ports


def _planned(settings: Settings, nodes: int | None, sets: int | None) -> tuple[Address, list[Server]]:
    """Return where the broker is to listen, and the ClickHouse servers."""
    servers = local_cluster.servers(settings, nodes, sets)
    problems = []
    (broker_host, broker_port), *more = settings.kafka_addresses
    if more:
        problems.append("PAYSTREAM_KAFKA_BROKERS names several brokers, the local stack has one")
    elif not _is_loopback(broker_host):
        problems.append(f"PAYSTREAM_KAFKA_BROKERS names '{broker_host}', which is someone else's server")
    if not 0 < broker_port < 65536:
        problems.append(f"PAYSTREAM_KAFKA_BROKERS names port {broker_port}, which does not exist")
    if settings.kafka_security_protocol != "PLAINTEXT":
        problems.append("PAYSTREAM_KAFKA_SECURITY_PROTOCOL is not PLAINTEXT")
    if not _is_loopback(settings.clickhouse_host):
        problems.append(f"PAYSTREAM_CLICKHOUSE_HOST names '{settings.clickhouse_host}', which is someone else's server")
    for host, _ in settings.node_addresses if settings.clickhouse_cluster else []:
        if not _is_loopback(host):
            problems.append(f"PAYSTREAM_CLICKHOUSE_NODES names '{host}', which is someone else's server")
    if settings.clickhouse_secure:
        problems.append("PAYSTREAM_CLICKHOUSE_SECURE is on, the local stack speaks plain HTTP")
    names = ", ".join([PORT_SETTINGS[0], _http_setting(settings), PORT_SETTINGS[2]])
    ports = [broker_port, *(port for server in servers for _, port in (server.http, server.native))]
    counted = f" for {len(servers)} nodes, which count up from it" if len(servers) > 1 else ""
    if len(set(ports)) < len(ports):
        problems.append(f"two of {names} name the same port{counted}")
    if beyond := [port for port in ports[1:] if not 0 < port < 65536]:
        problems.append(f"one of {names} names port {beyond[0]}{counted}, and that does not exist")
    if problems:
        raise UsageError(
            f"Local stack: it runs on this machine's loopback addresses only, but {'; '.join(problems)}. "
            "Unset them to use the local stack; a server of your own needs no `paystream up`."
        )
    return (broker_host, broker_port), servers


def _http_setting(settings: Settings) -> str:
    named = settings.clickhouse_cluster and settings.clickhouse_nodes
    return "PAYSTREAM_CLICKHOUSE_NODES" if named else PORT_SETTINGS[1]


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        return False


def _check_unchanged(
    running: dict[PartName, Part], broker_address: Address, servers: Sequence[Server], broker: BrokerChoice
) -> None:
    planned = {"broker": [broker_address]} | {server.name: [server.http, server.native] for server in servers}
    for part in running.values():
        if part.name not in planned:
            raise UsageError(f"{part.label}: it is running, and is no part of this stack. Run `paystream down` first.")
        if part.kind == "clickhouse" and part.native_address is None:
            raise UsageError(f"{part.label}: an earlier version of Paystream runs it. Run `paystream down` first.")
        for address, now in zip([part.address, part.native_address], planned[part.name], strict=False):
            if address != _text(now):
                raise UsageError(
                    f"{part.label} of the local stack: it is running on '{address}', but the settings now say "
                    f"'{_text(now)}'. Run `paystream down` first."
                )
        if part.name == "broker" and broker not in ("auto", part.kind):
            raise UsageError(
                f"{part.label}: it is running, but `--broker {broker}` was asked for. Run `paystream down` first."
            )


def _text(address: Address) -> str:
    return f"{address[0]}:{address[1]}"


def _check_ports_free(settings: Settings, broker_address: Address | None, servers: Sequence[Server]) -> None:
    if broker_address:
        _check_port_free("Kafka", broker_address, PORT_SETTINGS[0])
    for server in servers:
        _check_port_free("ClickHouse", server.http, _http_setting(settings))
        _check_port_free("ClickHouse", server.native, PORT_SETTINGS[2])


def _check_port_free(label: str, address: Address, setting: str) -> None:
    deadline = time.monotonic() + PORT_RELEASE_S
    while True:
        try:
            socket.create_server(address).close()
            return
        except OSError as error:
            # A part killed a moment ago counts as dead while its last threads still hold its sockets.
            if error.errno == errno.EADDRINUSE and time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            raise UsageError(
                f"{label} '{_text(address)}': port {address[1]} cannot be used: {error.strerror}. "
                f"Stop what uses it, or set {setting} to another one."
            ) from error


# The parts


def _choose_broker(broker: BrokerChoice) -> tuple[Literal["kafka", "memory"], str | None]:
    if broker == "memory":
        return "memory", f"The in-memory broker stands in for Apache Kafka: {memory_broker.LIMITS}."
    try:
        maven.find_java()
        maven.ensure_jars(kafka_broker.POM)
    except PaystreamError as error:
        if broker == "kafka":
            raise type(error)(f"Apache Kafka: {error} Or use `paystream up --broker memory`.") from error
        cause = str(error).partition(". ")[0]
        return "memory", f"{cause}. The in-memory broker stands in for Apache Kafka: {memory_broker.LIMITS}."
    return "kafka", None


def _start_broker(home: Path, kind: Literal["kafka", "memory"], address: Address, servers: Sequence[Server]) -> None:
    host, port = address
    if kind == "kafka":
        taken = [port, *(port for server in servers for _, port in (server.http, server.native))]
        command = kafka_broker.prepare(home, host, port, free_port(host, besides=taken))
        folder = home / "kafka"
    else:
        command = [sys.executable, "-P", "-m", "paystream.devstack.memory_broker", "--host", host, "--port", str(port)]
        folder = home
    _start(home, Part("broker", kind, _text(address), {}, ""), command, folder)


def _instance(home: Path, server: Server) -> clickhouse_server.Instance:
    name, (host, http_port), (_, native_port) = server.name, server.http, server.native
    log = home / "logs" / f"{name}.log"
    return clickhouse_server.Instance(host, http_port, native_port, home / "etc" / name, home / name, log)


def _start_clickhouse(
    settings: Settings, server: Server, servers: Sequence[Server], disk_mib: int | None = None
) -> None:
    home = settings.home.resolve()
    instance = _instance(home, server)
    files = {"users.d/roles.xml": users_xml(settings.clickhouse_database)}
    if cluster := settings.clickhouse_cluster:
        files[local_cluster.CONFIGURATION_FILE] = local_cluster.configuration(cluster, servers, server)
    command = clickhouse_server.prepare(instance, files)
    if disk_mib is not None:
        # A mount namespace of its own; other users become root in a user namespace, where they may mount.
        unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
        mount = 'mkdir -p "$2" && mount -t tmpfs -o size="$1"m tmpfs "$2" && shift 2 && exec "$@"'
        command = [*unshare, "sh", "-c", mount, "sh", str(disk_mib), str(instance.data), *command]
    place = (server.set, server.shard) if cluster else ()
    part = Part(server.name, "clickhouse", _text(server.http), {}, "", _text(server.native), *place)
    _start(home, part, command, home)


def _wait_for_clickhouse(home: Path, server: Server) -> None:
    instance = _instance(home, server)
    _wait(home, server.name, lambda: None if instance.answers() else "it does not answer")


def _restart(settings: Settings, server: Server, servers: Sequence[Server]) -> None:
    home = settings.home.resolve()
    with _signals_held():  # what ran before runs again, whatever comes between
        _end(home, [part for part in _recorded(home) if part.name == server.name])
        _check_ports_free(settings, None, [server])
        _start_clickhouse(settings, server, servers)
    _wait_for_clickhouse(home, server)


def _restart_outdated(settings: Settings, servers: Sequence[Server]) -> list[str]:
    """Restart the nodes that were told of another cluster, one after the other, and return a note of it."""
    cluster, restarted = settings.clickhouse_cluster, []
    for server in servers if cluster else ():
        told = _instance(settings.home.resolve(), server).folder / local_cluster.CONFIGURATION_FILE
        if not told.exists() or told.read_text() != local_cluster.configuration(cluster, servers, server):
            _restart(settings, server, servers)
            restarted.append(server.name)
    return [f"Restarted, since the cluster has other nodes now: {', '.join(restarted)}."] if restarted else []


def _take_over(data: Path) -> list[str]:
    """Return a note, once, if the data is of an earlier version of Paystream, which its lock file tells."""
    lock = data / "endpoint.lock"
    if not lock.exists():
        return []
    lock.unlink()
    return [f"The data in '{data}', which an earlier version of Paystream had written, is taken over."]


def _broker_question(settings: Settings, kind: str, partitions: int) -> Callable[[], str | None]:
    """Return a function that says what the broker lacks, creating the topic, and returns None once it is ready."""
    # Reconnecting at once: librdkafka's own pause grows to 10 s, and the broker is about to listen.
    hasty = {"log_level": 0, "reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 200}
    admin = AdminClient(client_config(settings) | hasty)

    def ask() -> str | None:
        topic = admin.list_topics(timeout=1).topics.get(settings.kafka_topic)
        if topic is None and kind == "kafka":
            admin.create_topics([NewTopic(settings.kafka_topic, partitions, 1)])[settings.kafka_topic].result(5)
            return "the topic is being created"
        if (
            topic is None
        ):  # the mock cluster takes no request to create a topic: asking about it does, with 4 partitions
            admin.list_topics(settings.kafka_topic, timeout=1)
            return "the topic is being created"
        leaderless = [number for number, partition in topic.partitions.items() if partition.leader < 0]
        return f"partitions {leaderless} have no leader" if leaderless else None

    return ask


# Processes and their records


def _start(home: Path, part: Part, command: list[str], folder: Path) -> None:
    """Start a part's process, and record it together with its process and log."""
    log = home / "logs" / f"{part.title}.log"
    for file in (log, log.with_suffix(".out")):
        if file.exists():  # one earlier run is kept, and a message about this run quotes only this run
            file.replace(f"{file}.1")
    # Kafka and ClickHouse write and roll their own logs; what else their processes print goes beside them.
    output = log if part.kind == "memory" else log.with_suffix(".out")
    with _signals_held(), output.open("wb") as sink:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True
        )
        try:
            started = replace(part, process=identity(process.pid), log=str(log))
            fields = {name: value for name, value in asdict(started).items() if value is not None}
            _write(home / "run" / f"{part.name}.json", json.dumps(fields, indent=2) + "\n")
        except BaseException:  # without a record, nobody would know of it
            process.kill()
            process.wait()
            raise


def _write(file: Path, text: str) -> None:
    """Give a file this text, as a whole or not at all."""
    if not file.exists() or file.read_text() != text:
        draft = file.with_suffix(".new")
        draft.write_text(text)
        draft.replace(file)


def _wait(home: Path, name: PartName, ask: Callable[[], str | None]) -> None:
    """Wait until ``ask`` returns None instead of what is missing."""
    part = next(part for part in _recorded(home) if part.name == name)
    deadline = time.monotonic() + START_TIMEOUT_S
    while _process(part):
        try:
            missing = ask()
        except (OSError, KafkaException, PaystreamError) as error:
            missing = str(error)
        if missing is None:
            return
        if time.monotonic() > deadline:
            raise ServiceUnavailable(
                f"{part.label} is not ready after {START_TIMEOUT_S} s: {missing.rstrip('.')}. Read '{part.log}'."
            )
        time.sleep(0.05)
    log, output = Path(part.log), Path(part.log).with_suffix(".out")
    # ClickHouse prints at the end what its log tells among much else; with Kafka it is the other way round.
    cause = last_words(log, output) if part.kind == "clickhouse" else last_words(output, log)
    if shutil.disk_usage(home).free < FULL_BYTES:  # then its logs could not be written either
        cause = f"the disk of '{home}' is full"
    raise ServiceUnavailable(f"{part.label} did not start: {cause}. Read '{log}'.")


def _recorded(home: Path) -> list[Part]:
    servers = sorted((home / "run").glob("clickhouse*.json"), key=lambda record: (len(record.name), record.name))
    records = (record for record in (home / "run" / "broker.json", *servers) if record.exists())
    return [Part(**_of_today(json.loads(record.read_text()))) for record in records]


def _of_today(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record as it is written now; earlier versions wrote the process's id and time of creation."""
    if "created" in record:
        pid, created = record.pop("pid"), record.pop("created")
        with contextlib.suppress(psutil.NoSuchProcess):
            # That time is counted from the boot, and the boot time follows corrections of the clock.
            if abs(psutil.Process(pid).create_time() - created) < 2:
                return record | {"process": identity(pid)}
        record["process"] = {"boot": "unknown", "pid": pid}
    return record


def _process(part: Part) -> psutil.Process | None:
    """Return the part's process if it is alive, never another one that got its pid.

    Raises:
        UsageError: it runs, or ran, in another container of this machine, so nobody can tell from here.
    """
    alive = is_alive(part.process)
    if alive is None and part.process["boot"] == boot():
        raise UsageError(
            f"{part.label}: another container of this machine started it, and may still run it. "
            "Run `paystream down` there, or set PAYSTREAM_HOME to another folder."
        )
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(part.pid) if alive else None
    return None


def _end(home: Path, parts: Sequence[Part]) -> list[Stopped]:
    """End parts: ClickHouse before its broker, and the nodes of a cluster at the same time."""
    how: dict[PartName, Literal["stopped", "killed", "dead already"]] = {}
    servers, brokers = (
        [part for part in parts if part.name != "broker"],
        [part for part in parts if part.name == "broker"],
    )
    for group in (servers, brokers):
        for number, verdict in ((signal.SIGTERM, "stopped"), (signal.SIGKILL, "killed")):
            for part in group:
                if process := _process(part):
                    how[part.name] = verdict
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.send_signal(number)
            deadline = time.monotonic() + STOP_TIMEOUT_S
            while any(map(_process, group)) and time.monotonic() < deadline:
                time.sleep(0.05)
        for part in group:
            (home / "run" / f"{part.name}.json").unlink(missing_ok=True)
    return [Stopped(part, how.get(part.name, "dead already")) for part in servers + brokers]


def _folders(home: Path) -> list[Path]:
    """Return the folders that the stack makes, as far as they are there."""
    nodes = [path.name for path in home.glob("clickhouse-*") if re.fullmatch(r"clickhouse-\d+", path.name)]
    names = [*FOLDERS[:2], *sorted(nodes, key=lambda name: (len(name), name)), *FOLDERS[2:]]
    return [home / name for name in names if (home / name).exists()]


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Hold SIGINT, SIGTERM and SIGHUP back until the block is done: no process without a record, no half-done stop."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda number, _frame: arrived.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in arrived[:1]:
            signal.raise_signal(number)


@contextlib.contextmanager
def _locked(home: Path) -> Iterator[None]:
    lock = home / "stack.lock"
    # The lock is made before any folder and looked for after them, so that a first `up` at the same time is recognised.
    present = _folders(home)
    if present and not lock.exists():
        raise UsageError(
            f"Folder '{present[0]}': it exists, but the local stack did not make it. "
            "Set PAYSTREAM_HOME to a folder that the stack can have to itself."
        )
    try:
        home.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError as error:
        raise UsageError(
            f"Folder '{home}' cannot be written: {error.strerror}. Set PAYSTREAM_HOME to one that can."
        ) from error
    with file:
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UsageError(
                        f"Local stack '{home}': another `paystream up` or `down` is at work on it. "
                        "Wait until that has ended, then try again."
                    ) from None
                time.sleep(0.1)
        with contextlib.suppress(OSError):  # whoever needs them says so
            for name in ("logs", "run"):
                (home / name).mkdir(exist_ok=True)
        yield
