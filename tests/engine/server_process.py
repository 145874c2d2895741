"""A local ClickHouse as a process of its own, stopped by its pid whatever happens."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from paystream.settings import REPOSITORY, Settings

START_S = 60
STOP_S = 15


@dataclass(frozen=True)
class Server:
    """A running local ClickHouse."""

    process: subprocess.Popen[bytes]
    settings: Settings
    data: Path
    ready_line: str


@contextmanager
def running_server(data: Path, port: int, config: Path | None = None) -> Iterator[Server]:
    """Start a server on a data folder, with the local stack's configuration or another, and stop it at the end."""
    command = [sys.executable, "-m", "devstack.clickhouse_server", "--port", str(port), "--data", str(data)]
    command += ["--config", str(config)] if config else []
    errors = data.parent / f"{data.name}.err"
    with errors.open("ab") as stderr:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=stderr)
    try:
        readable, _, _ = select.select([process.stdout], [], [], START_S)
        line = process.stdout.readline().decode() if readable else ""
        assert line, f"ClickHouse did not start: {errors.read_text()}"
        settings = Settings(
            _env_file=None, clickhouse_host="127.0.0.1", clickhouse_port=port, clickhouse_database="paystream"
        )
        yield Server(process, settings, data, line)
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
        process.stdout.close()
