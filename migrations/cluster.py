"""The schema's statements for a replicated, sharded cluster.

The same files, rewritten: every statement runs ON CLUSTER, stored tables are replicated, and the tables that ingest
fills are sharded. A sharded table gives its name to the Distributed table that everybody reads and writes, views
included; its rows are in ``NAME_local``. The shard is a hash of ``transaction_id``: all copies and states of one
transaction are on one shard, whichever node took them from Kafka, and FINAL reads each shard by itself. All other
tables are whole on each node, so that dictionaries load from their own node.

The text stays as it was written, comments included; only what has to differ is replaced.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from sqlglot import exp

from paystream.errors import UsageError
from paystream.migrations.history import Version, object_name
from paystream.migrations.schema_graph import Graph, SchemaObject, read_graph
from paystream.migrations.statement import Word, Words, words_of

BUSINESS_KEY = "transaction_id"


@dataclass(frozen=True)
class Cluster:
    """A cluster as the servers' ``remote_servers`` names it.

    ``sharding`` has an expression for each table that is split over the shards, ``engines`` the engine of each table of
    ``sql/``. ``database`` is the one that holds the schema on each node.
    """

    name: str
    database: str
    sharding: Mapping[str, str] = field(default_factory=dict)
    engines: Mapping[str, str] = field(default_factory=dict)


def cluster_of(name: str, database: str, graph: Graph | None = None) -> Cluster:
    """Return a cluster whose split tables are those that ingest views fill, by the files of ``sql/``.

    Raises:
        UsageError: a name cannot be one of a cluster or a database.
    """
    for what, text in (("Cluster", name), ("Database", database)):
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
            raise UsageError(f"{what} '{text}' cannot be used: its name is no identifier. Use letters, digits and _.")
    graph = graph or read_graph()
    tables = [graph.objects.get(graph.objects[view].target or "") for view in graph.ingest_views]
    stored = [table for table in tables if table and table.kind == "table" and table.engine.endswith("MergeTree")]
    engines = {name: table.engine for name, table in graph.objects.items() if table.kind == "table"}
    return Cluster(name, database, {table.name: sharding_expression(table) for table in stored}, engines)


def sharding_expression(table: SchemaObject) -> str:
    """Return the sharding expression of a table: its transaction, or else its whole sorting key.

    Either way, rows that replace each other share a shard, since they agree in both.
    """
    if BUSINESS_KEY in table.types:
        return f"cityHash64({BUSINESS_KEY})"
    keys = [key for clause, key in table.key_expressions if clause == "ORDER BY"]
    columns = dict.fromkeys(identifier.name for key in keys for identifier in key.find_all(exp.Identifier))
    return f"cityHash64({', '.join(columns)})" if columns else "rand()"


def render(statement: str, cluster: Cluster) -> list[str]:
    """Return what to run on a cluster in place of a statement for one server, in order.

    Raises:
        UsageError: it is of a kind that has no counterpart here; the error says what to do.
    """
    text = statement.strip().rstrip(";").rstrip()
    words = words_of(text)
    if any(word.upper in ("'", '"', "`") for word in words):
        raise _refused(text, "it cannot be read")
    for start, rendering in _RENDERINGS.items():
        if words.begins(*start.split()):
            return rendering(_Statement(text, words, cluster))
    raise _refused(text, f"{' '.join(word.upper for word in words[:2])} has no counterpart on a cluster here")


def rendered(version: Version, cluster: Cluster) -> Version:
    """Return a version as it runs on a cluster, each statement still paired with its rollback.

    Raises:
        UsageError: a statement or a rollback is of a kind that has no counterpart here.
    """
    steps: list[tuple[str, str]] = []
    for statement, rollback in zip(version.statements, version.rollbacks, strict=True):
        forth, back = render(statement, cluster), render(rollback, cluster)[::-1]
        # Where one of the two is more statements than the other, all that takes back runs once anything may have run.
        lacking = len(back) - len(forth)
        steps += zip([_NOTHING] * lacking + forth, back + [_NOTHING] * -lacking, strict=True)
    return version.with_steps(steps)


_NOTHING = "SELECT 'nothing to do in this step'"


def _refused(text: str, cause: str) -> UsageError:
    return UsageError(
        f"Statement '{object_name(text)}' cannot be rendered for a cluster: {cause}. Write it by hand for the cluster."
    )


@dataclass(frozen=True)
class _Statement:
    text: str
    words: Words
    cluster: Cluster

    @cached_property
    def head(self) -> Word:
        """The object's name, after the kind and IF [NOT] EXISTS."""
        kinds = ("TABLE", "VIEW", "DICTIONARY", "COLLECTION")
        at = next((at for at, word in enumerate(self.words) if word.upper in kinds), len(self.words))
        words = self.words[at:].from_name()
        if not words:
            raise _refused(self.text, "it names no object")
        if words[1:].begins("."):
            raise _refused(self.text, "its object is in a database that it names")
        if words[1:].begins(","):
            raise _refused(self.text, "it is about several objects at once")
        return words[0]

    @property
    def name(self) -> str:
        return self.head.text

    @property
    def rest(self) -> Words:
        """The words after the object's name."""
        return self.words[self.words.index(self.head) + 1 :]

    def edited(self, *edits: tuple[int, int, str]) -> str:
        """Return the text with what stands between two places replaced, each by what is given."""
        text = self.text
        for start, end, new in sorted(edits, reverse=True):
            text = text[:start] + new + text[end:]
        return text

    def as_it_is(self) -> list[str]:
        return [self.everywhere()]

    def everywhere(self, *edits: tuple[int, int, str], name: str | None = None) -> str:
        """Return the text with ON CLUSTER after the object's name, which may become another one."""
        head = self.head
        kept = self.text[head.start : head.end]
        return self.edited((head.start, head.end, f"{name or kept} ON CLUSTER {self.cluster.name}"), *edits)


