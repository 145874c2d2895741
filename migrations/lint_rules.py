"""The rules that views and tables of an ingest pipeline keep, each with its reason.

A rule looks at the graph of the files and yields what breaks it. It knows nothing of waivers.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sqlglot import exp

from paystream.migrations.lint_types import declared_type, holds_text
from paystream.migrations.schema_graph import (
    UNSTABLE,
    Graph,
    Leaf,
    SchemaObject,
    Scope,
    dictionary_call,
    function_name,
    type_text,
)
from paystream.migrations.types import holds, is_text


@dataclass(frozen=True)
class Broken:
    """One place where a rule is broken: in which object, at which line of its file, how, and the way out."""

    object: SchemaObject
    line: int
    cause: str
    what_next: str


@dataclass(frozen=True)
class Rule:
    """A rule: its id, why it is one, and what looks for it."""

    id: str
    reason: str
    check: Callable[[Graph], Iterator[Broken]]


def _line(schema_object: SchemaObject, *nodes: exp.Expression | None) -> int:
    """Return the line that the first of the nodes with a known place begins at, else that of the CREATE."""
    for node in nodes:
        lines = [placed.meta["line"] for placed in node.walk() if "line" in placed.meta] if node is not None else []
        if lines:
            return min(lines)
    for number, line in enumerate(schema_object.text.splitlines(), start=1):
        if re.match(r"\s*CREATE\b", line, re.IGNORECASE):
            return number
    return 1


def _selects(graph: Graph, name: str) -> Iterator[Scope]:
    """Yield every SELECT of a view, however deep."""
    for scope in graph.scopes(name):
        for select in scope.select.find_all(exp.Select):
            yield scope.nested(select)


def _nodes(graph: Graph, name: str) -> Iterator[tuple[Scope, exp.Expression]]:
    """Yield every expression of a view with the SELECT that it stands in."""
    for scope in _selects(graph, name):
        yield from ((scope, node) for node in scope.select.walk() if node.parent_select is scope.select)


def _views(graph: Graph) -> Iterator[SchemaObject]:
    for _, schema_object in sorted(graph.objects.items()):
        if schema_object.query is not None:
            yield schema_object


def _said(node: exp.Expression) -> str:
    text = " ".join(node.sql(dialect="clickhouse", comments=False).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


CANNOT_ERR = frozenset({"rawblob", "lineasstring"})
"""Formats, in lower case, that take any bytes."""


def kafka_errors(graph: Graph) -> Iterator[Broken]:
    for name, queue in sorted(graph.objects.items()):
        form = queue.settings.get("kafka_format", "")
        if not queue.is_kafka or form.lower() in CANNOT_ERR:
            continue
        what = f"format {form}" if form else "the format of its named collection"
        mode = queue.settings.get("kafka_handle_error_mode", "default").lower()
        if mode == "default":
            skipped = queue.settings.get("kafka_skip_broken_messages", "0") != "0"
            outcome = "is skipped without a trace" if skipped else "stops all ingest"
            yield Broken(
                queue,
                _line(queue),
                f"a message that {what} can't parse {outcome}",
                "Set kafka_handle_error_mode = 'stream' and let each view filter by _error",
            )
        if mode != "stream":
            continue
        for view in _views(graph):
            for scope in _selects(graph, view.name):
                if name not in scope.sources.values():
                    continue
                filters = [scope.select.args.get(clause) for clause in ("where", "prewhere")]
                named = [node.name for clause in filters if clause is not None for node in clause.find_all(exp.Column)]
                if "_error" not in named:
                    yield Broken(
                        view,
                        _line(view, scope.select.args.get("from_")),
                        f"it takes messages of {name} that {what} couldn't parse for good ones, all empty",
                        "Add WHERE length(_error) = 0",
                    )


_THROWS = re.compile(
    r"(to(U?Int\d+|Float\d+|BFloat16|Decimal\d+|Date(32|Time|Time32|Time64)?|UUID|IPv[46]|Bool|Time(64)?|FixedString)"
    r"|parse(DateTime\w*|ReadableSize|TimeDelta)|accurateCast|IPv[46]StringToNum|base64Decode|base58Decode|DATE)",
    re.IGNORECASE,
)
_HARMLESS = re.compile(r"\w+Or(Null|Zero|Default)", re.IGNORECASE)


def throwing_conversion(graph: Graph) -> Iterator[Broken]:
    for name in graph.ingest_views:
        view = graph.objects[name]
        for scope, node in _nodes(graph, name):
            called = function_name(node)
            given, safe = _throwing(node, called)
            if called.lower() == "throwif":
                yield Broken(
                    view, _line(view, node), f"{_said(node)} stops all ingest when it is true", "Refuse the row instead"
                )
            elif given is not None and holds_text(scope, given):
                cause = f"{_said(node)} throws on a text of another form, and that stops all ingest"
                yield Broken(view, _line(view, node, given), cause, f"Take {safe}")


def _throwing(node: exp.Expression, called: str) -> tuple[exp.Expression | None, str]:
    """Return what a conversion that can throw is given, and what to take instead; None for anything else."""
    if isinstance(node, (exp.Cast, exp.CastToStrType)):
        kind = node.args["to"].name if isinstance(node, exp.CastToStrType) else type_text(node.args["to"])
        return (None, "") if is_text(kind) and "Fixed" not in kind else (node.this, f"accurateCastOrNull(…, '{kind}')")
    if _THROWS.fullmatch(called) and not _HARMLESS.fullmatch(called):
        given = next(iter(node.iter_expressions()), None)
        safe = {"accuratecast": "accurateCastOrNull", "date": "toDateOrNull", "base64decode": "tryBase64Decode"}
        safe |= {"base58decode": "tryBase58Decode", "tofixedstring": "a String, or a comparison of its length"}
        return given, safe.get(called.lower(), f"{called}OrNull or {called}OrZero")
    return None, ""


def dictionary_unknown(graph: Graph) -> Iterator[Broken]:
    for view, node, name, attributes in _dictionary_calls(graph):
        dictionary = graph.objects.get(name)
        if name in graph.unread:
            continue
        if dictionary is None or dictionary.kind != "dictionary":
            yield Broken(
                view, _line(view, node), f"there is no dictionary {name}", "Correct the name, or write its file"
            )
            continue
        for attribute in attributes:
            if attribute not in dictionary.types:
                known = ", ".join(dictionary.types)
                yield Broken(view, _line(view, node), f"{name} has no attribute {attribute}", f"Choose one of {known}")


_SAYS_MISSING = re.compile(r"dictGet\w*Or(Null|Default)|dictGet(Hierarchy|Children|Descendants|All)\w*", re.IGNORECASE)


def dictionary_silent_zero(graph: Graph) -> Iterator[Broken]:
    for view, node, *_ in _dictionary_calls(graph):
        called = function_name(node)
        if called.lower().startswith("dictget") and not _SAYS_MISSING.fullmatch(called):
            cause = f"{_said(node)} gives 0 or '' for a key that is not there, as if that were its value"
            yield Broken(view, _line(view, node), cause, "Take dictGetOrNull, or dictGetOrDefault where one is right")


def _dictionary_calls(graph: Graph) -> Iterator[tuple[SchemaObject, exp.Expression, str, list[str]]]:
    """Yield every call of a view on a dictionary, with the dictionary's name and the attributes."""
    for view in _views(graph):
        for _, node in _nodes(graph, view.name):
            if called := dictionary_call(node):
                yield view, node, called[0], called[1]


