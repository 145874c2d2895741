"""Start and stop the local stack: a Kafka broker and a ClickHouse, each a process of its own, on loopback only.

Everything lives under ``settings.home``: ``kafka/`` and ``clickhouse/`` hold data, ``etc/clickhouse/`` ClickHouse's
configuration, ``logs/`` what the parts print, and ``run/`` a record of each running part. ``stack.lock`` marks the
folder as the stack's and admits one change at a time.
"""

import contextlib
import errno
import fcntl
import ipaddress
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from paystream.devstack import clickhouse_server, kafka_broker, maven, memory_broker
from paystream.devstack.last_words import last_words
from paystream.devstack.local_users import users_xml
from paystream.devstack.ports import free_port, free_ports
from paystream.errors import PaystreamError, ServiceUnavailable, UsageError
from paystream.kafka import client_config
from paystream.process import boot, identity, is_alive
from paystream.settings import Settings

BrokerChoice = Literal["auto", "kafka", "memory"]
PartName = Literal["broker", "clickhouse"]
Address = tuple[str, int]

PARTITIONS = 4
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 20
LOCK_TIMEOUT_S = 60
PORT_RELEASE_S = 2
FULL_BYTES = 1 << 20
FOLDERS = ("kafka", "clickhouse", "etc", "logs", "run")
LABELS = {"kafka": "Apache Kafka", "memory": "Memory broker", "clickhouse": "ClickHouse"}
PORT_SETTINGS = {
    "broker": ["PAYSTREAM_KAFKA_BROKERS"],
    "clickhouse": ["PAYSTREAM_CLICKHOUSE_PORT", "PAYSTREAM_CLICKHOUSE_NATIVE_PORT"],
}


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


def settings_on_free_ports(home: Path) -> Settings:
    """Return the settings of a stack in a folder, on free loopback ports, whatever the environment says."""
    broker_port, http_port, native_port = free_ports(3)
    return Settings(
        _env_file=None,
        home=home,
        kafka_brokers=f"127.0.0.1:{broker_port}",
        clickhouse_host="127.0.0.1",
        clickhouse_port=http_port,
        clickhouse_native_port=native_port,
    )


def start(settings: Settings, broker: BrokerChoice = "auto", clickhouse_disk_mib: int | None = None) -> Stack:
    """Start what is not running yet and return once every part answers and the topic exists with 4 partitions.

    ``auto`` takes Apache Kafka where Java is installed and the jars are there or can be fetched, and the in-memory
    broker elsewhere. If anything fails, or an exception such as KeyboardInterrupt arrives, the parts started by this
    call are stopped again before it is raised. Each wait is bounded.

    ``clickhouse_disk_mib`` is for tests of what a full disk does (Linux): ClickHouse's data goes to a disk of that size
    in memory. Only its process sees that disk, others find it at ``clickhouse_disk``, and it ends with the process.

    Raises:
        UsageError: the settings address no local stack, a port is taken, Apache Kafka was asked for and is not
            installed, or a running part differs from the settings.
        ServiceUnavailable: a part ended or gave no answer; the message carries the last telling line of its log.
        PaystreamError: the stack's files cannot be written.
    """
    addresses = _local_addresses(settings)
    home = settings.home.resolve()
    with _locked(home):
        running = {part.name: part for part in _recorded(home) if _process(part)}
        _check_unchanged(running, addresses, broker)
        for name in addresses.keys() - running.keys():
            for address, setting in zip(addresses[name], PORT_SETTINGS[name], strict=True):
                _check_port_free(name, address, setting)
        notes = []
        try:
            if "broker" in running:
                kind = running["broker"].kind
            else:
                kind, note = _choose_broker(broker)
                notes += [note] if note else []
                _start_broker(home, kind, addresses)
            _wait(home, "broker", _broker_question(settings, kind))
            instance = _clickhouse_instance(home, addresses["clickhouse"])
            if "clickhouse" not in running:
                _start_clickhouse(home, instance, settings.clickhouse_database, clickhouse_disk_mib)
            _wait(home, "clickhouse", lambda: None if instance.answers() else "it does not answer")
            notes += _take_over(instance.data)
        except BaseException as error:
            with _signals_held():
                for part in _recorded(home):
                    if part.name not in running:
                        _end(home, part)
            if isinstance(error, OSError):
                raise PaystreamError(
                    f"Local stack '{home}': its files cannot be written: {error.strerror or error}. "
                    "Make room, or set PAYSTREAM_HOME to another folder."
                ) from error
            raise
        parts = tuple(_recorded(home))
        return Stack(parts, tuple(part.name for part in parts if part.name not in running), tuple(notes))


