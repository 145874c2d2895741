"""The schema's statements for a replicated, sharded cluster.

The same files, written otherwise: every statement runs ON CLUSTER, stored tables are replicated, and those that
messages end up in are split over the shards. Such a table keeps its name for the Distributed table that everybody reads
and writes, views included; its rows are in ``NAME_local``. A row's shard follows from a hash of ``transaction_id``, so
that all copies and states of one transaction meet, whichever node took them from Kafka, and FINAL needs to look at one
shard alone. All other tables are whole on each node, so that dictionaries load from their own node.

The text stays as it was written, comments included; only what has to differ is replaced.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from sqlglot import exp
from sqlglot.dialects.clickhouse import ClickHouse
from sqlglot.errors import SqlglotError
from sqlglot.tokens import Token, TokenType

from paystream.errors import UsageError
from paystream.migrations.history import Version, object_name
from paystream.migrations.schema_graph import Graph, SchemaObject, read_graph

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
    stored = [one for one in tables if one is not None and one.kind == "table" and one.engine.endswith("MergeTree")]
    engines = {one.name: one.engine for one in graph.objects.values() if one.kind == "table"}
    return Cluster(name, database, {one.name: sharding_expression(one) for one in stored}, engines)


def sharding_expression(table: SchemaObject) -> str:
    """Return what decides about a row's shard: the transaction, or else the whole sorting key.

    Either way rows that deduplicate each other meet, since both are among what they have in common.
    """
    if BUSINESS_KEY in table.types:
        return f"cityHash64({BUSINESS_KEY})"
    keys = [key for clause, key in table.key_expressions if clause == "ORDER BY"]
    columns = dict.fromkeys(one.name for key in keys for one in key.find_all(exp.Identifier))
    return f"cityHash64({', '.join(columns)})" if columns else "rand()"


def render(statement: str, cluster: Cluster) -> list[str]:
    """Return the statements that do on a cluster what one statement does on one server, in the order to run them.

    Raises:
        UsageError: it is of a kind that has no counterpart here; the error says what to do.
    """
    text = statement.strip().rstrip(";").rstrip()
    try:
        tokens = _Words().tokenize(text)
    except SqlglotError as error:
        raise _refused(text, "it cannot be read") from error
    words = [token.text.upper() for token in tokens[:4]]
    for start, rendering in _RENDERINGS.items():
        if words[: len(start)] == list(start):
            return rendering(_Statement(text, tokens, cluster))
    raise _refused(text, f"{' '.join(words[:2])} has no counterpart on a cluster here")


def rendered(version: Version, cluster: Cluster) -> Version:
    """Return a version as it runs on a cluster. What takes a statement back pairs with it here too.

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


class _Words(ClickHouse):
    """ClickHouse's dialect, in which SYSTEM, RENAME and their like are words as any others."""

    class Tokenizer(ClickHouse.Tokenizer):
        COMMANDS: ClassVar = set()


def _refused(text: str, cause: str) -> UsageError:
    return UsageError(
        f"Statement '{object_name(text)}' cannot be rendered for a cluster: {cause}. Write it by hand for the cluster."
    )


@dataclass(frozen=True)
class _Statement:
    text: str
    tokens: list[Token]
    cluster: Cluster

    def word(self, at: int) -> str:
        return self.tokens[at].text.upper() if at < len(self.tokens) else ""

    def name_at(self) -> int:
        """The place of the object's name: after the kind and IF [NOT] EXISTS."""
        kinds = ("TABLE", "VIEW", "DICTIONARY", "COLLECTION")
        at = next((at for at in range(len(self.tokens)) if self.word(at) in kinds), -1) + 1
        while self.word(at) in ("IF", "NOT", "EXISTS"):
            at += 1
        if not 0 < at < len(self.tokens):
            raise _refused(self.text, "it names no object")
        if self.word(at + 1) == ".":
            raise _refused(self.text, "its object is in a database that it names")
        if self.word(at + 1) == ",":
            raise _refused(self.text, "it is about several objects at once")
        return at

    @property
    def name(self) -> str:
        return self.tokens[self.name_at()].text

    def edited(self, *edits: tuple[int, int, str]) -> str:
        """Return the text with the tokens from one place to another replaced, each by what is given."""
        text = self.text
        for first, last, new in sorted(edits, reverse=True):
            text = text[: self.tokens[first].start] + new + text[self.tokens[last].end + 1 :]
        return text

    def everywhere(self, *edits: tuple[int, int, str], name: str | None = None) -> str:
        """Return the text with ON CLUSTER after the object's name, which may become another one."""
        at = self.name_at()
        kept = self.text[self.tokens[at].start : self.tokens[at].end + 1]
        return self.edited((at, at, f"{name or kept} ON CLUSTER {self.cluster.name}"), *edits)


