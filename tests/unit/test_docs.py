"""What the documentation promises exists, and what exists is documented."""

import re
from typing import get_args

import pytest
from pydantic import BaseModel
from typer.main import get_command

from paystream import cli
from paystream.loadtest.faults import FAULTS
from paystream.loadtest.workload import Workload, load, shipped
from paystream.project import CHECKOUT
from paystream.settings import Settings


def commands() -> list[tuple[str, str]]:
    """Return every leaf command with its help text."""
    cli._assemble()

    def leaves(command, path):
        if getattr(command, "commands", None):
            for name, child in sorted(command.commands.items()):
                yield from leaves(child, [*path, name])
        else:
            yield " ".join(path), command.help or ""

    return list(leaves(get_command(cli.app), ["paystream"]))


COMMANDS = commands()


@pytest.mark.parametrize(("command", "text"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_every_command_has_help_with_an_example_of_itself(command, text):
    assert command in text, f"`{command} --help` shows no runnable example"


def test_every_command_in_the_readme_exists():
    used = re.findall(r"^\$ (paystream [a-z]+(?: [a-z]+)*)", (CHECKOUT / "README.md").read_text(), re.MULTILINE)
    assert used
    known = [name for name, _ in COMMANDS]
    for line in used:
        assert any(line == name or line.startswith(f"{name} ") for name in known), line


def test_every_setting_is_in_the_table_with_its_default():
    table = dict(re.findall(r"^\| `(PAYSTREAM_[A-Z_]+)` \| (?:`([^`]*)`)? ?\|", settings_page(), re.MULTILINE))
    plain = {"home": ".paystream", "project": "", "clickhouse_password": "", "clickhouse_secure": "false"}
    expected = {
        f"PAYSTREAM_{name.upper()}": plain.get(name, "" if field.default is None else str(field.default))
        for name, field in Settings.model_fields.items()
    }
    assert table == expected


def settings_page() -> str:
    return (CHECKOUT / "docs/settings.md").read_text()


PAGES = [*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/**/*.md")]


@pytest.mark.parametrize("page", [path.relative_to(CHECKOUT).as_posix() for path in PAGES])
def test_links_lead_somewhere(page):
    text = (CHECKOUT / page).read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (CHECKOUT / page).parent.joinpath(target).exists(), f"{page} links to {target}"


@pytest.mark.parametrize("page", ["glossary", "recipes"])
def test_every_file_that_a_page_names_is_there(page):
    for path in re.findall(r"`([a-z0-9_]+/[\w/.]*)`", (CHECKOUT / f"docs/{page}.md").read_text()):
        assert "NAME" in path or (CHECKOUT / path).exists(), path


def test_every_sql_file_opens_with_row_writer_and_guarantee():
    files = [*(CHECKOUT / "sql").rglob("*.sql"), *(CHECKOUT / "dictionaries").glob("*.sql")]
    assert files
    for path in files:
        head = [line for line in path.read_text().splitlines() if line.startswith("-- ")]
        for part in ("-- One ", "Read by:", "-- Guarantee:"):
            assert any(part in line for line in head), f"{path.name} has no '{part}'"
        assert re.search(rf"^CREATE .*\b{path.stem}\b", path.read_text(), re.MULTILINE), path.name


def workload_fields(model, prefix=""):
    """Yield the dotted name of each field of a workload with its default, those of shapes by their kind."""
    for name, field in model.model_fields.items():
        if name == "kind":
            continue
        yield f"{prefix}{name}", "required" if field.is_required() else field.default
        for inner in models_in(field.annotation):
            kind = inner.model_fields.get("kind")
            yield from workload_fields(inner, f"{get_args(kind.annotation)[0]}." if kind else f"{prefix}{name}.")


def models_in(annotation):
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def test_every_field_of_a_workload_is_in_the_table_with_its_default():
    page = (CHECKOUT / "docs/loadtest.md").read_text()
    table = dict(re.findall(r"^\| `([a-z0-9_.]+)` \| ([^|]+) \|", page.split("## Writing a workload")[1], re.MULTILINE))

    def spelled(default):
        if isinstance(default, dict):
            return ", ".join(f"{name} {weight}" for name, weight in default.items())
        return {None: "none", "required": "required"}.get(default) or f"`{default:g}`"

    assert table == {name: spelled(default) for name, default in workload_fields(Workload)}


def test_every_shape_in_the_documentation_is_one(tmp_path):
    page = (CHECKOUT / "docs/loadtest.md").read_text()
    shapes = re.findall(r"^\| `(shape: \{.*\})` \|", page, re.MULTILINE)
    assert {re.search(r"kind: (\w+)", shape)[1] for shape in shapes} == {"ramp", "steps", "daily", "burst"}
    [example] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    for shape in shapes:
        file = tmp_path / "mine.yaml"
        file.write_text(f"{example}{shape}\n")
        assert len(load(str(file)).second_rates) == 300


def test_every_shipped_workload_is_in_the_documentation():
    page = (CHECKOUT / "docs/loadtest.md").read_text().split("## Writing a workload")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == shipped()


def test_the_runbook_knows_every_fault_of_the_delivery_tests() -> None:
    rows = [line for line in (CHECKOUT / "docs/runbook.md").read_text().splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([a-z-]+)`", row.split("|")[1])}
    assert {fault.name for fault in FAULTS} <= named
