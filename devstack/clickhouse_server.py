"""ClickHouse's own server code, out of the library chdb-core: its HTTP interface and its native protocol, on loopback.

The library holds all of ClickHouse and no program to start. ``python -m devstack.clickhouse_server FOLDER DATA`` loads
it and lets it serve as ``FOLDER`` says, which ``prepare`` writes, until a signal asks it to stop.
"""

import http.client
import importlib.machinery
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NoReturn
from xml.sax.saxutils import escape

from devstack.last_words import last_words
from devstack.ports import free_ports
from paystream.errors import PaystreamError, ServiceUnavailable, UsageError
from paystream.settings import REPOSITORY

CONFIGURATION = Path(__file__).with_name("clickhouse")
"""What every instance is configured with: files that a server takes as they are."""
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 20
UNTIL_STDIN_ENDS = "--until-stdin-ends"
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

# The second statement goes on until standard input ends, and needs no right to read files, which everybody would have
# who can log in as its user. After it the program shuts down as a server does.
SERVE = """
SYSTEM START LISTEN QUERIES ALL;
INSERT INTO FUNCTION null('line String') FROM INFILE '/dev/stdin' FORMAT LineAsString
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
        instance: where it is to be.
        files: what is added to the configuration that all have, by name, such as ``users.d/more.xml``.

    Raises:
        UsageError: the library is not installed.
        PaystreamError: the configuration cannot be written.
    """
    _library()
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
    return [sys.executable, "-m", "devstack.clickhouse_server", str(folder), str(instance.data)]


@contextmanager
def running(instance: Instance, files: Mapping[str, str] = NO_FILES) -> Iterator[subprocess.Popen]:
    """Run an instance that ends with the block, or with this process. Arguments as in ``prepare``.

    Raises:
        UsageError: the library is not installed.
        ServiceUnavailable: it does not start; the message has its own words.
    """
    command = [*prepare(instance, files), UNTIL_STDIN_ENDS]
    output = instance.log.with_suffix(".out")
    with output.open("wb") as sink:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=sink, stderr=sink)
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


def main() -> NoReturn:
    """Serve until a signal, or until the caller's end of standard input closes. Exit code 1: it ended by itself."""
    folder, data, *options = sys.argv[1:]
    # Blocked before there are threads, which inherit that: only the one that waits for these gets them.
    signals = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    callers = os.dup(0)
    read_end, write_end = os.pipe()
    os.dup2(read_end, 0)
    asked = threading.Event()

    def stop_when_asked() -> None:
        signal.sigwait(signals)
        asked.set()
        os.close(write_end)

    def ask_when_the_caller_ends() -> None:
        os.read(callers, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_when_asked, daemon=True).start()
    if options == [UNTIL_STDIN_ENDS]:
        threading.Thread(target=ask_when_the_caller_ends, daemon=True).start()

    os.umask(0o077)  # named collections hold credentials as plain text
    os.environ["TZ"] = "UTC"  # ClickHouse's own time zone
    # In a virtual machine a page fault costs some microseconds, and a refresh takes and gives back hundreds of MB: huge
    # pages, kept for a minute, save it a tenth of its time. Read when the library is loaded.
    os.environ.setdefault("JE_MALLOC_CONF", "thp:always,dirty_decay_ms:60000,muzzy_decay_ms:60000")
    library = _load(_library())
    os.chdir(folder)
    result = library.query(SERVE, "TabSeparated", path=data)
    if result.has_error():
        print("error:", result.error_message().partition(", Stack trace")[0], file=sys.stderr)
    sys.exit(0 if asked.is_set() else 1)


def _library() -> Path:
    if not is_installed():
        raise UsageError(
            "ClickHouse's library 'chdb-core' is not installed. Install it with `pip install 'paystream[devstack]'`."
        )
    return Path(importlib.util.find_spec("chdb").origin).with_name("_chdb.abi3.so")


def _load(library: Path) -> ModuleType:
    # Not `import chdb`: it opens and closes an engine of its own, after which this process refuses Kafka tables.
    loader = importlib.machinery.ExtensionFileLoader("_chdb", str(library))
    # It carries its own allocator and C++ library: they must not mix with those that Python has loaded.
    sys.setdlopenflags(sys.getdlopenflags() | os.RTLD_DEEPBIND)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("_chdb", loader))
    loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
