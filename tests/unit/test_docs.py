"""What the documentation promises exists, and what exists is documented."""

import re

import pytest
from typer.main import get_command

from paystream import cli
from paystream.settings import REPOSITORY, Settings


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
    used = re.findall(r"^\$ (paystream [a-z]+(?: [a-z]+)*)", (REPOSITORY / "README.md").read_text(), re.MULTILINE)
    assert used
    known = [name for name, _ in COMMANDS]
    for line in used:
        assert any(line == name or line.startswith(f"{name} ") for name in known), line


def test_every_setting_is_in_the_table_with_its_default():
    table = dict(re.findall(r"^\| `(PAYSTREAM_[A-Z_]+)` \| (?:`([^`]*)`)? ?\|", settings_page(), re.MULTILINE))
    plain = {"home": ".paystream", "clickhouse_password": "", "clickhouse_secure": "false"}
    expected = {
        f"PAYSTREAM_{name.upper()}": plain.get(name, "" if field.default is None else str(field.default))
        for name, field in Settings.model_fields.items()
    }
    assert table == expected


def settings_page() -> str:
    return (REPOSITORY / "docs/settings.md").read_text()


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md"))])
def test_links_lead_somewhere(page):
    text = (REPOSITORY / page).read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (REPOSITORY / page).parent.joinpath(target).exists(), f"{page} links to {target}"


def test_every_sql_file_opens_with_row_writer_and_guarantee():
    files = [*(REPOSITORY / "sql").rglob("*.sql"), *(REPOSITORY / "dictionaries").glob("*.sql")]
    assert files
    for path in files:
        head = [line for line in path.read_text().splitlines() if line.startswith("-- ")]
        for part in ("-- One ", "Read by:", "-- Guarantee:"):
            assert any(part in line for line in head), f"{path.name} has no '{part}'"
        assert re.search(rf"^CREATE .*\b{path.stem}\b", path.read_text(), re.MULTILINE), path.name
