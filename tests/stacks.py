"""A local stack as a test has it: started, and stopped whatever happens."""

from collections.abc import Iterator
from contextlib import contextmanager

from clickhouse_connect.driver.httputil import close_managers

from paystream.devstack import stack
from paystream.settings import Settings


@contextmanager
def running(settings: Settings, broker: stack.BrokerChoice = "kafka", **shape: int) -> Iterator[Settings]:
    """Start a stack; ``shape`` says how many nodes and sets a cluster has, where that is not one set."""
    try:
        stack.start(settings, broker, **shape)
        yield settings
    finally:
        close_managers()  # a server that stops waits five seconds for clients that are still connected
        stack.stop(settings)
