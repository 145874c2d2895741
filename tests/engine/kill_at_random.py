"""A Python program that is killed at some moment of its work, for tests of what it leaves behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

from paystream.settings import Settings


def run_and_kill(script: str, *arguments: str, settings: Settings, folder: Path, after_s: float) -> tuple[bool, float]:
    """Run a script that prints ``ready`` before it begins its work, and kill it so long after, unless it has ended.

    Returns:
        Whether it was killed, and for how many seconds it worked.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        env=os.environ | settings.environment(),
        cwd=folder,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout.readline() == b"ready\n"
        started = time.monotonic()
        try:
            process.wait(after_s)
            killed = False
        except subprocess.TimeoutExpired:
            killed = True
        return killed, time.monotonic() - started
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
