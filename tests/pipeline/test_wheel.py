"""The wheel, as somebody installs it who never saw the repository: in an empty environment and an empty folder."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from paystream.devstack.stack import settings_on_free_ports
from paystream.migrations.history import read_history
from paystream.project import CHECKOUT

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(420)]
NOT_TRACKED = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "tests", "docs")
# Somebody else's package of a name that is a folder of ours.
OTHERS = "migrations/__init__.py"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of packages of an environment that has the wheel, what it needs, and a package `migrations`."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(CHECKOUT, folder / "source", ignore=NOT_TRACKED)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, folder / "source"], check=True)
    [wheel] = folder.glob("*.whl")
    locked = re.findall(r"^(\S+==[^\\\n]+)", (CHECKOUT / "requirements.lock").read_text(), re.MULTILINE)
    (folder / "constraints.txt").write_text("\n".join(locked))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    [packages] = folder.glob("env/lib/python*/site-packages")
    (packages / OTHERS).parent.mkdir()
    (packages / OTHERS).write_text("OURS = False\n")
    python = ["--python", folder / "env", "install", "--constraint", folder / "constraints.txt", f"{wheel}[devstack]"]
    subprocess.run([*pip, *python], check=True)
    return packages


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("empty")


@pytest.fixture(scope="module")
def run(site: Path, folder: Path) -> Iterator[Callable[..., str]]:
    """A function that runs the installed command in an empty folder and returns what it printed."""
    settings = settings_on_free_ports(folder / "unused")
    ports = {name: text for name, text in settings.environment().items() if "PORT" in name or "BROKERS" in name}
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ["HOME"],  # Maven's own cache
        "XDG_CACHE_HOME": str(folder / "cache"),
    } | ports

    def paystream(*words: str, code: int = 0, within: str = ".") -> str:
        done = subprocess.run(
            [site.parents[2] / "bin" / "paystream", *words],
            env=environment,
            cwd=folder / within,
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert done.returncode == code, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    yield paystream
    if (folder / "pipeline").exists():
        paystream("down", "--delete-data", within="pipeline")


def test_a_wheel_adds_one_name_and_leaves_others_alone(site: Path) -> None:
    names = {path.name for path in site.iterdir()}
    assert "paystream" in names
    assert not names & {"loader", "loadtest", "cost", "devstack", "sql", "tests", "dictionaries", "access"}
    assert (site / OTHERS).read_text() == "OURS = False\n"
    assert {path.name for path in (site / "migrations").iterdir()} == {"__init__.py"}


def test_from_an_empty_folder_to_a_report(run: Callable[..., str]) -> None:
    assert "paystream init my-pipeline" in run("migrate", "status", code=2)
    assert "project=pipeline" in run("init", "pipeline")
    assert "updated=0 added=0 removed=0 conflict=0 held=0" in run("upgrade", within="pipeline")
    assert "kafka=127.0.0.1:" in run("up", "--broker", "kafka", within="pipeline")
    assert "status=migrated" in run("migrate", "up", within="pipeline/sql")
    for dimension, file in (("merchants", "merchants.csv"), ("fx", "rates.zip")):
        run("dims", "sample", dimension, "--to", file, within="pipeline")
        assert "result=loaded" in run("dims", "refresh", dimension, "--from", file, within="pipeline")
    verdict = run("loadtest", "run", "smoke", within="pipeline").splitlines()[-1]
    figures = dict(re.findall(r"(\w+)=(\S+)", verdict))
    assert figures["verdict"] == "pass"
    assert int(figures["stored"]) + int(figures["duplicate_messages"]) == int(figures["sent"]) == 2000
    run("report", "merchant_ranking", "--wait", "--out", "ranking.csv", within="pipeline")
    assert "lint" in run("migrate", "lint", "--offline", within="pipeline")
    assert "own_msk" in run("cost", within="pipeline")
    assert "clickhouse=stopped" in run("down", within="pipeline")


def test_a_project_has_nothing_of_the_checkout(site: Path, run: Callable[..., str]) -> None:
    program = "import paystream.project as project; print(project.CHECKOUT, project.REFERENCE)"
    told = subprocess.run([site.parents[2] / "bin" / "python", "-c", program], capture_output=True, text=True, cwd="/")
    assert told.stdout == f"None {site / 'paystream'}\n"


def test_a_clone_as_working_directory_does_not_stand_in_for_what_is_installed(
    run: Callable[..., str], folder: Path
) -> None:
    run("init", "shadowed")
    (folder / "shadowed/paystream").mkdir()
    (folder / "shadowed/paystream/__init__.py").touch()
    view = folder / "shadowed/sql/4_report/report_freshness.sql"
    view.write_text(view.read_text().replace("said.1 AS report,", "upper(said.1) AS report,"))
    newest = int(read_history()[-1].number)
    assert f"{newest + 1:04}_upper" in run("migrate", "new", "upper", within="shadowed")
