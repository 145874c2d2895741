"""The program that the library chdb-core lacks: it runs ClickHouse on a FOLDER of configuration and one of DATA.

``clickhouse_server`` writes the folder and starts this. It imports nothing but the standard library: what it imports
stays in ClickHouse's process.
"""

import importlib.machinery
import importlib.util
import os
import signal
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import NoReturn

UNTIL_STDIN_ENDS = "--until-stdin-ends"

# The second statement reads standard input until that ends; then the program shuts down as a server does.
SERVE = """
SYSTEM START LISTEN QUERIES ALL;
INSERT INTO FUNCTION null('line String') FROM INFILE '/dev/stdin' FORMAT LineAsString
"""


def main() -> NoReturn:
    """Serve until a signal, or until the caller's end of standard input closes. Exit code 1: it ended by itself."""
    folder, data, *options = sys.argv[1:]
    # Blocked before there are threads, which inherit that: only the thread that waits for these signals gets them.
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
    library = _loaded()
    os.chdir(folder)
    result = library.query(SERVE, "TabSeparated", path=data)
    if result.has_error():
        print("error:", result.error_message().partition(", Stack trace")[0], file=sys.stderr)
    sys.exit(0 if asked.is_set() else 1)


def _loaded() -> ModuleType:
    # Not `import chdb`: it opens and closes an engine of its own, after which this process refuses Kafka tables.
    library = Path(importlib.util.find_spec("chdb").origin).with_name("_chdb.abi3.so")
    loader = importlib.machinery.ExtensionFileLoader("_chdb", str(library))
    # It carries its own allocator and C++ library: they must not mix with those that Python has loaded.
    sys.setdlopenflags(sys.getdlopenflags() | os.RTLD_DEEPBIND)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("_chdb", loader))
    loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
