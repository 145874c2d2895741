"""ClickHouse for the local stack: the server's own code, from the library chdb-core, on loopback."""

import http.client
import importlib.util
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from paystream.devstack import clickhouse_program
from paystream.devstack.last_words import last_words
from paystream.devstack.ports import free_ports
from paystream.errors import PaystreamError, ServiceUnavailable, UsageError

CONFIGURATION = Path(__file__).with_name("clickhouse")
"""What every instance is configured with: files that a server takes as they are."""
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 20
NO_FILES: Mapping[str, str] = {}

MAIN_FILE = """\
<!-- Written at every start, as is all in this folder, from devstack/clickhouse/ and the settings. -->
<clickhouse>
    <listen_host>{host}</listen_host>
    <http_port>{http_port}</http_port>
    <tcp_port>{native_port}</tcp_port>
    <!-- In the place of logger.level, which the program sets itself. -->
    <log-level>information</log-level>
    <logger>
        <log>{log}</log>
        <size>5M</size>
        <count>1</count>
    </logger>
    <user_directories><users_xml><path>users.xml</path></users_xml></user_directories>
</clickhouse>
"""


@dataclass(frozen=True)
class Instance:
    """One ClickHouse: where it listens, and where its configuration, its data and its log are."""

    host: str
    http_port: int
    native_port: int
    folder: Path
    data: Path
    log: Path

    @classmethod
    def within(cls, folder: Path) -> "Instance":
        """Return an instance that has all it needs in a folder, on free ports."""
        return cls("127.0.0.1", *free_ports(2), folder / "etc", folder / "data", folder / "clickhouse.log")

    def answers(self) -> bool:
        """Return whether it serves requests."""
        connection = http.client.HTTPConnection(self.host, self.http_port, timeout=5)
        try:
            connection.request("GET", "/ping")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def is_installed() -> bool:
    """Return whether this installation has the library."""
    return importlib.util.find_spec("chdb") is not None


def prepare(instance: Instance, files: Mapping[str, str] = NO_FILES) -> list[str]:
    """Write an instance's configuration and return the command that runs it until SIGTERM, SIGINT or SIGHUP.

    What an earlier run left in its data folder, however it ended, is served again.

    Args:
        instance: where it listens and keeps its files.
        files: configuration files beside those that all instances have, by name, such as ``users.d/more.xml``.

    Raises:
        UsageError: the library is not installed.
        PaystreamError: the configuration cannot be written.
    """
    if not is_installed():
        raise UsageError(
            "ClickHouse's library 'chdb-core' is not installed. Install it with `pip install 'paystream[devstack]'`."
        )
    folder = instance.folder
    ports = {"host": instance.host, "http_port": instance.http_port, "native_port": instance.native_port}
    # The program looks for these two names in its working directory.
    texts = {"clickhouse-local.xml": MAIN_FILE.format(**ports, log=escape(str(instance.log)))}
    texts |= {f"conf.d/{path.name}": path.read_text() for path in (CONFIGURATION / "config.d").glob("*.xml")}
    texts |= {f"users.d/{path.name}": path.read_text() for path in (CONFIGURATION / "users.d").glob("*.xml")}
    texts |= {"users.xml": (CONFIGURATION / "users.xml").read_text(), **files}
    try:
        shutil.rmtree(folder, ignore_errors=True)
        for name, text in texts.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    except OSError as error:
        raise PaystreamError(
            f"ClickHouse's configuration '{folder}' cannot be written: {error.strerror or error}. "
            "Make room for it, or set PAYSTREAM_HOME to another folder."
        ) from error
    return [sys.executable, "-P", "-m", "paystream.devstack.clickhouse_program", str(folder), str(instance.data)]


@contextmanager
def running(instance: Instance, files: Mapping[str, str] = NO_FILES) -> Iterator[subprocess.Popen]:
    """Run an instance that ends with the block, or with this process. Arguments as in ``prepare``.

    Raises:
        UsageError: the library is not installed.
        ServiceUnavailable: it does not start; the message quotes its log.
    """
    command = [*prepare(instance, files), clickhouse_program.UNTIL_STDIN_ENDS]
    output = instance.log.with_suffix(".out")
    with output.open("wb") as sink:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=sink, stderr=sink)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not instance.answers():
            if process.poll() is not None or time.monotonic() > deadline:
                cause = last_words(instance.log, output)
                raise ServiceUnavailable(f"ClickHouse in '{instance.data}' did not start: {cause}.")
            time.sleep(0.02)
        yield process
    finally:
        process.stdin.close()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
