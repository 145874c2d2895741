"""Which process a record or a lock speaks of, by what neither a later process with its id nor a set clock has."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

_PROC = Path("/proc")


def identity(pid: int | None = None) -> dict[str, Any]:
    """Return what tells a process from all others: ``boot``, ``namespace``, ``pid`` and ``started``.

    On Linux ``boot`` is the kernel's own id of its run, ``namespace`` that of the container's process ids, and
    ``started`` counts ticks since the boot (proc(5)). Elsewhere the first two are empty, and ``started`` is the time of
    creation in seconds since 1970.

    Raises:
        psutil.NoSuchProcess: there is no such process.
    """
    pid = pid or os.getpid()
    return {"boot": boot(), "namespace": _namespace(), "pid": pid, "started": _started(pid)}


def is_alive(process: Mapping[str, Any]) -> bool | None:
    """Return whether the process of an ``identity`` is alive; None where that can't be told from here.

    It can't of another machine's or container's process, nor of one of a record that an earlier version wrote.
    """
    if (process.get("boot"), process.get("namespace")) != (boot(), _namespace()):
        return None
    try:
        is_zombie = psutil.Process(process["pid"]).status() == psutil.STATUS_ZOMBIE
        return _started(process["pid"]) == process["started"] and not is_zombie
    except psutil.NoSuchProcess:
        return False


def owner() -> dict[str, Any]:
    """Return what a lock says of this process: ``host``, ``user`` and its ``identity``."""
    return {"host": socket.gethostname(), "user": psutil.Process().username(), **identity()}


def boot() -> str:
    """Return the id of this run of the machine; ``""`` where the system has none."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return os.readlink(_PROC / "self/ns/pid")
    except OSError:
        return ""


def _started(pid: int) -> float:
    try:
        # The name before it, in parentheses, may hold anything.
        return int((_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[19])
    except FileNotFoundError:
        if _PROC.joinpath("self").exists():
            raise psutil.NoSuchProcess(pid) from None
        return psutil.Process(pid).create_time()
    except ProcessLookupError:
        raise psutil.NoSuchProcess(pid) from None