def stop(settings: Settings) -> list[Stopped]:
    """Stop every part that any ``start`` on this home left running, ClickHouse before its broker.

    Each part gets SIGTERM and ``STOP_TIMEOUT_S`` seconds, then SIGKILL. Data stays.

    Raises:
        UsageError: another ``up`` or ``down`` is at work on this home.
    """
    home = settings.home.resolve()
    if not (home / "stack.lock").exists():
        return []
    with _locked(home):
        return [Stopped(part, _end(home, part)) for part in reversed(_recorded(home))]


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
        present = [home / name for name in FOLDERS if (home / name).exists()]
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


def clickhouse_disk(settings: Settings) -> Path:
    """Return where another process finds the running ClickHouse's data folder, also when it is on a disk of its own.

    Raises:
        UsageError: it is not running.
    """
    pid = pids(settings).get("clickhouse")
    if pid is None:
        raise UsageError("ClickHouse of the local stack: it is not running. Start it with `paystream up`.")
    folder = settings.home.resolve() / "clickhouse"
    return Path(f"/proc/{pid}/root{folder}")


def pids(settings: Settings) -> dict[PartName, int]:
    """Return the process ids of the parts that are running."""
    return {part.name: part.pid for part in _recorded(settings.home.resolve()) if _process(part)}


# Settings and ports


def _local_addresses(settings: Settings) -> dict[PartName, list[Address]]:
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
    if settings.clickhouse_secure:
        problems.append("PAYSTREAM_CLICKHOUSE_SECURE is on, the local stack speaks plain HTTP")
    if len({broker_port, settings.clickhouse_port, settings.clickhouse_native_port}) < 3:
        names = ", ".join(name for names in PORT_SETTINGS.values() for name in names)
        problems.append(f"two of {names} name the same port")
    if problems:
        raise UsageError(
            f"Local stack: it runs on this machine's loopback addresses only, but {'; '.join(problems)}. "
            "Unset them to use the local stack; a server of your own needs no `paystream up`."
        )
    host = settings.clickhouse_host
    return {
        "broker": [(broker_host, broker_port)],
        "clickhouse": [(host, settings.clickhouse_port), (host, settings.clickhouse_native_port)],
    }


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        return False


def _check_unchanged(
    running: dict[PartName, Part], addresses: dict[PartName, list[Address]], broker: BrokerChoice
) -> None:
    for part in running.values():
        if part.name == "clickhouse" and part.native_address is None:
            raise UsageError(f"{part.label}: an earlier version of Paystream runs it. Run `paystream down` first.")
        for address, now in zip([part.address, part.native_address], addresses[part.name], strict=False):
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


def _check_port_free(name: PartName, address: Address, setting: str) -> None:
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
            label = "Kafka" if name == "broker" else "ClickHouse"
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


def _start_broker(home: Path, kind: Literal["kafka", "memory"], addresses: dict[PartName, list[Address]]) -> None:
    [(host, port)] = addresses["broker"]
    if kind == "kafka":
        taken = [port for listening in addresses.values() for _, port in listening]
        command = kafka_broker.prepare(home, host, port, free_port(host, besides=taken))
        folder = home / "kafka"
    else:
        command = [sys.executable, "-P", "-m", "paystream.devstack.memory_broker", "--host", host, "--port", str(port)]
        folder = home
    _start(home, "broker", kind, [(host, port)], command, folder)


