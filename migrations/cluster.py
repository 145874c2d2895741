"""The schema's statements for a node of a cluster.

The same files, rewritten for tables whose rows are split over the shards. Each node has its share in ``NAME_local``;
``NAME``, Distributed over all shards, is what is read. Rows that replace each other have to meet on one shard, whatever
node took them from Kafka: ingest writes those of ReplacingMergeTree tables through ``NAME_to_shards``, which sends each
where it belongs. Refreshable views compute the roll-ups of their own shard's rows: they, and the views that they read,
read and write ``NAME_local``. All else is whole on each node.

The text stays as it was written, comments included; only what has to differ is replaced.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

from sqlglot import exp

from paystream.errors import UsageError
from paystream.migrations.history import Version, object_name
from paystream.migrations.schema_graph import Graph, SchemaObject, read_graph
from paystream.migrations.sharding import Key, Sharding
from paystream.migrations.statement import Word, Words, words_of

BUSINESS_KEY = "transaction_id"


@dataclass(frozen=True)
class Cluster:
    """A cluster as the servers' ``remote_servers`` names it.

    Attributes:
        name: what reads go through.
        writes: what ingest writes through: the nodes of a node's own set.
        database: the one that holds the schema on each node.
        is_replicated: whether a shard of a set has several nodes.
        sharding: how many shards there are, and since when.
        keys: for each split table that ingest writes through its shards, what decides on the shard.
        split: the other split tables, and the views that refreshable views read.
        refreshing: the refreshable views.
    """

    name: str
    writes: str
    database: str
    is_replicated: bool
    sharding: Sharding
    keys: Mapping[str, Key] = field(default_factory=dict)
    split: Collection[str] = ()
    refreshing: Collection[str] = ()

    def is_split(self, name: str) -> bool:
        """Return whether each node has a share of the rows, in ``NAME_local``."""
        return name in self.keys or name in self.split

    def localized(self, text: str) -> str:
        """Return SQL with the node's own share wherever it reads or writes what is split."""
        names = [
            word
            for before, word in pairwise(words_of(text))
            if before.upper in ("FROM", "JOIN", "TO", "INTO") and self.is_split(word.text)
        ]
        for word in reversed(names):
            text = f"{text[: word.start]}{word.text}_local{text[word.end :]}"
        return text


def cluster_of(
    name: str,
    writes: str,
    database: str,
    sharding: Sharding,
    *,
    is_replicated: bool = False,
    graph: Graph | None = None,
) -> Cluster:
    """Return a cluster whose split tables are those that views fill, by the files of ``sql/``.

    Raises:
        UsageError: a name cannot be one of a cluster or a database.
    """
    for what, text in (("Cluster", name), ("Database", database)):
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
            raise UsageError(f"{what} '{text}' cannot be used: its name is no identifier. Use letters, digits and _.")
    graph = graph or read_graph()
    targets = [graph.objects.get(graph.objects[view].target or "") for view in graph.ingest_views]
    keys = {table.name: shard_key(table) for table in targets if table and table.engine == "ReplacingMergeTree"}
    refreshing = [name for name, view in graph.objects.items() if view.is_refreshed]
    split = {table.name for table in targets if table and table.engine == "MergeTree"}
    split |= {graph.objects[view].target or "" for view in refreshing}
    reached = [source for view in refreshing for source in graph.reads(view)]
    for source in reached:
        if source in graph.objects and graph.objects[source].kind == "view" and source not in split:
            split.add(source)
            reached += graph.reads(source)
    split -= {"", *keys}
    return Cluster(name, writes, database, is_replicated, sharding, keys, split, refreshing)


def shard_key(table: SchemaObject) -> Key:
    """Return what decides on the shard of a table's rows: the transaction, or else the whole sorting key.

    Either way, rows that replace each other share a shard, since they agree in both.
    """
    keys = [key for clause, key in table.key_expressions if clause == "ORDER BY"]
    columns = list(dict.fromkeys(identifier.name for key in keys for identifier in key.find_all(exp.Identifier)))
    times = [column for column in columns if table.types[column].startswith("DateTime")]
    hashed = [BUSINESS_KEY] if BUSINESS_KEY in table.types else columns
    return Key(f"cityHash64({', '.join(hashed)})", times[0] if times else "")


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
    def is_guarded(self) -> bool:
        """Return whether it says IF NOT EXISTS."""
        return any(self.words[at:].begins("IF", "NOT", "EXISTS") for at in range(2, 5))

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
        self.head  # noqa: B018  (refuses several objects, and those of another database)
        return [self.text]

    def named(self, name: str, *edits: tuple[int, int, str]) -> str:
        """Return the text with another object's name."""
        return self.edited((self.head.start, self.head.end, name), *edits)

    def local(self, *edits: tuple[int, int, str]) -> str:
        """Return it about the node's own share."""
        return self.named(f"{self.name}_local", *edits)


