"""The schema's files as a graph: what each object reads and writes, and what each column is made of.

Reads only ``sql/`` and ``dictionaries/``, no server. ClickHouse's own names are resolved as the engine does: an alias
of the SELECT or of its WITH before a column of the source, except within the alias's own definition, and last an alias
of a SELECT around. A tuple's elements are followed each by itself: that of table ``t`` and column ``c`` is ``t.c.x``.

sqlglot parses. Its optimizer does not give the same answers on ClickHouse's SQL:

- ``scope.build_scope`` enters no SELECT within a WITH's expression, such as ``ifNull((SELECT …), 0) AS since``;
- ``lineage`` and ``qualify`` take a WITH's expression for a column of the source, and ARRAY JOIN's alias for a table;
- ``lineage`` stops at a whole tuple, and does not know dictGet, JSON fields or clocks.
"""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Literal

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from paystream.migrations.types import element_of, taken_apart
from paystream.settings import project_folder

# It would say on stderr what it does not understand; we say that ourselves.
logging.getLogger("sqlglot").setLevel(logging.ERROR)

Kind = Literal["table", "view", "materialized view", "dictionary"]
Role = Literal["value", "key", "function"]

TOPIC = "topic"
"""The object that a message's fields belong to."""

WHOLE_MESSAGE = "(whole message)"

_CLOCKS = "now now64 nowInBlock nowInBlock64 today yesterday curdate current_date current_timestamp UTCTimestamp"
_RANDOMS = (
    "rand rand32 rand64 randConstant randCanonical randUniform randNormal randBernoulli randomString randomFixedString"
    " randomPrintableASCII randomStringUTF8 generateUUIDv4 generateUUIDv7 generateULID generateSnowflakeID"
    " rowNumberInAllBlocks rowNumberInBlock blockNumber"
)
UNSTABLE = frozenset(f"{_CLOCKS} {_RANDOMS}".lower().split())
"""Functions, in lower case, that give another value each time the same message comes."""

_DICTIONARY_FUNCTION = re.compile(r"dict(Get|Has|IsIn)", re.IGNORECASE)
_TYPED_JSON = re.compile(r"(JSONExtract|JSON_VALUE|JSONType|JSONHas|JSONLength|simpleJSON|visitParam)", re.IGNORECASE)
_GATHERS = re.compile(r"(groupArray|groupUniqArray)(If)?|arrayJoin", re.IGNORECASE)
_WITHOUT_FIELD = re.compile(r"JSONExtractKeys$", re.IGNORECASE)

RAW_FORMATS = frozenset({"rawblob", "lineasstring", "jsonasstring", "jsonasobject"})
"""Formats, in lower case, whose single column is the message itself."""

KAFKA_COLUMNS = {
    "_key": ("String", "(key)"),
    "_topic": ("LowCardinality(String)", "(topic name)"),
    "_partition": ("UInt64", "(partition)"),
    "_offset": ("UInt64", "(offset)"),
    "_timestamp": ("Nullable(DateTime)", "(timestamp)"),
    "_timestamp_ms": ("Nullable(DateTime64(3))", "(timestamp)"),
    "_headers.name": ("Array(String)", "(headers)"),
    "_headers.value": ("Array(String)", "(headers)"),
    "_error": ("String", "(parser's error)"),
    "_raw_message": ("String", WHOLE_MESSAGE),
}
"""The columns that every Kafka table has unsaid: type, and what of the message they hold."""


@dataclass(frozen=True)
class Leaf:
    """Something that a column is made of.

    ``key``: a value is found by it (a dictionary's key). ``function``: a clock or a random, ``column`` is its name.
    """

    object: str
    column: str
    role: Role = "value"

    def __str__(self) -> str:
        return f"{self.object}.{self.column}" if self.object else self.column


@dataclass(frozen=True)
class Making:
    """One way in which a column comes about: by which object, with which expression, out of what."""

    by: str
    expression: str
    leaves: tuple[Leaf, ...]


