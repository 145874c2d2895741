"""The packages stand on floors, and none imports from a floor above its own or from its own floor's neighbours."""

import ast
from itertools import chain

import pytest

from paystream.project import CHECKOUT

FLOORS = [
    {"foundation"},
    {"devstack"},
    {"loader", "quarantine", "rivals"},
    {"migrations"},
    {"reports"},
    {"audit"},
    {"status"},
    {"loadtest"},
    {"cost"},
]
FOLDERS = {name: CHECKOUT / name for name in ("devstack", "loader", "migrations", "rivals", "loadtest", "cost")} | {
    name: CHECKOUT / "paystream" / name for name in ("quarantine", "reports", "audit", "status")
}
# It names the commands of every package, and imports a package when one of its commands is run.
ABOVE_ALL = {"cli", "__main__"}


def imported(path) -> set[str]:
    """Return the packages that a module imports from, wherever in it."""
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    names = [f"{node.module}.{name.name}" for node in nodes if isinstance(node, ast.ImportFrom) for name in node.names]
    names += [name.name for node in nodes if isinstance(node, ast.Import) for name in node.names]
    parts = [name.split(".")[1] for name in names if name.startswith("paystream.")]
    return {part if part in FOLDERS else "foundation" for part in parts}


@pytest.mark.parametrize("package", ["foundation", *FOLDERS])
def test_no_package_imports_upward(package: str) -> None:
    floor = next(number for number, packages in enumerate(FLOORS) if package in packages)
    below = {package, *chain.from_iterable(FLOORS[:floor])}
    modules = FOLDERS.get(package, CHECKOUT / "paystream").glob("*.py")
    assert {
        module.name: imported(module) - below
        for module in modules
        if module.stem not in ABOVE_ALL and imported(module) - below
    } == {}


def test_every_package_has_a_floor() -> None:
    packages = {path.parent for path in [*CHECKOUT.glob("*/__init__.py"), *CHECKOUT.glob("paystream/*/__init__.py")]}
    assert packages - {CHECKOUT / "paystream", CHECKOUT / "tests"} == set(FOLDERS.values())
