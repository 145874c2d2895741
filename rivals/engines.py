"""The engines there are, how each is built, and one job of an engine as it runs beside the local stack."""

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from confluent_kafka.admin import AdminClient

from paystream.clickhouse import connect
from paystream.devstack.last_words import last_words
from paystream.devstack.maven import find_java
from paystream.errors import ServiceUnavailable, UsageError
from paystream.kafka import client_config
from paystream.project import CHECKOUT
from paystream.settings import Settings

GROUP = "rival"
MEMORY_MIB = 2048
"""Of all processes of a job together, resident."""

BUILD_TIMEOUT_S = 900
START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 15

_CREATED = re.compile(r"^CREATE (NAMED COLLECTION|TABLE|MATERIALIZED VIEW) (\w+)", re.MULTILINE)

Command = Callable[[Path, Path], list[str]]
"""Given the folder of its sources and that of its build, what to run."""


@dataclass(frozen=True)
class Engine:
    """An engine that stores payments in the same tables.

    Attributes:
        name: of its folder.
        build: what makes it runnable, in order.
        run: its job.
        topics: what it writes to instead of ClickHouse, each behind the group's name; ClickHouse reads them by the
            tables and views of its *.sql.
    """

    name: str
    title: str
    build: tuple[Command, ...]
    run: Command
    topics: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Return where its sources are.

        Raises:
            UsageError: Paystream is not run from a checkout, and an installed one has no rivals.
        """
        if CHECKOUT is None:
            raise UsageError("Rivals: they are in Paystream's repository only. Clone it, and run this there.")
        return CHECKOUT / "rivals" / self.name

    @property
    def built(self) -> Path:
        return self.folder.parent.parent / "build" / "rivals" / self.name

    @property
    def installed_bytes(self) -> int:
        """Return the size of what was fetched and built for it, without Java."""
        return sum(path.stat().st_size for path in self.built.rglob("*") if path.is_file())


_MAVEN = ("mvn", "-q", "-B", "-Dstyle.color=never")


def _maven_package(folder: Path, built: Path) -> list[str]:
    parent = folder.parent
    return [
        *_MAVEN, "-f", str(parent / "pom.xml"), "-pl", folder.name, "-am",
        f"-Drivals.build={built.parent}", "package",
    ]  # fmt: skip


def _java(main: str) -> Command:
    return lambda folder, built: [find_java(), f"@{folder / 'jvm.options'}", "-cp", f"{built}/*", main]


ENGINES = {
    engine.name: engine
    for engine in (
        Engine("flink", "Apache Flink", (_maven_package,), _java("paystream.rivals.flink.PaymentsJob")),
        Engine(
            "spark",
            "Spark Structured Streaming",
            (
                lambda _, built: [sys.executable, "-m", "venv", str(built / "venv")],
                lambda folder, built: [
                    str(built / "venv/bin/pip"), "install", "-q", "-r", str(folder / "requirements.txt"),
                ],
                lambda folder, _: [*_MAVEN, "-f", str(folder / "pom.xml"), "dependency:copy-dependencies"],
            ),
            lambda folder, built: [str(built / "venv/bin/python"), str(folder / "job.py")],
        ),
        Engine(
            "kafka_streams",
            "Kafka Streams",
            (_maven_package,),
            _java("paystream.rivals.streams.Main"),
            ("transactions", "refused"),
        ),
        Engine("by_hand", "consumer by hand", (), lambda folder, _: [sys.executable, str(folder / "consumer.py")]),
    )
}  # fmt: skip


def build(engine: Engine) -> None:
    """Make a job runnable, unless it is and its sources have not changed since.

    Raises:
        UsageError: Java or Maven is missing, or Paystream is not run from a checkout.
        ServiceUnavailable: a package could not be fetched, or the sources do not compile.
    """
    stamp = engine.built / "sources.sha256"
    sources = _fingerprint(engine)
    if stamp.exists() and stamp.read_text() == sources:
        return
    for command in engine.build:
        argv = command(engine.folder, engine.built)
        if shutil.which(argv[0]) is None:
            raise UsageError(f"{engine.title}: there is no `{argv[0]}` on the PATH to build it with. Install it.")
        try:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S
            )
        except subprocess.TimeoutExpired as error:
            raise ServiceUnavailable(
                f"{engine.title}: `{argv[0]}` was not done after {BUILD_TIMEOUT_S} s. Check the network and try again."
            ) from error
        if done.returncode:
            told = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line.upper()]
            cause = told[0].strip() if told else f"it ended with code {done.returncode}"
            raise ServiceUnavailable(
                f"{engine.title}: `{argv[0]}` failed: {cause[:300]}. Check the network and try again."
            )
    engine.built.mkdir(parents=True, exist_ok=True)
    stamp.write_text(sources)


def _fingerprint(engine: Engine) -> str:
    digest = hashlib.sha256()
    shared = [engine.folder.parent / "pom.xml", *sorted((engine.folder.parent / "contract").rglob("*"))]
    for path in [*shared, *sorted(engine.folder.rglob("*"))]:
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(path.read_bytes())
    return digest.hexdigest()


class Job:
    """One running job. It outlives nothing: who starts it stops it."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine = engine
        self.log = settings.home / "logs" / f"{engine.name}.log"
        self._state = settings.home / engine.name
        self._environment = {
            "RIVAL_BROKERS": settings.kafka_brokers,
            "RIVAL_TOPIC": settings.kafka_topic,
            "RIVAL_GROUP": GROUP,
            "RIVAL_CLICKHOUSE_URL": f"http://{settings.clickhouse_host}:{settings.clickhouse_port}",
            "RIVAL_CLICKHOUSE_DATABASE": settings.clickhouse_database,
            "RIVAL_CLICKHOUSE_USER": settings.clickhouse_user,
            "RIVAL_CLICKHOUSE_PASSWORD": settings.clickhouse_password.get_secret_value(),
            "RIVAL_STATE": str(self._state),
            "RIVAL_MEMORY_MIB": str(MEMORY_MIB),
        }
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        self._state.mkdir(parents=True, exist_ok=True)
        command = self.engine.run(self.engine.folder, self.engine.built)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | self._environment,
                start_new_session=True,
            )

    @property
    def process(self) -> psutil.Process | None:
        """Return the process that the job began with, while it runs."""
        if self._process is None or self._process.poll() is not None:
            return None
        return psutil.Process(self._process.pid)

    def check(self) -> None:
        """Make sure that it runs.

        Raises:
            ServiceUnavailable: it has ended; with its last words.
        """
        if self.process is None:
            raise ServiceUnavailable(
                f"{self.engine.title}: its job has ended: {last_words(self.log)}. Read '{self.log}'."
            )

    def kill(self) -> None:
        """End all of its processes by SIGKILL."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(STOP_TIMEOUT_S)

    def stop(self) -> None:
        """Ask it to end, and end it if it does not in time."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT_S)
        # What it started and left behind.
        self.kill()