@dataclass(frozen=True, eq=False)
class SchemaObject:
    """One object as its file says it."""

    name: str
    kind: Kind
    path: str
    """Relative to the root that was read, with forward slashes."""
    text: str
    tree: exp.Create

    @property
    def _properties(self) -> list[exp.Expression]:
        properties = self.tree.args.get("properties")
        return properties.expressions if properties else []

    @cached_property
    def engine(self) -> str:
        """The table engine's name, ``""`` for a view or dictionary."""
        engine = self.tree.find(exp.EngineProperty)
        if engine is None:
            return ""
        return "Null" if isinstance(engine.this, exp.Null) else engine.this.name

    @cached_property
    def settings(self) -> dict[str, str]:
        """The table's own settings, names in lower case."""
        clauses = [clause for clause in self._properties if isinstance(clause, exp.SettingsProperty)]
        pairs = [pair for clause in clauses for pair in clause.expressions]
        return {pair.this.name.lower(): pair.expression.name for pair in pairs}

    @cached_property
    def definitions(self) -> dict[str, exp.ColumnDef]:
        """The declared columns. A Nested one is, as for the engine, an array for each of its parts, ``name.part``."""
        schema = self.tree.this
        columns: dict[str, exp.ColumnDef] = {}
        for element in schema.expressions if isinstance(schema, exp.Schema) else []:
            if not isinstance(element, exp.ColumnDef):
                continue
            if element.kind is None or element.kind.this != exp.DType.NESTED:
                columns[element.name] = element
                continue
            for part in element.kind.expressions:
                kind = exp.DataType(this=exp.DType.ARRAY, expressions=[part.kind.copy()], nested=True)
                columns[f"{element.name}.{part.name}"] = exp.ColumnDef(this=element.this.copy(), kind=kind)
        return columns

    @cached_property
    def types(self) -> dict[str, str]:
        """The declared columns' types, ``""`` where the file leaves a type to the engine."""
        return {name: type_text(column.kind) for name, column in self.definitions.items()}

    @cached_property
    def elements(self) -> dict[str, list[str]]:
        """The names within each declared column that is a tuple or an array of tuples."""
        names: dict[str, list[str]] = {}
        for name, column in self.definitions.items():
            kind = column.kind
            while kind is not None and kind.is_type("array"):
                kind = kind.expressions[0]
            if kind is not None and kind.is_type("struct"):
                names[name] = [part.name for part in kind.expressions if isinstance(part, exp.ColumnDef)]
        return names

    @cached_property
    def defaults(self) -> dict[str, exp.Expression]:
        """What columns hold where nothing is inserted: DEFAULT, MATERIALIZED, ALIAS or EPHEMERAL."""
        kinds = (exp.DefaultColumnConstraint, exp.ComputedColumnConstraint, exp.EphemeralColumnConstraint)
        return {
            name: constraint.kind.this
            for name, column in self.definitions.items()
            for constraint in column.args.get("constraints") or []
            if isinstance(constraint.kind, kinds)
        }

    @cached_property
    def query(self) -> exp.Query | None:
        """The SELECT of a view."""
        query = self.tree.expression
        return query if isinstance(query, exp.Query) else None

    @cached_property
    def target(self) -> str | None:
        """The table that a materialized view writes to; itself where it has an engine of its own."""
        if self.kind != "materialized view":
            return None
        to = self.tree.find(exp.ToTableProperty)
        return to.this.name if to else self.name

    @property
    def is_refreshed(self) -> bool:
        """Whether a materialized view runs by the clock, not with each block."""
        return self.tree.find(exp.AutoRefreshProperty) is not None

    @property
    def is_kafka(self) -> bool:
        return self.engine.lower() == "kafka"

    @cached_property
    def key_expressions(self) -> list[tuple[str, exp.Expression]]:
        """What rows are sorted, partitioned and looked up by, each with the clause's name."""
        if self.kind == "dictionary":
            return []
        partition = next((clause for clause in self._properties if isinstance(clause, exp.PartitionedByProperty)), None)
        parts = [("PARTITION BY", partition.this)] if partition else []
        for kind, keyword in ((exp.Order, "ORDER BY"), (exp.PrimaryKey, "PRIMARY KEY")):
            listed = [part for clause in self._properties if isinstance(clause, kind) for part in clause.expressions]
            parts += [(keyword, part.this if isinstance(part, exp.Ordered) else part) for part in listed]
        return parts

    @cached_property
    def dictionary_source(self) -> str | None:
        """The table or view that a dictionary is loaded from, None where it is no table of ClickHouse's."""
        sources = [source for source in self.tree.find_all(exp.DictProperty) if source.this == "SOURCE"]
        settings = [setting for source in sources for setting in source.args.get("settings") or []]
        return next((setting.args["value"].name for setting in settings if setting.this.name.upper() == "TABLE"), None)

    def comment(self, heading: str) -> str:
        """Return what the file's head says after a heading such as ``Written by:``, ``""`` if nothing."""
        lines = takewhile(lambda line: line.startswith("--"), self.text.splitlines())
        said = re.search(rf"{heading}\s*(.*?)\.(?:\s|$)", " ".join(line.removeprefix("-- ") for line in lines))
        return said[1] if said else ""


