"""The local ClickHouse, for tests that need the real engine."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from checkouts import Checkout
from server_process import Server, running_server

from paystream.migrations.scratch import scratch_engine
from paystream.settings import Settings


@pytest.fixture(scope="session")
def clickhouse_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One local ClickHouse for the whole run."""
    with running_server(tmp_path_factory.mktemp("clickhouse")) as server:
        yield server


@pytest.fixture(scope="session")
def clickhouse_server(clickhouse_process: Server) -> Settings:
    """Settings that point to the run's local ClickHouse. Its database does not exist until a test creates it."""
    return clickhouse_process.settings


@pytest.fixture
def start_clickhouse() -> Iterator[Callable[[Path], Server]]:
    """Start further servers, each with its files in a folder, for a test that stops or kills them."""
    with ExitStack() as stack:
        yield lambda folder: stack.enter_context(running_server(folder))


@pytest.fixture(scope="module")
def engine() -> Iterator[Settings]:
    """An engine to try versions out in. Not the run's own: its Kafka tables would join another test's group."""
    with scratch_engine() as settings:
        yield settings


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A copy of the schema's files that the test may edit."""
    return Checkout.copied(tmp_path / "checkout")
