"""``paystream demo``."""

import subprocess
import sys
from typing import Annotated

import typer

from paystream.devstack import stack
from paystream.errors import CheckFailed, PaystreamError
from paystream.output import console
from paystream.settings import load_settings


def demo(
    broker: Annotated[
        stack.BrokerChoice,
        typer.Option(help="kafka: Apache Kafka. memory: a stand-in without Java. auto: kafka if it can run here."),
    ] = "auto",
) -> None:
    """Show the pipeline at work: start it, load merchants and rates, send 500 payments a second for a minute, report.

    Each command is shown before it runs, as one would type it. A stack that was running before is left running.

    Example: paystream demo
    """
    settings = load_settings()
    sample = settings.home / "sample"
    sample.mkdir(parents=True, exist_ok=True)
    merchants, rates = str(sample / "merchants.csv"), str(sample / "eurofxref-hist.zip")
    ran_before = bool(stack.pids(settings))
    try:
        _run("up", "--broker", broker)
        _run("migrate", "up")
        _run("dims", "sample", "merchants", "--to", merchants)
        _run("dims", "refresh", "merchants", "--from", merchants)
        _run("dims", "sample", "fx", "--to", rates)
        _run("dims", "refresh", "fx", "--from", rates)
        passed = _run("loadtest", "run", "demo", may_fail=True)
        # What finance would open. It waits, at most a minute, until the report has all that was read by now.
        _run("report", "merchant_ranking", "--wait", "--limit", "5")
    finally:
        if not ran_before:
            _run("down", may_fail=True)
    if not passed:
        raise CheckFailed("Demo: the load test did not pass. Its table says which threshold was missed.")


def _run(*words: str, may_fail: bool = False) -> bool:
    console.print(f"\n$ paystream {' '.join(words)}", style="bold", markup=False, highlight=False, soft_wrap=True)
    code = subprocess.run([sys.executable, "-P", "-m", "paystream", *words]).returncode
    if code and not may_fail:
        raise PaystreamError(f"Demo: `paystream {' '.join(words)}` ended with {code}; it says why. Then run it again.")
    return code == 0