@dataclass(frozen=True)
class Unreadable:
    """A file that is not one CREATE of an object named as the file, or that sqlglot does not understand."""

    path: str
    cause: str
    what_next: str
    unparsed: str | None = None
    """The text, where ClickHouse may understand it all the same."""

    @property
    def name(self) -> str:
        """The object that the file is named after."""
        return PurePosixPath(self.path).stem


def function_name(node: exp.Expression) -> str:
    """Return the name of a function as the file spells it, ``""`` for what is no function."""
    if isinstance(node, exp.Anonymous):
        return node.name
    if isinstance(node, (exp.CombinedAggFunc, exp.ParameterizedAgg, exp.AnonymousAggFunc)):
        return str(node.this)
    if isinstance(node, exp.Func) and not isinstance(node, (exp.Cast, exp.And, exp.Or)):
        return node.meta.get("clickhouse_name") or node.sql_name()
    return ""


def arguments(node: exp.Expression) -> list[exp.Expression]:
    """Return a function's arguments in the order of the file."""
    if isinstance(node, (exp.Anonymous, exp.CombinedAggFunc, exp.ParameterizedAgg, exp.AnonymousAggFunc)):
        return list(node.expressions)
    return list(node.iter_expressions())


def type_text(kind: exp.Expression | None) -> str:
    """Return a type as ClickHouse spells it, ``""`` for none."""
    # sqlglot writes a nested Date in capitals, which the engine takes for an alias, but its own text has not.
    return re.sub(r"\bDATE\b", "Date", kind.sql(dialect="clickhouse")) if kind else ""


def dictionary_call(node: exp.Expression) -> tuple[str, list[str], list[exp.Expression]] | None:
    """Return the dictionary, the attributes and the key of a ``dictGet…`` with literal names; None for anything else.

    ``dictHas`` and its like have no attributes.
    """
    name = function_name(node)
    if not _DICTIONARY_FUNCTION.match(name):
        return None
    given = arguments(node)
    if not given or not (isinstance(given[0], exp.Literal) and given[0].is_string):
        return None
    dictionary = given[0].name.rsplit(".", 1)[-1]
    if not name.lower().startswith("dictget") or name.lower() in ("dictgethierarchy", "dictgetchildren"):
        return dictionary, [], given[1:]
    attributes = _literals(given[1]) if len(given) > 1 else []
    return dictionary, attributes, given[2:]


def _literals(node: exp.Expression) -> list[str]:
    parts = node.expressions if isinstance(node, exp.Tuple) else [node.this if isinstance(node, exp.Paren) else node]
    return [part.name for part in parts if isinstance(part, exp.Literal) and part.is_string]


