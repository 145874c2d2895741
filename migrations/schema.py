"""How the engine spells the schema: what the versions give, written down, and what a database has.

``schema.sql`` beside the versions holds the first, made by replaying them in an empty engine. The second is what
``system.tables`` says. Both go through the engine's own formatting, so that only what differs in meaning differs.
"""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from clickhouse_connect.driver.binding import format_str
from clickhouse_connect.driver.client import Client

from paystream.errors import UsageError
from paystream.migrations.text import read_text, write_text

_ENTRY = re.compile(r"^-- object: (\w+); words of its file: ([0-9a-f]{64})\n(.*?)\n;$", re.MULTILINE | re.DOTALL)
_HEAD = """\
-- What the versions up to {version} give, as the engine spells it.
-- `paystream migrate check` compares databases with it.
-- Written by `paystream migrate new` and `lock`; do not edit.
"""

# Tables that come and go: those that hold a refresh before it goes live, the loader's or a view's, and the locks of the
# loader and of replays.
_TRANSIENT = """(name LIKE '%\\_staging\\_%' OR name LIKE '.tmp.inner%'
    OR (comment LIKE '{%' AND position(comment, '"pid"') > 0))"""


@dataclass(frozen=True)
class Expected:
    """One object as the versions give it."""

    name: str
    fingerprint: str
    """Of its file in sql/ or dictionaries/, as ``sources.fingerprint`` counts it."""
    create: str


class Command(str):
    """What to do about a difference, as a command to run; any other ``str`` is a sentence."""


WRITE_VERSION = Command("paystream migrate new NAME")


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it should be."""

    where: str
    """files, versions, lint, database, or a node of a cluster."""
    name: str
    how: str
    """``missing``, ``unknown``, ``differs``, ``detached`` or what is wrong, in a few words."""
    diff: tuple[str, ...] = ()
    """``- `` what should be, ``+ `` what is."""
    fix: str = ""


def read_snapshot(path: Path) -> dict[str, Expected]:
    """Read what the versions give, by object.

    Raises:
        UsageError: the file is missing or empty.
    """
    text = read_text(path) if path.exists() else ""
    objects = {name: Expected(name, digest, create) for name, digest, create in _ENTRY.findall(text)}
    if not objects:
        raise UsageError(
            f"Schema file '{path.name}' is missing or holds nothing. Restore it from the repository, or write it anew "
            "with `paystream migrate lock`."
        )
    return objects


def write_snapshot(path: Path, version: str, objects: dict[str, Expected]) -> None:
    """Write down what the versions up to one give."""
    parts = [
        f"\n-- object: {entry.name}; words of its file: {entry.fingerprint}\n{entry.create}\n;\n"
        for entry in sorted(objects.values(), key=lambda entry: entry.name)
    ]
    write_text(path, _HEAD.format(version=version) + "".join(parts))


def spelled(client: Client, database: str) -> dict[str, str]:
    """Return how the engine spells each object of a database, without the database's name. Changes nothing.

    What the migrations keep for themselves and tables that come and go are left out.
    """
    rows = client.query(
        "SELECT name, formatQuery(create_table_query) FROM system.tables"
        f" WHERE database = {format_str(database)} AND NOT is_temporary AND name NOT LIKE '\\_yoyo\\_%'"
        f" AND NOT {_TRANSIENT} ORDER BY name"
    ).result_rows
    return {name: _plain(create, database) for name, create in rows}


def detached(client: Client, database: str) -> list[str]:
    """Return the names of the tables that are detached."""
    rows = client.query(
        f"SELECT table FROM system.detached_tables WHERE database = {format_str(database)} ORDER BY table"
    ).result_rows
    return [name for (name,) in rows]


def reformatted(client: Client, creates: dict[str, str]) -> dict[str, str]:
    """Return statements as this server's own version formats them."""
    if not creates:
        return {}
    texts = ", ".join(format_str(create) for create in creates.values())
    [[formatted]] = client.query(f"SELECT arrayMap(text -> formatQuery(text), [{texts}])").result_rows
    return {name: _plain(text, "") for name, text in zip(creates, formatted, strict=True)}


def over_shards(client: Client, database: str) -> dict[str, str]:
    """Return a statement that creates each object of a database that reads or writes all shards.

    As ``cluster.py`` writes it: without columns, unless they are other ones than those of a node's share.
    """
    columns = dict(
        client.query(
            "SELECT table, arrayStringConcat(groupArray(concat(name, ' ', type)), ', ') FROM system.columns"
            " WHERE database = currentDatabase() GROUP BY table"
        ).result_rows
    )
    creates = {}
    for name, engine in client.query(
        "SELECT name, engine_full FROM system.tables WHERE database = currentDatabase() AND engine = 'Distributed'"
    ).result_rows:
        share = f"{re.sub('_(to_)?shards$', '', name)}_local"
        head = f"AS {share}" if columns[name] == columns.get(share) else f"({columns[name]})"
        creates[name] = f"CREATE TABLE {name} {head} ENGINE = {engine}"
    for name, select in client.query(
        "SELECT name, as_select FROM system.tables WHERE database = currentDatabase() AND engine = 'View'"
    ).result_rows:
        if f"{name}_shards" in creates:
            creates[name] = _plain(f"CREATE VIEW {name} AS {select}", database)
    return creates


def diff(expected: str, actual: str) -> tuple[str, ...]:
    """Return the lines in which two statements differ: ``- `` expected, ``+ `` found."""
    lines = difflib.ndiff(expected.splitlines(), actual.splitlines())
    # The last element of a list has no comma: that alone is no difference worth a line.
    return tuple(line.rstrip() for line in lines if line[:2] in ("- ", "+ "))


def _plain(create: str, database: str) -> str:
    if database:
        # The engine quotes a name that is a word of SQL.
        create = re.sub(rf"(?<![\w.`])(`?){re.escape(database)}\1\.(?=[\w`])", "", create)
    # Which user a view runs as is the server's default, not the schema's.
    create = re.sub(r"\s+(?:DEFINER = \S+\s+)?SQL SECURITY \w+", "", create)
    return re.sub(r"(?<=^SETTINGS )[^\n]+(?=$|\nCOMMENT)", _sorted_settings, create, flags=re.MULTILINE)


def _sorted_settings(settings: re.Match[str]) -> str:
    # In the order in which they were set; the order means nothing.
    return ", ".join(sorted(settings[0].split(", ")))
