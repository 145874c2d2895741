"""Which process a record speaks of, whatever becomes of the clock, of its id and of containers."""

import json
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from paystream.devstack import stack
from paystream.process import identity, is_alive


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def test_a_process_is_alive_until_it_ends(sleeper: subprocess.Popen) -> None:
    record = json.loads(json.dumps(identity(sleeper.pid)))
    assert is_alive(record) is True
    assert is_alive(identity()) is True
    sleeper.kill()
    sleeper.wait()
    assert is_alive(record) is False
    with pytest.raises(psutil.NoSuchProcess):
        identity(2**22 + 1)


def test_a_zombie_is_not_alive(sleeper: subprocess.Popen) -> None:
    record = identity(sleeper.pid)
    sleeper.kill()
    # Nobody has waited for it yet.
    while psutil.Process(sleeper.pid).status() != psutil.STATUS_ZOMBIE:
        pass
    assert is_alive(record) is False


def test_a_later_process_with_the_same_id_is_another(sleeper: subprocess.Popen) -> None:
    record = identity(sleeper.pid)
    assert is_alive(record | {"started": record["started"] - 1}) is False


@pytest.mark.parametrize("change", [{"boot": "another"}, {"namespace": "pid:[1]"}])
def test_of_another_machine_or_container_nothing_is_known(sleeper: subprocess.Popen, change: dict) -> None:
    assert is_alive(identity(sleeper.pid) | change) is None


def test_a_clock_that_is_set_changes_nothing(sleeper: subprocess.Popen, monkeypatch: pytest.MonkeyPatch) -> None:
    part = stack.Part("clickhouse", "clickhouse", "127.0.0.1:1", identity(sleeper.pid), "")
    before = psutil.Process(sleeper.pid).create_time()
    # The boot time follows corrections of the clock, and with it every time of creation that is asked for later.
    linux = pytest.importorskip("psutil._pslinux")
    shifted = linux.boot_time() + 3600
    monkeypatch.setattr(linux, "boot_time", lambda *_: shifted)
    monkeypatch.setattr(linux, "BOOT_TIME", shifted, raising=False)
    assert psutil.Process(sleeper.pid).create_time() == pytest.approx(before + 3600, abs=5)
    found = stack._process(part)
    assert found is not None and found.pid == sleeper.pid