@dataclass(frozen=True, eq=False)
class Scope:
    """The names that one SELECT can use."""

    graph: "Graph"
    select: exp.Select
    outer: "Scope | None" = None

    @cached_property
    def aliases(self) -> dict[str, exp.Expression]:
        """Expressions by their alias: of this SELECT, and of those around where no source here has such a column."""
        aliases = dict(self._own_aliases)
        known = {name for of in self.sources.values() for name in self.graph.columns_of(of, virtual=True)}
        for name, node in self.outer.aliases.items() if self.outer else ():
            if name not in known:
                aliases.setdefault(name, node)
        return aliases

    @cached_property
    def _own_aliases(self) -> dict[str, exp.Expression]:
        """Expressions by the name that the WITH or the SELECT's list gives them."""
        aliases = {cte.alias: cte.this for cte in self.select.ctes if cte.args.get("scalar")}
        for node in self.select.find_all(exp.Alias):
            if node.parent_select is self.select:
                aliases.setdefault(node.alias, node.this)
        return aliases

    @cached_property
    def tables(self) -> dict[str, exp.Query]:
        """The SELECTs that the WITH gives a name."""
        named = {cte.alias: cte.this for cte in self.select.ctes if not cte.args.get("scalar")}
        return (self.outer.tables if self.outer else {}) | named

    @cached_property
    def sources(self) -> dict[str, "str | list[Scope]"]:
        """What the SELECT reads, by the name it goes by: an object's name, or the scopes of a subquery."""
        sources: dict[str, str | list[Scope]] = {}
        from_ = self.select.args.get("from_")
        nodes = [from_.this] if from_ else []
        nodes += [join.this for join in self.select.args.get("joins") or [] if join.args.get("kind") != "ARRAY"]
        for number, node in enumerate(nodes):
            node = node.this if isinstance(node, exp.Final) else node
            if isinstance(node, exp.Table):
                name = node.alias_or_name
                sources[name] = self._scopes(self.tables[node.name]) if node.name in self.tables else node.name
            elif isinstance(node, (exp.Subquery, exp.Query)):
                query = node.unnest() if isinstance(node, exp.Subquery) else node
                sources[node.alias or f"({number})"] = self._scopes(query)
        return sources

    def nested(self, select: exp.Select) -> "Scope":
        """Return the scope of a SELECT that stands somewhere within this one, or of this one itself."""
        if select is self.select:
            return self
        parent = select.parent_select
        return Scope(self.graph, select, self.nested(parent) if parent else None)

    def _scopes(self, query: exp.Query) -> "list[Scope]":
        return [Scope(self.graph, select, self) for select in selects_of(query)]

    @cached_property
    def columns(self) -> list[tuple[str, exp.Expression]]:
        """The SELECT's columns in order, with ``*`` written out."""
        columns: list[tuple[str, exp.Expression]] = []
        for node in self.select.expressions:
            star = node.this if isinstance(node, exp.Column) else node
            if isinstance(star, exp.Star):
                excluded = {identifier.name for identifier in star.args.get("except_") or star.args.get("except") or []}
                excluded |= {name for name, _ in columns}
                wanted = node.table if isinstance(node, exp.Column) else ""
                for source, of in self.sources.items():
                    if not wanted or source == wanted:
                        columns += [
                            (name, exp.column(name, source if isinstance(of, str) else None))
                            for name in self.graph.columns_of(of)
                            if name not in excluded
                        ]
            else:
                name = node.alias_or_name or node.sql(dialect="clickhouse")
                columns.append((name, node.this if isinstance(node, exp.Alias) else node))
        return columns

    @cached_property
    def outputs(self) -> dict[str, exp.Expression]:
        """The SELECT's columns by their names."""
        return dict(self.columns)

    def source_of(self, column: str, qualifier: str = "") -> "tuple[str, str | list[Scope]] | None":
        """Return the source that a column comes from, None if no source has it."""
        for name, of in self.sources.items():
            if (not qualifier or qualifier == name) and column in self.graph.columns_of(of, virtual=True):
                return name, of
        # An object that is in no file has columns we cannot know: take it, if it is the only one.
        if len(self.sources) == 1:
            [(name, of)] = self.sources.items()
            if isinstance(of, str) and (of not in self.graph.objects) and (not qualifier or qualifier == name):
                return name, of
        return None

    def trace(self, node: exp.Expression, active: frozenset[int] = frozenset(), role: Role = "value") -> Iterator[Leaf]:
        """Yield what an expression is made of, one step back: columns, topic fields, attributes, clocks.

        ``active`` are the ids of the expressions that are being followed, by whose names no alias is meant.
        """
        active |= {id(node)}
        if isinstance(node, exp.Column):
            yield from self._trace_column(node, active, role)
            return
        if isinstance(node, (exp.Subquery, exp.Query)):
            for scope in self._scopes(node.unnest() if isinstance(node, exp.Subquery) else node):
                for _, expression in scope.columns:
                    yield from scope.trace(expression, active, role)
            return
        name = function_name(node)
        if name.lower() in UNSTABLE:
            yield Leaf("", f"{name}()", "function")
        if called := dictionary_call(node):
            dictionary, attributes, key = called
            for attribute in attributes:
                yield Leaf(dictionary, attribute, role)
            for part in key:
                yield from self.trace(part, active, "key")
            return
        if name and (field_name := self._json_field(node)):
            yield Leaf(TOPIC, field_name, role)
            return
        if name == "tupleElement":
            given = arguments(node)
            if len(given) > 1 and isinstance(given[1], exp.Literal):
                yield from self.trace_element(given[0], given[1].name, active, role)
                return
        for child in node.iter_expressions():
            yield from self.trace(child, active, role)

    def _alias(self, name: str, active: frozenset[int]) -> "tuple[Scope, exp.Expression] | None":
        """Return what an alias stands for and the scope whose it is; None within its own definition."""
        if name not in self.aliases or id(self.aliases[name]) in active:
            return None
        scope = self
        while name not in scope._own_aliases:
            scope = scope.outer
        return scope, scope.aliases[name]

    def _trace_column(self, node: exp.Column, active: frozenset[int], role: Role) -> Iterator[Leaf]:
        qualifier, name = node.table, node.name
        if qualifier and qualifier not in self.sources:
            if alias := self._alias(qualifier, active):
                scope, whole = alias
                yield from scope.trace_element(whole, name, active, role)
                return
            dotted = f"{qualifier}.{name}"
            if not self.source_of(dotted):
                yield from self.trace_element(exp.column(qualifier), name, active, role)
                return
            name, qualifier = dotted, ""
        if not qualifier and (alias := self._alias(name, active)):
            scope, whole = alias
            yield from scope.trace(whole, active, role)
            return
        origin = self.source_of(name, qualifier)
        if origin is None:
            yield Leaf("?", name, role)
        elif isinstance(origin[1], str):
            yield Leaf(origin[1], name, role)
        else:
            for scope, expression in outputs_named(origin[1], name):
                yield from scope.trace(expression, active, role)

    def trace_element(
        self, whole: exp.Expression, element: str, active: frozenset[int] = frozenset(), role: Role = "value"
    ) -> Iterator[Leaf]:
        """Yield what one element of a tuple, or of each tuple of an array, is made of; all where it is unknown."""
        active |= {id(whole)}
        if isinstance(whole, exp.Column) and not whole.table and (alias := self._alias(whole.name, active)):
            scope, expression = alias
            yield from scope.trace_element(expression, element, active, role)
            return
        if called := dictionary_call(whole):
            dictionary, attributes, key = called
            if element.isdigit() and 0 < int(element) <= len(attributes):
                yield Leaf(dictionary, attributes[int(element) - 1], role)
                for part in key:
                    yield from self.trace(part, active, "key")
                return
        if function_name(whole).lower().startswith("jsonextract") and self._reads_message(arguments(whole)[0]):
            yield Leaf(TOPIC, _element_name(_tuple_names(arguments(whole)[-1].name), element), role)
            return
        if parts := elements_of(whole, element):
            for part in parts:
                yield from self.trace(part, active, role)
            return
        origin = self.source_of(whole.name, whole.table) if isinstance(whole, exp.Column) else None
        if origin and isinstance(origin[1], list):
            for scope, expression in outputs_named(origin[1], whole.name):
                yield from scope.trace_element(expression, element, active, role)
            return
        names = self.graph.element_names(origin[1], whole.name) if origin else []
        if (name := _element_name(names, element)) in names:
            yield Leaf(origin[1], f"{whole.name}.{name}", role)
            return
        yield from self.trace(whole, active, role)

    def _json_field(self, node: exp.Expression) -> str | None:
        name, given = function_name(node), arguments(node)
        if not _TYPED_JSON.match(name) or _WITHOUT_FIELD.match(name) or len(given) < 2:
            return None
        if not self._reads_message(given[0]):
            return None
        # The last literal of JSONExtract is the type; those before it are the way to the field.
        way = given[1:-1] if name.lower() in ("jsonextract", "jsonextractkeysandvalues") else given[1:]
        names = [literal.name for literal in way if isinstance(literal, exp.Literal)]
        return ".".join(names) or None

    def _reads_message(self, node: exp.Expression) -> bool:
        leaves = list(self.trace(node)) if isinstance(node, exp.Column) else []
        return len(leaves) == 1 and self.graph.is_message(leaves[0])


