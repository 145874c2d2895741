"""A local ClickHouse as a process of its own, stopped by its pid whatever happens."""

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clickhouse_connect.driver.httputil import close_managers

from paystream.devstack.clickhouse_server import NO_FILES, Instance, running
from paystream.settings import Settings


@dataclass(frozen=True)
class Server:
    """A running local ClickHouse."""

    process: subprocess.Popen[bytes]
    settings: Settings
    instance: Instance


@contextmanager
def running_server(
    folder: Path, files: Mapping[str, str] = NO_FILES, instance: Instance | None = None
) -> Iterator[Server]:
    """Start a server that has all its files in a folder, with more configuration or without, and stop it at the end."""
    folder.mkdir(exist_ok=True)
    instance = instance or Instance.within(folder)
    with running(instance, files) as process:
        settings = Settings(
            _env_file=None,
            clickhouse_host=instance.host,
            clickhouse_port=instance.http_port,
            clickhouse_native_port=instance.native_port,
        )
        yield Server(process, settings, instance)
        close_managers()  # a server that stops waits five seconds for clients that are still connected