def _create_table(one: _Statement) -> list[str]:
    found = _engine_of(one)
    name, cluster = one.name, one.cluster
    if found is None:
        raise _refused(one.text, "it has no ENGINE")
    first, last, engine, parameters = found
    if not engine.endswith("MergeTree") or engine.startswith(("Replicated", "Shared")):
        return [one.everywhere()]  # Null, Kafka, Memory: each node has its own
    shard = "{shard}" if name in cluster.sharding else "all"
    replica = "{replica}" if name in cluster.sharding else "{shard}-{replica}"
    # The table's UUID, not its name: two tables may exchange names.
    given = ", ".join(
        ["'/clickhouse/tables/{uuid}/" + shard + "'", f"'{replica}'", *([parameters] if parameters else [])]
    )
    replicated = (first, last, f"Replicated{engine}({given})")
    if name not in cluster.sharding:
        return [one.everywhere(replicated)]
    guard = "IF NOT EXISTS " if one.word(one.name_at() - 1) == "EXISTS" else ""
    return [
        one.everywhere(replicated, name=f"{name}_local"),
        f"CREATE TABLE {guard}{name} ON CLUSTER {cluster.name} AS {name}_local\n"
        f"ENGINE = Distributed('{cluster.name}', '{cluster.database}', '{name}_local', {cluster.sharding[name]})",
    ]


def _engine_of(one: _Statement) -> tuple[int, int, str, str] | None:
    """Return the places of the engine's first and last token, its name and its parameters as they are written."""
    depth = 0
    for at, token in enumerate(one.tokens):
        depth += {TokenType.L_PAREN: 1, TokenType.R_PAREN: -1}.get(token.token_type, 0)
        if depth or token.text.upper() != "ENGINE":
            continue
        first = at + 2 if one.word(at + 1) == "=" else at + 1
        if first >= len(one.tokens):
            return None
        if one.word(first + 1) != "(":
            return first, first, one.tokens[first].text, ""
        last, inner = first + 1, 1
        while inner and last + 1 < len(one.tokens):
            last += 1
            inner += {TokenType.L_PAREN: 1, TokenType.R_PAREN: -1}.get(one.tokens[last].token_type, 0)
        parameters = one.text[one.tokens[first + 1].end + 1 : one.tokens[last].start].strip()
        return first, last, one.tokens[first].text, parameters
    return None


def _create_view(one: _Statement) -> list[str]:
    return [one.everywhere()]


def _create_materialized_view(one: _Statement) -> list[str]:
    at = one.name_at() + 1
    if one.word(at) == "REFRESH":
        return _refreshed(one, at)
    if one.word(at) != "TO":
        raise _refused(one.text, "it keeps its rows in a table of its own; give it one with TO")
    return [one.everywhere()]


def _refreshed(one: _Statement, at: int) -> list[str]:
    """A view that every node refreshes: what all of them write has to be the same as what one of them writes."""
    while at < len(one.tokens) and one.word(at) not in ("TO", "AS"):
        at += 1
    if one.word(at) != "TO":
        raise _refused(one.text, "it keeps its rows in a table of its own; give it one with TO")
    if one.word(at - 1) != "APPEND":
        raise _refused(one.text, "each node would refresh it and exchange its own table for the one that is there")
    # A table that later versions drop is in no file any more. Nothing is left of what was written to it, either.
    target = one.tokens[at + 1].text if at + 1 < len(one.tokens) else ""
    if one.cluster.engines.get(target, "ReplacingMergeTree") != "ReplacingMergeTree":
        raise _refused(one.text, f"each node would refresh it, and its rows would be in {target} once for each")
    return [one.everywhere()]


def _drop(one: _Statement) -> list[str]:
    if one.word(1) == "TABLE" and one.name in one.cluster.sharding:
        return [one.everywhere(), one.everywhere(name=f"{one.name}_local")]
    return [one.everywhere()]