def _create_table(create: _Statement) -> list[str]:
    name, cluster = create.name, create.cluster
    engine = create.rest.engine()
    if not engine:
        raise _refused(create.text, "it has no ENGINE")
    if not engine[0].text.endswith("MergeTree") or engine[0].text.startswith(("Replicated", "Shared")):
        return [create.everywhere()]  # Null, Kafka, Memory: each node has its own
    shard = "{shard}" if name in cluster.sharding else "all"
    replica = "{replica}" if name in cluster.sharding else "{shard}-{replica}"
    # The table's UUID, not its name: two tables may exchange names.
    given = [f"'/clickhouse/tables/{{uuid}}/{shard}'", f"'{replica}'"]
    end = engine[0].end
    if engine[1:].begins("("):
        closing = next(word for word in engine[2:] if word.upper == ")" and word.depth == engine[0].depth)
        given += filter(None, [create.text[engine[1].end : closing.start].strip()])
        end = closing.end
    replicated = (engine[0].start, end, f"Replicated{engine[0].text}({', '.join(given)})")
    if name not in cluster.sharding:
        return [create.everywhere(replicated)]
    guard = "IF NOT EXISTS " if create.words[2:].begins("IF") else ""
    return [
        create.everywhere(replicated, name=f"{name}_local"),
        f"CREATE TABLE {guard}{name} ON CLUSTER {cluster.name} AS {name}_local\n"
        f"ENGINE = Distributed('{cluster.name}', '{cluster.database}', '{name}_local', {cluster.sharding[name]})",
    ]


def _create_materialized_view(create: _Statement) -> list[str]:
    is_refreshed = create.rest.begins("REFRESH")
    at = next((at for at, word in enumerate(create.rest) if word.upper in ("TO", "AS")), len(create.rest))
    if not create.rest[at:].begins("TO") or (at and not is_refreshed):
        raise _refused(create.text, "it keeps its rows in a table of its own; give it one with TO")
    if is_refreshed:
        _refuse_refreshes_that_differ(create, at)
    return [create.everywhere()]