def ingest_join(graph: Graph) -> Iterator[Broken]:
    for name in graph.ingest_views:
        view = graph.objects[name]
        joined: set[exp.Expression] = set()
        for scope in _selects(graph, name):
            for join in scope.select.args.get("joins") or []:
                if join.args.get("kind") != "ARRAY":
                    joined |= set(join.find_all(exp.Table))
                    yield Broken(
                        view,
                        _line(view, join),
                        f"{_said(join)} reads the whole other side again with every block",
                        "Make it a dictionary and take dictGetOrNull",
                    )
        ours = {cte.alias for cte in view.query.find_all(exp.CTE)} | {graph.trigger_of(name)}
        for table in view.query.find_all(exp.Table):
            if table.name not in ours and table not in joined:
                yield Broken(
                    view,
                    _line(view, table),
                    f"it reads {table.name} beside the block that it runs with, whole and again with every block",
                    "Make it a dictionary and take dictGetOrNull",
                )


_MERGES_ROWS = re.compile(
    r"(Replicated|Shared)?(Replacing|Summing|Aggregating|Collapsing|VersionedCollapsing)MergeTree"
)


def unstable_key(graph: Graph) -> Iterator[Broken]:
    for name, table in sorted(graph.objects.items()):
        if not table.engine.endswith("MergeTree"):
            continue
        seen: set[tuple[str, str]] = set()
        for clause, key in table.key_expressions:
            for node in key.walk():
                if (called := function_name(node)).lower() in UNSTABLE:
                    cause = f"{called}() in its {clause} gives the same message another key when it comes again"
                    yield Broken(table, _line(table, node), cause, "Sort and partition by what the message says")
            columns = {identifier.name for identifier in key.find_all(exp.Identifier)} & set(graph.columns_of(name))
            for column in sorted(columns):
                yield from _unstable_column(graph, table, clause, Leaf(name, column), seen)


