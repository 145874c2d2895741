"""The local ClickHouse, for tests that need the real engine."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from server_process import Server, running_server

from paystream.settings import Settings


@pytest.fixture(scope="session")
def clickhouse_process(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[Server]:
    """One local ClickHouse for the whole run."""
    with running_server(tmp_path_factory.mktemp("clickhouse") / "data", free_port()) as server:
        yield server


@pytest.fixture(scope="session")
def clickhouse_server(clickhouse_process: Server) -> Settings:
    """Settings that point to the run's local ClickHouse. Its database does not exist until a test creates it."""
    return clickhouse_process.settings


@pytest.fixture
def start_clickhouse(free_port: Callable[[], int]) -> Iterator[Callable[[Path], Server]]:
    """Start further servers, for a test that stops or kills them."""
    with ExitStack() as stack:
        yield lambda data: stack.enter_context(running_server(data, free_port()))