def _refuse_refreshes_that_differ(create: _Statement, to: int) -> None:
    """Refuse a view whose rows would differ or double, since every node refreshes it."""
    if not create.rest[to - 1 :].begins("APPEND"):
        raise _refused(create.text, "each node would refresh it and exchange its own table for the one that is there")
    # A table that later versions drop is in no file any more. Nothing is left of what was written to it, either.
    target = next(iter(create.rest[to + 1 :].names()), "")
    if create.cluster.engines.get(target, "ReplacingMergeTree") != "ReplacingMergeTree":
        raise _refused(create.text, f"each node would refresh it, and its rows would be in {target} once for each")


def _drop(drop: _Statement) -> list[str]:
    if drop.words[1:].begins("TABLE") and drop.name in drop.cluster.sharding:
        return [drop.everywhere(), drop.everywhere(name=f"{drop.name}_local")]
    return [drop.everywhere()]


_OF_A_COLUMN = ("ADD", "DROP", "MODIFY", "ALTER", "COMMENT", "RENAME")


def _alter(alter: _Statement) -> list[str]:
    name = alter.name
    if name not in alter.cluster.sharding:
        return [alter.everywhere()]
    local = alter.everywhere(name=f"{name}_local")
    actions = alter.rest.split()
    if actions[0][1:].begins("QUERY"):
        return [local]
    # What a column holds and how is the business of the table with the rows.
    of_columns = [action for action in actions if any(action.begins(verb, "COLUMN") for verb in _OF_A_COLUMN)]
    if not of_columns:
        return [local]
    texts = [action.text for action in of_columns]
    distributed = f"ALTER TABLE {name} ON CLUSTER {alter.cluster.name}\n    " + ",\n    ".join(texts)
    # A column is there before anybody can name it, and nobody can name it any more once it goes.
    dropping = all(action.begins("DROP") for action in of_columns)
    return [distributed, local] if dropping else [local, distributed]


def _of_rows(statement: _Statement) -> list[str]:
    """TRUNCATE and OPTIMIZE: of the table that has the rows."""
    is_split = statement.name in statement.cluster.sharding
    return [statement.everywhere(name=f"{statement.name}_local" if is_split else None)]


def _system_reload(reload: _Statement) -> list[str]:
    if len(reload.words) < 4 or not reload.words[2:].begins("DICTIONARY"):
        raise _refused(reload.text, "it names no dictionary")
    start = reload.words[3].start
    return [reload.edited((start, start, f"ON CLUSTER {reload.cluster.name} "))]


def _exchange_or_rename(statement: _Statement) -> list[str]:
    if any(word.text in statement.cluster.sharding for word in statement.words):
        raise _refused(statement.text, "the table is split over the shards, and its name is in two places")
    end = statement.words[-1].end  # a comment may come after it
    return [statement.edited((end, end, f" ON CLUSTER {statement.cluster.name}"))]


def _once(statement: _Statement) -> list[str]:
    """INSERT: replicated tables hand it on, and distributed ones send each row to its shard. SELECT changes nothing."""
    return [statement.text]


_RENDERINGS: dict[str, Callable[[_Statement], list[str]]] = {
    "CREATE TABLE": _create_table,
    "CREATE MATERIALIZED VIEW": _create_materialized_view,
    **{f"CREATE {kind}": _Statement.as_it_is for kind in ("VIEW", "DICTIONARY", "NAMED COLLECTION")},
    **{f"CREATE OR REPLACE {kind}": _Statement.as_it_is for kind in ("VIEW", "DICTIONARY")},
    **{f"DROP {kind}": _drop for kind in ("TABLE", "VIEW", "DICTIONARY", "NAMED COLLECTION")},
    "ALTER TABLE": _alter,
    "ALTER NAMED COLLECTION": _Statement.as_it_is,
    "TRUNCATE TABLE": _of_rows,
    "OPTIMIZE TABLE": _of_rows,
    "SYSTEM RELOAD": _system_reload,
    "EXCHANGE TABLES": _exchange_or_rename,
    "RENAME TABLE": _exchange_or_rename,
    "INSERT INTO": _once,
    "SELECT": _once,
}