def outputs_named(scopes: list[Scope], name: str) -> Iterator[tuple[Scope, exp.Expression]]:
    """Yield what each SELECT of a UNION has for a column: they go by place, under the names of the first one."""
    names = [column for column, _ in scopes[0].columns] if scopes else []
    if name in names:
        place = names.index(name)
        for scope in scopes:
            if place < len(scope.columns):
                yield scope, scope.columns[place][1]


def elements_of(whole: exp.Expression, element: str) -> list[exp.Expression]:
    """Return one element, by name or number, of the tuples that an expression spells out; nothing for any other."""
    if isinstance(whole, exp.Tuple):
        parts = enumerate(whole.expressions, start=1)
        return [part.unalias() for number, part in parts if element in (str(number), part.alias)]
    if isinstance(whole, exp.Array):
        return [part for inner in whole.expressions for part in elements_of(inner, element)]
    wrapped = isinstance(whole, exp.Explode | exp.Paren | exp.Cast | exp.CastToStrType)
    if wrapped or _GATHERS.fullmatch(function_name(whole)):
        return elements_of(next(whole.iter_expressions()), element)
    return []


def _element_name(names: list[str], element: str) -> str:
    """Return the name of a tuple's element that may be said by its number."""
    return names[int(element) - 1] if element.isdigit() and 0 < int(element) <= len(names) else element


def _tuple_names(type_text: str) -> list[str]:
    name, parts = taken_apart(type_text)
    name, parts = taken_apart(parts[0]) if name == "Nullable" else (name, parts)
    return [element_of(part)[0] for part in parts] if name == "Tuple" else []


