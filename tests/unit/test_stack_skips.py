"""The rules of tests/conftest.py about tests that need Apache Kafka and about skips in CI."""

import os
import subprocess
import sys
from pathlib import Path

from paystream.project import CHECKOUT


def run_pytest(folder: Path, test: str, **environment: str) -> subprocess.CompletedProcess:
    (folder / "test_sample.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-c", str(CHECKOUT / "pyproject.toml")]
    return subprocess.run(
        [*command, "-p", "no:cacheprovider", str(folder / "test_sample.py")],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT / "tests")} | environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_kafka_test_without_java_is_skipped_and_says_how_to_get_it(tmp_path: Path) -> None:
    test = "import pytest\n@pytest.mark.kafka\ndef test_sample(): assert False\n"
    done = run_pytest(tmp_path, test, PATH=str(tmp_path), COLUMNS="500")
    assert done.returncode == 0, done.stdout
    assert "1 skipped" in done.stdout
    assert "needs Apache Kafka" in done.stdout
    assert "Install Java 17 or newer" in done.stdout


def test_in_ci_a_skipped_test_fails(tmp_path: Path) -> None:
    test = "import pytest\ndef test_sample(): pytest.skip('the machine lacks a thing')\n"
    assert run_pytest(tmp_path, test).returncode == 0
    done = run_pytest(tmp_path, test, CI="true")
    assert done.returncode == 1
    assert "the machine lacks a thing" in done.stdout


def test_in_ci_a_skipped_module_fails(tmp_path: Path) -> None:
    test = "import pytest\npytest.importorskip('no_such_module')\ndef test_sample(): pass\n"
    done = run_pytest(tmp_path, test, CI="true")
    assert done.returncode not in (0, 5)
    assert "no_such_module" in done.stdout
