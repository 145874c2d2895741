"""Waiting for a condition, and never for a fixed time."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], bool], seconds: float = 60, every_s: float = 0.05) -> None:
    """Return once the condition holds; fail where it does not within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(every_s)
