"""What each statement of a version will do to the database as it is now."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from clickhouse_connect.driver.client import Client

from paystream.migrations.history import Version, irreversible
from paystream.migrations.statement import Words, words_of
from paystream.migrations.types import holds

PAUSE_S = 7
"""About how long ingest stands still when a Kafka table is made anew: 6.4 to 6.8 s in six tries, of which 6 s are the
session of the consumer that was dropped (``named_collection``)."""


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
    nodes: tuple[str, ...] = ()
    """The addresses of a cluster's nodes that it would run on."""


@dataclass
class Live:
    """What a database holds that decides what a statement does. Updated as statements are explained."""

    rows: dict[str, int] = field(default_factory=dict)
    """Stored rows of each table that stores any."""
    kafka: set[str] = field(default_factory=set)
    readers: set[str] = field(default_factory=set)
    """The materialized views on Kafka tables."""
    views: set[str] = field(default_factory=set)
    refreshed: set[str] = field(default_factory=set)
    """The views that run by the clock."""
    types: dict[tuple[str, str], str] = field(default_factory=dict)
    """Type of each (table, column)."""

    @classmethod
    def read(cls, client: Client) -> "Live":
        """Read it from the configured database, which the client is connected to. Changes nothing."""
        live = cls()
        for name, engine, rows, readers in client.query(
            "SELECT name, engine, total_rows, dependencies_table FROM system.tables WHERE database = currentDatabase()"
        ).result_rows:
            if engine == "Kafka":
                live.kafka.add(name)
                live.readers.update(readers)
            elif engine.endswith("View"):
                live.views.add(name)
            elif rows:
                live.rows[name] = rows
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
            rollback = version.rollbacks[number - 1]
            steps.append(Step(version.id, number, "undo", rollback, *meaning(rollback, live)))
        for number, statement in enumerate(version.statements, start=1):
            means, destructive = meaning(statement, live)
            if irreversible(version.rollbacks[number - 1]):
                means = f"{means}; irreversible"
            steps.append(Step(version.id, number, "apply", statement, means, destructive))
    return steps


def meaning(statement: str, live: Live) -> tuple[str, bool]:
    """Return what a statement does, in a few words, and whether data is gone for good afterwards."""
    words = words_of(statement)
    for beginning, explained in _MEANINGS.items():
        if words.begins(*beginning):
            rest = words[len(beginning) :]
            effect = explained(next(iter(rest.names()), statement[:60]), rest, live)
            return effect.means, effect.destructive
    return _UNKNOWN.means, _UNKNOWN.destructive


@dataclass(frozen=True)
class _Effect:
    """What a statement, or one action of an ALTER, does to the rows that are there."""

    means: str
    destructive: bool = False
    rewrites: bool = False
    """Whether it goes through all rows, now or in the background."""


_UNKNOWN = _Effect("is not known to this tool, which takes it for one that loses rows: read it", destructive=True)


def _losing(rows: int, what: str, of_them: str = "") -> _Effect:
    if not rows:
        return _Effect(what)
    counted = f"{rows:,} {'row' if rows == 1 else 'rows'}"
    return _Effect(f"{what}: {f'{of_them} of ' if of_them else ''}{counted} gone for good", destructive=True)


def _created_table(name: str, rest: Words, live: Live) -> _Effect:
    engine = rest.engine()
    if engine.begins("KAFKA"):
        live.kafka.add(name)
        return _Effect(f"creates the Kafka table {name}; ingest goes on from the group's committed offsets")
    if engine.begins("DISTRIBUTED"):
        over = engine[2:].split()[2][0].text
        return _Effect(f"creates {name}, through which {over} of all shards is read and written")
    return _Effect(f"creates the table {name}")


def _created_view(name: str, rest: Words, live: Live) -> _Effect:
    live.views.add(name)
    return _Effect(f"creates the view {name}")


def _created_materialized_view(name: str, rest: Words, live: Live) -> _Effect:
    live.views.add(name)
    if refresh := rest.after("REFRESH"):
        live.refreshed.add(name)
        length = next((at for at in range(1, len(refresh), 2) if not refresh[at].text.isdigit()), len(refresh))
        schedule = " ".join(word.text.lower() for word in refresh[:length])
        what = "adds to" if refresh.after("APPEND", "TO") else "replaces"
        target = next(iter(refresh.after("TO").names()), "a table of its own")
        return _Effect(f"creates {name}: {schedule} it {what} what is in {target}")
    read = [source for at, word in enumerate(rest) if word.upper == "FROM" for source in rest[at:].names()]
    if read and read[0] in live.kafka:
        live.readers.add(name)
        return _Effect(f"creates {name}: ingest from {read[0]} starts")
    return _Effect(f"creates {name}: it sees rows from now on")