_OF_A_COLUMN = ("ADD", "DROP", "MODIFY", "ALTER", "COMMENT", "RENAME")


def _alter(one: _Statement) -> list[str]:
    name = one.name
    if name not in one.cluster.sharding:
        return [one.everywhere()]
    local = one.everywhere(name=f"{name}_local")
    if one.word(one.name_at() + 2) == "QUERY":
        return [local]
    of_columns = [
        command
        for command, verb, what in _commands(one)
        # What a column holds and how is the business of the table with the rows.
        if verb in _OF_A_COLUMN and what == "COLUMN" and not re.search(r"\b(MATERIALIZE|CLEAR)\b", verb)
    ]
    if not of_columns:
        return [local]
    distributed = f"ALTER TABLE {name} ON CLUSTER {one.cluster.name}\n    " + ",\n    ".join(of_columns)
    # A column is there before anybody can name it, and nobody can name it any more once it goes.
    dropping = all(command.upper().startswith("DROP") for command in of_columns)
    return [distributed, local] if dropping else [local, distributed]


def _commands(one: _Statement) -> list[tuple[str, str, str]]:
    """Return an ALTER's commands as they are written, each with its first two words."""
    start = one.name_at() + 1
    found: list[tuple[str, str, str]] = []
    depth = 0
    for at in range(start, len(one.tokens) + 1):
        kind = one.tokens[at].token_type if at < len(one.tokens) else TokenType.COMMA
        depth += {TokenType.L_PAREN: 1, TokenType.R_PAREN: -1}.get(kind, 0)
        if kind == TokenType.COMMA and depth == 0:
            text = one.text[one.tokens[start].start : one.tokens[at - 1].end + 1]
            found.append((text, one.word(start), one.word(start + 1)))
            start = at + 1
    return found


def _of_rows(one: _Statement) -> list[str]:
    """TRUNCATE and OPTIMIZE: of the table that has the rows."""
    return [one.everywhere(name=f"{one.name}_local" if one.name in one.cluster.sharding else None)]


def _system_reload(one: _Statement) -> list[str]:
    at = 3  # SYSTEM RELOAD DICTIONARY name
    if len(one.tokens) <= at or one.word(2) != "DICTIONARY":
        raise _refused(one.text, "it names no dictionary")
    return [one.edited((at, at, f"ON CLUSTER {one.cluster.name} {one.tokens[at].text}"))]


def _exchange_or_rename(one: _Statement) -> list[str]:
    if any(token.text in one.cluster.sharding for token in one.tokens):
        raise _refused(one.text, "the table is split over the shards, and its name is in two places")
    last = len(one.tokens) - 1  # a comment may come after it
    return [one.edited((last, last, f"{one.tokens[last].text} ON CLUSTER {one.cluster.name}"))]


def _once(one: _Statement) -> list[str]:
    """INSERT: replicated tables hand it on, and distributed ones send each row to its shard. SELECT changes nothing."""
    return [one.text]


_RENDERINGS: dict[tuple[str, ...], Callable[[_Statement], list[str]]] = {
    ("CREATE", "TABLE"): _create_table,
    ("CREATE", "MATERIALIZED", "VIEW"): _create_materialized_view,
    ("CREATE", "VIEW"): _create_view,
    ("CREATE", "OR", "REPLACE", "VIEW"): _create_view,
    ("CREATE", "DICTIONARY"): _create_view,
    ("CREATE", "OR", "REPLACE", "DICTIONARY"): _create_view,
    ("CREATE", "NAMED", "COLLECTION"): _create_view,
    ("DROP", "TABLE"): _drop,
    ("DROP", "VIEW"): _drop,
    ("DROP", "DICTIONARY"): _drop,
    ("DROP", "NAMED", "COLLECTION"): _drop,
    ("ALTER", "TABLE"): _alter,
    ("ALTER", "NAMED", "COLLECTION"): _create_view,
    ("TRUNCATE", "TABLE"): _of_rows,
    ("OPTIMIZE", "TABLE"): _of_rows,
    ("SYSTEM", "RELOAD"): _system_reload,
    ("EXCHANGE", "TABLES"): _exchange_or_rename,
    ("RENAME", "TABLE"): _exchange_or_rename,
    ("INSERT", "INTO"): _once,
    ("SELECT",): _once,
}