def _clickhouse_instance(home: Path, addresses: list[Address]) -> clickhouse_server.Instance:
    [(host, http_port), (_, native_port)] = addresses
    return clickhouse_server.Instance(
        host, http_port, native_port, home / "etc" / "clickhouse", home / "clickhouse", home / "logs" / "clickhouse.log"
    )


def _start_clickhouse(home: Path, instance: clickhouse_server.Instance, database: str, disk_mib: int | None) -> None:
    command = clickhouse_server.prepare(instance, {"users.d/roles.xml": users_xml(database)})
    if disk_mib is not None:
        # A mount namespace of its own; other users become root in a user namespace, where they may mount.
        unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
        mount = 'mkdir -p "$2" && mount -t tmpfs -o size="$1"m tmpfs "$2" && shift 2 && exec "$@"'
        command = [*unshare, "sh", "-c", mount, "sh", str(disk_mib), str(instance.data), *command]
    addresses = [(instance.host, instance.http_port), (instance.host, instance.native_port)]
    _start(home, "clickhouse", "clickhouse", addresses, command, home)


def _take_over(data: Path) -> list[str]:
    """Return a note, once, if the data is of an earlier version of Paystream, which its lock file tells."""
    lock = data / "endpoint.lock"
    if not lock.exists():
        return []
    lock.unlink()
    return [f"The data in '{data}', which an earlier version of Paystream had written, is taken over."]


def _broker_question(settings: Settings, kind: str) -> Callable[[], str | None]:
    """Return a function that says what the broker lacks, creating the topic, and returns None once it is ready."""
    # Reconnecting at once: librdkafka's own pause grows to 10 s, and the broker is about to listen.
    hasty = {"log_level": 0, "reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 200}
    admin = AdminClient(client_config(settings) | hasty)

    def ask() -> str | None:
        topic = admin.list_topics(timeout=1).topics.get(settings.kafka_topic)
        if topic is None and kind == "kafka":
            admin.create_topics([NewTopic(settings.kafka_topic, PARTITIONS, 1)])[settings.kafka_topic].result(5)
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


def _start(home: Path, name: PartName, kind: str, addresses: list[Address], command: list[str], folder: Path) -> None:
    logs = home / "logs"
    for file in (logs / f"{kind}.log", logs / f"{kind}.out"):
        if file.exists():  # one earlier run is kept, and a message about this run quotes only this run
            file.replace(f"{file}.1")
    # Kafka and ClickHouse write and roll their own logs; what else their processes print goes beside them.
    output = logs / (f"{kind}.log" if kind == "memory" else f"{kind}.out")
    with _signals_held(), output.open("wb") as sink:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True
        )
        try:
            address, *native = map(_text, addresses)
            part = Part(name, kind, address, identity(process.pid), str(logs / f"{kind}.log"), *native)
            record = home / "run" / f"{name}.json"
            draft = record.with_suffix(".new")
            draft.write_text(json.dumps(asdict(part), indent=2) + "\n")
            draft.replace(record)
        except BaseException:  # without a record, nobody would know of it
            process.kill()
            process.wait()
            raise


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
    records = (home / "run" / f"{name}.json" for name in ("broker", "clickhouse"))
    return [Part(**_of_today(json.loads(record.read_text()))) for record in records if record.exists()]


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


def _end(home: Path, part: Part) -> Literal["stopped", "killed", "dead already"]:
    how = "dead already"
    for number, verdict in ((signal.SIGTERM, "stopped"), (signal.SIGKILL, "killed")):
        process = _process(part)
        if process is None:
            break
        how = verdict
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while _process(part) and time.monotonic() < deadline:
            time.sleep(0.05)
    (home / "run" / f"{part.name}.json").unlink(missing_ok=True)
    return how


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
    present = [home / name for name in FOLDERS if (home / name).exists()]
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