def _dropped(name: str, rest: Words, live: Live) -> _Effect:
    effects = [_drop(dropped, live) for dropped in rest.names() or [name]]
    return _Effect(", ".join(effect.means for effect in effects), any(effect.destructive for effect in effects))


def _drop(name: str, live: Live) -> _Effect:
    if name in live.kafka:
        live.kafka.discard(name)
        again = f"for about {PAUSE_S} s where {name} is created again"
        return _Effect(f"pauses ingest, {again}; no message is lost")
    if name in live.readers:
        return _Effect("pauses ingest until it is created again; no message is lost")
    if name in live.refreshed:
        live.refreshed.discard(name)
        live.views.discard(name)
        return _Effect(f"drops {name}: it is not refreshed any more, what it wrote stays")
    if name in live.views:
        live.views.discard(name)
        return _Effect(f"drops the view {name}")
    return _losing(live.rows.pop(name, 0), f"drops {name}")


def _emptied_database(_: str, __: Words, live: Live) -> _Effect:
    return _losing(sum(live.rows.values()), "empties a database")


def _optimized(name: str, rest: Words, live: Live) -> _Effect:
    if any(word.upper == "DEDUPLICATE" for word in rest):
        what = f"leaves one of equal rows in {name}"
        return _losing(live.rows.get(name, 0), what, "all but one of equal rows")
    return _Effect(f"merges parts of {name} in the background")


def _altered(name: str, rest: Words, live: Live) -> _Effect:
    effects: list[_Effect] = []
    for action in rest.behind_name().split():
        if action.begins("MODIFY", "QUERY") and name in live.refreshed:
            return _Effect(f"replaces the query of {name}, from its next refresh on")
        if action.begins("MODIFY", "REFRESH"):
            return _Effect(f"changes when {name} is refreshed")
        if action.begins("MODIFY", "QUERY"):
            return _Effect(f"replaces the view {name}; ingest goes on, a block under way is written as before")
        what = _what(action)
        if not what or not (what == "ROWS" or action[0].upper in (*_VERBS, *_OTHER_VERBS)):
            if what or not effects:  # anything else goes on with what is before the comma, such as a second setting
                return replace(_UNKNOWN, means=f"{name}: {_UNKNOWN.means}")
        elif action.begins("MODIFY", "COLUMN") and action[2:].from_name():
            effects.append(_modified_column(name, action[2:].from_name(), live))
        else:
            effects.append(_action(name, action, what, live.rows.get(name, 0)))
    lost = any(effect.destructive for effect in effects)
    ending = "" if lost or any(effect.rewrites for effect in effects) else "; rewrites no rows"
    return _Effect(f"{name}: {', '.join(effect.means for effect in effects)}{ending}", lost)


_VERBS = {"ADD": "adds", "MODIFY": "changes", "RESET": "resets", "RENAME": "renames", "COMMENT": "describes"}
_OTHER_VERBS = ("DROP", "CLEAR", "MATERIALIZE", "REPLACE", "ALTER", "DETACH", "ATTACH", "FETCH", "FREEZE", "MOVE")
_PARTS = ("COLUMN", "INDEX", "PROJECTION", "SETTING", "TTL", "COMMENT", "CONSTRAINT", "STATISTICS", "PARTITION", "PART")


def _what(action: Words) -> str:
    """Return what of a table an action of an ALTER is about, ``""`` for what is no action."""
    if action.begins("UPDATE") or action.begins("DELETE"):
        return "ROWS"
    if action[1:].begins("ORDER", "BY"):
        return "ORDER BY"
    return next((word.upper for word in action[1:2] if word.upper in _PARTS), "")