def _create_table(create: _Statement) -> list[str]:
    name, cluster = create.name, create.cluster
    engine = create.rest.engine()
    if not engine:
        raise _refused(create.text, "it has no ENGINE")
    if not engine[0].text.endswith("MergeTree") or engine[0].text.startswith(("Replicated", "Shared")):
        return create.as_it_is()  # Null, Kafka, Memory: each node has its own
    if not cluster.is_split(name):
        return create.as_it_is()
    replicated = [_replicated(create, engine)] if cluster.is_replicated else []
    return [create.local(*replicated), *_over_the_shards(name, cluster, "IF NOT EXISTS " * create.is_guarded)]


def _replicated(create: _Statement, engine: Words) -> tuple[int, int, str]:
    """Return the place of a table's engine, and the engine that replicates it among the nodes of its shard."""
    # By name, since each node runs the statement itself, so that each table has a UUID of its own.
    given = ["'/clickhouse/tables/{database}/{table}/{set}-{shard}'", "'{replica}'"]
    end = engine[0].end
    if engine[1:].begins("("):
        closing = next(word for word in engine[2:] if word.upper == ")" and word.depth == engine[0].depth)
        given += filter(None, [create.text[engine[1].end : closing.start].strip()])
        end = closing.end
    return engine[0].start, end, f"Replicated{engine[0].text}({', '.join(given)})"


def _over_the_shards(name: str, cluster: Cluster, guard: str) -> list[str]:
    """Return the statements that create what reads and writes go through. What is read alone has no sharding key."""
    place = f"'{cluster.database}', '{name}_local'"
    creates = [f"CREATE TABLE {guard}{name} AS {name}_local\nENGINE = Distributed('{cluster.name}', {place})"]
    if name in cluster.keys:
        creates.append(to_shards(name, cluster, f"CREATE TABLE {guard}"))
    return creates


def to_shards(name: str, cluster: Cluster, verb: str = "CREATE OR REPLACE TABLE ") -> str:
    """Return the statement that creates what ingest writes a table's rows through, or makes it anew."""
    return (
        f"{verb}{name}_to_shards AS {name}_local\nENGINE = Distributed('{cluster.writes}', '{cluster.database}', "
        f"'{name}_local', {cluster.sharding.expression(cluster.keys[name])})"
    )


def _create_view(create: _Statement) -> list[str]:
    name, cluster = create.name, create.cluster
    if re.search(r"\{\w+:\w+\}", create.text):
        # Distributed passes no parameters on; over the whole, a reader would filter what all shards sent. It is asked
        # on each node, of the node's own rows.
        return [cluster.localized(create.text)]
    if not cluster.is_split(name):
        return create.as_it_is()
    verb = "CREATE OR REPLACE" if create.words.begins("CREATE", "OR") else "CREATE"
    # Another node reads this one's through a connection that is in no database.
    local = cluster.localized(create.local()).replace("currentDatabase()", f"'{cluster.database}'")
    return [
        local,
        f"{verb} TABLE {name}_shards AS {name}_local\n"
        f"ENGINE = Distributed('{cluster.name}', '{cluster.database}', '{name}_local')",
        # What a view reads for a single value is computed once, by the node that asks, and sent to the others in place
        # of their own; unless it asks itself as it asks them.
        f"{verb} VIEW {name} AS SELECT * FROM {name}_shards SETTINGS prefer_localhost_replica = 0",
    ]