def selects_of(query: exp.Expression) -> list[exp.Select]:
    """Return the SELECTs of a query: one, or those that a UNION puts together."""
    if isinstance(query, exp.SetOperation):
        return selects_of(query.left) + selects_of(query.right)
    if isinstance(query, exp.Subquery):
        return selects_of(query.this)
    return [query] if isinstance(query, exp.Select) else []


@dataclass(frozen=True, eq=False)
class Graph:
    """All objects by name, and the files that could not be read."""

    objects: dict[str, SchemaObject]
    unreadable: tuple[Unreadable, ...] = ()
    _makings: dict[tuple[str, str], list[Making]] = field(default_factory=dict)
    _scopes: dict[str, list[Scope]] = field(default_factory=dict)

    @cached_property
    def unread(self) -> set[str]:
        """The names of objects that are in files which cannot be read: there, but with what columns nobody knows."""
        return {unreadable.name for unreadable in self.unreadable}

    def scopes(self, name: str) -> list[Scope]:
        """Return the SELECTs of a view, none for any other object."""
        if name not in self._scopes:
            query = self.objects[name].query if name in self.objects else None
            self._scopes[name] = [Scope(self, select) for select in selects_of(query)] if query else []
        return self._scopes[name]

    def columns_of(self, source: "str | list[Scope]", virtual: bool = False) -> list[str]:
        """Return the columns of an object or subquery; with ``virtual``, those of a Kafka table that are unsaid too."""
        if not isinstance(source, str):
            return list(source[0].outputs) if source else []
        schema_object = self.objects.get(source)
        if schema_object is None:
            return []
        if schema_object.query is not None and not schema_object.definitions:
            return list(self.scopes(source)[0].outputs)
        return [*schema_object.types, *(KAFKA_COLUMNS if virtual and schema_object.is_kafka else ())]

    def element_names(self, name: str, column: str) -> list[str]:
        """Return the names within a column of tuples, or arrays of them: declared, or as a view takes it over."""
        schema_object = self.objects.get(name)
        if schema_object is None or schema_object.query is None or schema_object.definitions:
            return schema_object.elements.get(column, []) if schema_object else []
        for scope, expression in outputs_named(self.scopes(name), column):
            source = scope.source_of(expression.name, expression.table) if isinstance(expression, exp.Column) else None
            if source and isinstance(source[1], str) and (names := self.element_names(source[1], expression.name)):
                return names
        return []

    def leaves_of(self, name: str) -> list[Leaf]:
        """Return the columns of an object, those of tuples element by element."""
        return [
            Leaf(name, part)
            for column in self.columns_of(name)
            for part in [f"{column}.{element}" for element in self.element_names(name, column)] or [column]
        ]

    def type_of(self, leaf: Leaf) -> str:
        """Return the declared type of a table's or dictionary's column, ``""`` where no file declares it."""
        schema_object = self.objects.get(leaf.object)
        if schema_object is None:
            return ""
        if schema_object.is_kafka and leaf.column in KAFKA_COLUMNS:
            return KAFKA_COLUMNS[leaf.column][0]
        return schema_object.types.get(leaf.column, "")

    def reads(self, name: str) -> list[str]:
        """Return the objects that a view's SELECT names anywhere, or that a dictionary is loaded from.

        Of an object whose file cannot be read, none.
        """
        schema_object = self.objects.get(name)
        if schema_object is None or (schema_object.kind != "dictionary" and schema_object.query is None):
            return []
        if schema_object.kind == "dictionary":
            return [schema_object.dictionary_source] if schema_object.dictionary_source else []
        named = {cte.alias for cte in schema_object.query.find_all(exp.CTE)}
        tables = [node.name for node in schema_object.query.find_all(exp.Table) if node.name and node.name not in named]
        return list(dict.fromkeys(tables))

    def rows_of(self, name: str) -> list[str]:
        """Return the objects whose rows a view or dictionary takes; those asked in a filter or for a value are none."""
        if self.objects[name].kind == "dictionary":
            return self.reads(name)
        rows: dict[str, None] = {}
        waiting = list(self.scopes(name))
        while waiting:
            for source in waiting.pop(0).sources.values():
                if isinstance(source, str):
                    rows[source] = None
                else:
                    waiting += source
        return list(rows)

    def trigger_of(self, name: str) -> str | None:
        """Return the table whose blocks a materialized view runs with: the leftmost one of its FROM."""
        view = self.objects[name]
        if view.kind != "materialized view" or view.is_refreshed:
            return None
        scopes = self.scopes(name)
        while scopes:
            sources = list(scopes[0].sources.values())
            if not sources:
                return None
            if isinstance(sources[0], str):
                return sources[0]
            scopes = sources[0]
        return None

    @cached_property
    def ingest_views(self) -> list[str]:
        """The materialized views that a message passes through, from a Kafka table on, each after what feeds it."""
        reached = [name for name, queue in self.objects.items() if queue.is_kafka]
        views: list[str] = []
        for source in reached:
            for name, view in sorted(self.objects.items()):
                if name not in views and self.trigger_of(name) == source:
                    views.append(name)
                    if view.target and view.target not in reached:
                        reached.append(view.target)
        return views

    def writers_of(self, table: str) -> list[str]:
        """Return the materialized views that write to a table."""
        return [name for name, view in sorted(self.objects.items()) if view.target == table and name != table]

    def is_message(self, leaf: Leaf) -> bool:
        """Return whether a column holds the message itself, as it came from the topic."""
        seen: set[Leaf] = set()
        while leaf not in seen:
            seen.add(leaf)
            holder = self.objects.get(leaf.object)
            if holder is None:
                return (leaf.object, leaf.column) == (TOPIC, WHOLE_MESSAGE)
            if holder.is_kafka:
                return holder.settings.get("kafka_format", "").lower() in RAW_FORMATS and leaf.column in holder.types
            makings = self.makings(leaf.object, leaf.column)
            if len(makings) != 1 or len(makings[0].leaves) != 1 or not re.fullmatch(r"[\w.]+", makings[0].expression):
                return False
            leaf = makings[0].leaves[0]
        return False

    def makings(self, name: str, column: str) -> list[Making]:
        """Return in which ways a column of an object comes about; nothing where it is written from outside."""
        if (name, column) not in self._makings:
            self._makings[name, column] = []  # until it is known, for tables that feed each other in a circle
            self._makings[name, column] = self._find_makings(name, column)
        return self._makings[name, column]

    def _find_makings(self, name: str, column: str) -> list[Making]:
        schema_object = self.objects.get(name)
        if schema_object is None:
            return []
        if schema_object.is_kafka:
            what = KAFKA_COLUMNS[column][1] if column in KAFKA_COLUMNS else column
            if column in schema_object.types and schema_object.settings.get("kafka_format", "").lower() in RAW_FORMATS:
                what = WHOLE_MESSAGE
            return [Making(name, "", (Leaf(TOPIC, what),))]
        if schema_object.kind == "dictionary":
            source = schema_object.dictionary_source
            return [Making(name, "", (Leaf(source, column),))] if source else []
        views = [name] if schema_object.query is not None and not schema_object.definitions else self.writers_of(name)
        whole, _, element = column.rpartition(".")
        names = self.element_names(name, whole)
        makings = [
            _element_making(view, scope, expression, names, element)
            if element in names
            else Making(view, _plain(expression), _unique(scope.trace(expression)))
            for view in views
            for scope, expression in outputs_named(self.scopes(view), whole if element in names else column)
        ]
        if not makings and column in schema_object.defaults:
            default = schema_object.defaults[column]
            leaves = [Leaf(name, node.name) for node in default.find_all(exp.Column)]
            clocks = [
                Leaf("", f"{function_name(node)}()", "function")
                for node in default.walk()
                if function_name(node).lower() in UNSTABLE
            ]
            makings.append(Making(name, _plain(default), _unique(iter([*leaves, *clocks]))))
        return makings

    def origins(self, name: str, column: str) -> dict[Leaf, None]:
        """Return everything that a column is made of, back to the topic, the loaded tables and the clocks."""
        origins: dict[Leaf, None] = {}
        waiting = [Leaf(name, column)]
        while waiting:
            leaf = waiting.pop()
            makings = self.makings(leaf.object, leaf.column) if leaf.role != "function" else []
            for part in [part for making in makings for part in making.leaves]:
                is_of_key = leaf.role == "key" and part.role == "value"  # what a key is made of is a key too
                origin = replace(part, role="key") if is_of_key else part
                if origin not in origins:
                    origins[origin] = None
                    waiting.append(origin)
        return origins