def _action(name: str, action: Words, what: str, rows: int) -> _Effect:
    verb, rest = action[0].upper, action[1 + len(what.split()) :].from_name()
    subject = rest[0].text if rest and rest[0].quote != "'" and rest[0].upper != "(" else ""
    match verb, what:
        case "DELETE", _:
            return _losing(rows, f"deletes rows of {name}")
        case "UPDATE", _:
            return _Effect(f"rewrites columns of {rows:,} rows in the background", rows > 0, rewrites=True)
        case "DROP" | "CLEAR", "COLUMN":
            return _losing(rows, f"drops column {subject}", "values")
        case "DROP" | "REPLACE", "PARTITION" | "PART":
            return _losing(rows, f"{verb.lower()}s a partition")
        case "DETACH", "PARTITION" | "PART":
            return _Effect("sets a partition aside: not read until it is attached again")
        case "MOVE", "PARTITION" | "PART":
            return _Effect("moves a partition to another table or disk")
        case "MODIFY", "TTL":
            return _losing(rows, "changes how long rows are kept", "rows that are too old then")
        case "MATERIALIZE", _:
            means = f"writes {what.lower()} {subject} for {rows:,} rows in the background"
            return _Effect(means, rewrites=True)
        case "DROP" | "CLEAR", "INDEX" | "PROJECTION":
            return _Effect(f"drops {what.lower()} {subject}")
    return _Effect(f"{_VERBS.get(verb, verb.lower())} {what.lower()} {subject}".rstrip())


_PROPERTIES = {"DEFAULT", "MATERIALIZED", "EPHEMERAL", "ALIAS", "CODEC", "COMMENT", "TTL", "STATISTICS", "SETTINGS"}
_PROPERTIES |= {"REMOVE", "MODIFY", "RESET", "FIRST", "AFTER"}
"""What comes after a column's type, or in its place."""


def _modified_column(table: str, column: Words, live: Live) -> _Effect:
    rows, name, definition = live.rows.get(table, 0), column[0].text, column[1:]
    if definition.after("TTL") and not definition.after("REMOVE"):
        return _losing(rows, f"changes how long values of {name} are kept", "values that are too old then")
    becomes = re.sub(r"\s*,\s*", ", ", definition.until(*_PROPERTIES).text)
    was = live.types.get((table, name))
    if not becomes or becomes == was:
        return _Effect(f"changes column {name}")
    loses = bool(rows) and was is not None and not holds(becomes, was)
    lost = f", and what {becomes} cannot hold is gone for good" if loses else ""
    return _Effect(f"changes the type of {name}: rewrites {rows:,} rows{lost}", loses, rewrites=True)


_MEANINGS: dict[tuple[str, ...], Callable[[str, Words, Live], _Effect]] = {
    ("CREATE", "OR", "REPLACE", "TABLE"): lambda name, _, live: _losing(
        live.rows.pop(name, 0), f"replaces {name} by an empty table"
    ),
    ("CREATE", "OR", "REPLACE"): lambda name, *_: _Effect(f"replaces {name} at once; ingest goes on"),
    ("CREATE", "TABLE"): _created_table,
    ("CREATE", "DICTIONARY"): lambda name, *_: _Effect(f"creates the dictionary {name}"),
    ("CREATE", "VIEW"): _created_view,
    ("CREATE", "MATERIALIZED", "VIEW"): _created_materialized_view,
    ("DROP", "DATABASE"): _emptied_database,
    **{("TRUNCATE", what): _emptied_database for what in ("DATABASE", "ALL", "TABLES")},
    ("DROP",): _dropped,
    ("ALTER", "TABLE"): _altered,
    ("TRUNCATE",): lambda name, _, live: _losing(live.rows.get(name, 0), f"empties {name}"),
    ("SYSTEM", "RELOAD"): lambda name, *_: _Effect(f"loads {name}"),
    ("SELECT",): lambda *_: _Effect("changes nothing"),
    ("INSERT",): lambda *_: _Effect("writes rows"),
    ("DELETE",): lambda name, _, live: _losing(live.rows.get(name, 0), "deletes rows"),
    ("UPDATE",): lambda name, _, live: _losing(live.rows.get(name, 0), "overwrites", "values"),
    ("OPTIMIZE",): _optimized,
    ("EXCHANGE",): lambda *_: _Effect("swaps two objects at once; their rows go with them"),
    ("RENAME",): lambda *_: _Effect("renames; rows stay"),
    ("SYSTEM",): lambda *_: _Effect("tells the server something; rows stay"),
}
"""What explains a statement, by its first words; the first that fits does."""
