"""A complete stack with Apache Kafka, for the tests that need one."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stacks import running

from paystream.settings import Settings


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "stack" in getattr(item, "fixturenames", ()):
            item.add_marker("kafka")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, make_settings: Callable[[Path], Settings]) -> Iterator[Settings]:
    """The settings of a running stack, with Apache Kafka and an empty ClickHouse, that one module's tests share.

    A test that uses it is marked ``kafka``. Processes end with the module; ``stack.kill`` and ``start`` may
    be used on it in between.
    """
    with running(make_settings(tmp_path_factory.mktemp("stack"))) as settings:
        yield settings