def _element_making(view: str, scope: Scope, whole: exp.Expression, names: list[str], element: str) -> Making:
    # What a view writes goes into a tuple by place, whatever it calls the parts.
    number = str(names.index(element) + 1)
    spelled = [_plain(part) for part in elements_of(whole, number)] or [f"{_plain(whole)}.{element}"]
    return Making(view, ", ".join(spelled), _unique(scope.trace_element(whole, number)))


def _plain(node: exp.Expression) -> str:
    """Return an expression for people to read: what sqlglot writes otherwise than it is written here, as here."""

    def text(part: exp.Expression) -> str:
        return part.sql(dialect="clickhouse", comments=False)

    spelled = node.copy()
    # sqlglot's compiled generator has no subclasses. Those within others first; a Var is written as it is, unquoted.
    for part in reversed(list(spelled.find_all(exp.If, exp.NEQ))):
        if isinstance(part, exp.NEQ):
            var = exp.Var(this=f"{text(part.left)} != {text(part.right)}")
        else:
            values = filter(None, [part.this, part.args.get("true"), part.args.get("false")])
            var = exp.Var(this=f"if({', '.join(map(text, values))})")
        spelled = var if part is spelled else spelled
        part.replace(var)
    return " ".join(text(spelled).split())


def _unique(leaves: Iterator[Leaf]) -> tuple[Leaf, ...]:
    return tuple(dict.fromkeys(leaves))


