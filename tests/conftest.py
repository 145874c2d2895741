"""What all tests share: free ports, a stack of one's own, and the rules about tests that need Apache Kafka."""

import functools
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import hypothesis
import pytest
from clickhouse_connect.driver.httputil import close_managers

from paystream import cli
from paystream.devstack import kafka_broker, maven, stack
from paystream.devstack.ports import free_port as find_free_port
from paystream.settings import Settings

IN_CI = os.environ.get("CI", "").lower() in ("1", "true")
# How long one example takes says nothing where three files share two cores.
hypothesis.settings.register_profile("paystream", deadline=None)
hypothesis.settings.load_profile("paystream")
missing_jars = functools.cache(maven.missing)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    # An archive's bytes have the second in them in which it was made, and workers must collect tests of the same names.
    return argname if isinstance(val, bytes) else None


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("kafka") and (reason := missing_jars(kafka_broker.POM)):
        pytest.skip(f"needs Apache Kafka. {reason}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    return _no_skip_in_ci((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    return _no_skip_in_ci((yield))


def _no_skip_in_ci(report: pytest.TestReport | pytest.CollectReport) -> pytest.TestReport | pytest.CollectReport:
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"With CI=true a skipped test is a failure. {report.longrepr[2]}"
    return report


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """A function that returns a loopback port nobody listens on."""
    return find_free_port


@pytest.fixture(scope="session")
def make_settings() -> Callable[[Path], Settings]:
    """A function that returns the settings of a stack in a folder, on free ports, whatever the environment says."""

    return stack.settings_on_free_ports


@pytest.fixture
def own_settings(tmp_path: Path, make_settings: Callable[[Path], Settings]) -> Iterator[Settings]:
    """Settings of a stack of the test's own; whatever the test started there is stopped after it."""
    settings = make_settings(tmp_path / "home")
    yield settings
    close_managers()  # a server that stops waits five seconds for clients that are still connected
    stack.stop(settings)


@pytest.fixture(scope="session")
def paystream() -> Callable[..., subprocess.Popen]:
    """A function that starts the real command line in a process of its own, as a user would off a terminal."""

    def run(settings: Settings, *arguments: str, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "paystream", *arguments],
            env=os.environ | settings.environment() | environment,
            cwd=settings.home.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell starts what it puts into the background with Ctrl-C ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return run


@pytest.fixture(scope="session")
def paystream_here() -> Iterator[Callable[..., tuple[int, str, list[str]]]]:
    """A function that runs the command line in this process and returns exit code, stdout and stderr's lines.

    It saves the second that a process takes to start. For what a process of its own is or may print beside what Python
    writes (signals, what is imported first, what is said at the exit), take ``paystream``.
    """
    with pytest.MonkeyPatch.context() as patch:
        cli._assemble()
        patch.setattr(cli, "_assemble", lambda wanted: None)

        def run(settings: Settings, *arguments: str, **environment: str) -> tuple[int, str, list[str]]:
            with pytest.MonkeyPatch.context() as here, chdir(settings.home.parent):
                here.setattr(sys, "argv", ["paystream", *arguments])
                for name, value in (settings.environment() | environment).items():
                    here.setenv(name, value)
                with _captured() as texts:
                    try:
                        cli.main()
                        code = 0
                    except SystemExit as end:
                        code = end.code or 0
            out, err = texts
            return code, out, err.splitlines()

        yield run


@contextmanager
def _captured() -> Iterator[list[str]]:
    """Yield a list that holds stdout and stderr in the end, also what a library in C writes there."""
    texts: list[str] = []
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(2)]
        stack.enter_context(redirect_stdout(files[0]))
        stack.enter_context(redirect_stderr(files[1]))
        for number, file in enumerate(files, start=1):
            kept = os.dup(number)
            os.dup2(file.fileno(), number)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, number)
        yield texts
        for file in files:
            file.flush()
            file.seek(0)
            texts.append(file.read())
