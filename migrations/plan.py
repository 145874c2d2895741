"""What each statement of a version means for a database as it is now, before it runs."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from clickhouse_connect.driver.client import Client

from paystream.migrations.history import Version, bare, irreversible, object_name, words
from paystream.migrations.types import holds
from paystream.settings import Settings

PAUSE_S = 7
"""About how long ingest stands still when a Kafka table is made anew: 6.4 to 6.8 s in six tries, of which 6 s are the
session of the consumer that was dropped (``named_collection``)."""

MAKES = {"CREATE TABLE", "CREATE DICTIONARY", "CREATE VIEW", "CREATE MATERIALIZED VIEW"}


@dataclass(frozen=True)
class Step:
    """One statement that `up` would run."""

    version: str
    """The version it belongs to; ``""`` for what prepares the database."""
    number: int
    """Within the version, from 1; the last first where ``direction`` is ``undo``."""
    direction: Literal["apply", "undo"]
    statement: str
    means: str
    destructive: bool = False
    """Whether rows or their values are gone for good; `up` then needs --allow-destructive."""


def tables_of(settings: Settings) -> str:
    """Return what to read for system.tables: of a cluster, a row for each node and table."""
    cluster = settings.clickhouse_cluster
    return f"clusterAllReplicas('{cluster}', system.tables)" if cluster else "system.tables"


@dataclass
class Live:
    """What a database holds, as far as statements depend on it. Changes along as statements are explained."""

    rows: dict[str, int] = field(default_factory=dict)
    """Stored rows of each table that stores any; on a cluster, those of the node that has most."""
    kafka: set[str] = field(default_factory=set)
    readers: set[str] = field(default_factory=set)
    """The materialized views on Kafka tables."""
    views: set[str] = field(default_factory=set)
    refreshed: set[str] = field(default_factory=set)
    """The views that run by the clock."""
    types: dict[tuple[str, str], str] = field(default_factory=dict)
    """Type of each (table, column)."""

    @classmethod
    def read(cls, client: Client, settings: Settings) -> "Live":
        """Read it from the configured database, which the client is connected to. Changes nothing."""
        live = cls()
        for name, engine, rows, readers in client.query(
            f"SELECT name, engine, total_rows, dependencies_table FROM {tables_of(settings)}"
            " WHERE database = {database:String}",
            parameters={"database": settings.clickhouse_database},
        ).result_rows:
            if engine == "Kafka":
                live.kafka.add(name)
                live.readers.update(readers)
            elif engine.endswith("View"):
                live.views.add(name)
            elif rows:
                live.rows[name] = max(rows, live.rows.get(name, 0))
        live.refreshed = {
            name
            for (name,) in client.query(
                "SELECT view FROM system.view_refreshes WHERE database = currentDatabase()"
            ).result_rows
        }
        live.types = {
            (table, name): kind
            for table, name, kind in client.query(
                "SELECT table, name, type FROM system.columns WHERE database = currentDatabase()"
            ).result_rows
        }
        return live


def explain(versions: Iterable[Version], unfinished: dict[str, int], live: Live) -> list[Step]:
    """Return each statement that applying versions runs, in order, with what it means.

    Args:
        versions: the pending ones, in order.
        unfinished: how many steps of a version may have run already; they are taken back first.
        live: the database before the first statement; it is changed.
    """
    steps = []
    for version in versions:
        for number in range(unfinished.get(version.id, 0), 0, -1):
            steps.append(_explained(version.id, number, "undo", version.rollbacks[number - 1], live))
        for number, statement in enumerate(version.statements, start=1):
            step = _explained(version.id, number, "apply", statement, live)
            if irreversible(version.rollbacks[number - 1]):
                step = replace(step, means=f"{step.means}; irreversible")
            steps.append(step)
    return steps


def _explained(version: str, number: int, direction: Literal["apply", "undo"], statement: str, live: Live) -> Step:
    means, destructive = meaning(statement, live)
    return Step(version, number, direction, statement, means, destructive)


def meaning(statement: str, live: Live) -> tuple[str, bool]:
    """Return what a statement does, in a few words, and whether data is gone for good afterwards."""
    statement = re.sub(r"\sON CLUSTER \w+", "", statement)  # it does the same, on every node
    name = object_name(statement)
    beginning = " ".join(words(statement, 4)).upper()
    if beginning.startswith("CREATE OR REPLACE TABLE"):
        return _loses(live.rows.pop(name, 0), f"replaces {name} by an empty table")
    if beginning.startswith("CREATE OR REPLACE"):
        return f"replaces {name} at once; ingest goes on", False
    if made := next((one for one in MAKES if beginning.startswith(one)), None):
        return _creation(name, made.removeprefix("CREATE ").lower(), statement, live), False
    if beginning.startswith(("DROP DATABASE", "TRUNCATE DATABASE", "TRUNCATE ALL", "TRUNCATE TABLES")):
        return _loses(sum(live.rows.values()), "empties a database")
    if beginning.startswith("DROP"):
        names = _named(statement, r"DROP\s+(?:TABLE|VIEW|DICTIONARY)(?:\s+IF\s+(?:EXISTS|EMPTY))*")
        dropped = [_drop(each, live) for each in names or [name]]
        return ", ".join(means for means, _ in dropped), any(lost for _, lost in dropped)
    if beginning.startswith("ALTER TABLE"):
        return _alter(name, statement, live)
    if beginning.startswith("TRUNCATE"):
        [name] = _named(statement, r"TRUNCATE(?:\s+TABLE)?(?:\s+IF\s+EXISTS)?") or [name]
        return _loses(live.rows.get(name, 0), f"empties {name}")
    if beginning.startswith("SYSTEM RELOAD"):
        return f"loads {name}", False
    if beginning.startswith("SELECT"):
        return "changes nothing", False
    if beginning.startswith("INSERT"):
        return "writes rows", False
    if beginning.startswith("DELETE"):
        return _loses(sum(live.rows.get(one, 0) for one in _named(statement, r"DELETE\s+FROM")), "deletes rows")
    if beginning.startswith("UPDATE"):
        return _loses(sum(live.rows.get(one, 0) for one in _named(statement, "UPDATE")), "overwrites", "values")
    if beginning.startswith("OPTIMIZE"):
        [name] = _named(statement, r"OPTIMIZE\s+TABLE") or [name]
        if "DEDUPLICATE" in bare(statement).upper():
            return _loses(live.rows.get(name, 0), f"leaves one of equal rows in {name}", "all but one of equal rows")
        return f"merges parts of {name} in the background", False
    if beginning.startswith("EXCHANGE"):
        return "swaps two objects at once; their rows go with them", False
    if beginning.startswith("RENAME"):
        return "renames; rows stay", False
    if beginning.startswith("SYSTEM"):
        return "tells the server something; rows stay", False
    return _UNKNOWN


_UNKNOWN = ("is not known to this tool, which takes it for one that loses rows: read it", True)

_REFRESH = re.compile(
    r"\bREFRESH\s+(?P<schedule>(?:EVERY|AFTER)(?:\s+\d+\s+[A-Z]+)+)\s"
    r"(?:(?!\bSELECT\b).)*?(?P<append>\bAPPEND\s+)?\bTO\s+(?P<table>\w+)",
    re.IGNORECASE | re.DOTALL,
)


def _creation(name: str, kind: str, statement: str, live: Live) -> str:
    if kind == "table" and re.search(r"ENGINE\s*=\s*Kafka\b", bare(statement), re.IGNORECASE):
        live.kafka.add(name)
        return f"creates the Kafka table {name}; ingest goes on from the group's committed offsets"
    if kind == "table" and (over := re.search(r"ENGINE = Distributed\('\w+', '\w+', '(\w+)'", statement)):
        return f"creates {name}, through which {over[1]} of all shards is read and written"
    if kind.endswith("view"):
        live.views.add(name)
    if kind == "materialized view" and (refresh := _REFRESH.search(bare(statement))):
        live.refreshed.add(name)
        what = "adds to" if refresh["append"] else "replaces"
        return (
            f"creates {name}: {' '.join(refresh['schedule'].lower().split())} it {what} what is in {refresh['table']}"
        )
    source = re.search(r"\bFROM\s+(\w+)", bare(statement), re.IGNORECASE)
    if kind == "materialized view" and source and source[1] in live.kafka:
        live.readers.add(name)
        return f"creates {name}: ingest from {source[1]} starts"
    if kind == "materialized view":
        return f"creates {name}: it sees rows from now on"
    return f"creates the {kind} {name}"


def _drop(name: str, live: Live) -> tuple[str, bool]:
    if name in live.kafka:
        live.kafka.discard(name)
        return f"pauses ingest, for about {PAUSE_S} s where {name} is created again; no message is lost", False
    if name in live.readers:
        return "pauses ingest until it is created again; no message is lost", False
    if name in live.refreshed:
        live.refreshed.discard(name)
        live.views.discard(name)
        return f"drops {name}: it is not refreshed any more, what it wrote stays", False
    if name in live.views:
        live.views.discard(name)
        return f"drops the view {name}", False
    return _loses(live.rows.pop(name, 0), f"drops {name}")


def _alter(name: str, statement: str, live: Live) -> tuple[str, bool]:
    rows = live.rows.get(name, 0)
    told: list[tuple[str, bool]] = []
    text = bare(statement)
    for action in re.finditer(
        r"\b(ADD|DROP|MODIFY|MATERIALIZE|CLEAR|RENAME|RESET|REPLACE|COMMENT|ALTER|DETACH|ATTACH|FETCH|FREEZE|MOVE)\s+"
        r"(COLUMN|INDEX|PROJECTION|QUERY|REFRESH|SETTING|TTL|ORDER\s+BY|COMMENT|CONSTRAINT|STATISTICS|PARTITION|PART)\b"
        r"(?:\s+IF\s+(?:NOT\s+)?EXISTS)?\s*(\w+)?(?=([^\n]*))|\b(UPDATE|DELETE)\b",
        text,
        re.IGNORECASE,
    ):
        verb, what, column, rest, mutation = (part or "" for part in action.groups())
        kind = f"{verb} {what}".upper()
        if mutation.upper() == "DELETE":
            told.append(_loses(rows, f"deletes rows of {name}"))
        elif mutation:
            told.append((f"rewrites columns of {rows:,} rows in the background", rows > 0))
        elif kind == "MODIFY QUERY" and name in live.refreshed:
            return f"replaces the query of {name}, from its next refresh on", False
        elif kind == "MODIFY REFRESH":
            return f"changes when {name} is refreshed", False
        elif kind == "MODIFY QUERY":
            return f"replaces the view {name}; ingest goes on, a block under way is written as before", False
        elif kind in ("DROP COLUMN", "CLEAR COLUMN"):
            told.append(_loses(rows, f"drops column {column}", "values"))
        elif kind in ("DROP PARTITION", "DROP PART", "REPLACE PARTITION"):
            told.append(_loses(rows, f"{kind.split()[0].lower()}s a partition"))
        elif kind in ("DETACH PARTITION", "DETACH PART"):
            told.append(("sets a partition aside: not read until it is attached again", False))
        elif kind in ("MOVE PARTITION", "MOVE PART"):
            told.append(("moves a partition to another table or disk", False))
        elif kind == "MODIFY COLUMN" and re.search(r"(?<!REMOVE )\bTTL\b", rest, re.IGNORECASE):
            told.append(_loses(rows, f"changes how long values of {column} are kept", "values that are too old then"))
        elif kind == "MODIFY COLUMN" and (type_change := _type_change(live.types.get((name, column)), rest)):
            becomes, is_narrower = type_change
            lost = f", and what {becomes} cannot hold is gone for good" if is_narrower and rows else ""
            told.append((f"changes the type of {column}: rewrites {rows:,} rows{lost}", bool(lost)))
        elif kind == "MODIFY TTL":
            told.append(_loses(rows, "changes how long rows are kept", "rows that are too old then"))
        elif verb.upper() == "MATERIALIZE":
            told.append((f"writes {what.lower()} {column} for {rows:,} rows in the background", False))
        elif kind in ("DROP INDEX", "DROP PROJECTION", "CLEAR INDEX", "CLEAR PROJECTION"):
            told.append((f"drops {what.lower()} {column}", False))
        else:
            told.append((f"{_PLAIN.get(verb.upper(), verb.lower())} {what.lower()} {column}".rstrip(), False))
    if not told:
        return f"{name}: {_UNKNOWN[0]}", True
    heavy = any("rewrites" in means or "rows in the background" in means or lost for means, lost in told)
    ending = "" if heavy else "; rewrites no rows"
    return f"{name}: {', '.join(means for means, _ in told)}{ending}", any(lost for _, lost in told)


_PROPERTIES = (
    "DEFAULT|MATERIALIZED|EPHEMERAL|ALIAS|CODEC|COMMENT|TTL|STATISTICS|SETTINGS|REMOVE|MODIFY|RESET|FIRST|AFTER"
)
_PLAIN = {"ADD": "adds", "MODIFY": "changes", "RESET": "resets", "RENAME": "renames", "COMMENT": "describes"}


def _type_change(known: str | None, definition: str) -> tuple[str, bool] | None:
    """Return the type that a column gets, and whether that may not hold what is there; None where it keeps its own."""
    depth = 0
    for position, letter in enumerate(definition):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == ";" or (letter == "," and depth == 0):  # the next action of the ALTER
            definition = definition[:position]
            break
    becomes = re.split(rf"(?:^|\s)(?:{_PROPERTIES})\b", definition.strip(), flags=re.IGNORECASE)[0]
    becomes = re.sub(r"\s*,\s*", ", ", becomes.strip())
    # Quoted texts are blanked in `definition`; a type with one (Enum, a time zone) is compared up to it.
    was = re.sub(r"'[^']*'", "''", known) if known else None
    if not becomes or becomes == was:
        return None
    return becomes, was is not None and not holds(becomes, was)


def _loses(rows: int, what: str, lost: str = "rows") -> tuple[str, bool]:
    if not rows:
        return what, False
    subject = f"{rows:,} {'row' if rows == 1 else 'rows'}"
    return f"{what}: {subject if lost == 'rows' else f'{lost} of {subject}'} gone for good", True


def _named(statement: str, after: str) -> list[str]:
    """Return the names that stand after the beginning of a statement, without their database's."""
    text = re.sub(r"[`\"]", "", " ".join(words(statement, 100)))
    name = r"(?:\w+\.)?\w+"
    found = re.match(rf"{after}\s+({name}(?:\s*,\s*{name})*)", text, re.IGNORECASE)
    return [one.split(".")[-1] for one in re.split(r"\s*,\s*", found[1])] if found else []