def _create_materialized_view(create: _Statement) -> list[str]:
    is_refreshed = create.rest.begins("REFRESH")
    at = next((at for at, word in enumerate(create.rest) if word.upper in ("TO", "AS")), len(create.rest))
    if not create.rest[at:].begins("TO") or (at and not is_refreshed):
        raise _refused(create.text, "it keeps its rows in a table of its own; give it one with TO")
    if is_refreshed:
        return [create.cluster.localized(create.text)]
    target = create.rest[at + 1]
    if create.cluster.is_split(target.text):
        suffix = "to_shards" if target.text in create.cluster.keys else "local"
        return [create.edited((target.start, target.end, f"{target.text}_{suffix}"))]
    return create.as_it_is()


def _drop(drop: _Statement) -> list[str]:
    name, cluster = drop.name, drop.cluster
    if not cluster.is_split(name):
        return drop.as_it_is()
    if (kind := drop.words[1]).upper == "VIEW":
        return [drop.text, drop.named(f"{name}_shards", (kind.start, kind.end, "TABLE")), drop.local()]
    to_shards = [drop.named(f"{name}_to_shards")] if name in cluster.keys else []
    return [drop.text, *to_shards, drop.local()]


_OF_A_COLUMN = ("ADD", "DROP", "MODIFY", "ALTER", "COMMENT", "RENAME")


def _alter(alter: _Statement) -> list[str]:
    name, cluster = alter.name, alter.cluster
    if name in cluster.refreshing:
        return [cluster.localized(alter.text)]
    if not cluster.is_split(name):
        return alter.as_it_is()
    local = alter.local()
    actions = alter.rest.split()
    # What a column holds and how is the business of the table with the rows.
    of_columns = [action for action in actions if any(action.begins(verb, "COLUMN") for verb in _OF_A_COLUMN)]
    if not of_columns:
        return [local]
    texts = ",\n    ".join(action.text for action in of_columns)
    names = [name, f"{name}_to_shards"] if name in cluster.keys else [name]
    distributed = [f"ALTER TABLE {each}\n    {texts}" for each in names]
    # A column is there before anybody can name it, and nobody can name it any more once it goes.
    dropping = all(action.begins("DROP") for action in of_columns)
    return [*distributed, local] if dropping else [local, *distributed]


def _of_rows(statement: _Statement) -> list[str]:
    """TRUNCATE and OPTIMIZE: of the table that has the rows."""
    return [statement.local()] if statement.cluster.is_split(statement.name) else statement.as_it_is()


def _unless_split(statement: _Statement) -> list[str]:
    if any(statement.cluster.is_split(word.text) for word in statement.words):
        raise _refused(statement.text, "the table is split over the shards, and its name is in several places")
    return [statement.text]


def _reload(reload: _Statement) -> list[str]:
    if len(reload.words) < 4 or not reload.words[2:].begins("DICTIONARY"):
        raise _refused(reload.text, "it names no dictionary")
    return [reload.text]


def _insert(insert: _Statement) -> list[str]:
    """INSERT: every node runs it, so its rows would be on each shard; and what is split takes none by that name."""
    names = insert.words[2:].names()
    if not names or insert.cluster.is_split(names[0]):
        raise _refused(insert.text, "every node would write its rows, and those of a split table belong to one shard")
    return [insert.text]


def _once(statement: _Statement) -> list[str]:
    """SELECT changes nothing."""
    return [statement.text]


_RENDERINGS: dict[str, Callable[[_Statement], list[str]]] = {
    "CREATE TABLE": _create_table,
    "CREATE MATERIALIZED VIEW": _create_materialized_view,
    **{f"CREATE {kind}": _Statement.as_it_is for kind in ("DICTIONARY", "NAMED COLLECTION")},
    **{f"CREATE{replace} VIEW": _create_view for replace in ("", " OR REPLACE")},
    "CREATE OR REPLACE DICTIONARY": _Statement.as_it_is,
    **{f"DROP {kind}": _drop for kind in ("TABLE", "VIEW", "DICTIONARY", "NAMED COLLECTION")},
    "ALTER TABLE": _alter,
    "ALTER NAMED COLLECTION": _Statement.as_it_is,
    "TRUNCATE TABLE": _of_rows,
    "OPTIMIZE TABLE": _of_rows,
    "SYSTEM RELOAD": _reload,
    "EXCHANGE TABLES": _unless_split,
    "RENAME TABLE": _unless_split,
    "INSERT INTO": _insert,
    "SELECT": _once,
}
"""What renders a statement, by its first words; the first that fits does."""