def _unstable_column(
    graph: Graph, keyed: SchemaObject, clause: str, leaf: Leaf, seen: set[tuple[str, str]]
) -> Iterator[Broken]:
    for making in graph.makings(leaf.object, leaf.column):
        by = graph.objects[making.by]
        if by.kind == "dictionary" or (making.by, leaf.column) in seen:
            continue
        seen.add((making.by, leaf.column))
        # A row that is written once and merged with no other may say when that was; and to a view that is refreshed no
        # message comes again.
        harmless = by.is_refreshed or (by.kind == "table" and not _MERGES_ROWS.fullmatch(keyed.engine))
        for part in making.leaves:
            if part.role == "function" and not harmless:
                yield Broken(
                    by,
                    _line(by, *_defining(graph, by, leaf.column)),
                    f"its {leaf.column} is made of {part.column} and is in the {clause} of {keyed.name}, "
                    "so the same message has another key when it comes again",
                    "Sort and partition by what the message says",
                )
            elif part.role != "function" and part.object in graph.objects:
                yield from _unstable_column(graph, keyed, clause, Leaf(part.object, part.column), seen)


def _defining(graph: Graph, schema_object: SchemaObject, column: str) -> list[exp.Expression]:
    if column in schema_object.definitions:
        return [schema_object.definitions[column]]
    return [scope.outputs[column] for scope in graph.scopes(schema_object.name) if column in scope.outputs]


def _targets(graph: Graph) -> Iterator[tuple[SchemaObject, SchemaObject | None]]:
    for view in _views(graph):
        unread = graph.unread & {*graph.reads(view.name), view.target}
        if view.target and view.target != view.name and not unread:
            yield view, graph.objects.get(view.target)


def view_columns(graph: Graph) -> Iterator[Broken]:
    for view, target in _targets(graph):
        if target is None:
            yield Broken(view, _line(view), f"there is no table {view.target} to write to", "Correct the name after TO")
            continue
        for scope in graph.scopes(view.name):
            for name, node in scope.outputs.items():
                if name not in target.types:
                    cause = f"{target.name} has no column {name[:60]}, so what it holds is dropped"
                    yield Broken(view, _line(view, node), cause, "Name it as the table does, with AS, or leave it out")
                elif isinstance(kept := target.definitions[name].find(exp.ComputedColumnConstraint), exp.Expression):
                    kind = "ALIAS" if kept.args.get("persisted") is False else "MATERIALIZED"
                    cause = f"column {name} of {target.name} is {kind}: it can't be written"
                    yield Broken(view, _line(view, node), cause, "Leave it out")
            missing = [name for name in target.types if name not in scope.outputs and name not in target.defaults]
            if missing:
                cause = f"it leaves {', '.join(missing)} of {target.name} unsaid, and 0 or '' is stored"
                yield Broken(view, _line(view), cause, "Select them, or give them a DEFAULT")


def repair_columns(graph: Graph) -> Iterator[Broken]:
    for view in graph.objects.values():
        target = graph.objects.get(view.name.removesuffix("_to_repair"))
        if view.query is None or target is None or target is view or graph.unread & set(graph.reads(view.name)):
            continue
        missing = [
            name
            for name in target.types
            if name not in graph.columns_of(view.name)
            and not target.definitions[name].find(exp.ComputedColumnConstraint)
        ]
        if missing:
            cause = f"it leaves out {', '.join(missing)} of {target.name}: blank in every row that a repair writes"
            yield Broken(view, _line(view), cause, "Select them from the stored row")


def view_types(graph: Graph) -> Iterator[Broken]:
    for view, target in _targets(graph):
        for scope in graph.scopes(view.name) if target else []:
            for name, node in scope.outputs.items():
                said = declared_type(scope, node, frozenset({name}) if isinstance(node, exp.Column) else frozenset())
                wanted = target.types.get(name, "")
                if said and wanted and not holds(wanted, said):
                    yield broken_type(view, target, name, said, node)


def broken_type(
    view: SchemaObject, target: SchemaObject, column: str, said: str, node: exp.Expression | None
) -> Broken:
    """Return what is said of a view's column whose type does not go into the table's."""
    wanted = target.types[column]
    cause = f"its {column} is {said} and that of {target.name} {wanted}: values are changed or refused on the way"
    if said.startswith("Nullable") and not wanted.startswith("Nullable"):
        cause = f"its {column} is {said} and that of {target.name} {wanted}: a NULL stops all that feeds it"
    return Broken(view, _line(view, node), cause, "Convert it in the view, with a form that can't throw")


