"""Memory and processor time: of the local stack, if the run goes against it, and of all else on this machine."""

import json
import time
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import psutil

from paystream.nodes import Nodes
from paystream.process import is_alive
from paystream.rivals.engines import Job
from paystream.settings import Settings


@dataclass(frozen=True)
class Usage:
    """What was used during the run. Memory is resident, and its sum is that of one moment.

    Attributes:
        peak_memory_bytes: of the stack's processes together; 0 when it does not run here.
        cpu_s: by process; "generator" and "load test" are this program's own.
        others_share: of all processor time of this machine, what went to programs that have no part in the run.
        busy_share: of all processor time of this machine, what was used at all.
    """

    peak_memory_bytes: int
    peak_memory_bytes_by_process: dict[str, int]
    cpu_s: dict[str, float]
    others_share: float
    busy_share: float


@dataclass(frozen=True)
class Used:
    """What processes used by one moment: processor seconds since the meter began, and resident memory in bytes; no
    memory of one that does not run."""

    cpu_s: dict[str, float]
    memory_bytes: dict[str, int]


class Meter:
    """Measures from its creation until ``usage``. Knows the stack's processes from the records of `paystream up`."""

    def __init__(self, settings: Settings, nodes: Nodes, generator_pid: int, job: Job | None = None) -> None:
        servers = {node.address for node in nodes.present + nodes.away}
        names = sorted(path.stem for path in (settings.home / "run").glob("clickhouse*.json"))
        addresses = {"broker": {settings.kafka_brokers}} | dict.fromkeys(names, servers)
        self._look_up = {
            name: partial(_recorded, settings, name, of_run)
            for name, of_run in addresses.items()
            if _recorded(settings, name, of_run)
        }
        if job and job.process:
            self._look_up[job.engine.name] = lambda: job.process and _Tree(job.process.pid)
        recorded = {name: look_up() for name, look_up in self._look_up.items()}
        self._processes = recorded | {"generator": psutil.Process(generator_pid), "load test": psutil.Process()}
        self._began = time.monotonic()
        self._busy_before = _machine_busy_s()
        self._before = {name: _cpu_s(process) for name, process in self._processes.items()}
        self._ended_s = dict.fromkeys(self._processes, 0.0)
        self._cpu_s = dict.fromkeys(self._processes, 0.0)
        self._peak: dict[str, int] = {}
        self._peak_sum = 0

    def sample(self) -> Used:
        """Take a sample. A process that has ended keeps what it had used by the sample before; if a part of the
        stack was restarted, the new process's time is added."""
        for name, look_up in self._look_up.items():
            if not _runs(self._processes[name]) and (anew := look_up()):
                self._processes[name], self._before[name], self._ended_s[name] = anew, 0.0, self._cpu_s[name]
        for name, process in self._processes.items():
            spent_s = self._ended_s[name] + _cpu_s(process) - self._before[name]
            self._cpu_s[name] = max(self._cpu_s[name], spent_s)
        now = {name: size for name, process in self._processes.items() if (size := _memory_bytes(process))}
        stack = {name: size for name, size in now.items() if name in self._look_up}
        self._peak = {name: max(size, self._peak.get(name, 0)) for name, size in stack.items()}
        self._peak_sum = max(self._peak_sum, sum(stack.values()))
        return Used(dict(self._cpu_s), now)

    def usage(self) -> Usage:
        """Return what was used since the beginning."""
        self.sample()
        available_s = (time.monotonic() - self._began) * psutil.cpu_count()
        busy_s = _machine_busy_s() - self._busy_before
        return Usage(
            peak_memory_bytes=self._peak_sum,
            peak_memory_bytes_by_process=self._peak,
            cpu_s={name: round(seconds, 1) for name, seconds in self._cpu_s.items()},
            others_share=round(max(0.0, busy_s - sum(self._cpu_s.values())) / available_s, 2),
            busy_share=round(busy_s / available_s, 2),
        )


def _recorded(settings: Settings, name: str, addresses: Collection[str]) -> psutil.Process | None:
    try:
        record = json.loads((settings.home / "run" / f"{name}.json").read_text())
        same = record["address"] in addresses and is_alive(record["process"])
        return psutil.Process(record["process"]["pid"]) if same else None
    except (OSError, ValueError, KeyError, psutil.Error):
        return None


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _machine_busy_s() -> float:
    times = psutil.cpu_times()
    return (
        times.user + times.system + getattr(times, "nice", 0) + getattr(times, "irq", 0) + getattr(times, "softirq", 0)
    )


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return times.user + times.system


class _Tree(psutil.Process):
    """A job's process with all that it started."""

    def _members(self) -> list[psutil.Process]:
        return [psutil.Process(self.pid), *self.children(recursive=True)]

    def cpu_times(self) -> Any:
        """Return the sums of user and system time."""
        used = [process.cpu_times() for process in self._members()]
        return SimpleNamespace(user=sum(times.user for times in used), system=sum(times.system for times in used))

    def memory_info(self) -> Any:
        """Return the sum of resident memory."""
        return SimpleNamespace(rss=sum(process.memory_info().rss for process in self._members()))


def _memory_bytes(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0