def read_graph(root: Path | None = None) -> Graph:
    """Read the files of ``sql/`` and ``dictionaries/`` under a folder. What cannot be read is in ``unreadable``."""
    objects: dict[str, SchemaObject] = {}
    unreadable: list[Unreadable] = []
    root = root or project_folder()
    for path in sorted([*root.glob("sql/**/*.sql"), *root.glob("dictionaries/**/*.sql")]):
        name = path.relative_to(root).as_posix()
        try:
            schema_object = read_object(path.read_text(encoding="utf-8-sig"), name)
        except UnicodeDecodeError:
            unreadable.append(Unreadable(name, "it is no UTF-8 text", "Save it as UTF-8."))
            continue
        if isinstance(schema_object, Unreadable):
            unreadable.append(schema_object)
        elif schema_object.name in objects:
            cause = f"{objects[schema_object.name].path} has an object of the same name"
            unreadable.append(Unreadable(name, cause, "Remove one of the two."))
        else:
            objects[schema_object.name] = schema_object
    for name in [name for name, view in objects.items() if view.kind == "view" and _reads_itself(name, objects)]:
        unreadable.append(Unreadable(objects.pop(name).path, "it reads itself", "Break the circle."))
    return Graph(objects, tuple(unreadable))


def _reads_itself(name: str, objects: dict[str, SchemaObject]) -> bool:
    graph, reached = Graph(objects), [name]
    for reader in reached:
        read = graph.reads(reader) if objects[reader].kind == "view" else []
        if name in read:
            return True
        reached += [other for other in read if other in objects and other not in reached]
    return False


@lru_cache(maxsize=256)  # parsing is most of what reading costs, and nobody changes what was read
def read_object(text: str, path: str) -> SchemaObject | Unreadable:
    """Read one file's text. Never raises on what stands in it."""
    try:
        trees = [tree for tree in sqlglot.parse(text, dialect="clickhouse") if tree is not None]
    except (SqlglotError, RecursionError) as error:
        return Unreadable(path, f"it cannot be parsed: {_first_line(error)}", "Correct the statement.", text)
    if len(trees) != 1:
        count = "no statement" if not trees else f"{len(trees)} statements"
        return Unreadable(path, f"it has {count}", "Write one CREATE a file.")
    [tree] = trees
    if isinstance(tree, exp.Command) and tree.name.upper() == "CREATE":
        return Unreadable(path, "it cannot be parsed", "Correct the statement.", text)
    if not isinstance(tree, exp.Create) or tree.kind not in ("TABLE", "VIEW", "DICTIONARY"):
        return Unreadable(path, "it is no CREATE that can be understood", "Write one complete CREATE.")
    kind = tree.kind.lower()
    if kind == "view" and tree.find(exp.MaterializedProperty):
        kind = "materialized view"
    table = tree.this.this if isinstance(tree.this, exp.Schema) else tree.this
    stem = path.rsplit("/", 1)[-1].removesuffix(".sql")
    if table.name != stem:
        return Unreadable(path, f"its object is named {table.name}", f"Rename the file to {table.name}.sql.")
    schema_object = SchemaObject(table.name, kind, path, text, tree)
    if cause := _half_written(schema_object):
        return Unreadable(path, cause, "Finish the statement.")
    return schema_object


def _half_written(schema_object: SchemaObject) -> str | None:
    """Return what sqlglot takes for a whole statement and the engine does not."""
    if "view" in schema_object.kind:
        if schema_object.query is None:
            return "it has no SELECT"
        if any(not select.expressions for select in schema_object.query.find_all(exp.Select)):
            return "it has a SELECT without columns"
    elif schema_object.kind == "table" and not schema_object.engine:
        return "it has no ENGINE"
    return None


def _first_line(error: BaseException) -> str:
    # sqlglot underlines the place with escape sequences on further lines.
    return str(error).splitlines()[0].rstrip(". ")