_ADDS_UP = re.compile(r"(Replicated|Shared)?SummingMergeTree")
_MERGES_STATES = re.compile(r"(Replicated|Shared)?AggregatingMergeTree")
# The same again changes nothing.
_IDEMPOTENT = re.compile(
    r"(simple)?(min|max|any\w*|first_value|last_value|argMin|argMax|uniq\w*|groupUniqArray|groupBit(And|Or)|bit_(and|or)\w*|"
    r"any_value|approxDistinct|approx_distinct|boundingRatio)(If|State|SimpleState|Merge|OrNull|OrDefault|Distinct)*",
    re.IGNORECASE,
)


def summing_target(graph: Graph) -> Iterator[Broken]:
    for name in graph.ingest_views:
        view = graph.objects[name]
        target = view if view.target == name else graph.objects.get(view.target or "")
        engine = target.engine if target else ""
        adding = next((node for scope in _selects(graph, name) for node in _adding(scope)), None)
        advice = "Make it of the deduplicated rows, as a view that is asked or refreshed"
        if _ADDS_UP.fullmatch(engine):
            cause = f"{target.name} adds up what it is given, and Kafka delivers again after a crash: counted twice"
            yield Broken(view, _line(view), cause, advice)
        elif adding is not None:
            where = f" of {target.name}" if target and _MERGES_STATES.fullmatch(engine) else ""
            cause = f"{_said(adding)}{where} counts what Kafka delivers again after a crash a second time"
            yield Broken(view, _line(view, adding), cause, advice)
        elif _MERGES_STATES.fullmatch(engine) and any(
            column.startswith(("SimpleAggregateFunction(sum", "AggregateFunction(sum", "AggregateFunction(count"))
            for column in target.types.values()
        ):
            cause = f"{target.name} adds up what it is given, and Kafka delivers again after a crash: counted twice"
            yield Broken(view, _line(view), cause, advice)


def _adding(scope: Scope) -> Iterator[exp.Expression]:
    for node in scope.select.find_all(exp.AggFunc, exp.CombinedAggFunc, exp.AnonymousAggFunc, exp.ParameterizedAgg):
        if node.parent_select is not scope.select or isinstance(node.parent, (exp.Window, exp.AggFunc)):
            continue
        if not _IDEMPOTENT.fullmatch(function_name(node)):
            yield node


def queue_select(graph: Graph) -> Iterator[Broken]:
    queues = {name for name, queue in graph.objects.items() if queue.is_kafka}
    for name, schema_object in sorted(graph.objects.items()):
        advice = "Read the table that the ingest views fill"
        if schema_object.kind == "dictionary" and schema_object.dictionary_source in queues:
            cause = f"loading it from {schema_object.dictionary_source} takes messages away from ingest"
            yield Broken(schema_object, _line(schema_object), cause, advice)
        if schema_object.query is None:
            continue
        trigger, triggered = graph.trigger_of(name), False
        for table in schema_object.query.find_all(exp.Table):
            if table.name not in queues:
                continue
            if table.name == trigger and not triggered:
                triggered = True  # the block that the view runs with
                continue
            cause = f"its SELECT on {table.name} takes messages away from ingest"
            yield Broken(schema_object, _line(schema_object, table), cause, advice)


RULES = (
    Rule(
        "kafka-errors",
        "A message that the format can't parse stops the whole table, or comes as a row of empty columns.",
        kafka_errors,
    ),
    Rule(
        "throwing-conversion",
        "A view that throws stops all ingest: its block comes again and again, and the views beside it get nothing.",
        throwing_conversion,
    ),
    Rule(
        "dictionary-unknown",
        "A dictGet on a dictionary or an attribute that is not there throws with the first block.",
        dictionary_unknown,
    ),
    Rule(
        "dictionary-silent-zero",
        "dictGet gives 0 or '' for a missing key: a rate of zero, and with it an amount of zero, that nobody notices.",
        dictionary_silent_zero,
    ),
    Rule(
        "ingest-join",
        "A join runs again with every block, reads all of its other side, and misses what comes there later.",
        ingest_join,
    ),
    Rule(
        "unstable-key",
        "Kafka delivers again after a crash; a key of now() or a random value makes the second copy a separate row.",
        unstable_key,
    ),
    Rule(
        "view-columns",
        "Columns go from view to table by name: one that is misspelled is dropped, and a default stands in its place.",
        view_columns,
    ),
    Rule(
        "repair-columns",
        "A repair writes whole rows in place of the stored ones: what its view leaves out is lost.",
        repair_columns,
    ),
    Rule(
        "view-types",
        "A value that the table's type can't hold is cut, wraps round, or throws and stops all ingest.",
        view_types,
    ),
    Rule(
        "summing-target",
        "A sum counts a redelivered message again, and nothing corrects it.",
        summing_target,
    ),
    Rule(
        "queue-select",
        "Reading a Kafka table takes messages from its consumer group: they never reach the ingest views.",
        queue_select,
    ),
)
"""Every rule that can be waived."""