@contextmanager
def running(engine: Engine, settings: Settings) -> Iterator[Job]:
    """Let a job store the payments in place of ClickHouse's own Kafka table, which is detached meanwhile.

    Afterwards that table reads again what the job has stored, which changes no row's meaning: their versions are equal.

    Raises:
        ServiceUnavailable: the job ends, or does not make its topics in time; or ClickHouse is away at the end: then
            the table has to be attached by hand.
    """
    job = Job(engine, settings)
    with connect(settings) as client:
        client.command("DETACH TABLE transactions_queue PERMANENTLY SYNC")
    try:
        job.start()
        if engine.topics:
            _await_topics(job, settings)
            with connect(settings) as client:
                for statement in _statements(engine, settings):
                    client.command(statement)
        yield job
    finally:
        job.stop()
        with connect(settings) as client:
            client.command("ATTACH TABLE transactions_queue")
            for statement in reversed(_statements(engine, settings)):
                kind, name = _CREATED.search(statement).groups()
                client.command(f"DROP {kind.removeprefix('MATERIALIZED ')} IF EXISTS {name}")


def _statements(engine: Engine, settings: Settings) -> list[str]:
    """Return the tables and views by which ClickHouse reads what the job makes, in the order of their files."""
    values = {"brokers": settings.kafka_brokers, "group": GROUP}
    return [path.read_text("utf-8").format(**values) for path in sorted(engine.folder.glob("*.sql"))]


def _await_topics(job: Job, settings: Settings) -> None:
    admin = AdminClient(client_config(settings) | {"log_level": 0})
    wanted = {f"{GROUP}-{topic}" for topic in job.engine.topics}
    deadline = time.monotonic() + START_TIMEOUT_S
    while not wanted <= admin.list_topics(timeout=10).topics.keys():
        job.check()
        if time.monotonic() > deadline:
            raise ServiceUnavailable(
                f"{job.engine.title}: it has not made its topics in {START_TIMEOUT_S} s. Read '{job.log}'."
            )
        time.sleep(0.2)
