"""What each column is made of, from the topic's field to the report's column, and what is made of it."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property

from paystream.errors import UsageError
from paystream.migrations.schema_graph import TOPIC, Graph, Leaf, SchemaObject


@dataclass(frozen=True)
class Step:
    """One column and how it is computed from those before it.

    ``by`` is the view, dictionary or table that makes it; for what comes from outside, who writes it. A value is made
    ``of`` columns and ``found_by`` others, the key that a dictionary is asked with. ``clocks`` are functions such as
    ``now64()``.
    """

    column: str
    by: str
    expression: str
    of: tuple[str, ...] = ()
    found_by: tuple[str, ...] = ()
    clocks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Summary:
    """What a column is made of in the end. ``tables`` are columns that no object of the schema writes."""

    column: str
    fields: tuple[str, ...]
    dictionaries: tuple[str, ...]
    tables: tuple[str, ...]
    found_by: tuple[str, ...]
    clocks: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Lineage:
    """The steps of all columns of a schema."""

    graph: Graph

    @cached_property
    def steps(self) -> dict[str, list[Step]]:
        """Every step by its column, each after those that it is made of."""
        steps: dict[str, list[Step]] = {}
        for name, schema_object in self.graph.objects.items():
            # An ingest view is no place that holds anything: what it makes stands in its table.
            if schema_object.target in (None, name):
                for leaf in self.graph.leaves_of(name):
                    self._add(leaf, steps)
        return steps

    def _add(self, leaf: Leaf, steps: dict[str, list[Step]]) -> None:
        if leaf.role == "function" or str(leaf) in steps:
            return
        steps[str(leaf)] = []  # before its parts, in case that a column is made of itself
        makings = self.graph.makings(leaf.object, leaf.column)
        for making in makings:
            for part in making.leaves:
                self._add(part, steps)
        # To its place behind its parts.
        del steps[str(leaf)]
        steps[str(leaf)] = [
            Step(
                str(leaf),
                making.by,
                making.expression,
                tuple(str(part) for part in making.leaves if part.role == "value"),
                tuple(str(part) for part in making.leaves if part.role == "key"),
                tuple(str(part) for part in making.leaves if part.role == "function"),
            )
            for making in makings
        ] or [Step(str(leaf), self._writer(leaf), "")]

    def _writer(self, leaf: Leaf) -> str:
        if leaf.object == TOPIC:
            return "producers of the topic"
        schema_object = self.graph.objects.get(leaf.object)
        return (schema_object.comment("Written by:") if schema_object else "") or "outside"

    @cached_property
    def _place(self) -> dict[str, int]:
        return {column: number for number, column in enumerate(self.steps)}

    @cached_property
    def uses(self) -> dict[str, list[str]]:
        """The columns that each column goes into, directly."""
        uses: dict[str, list[str]] = {}
        for column, steps in self.steps.items():
            for step in steps:
                for part in dict.fromkeys((*step.of, *step.found_by)):
                    uses.setdefault(part, []).append(column)
        return uses

    def columns_named(self, text: str) -> list[str]:
        """Return the columns that are meant by ``table.column`` or by a column's name alone; ``topic`` is a table too.

        The name of a table, or of a tuple whose elements are columns of their own, means all of them.

        Raises:
            UsageError: there is none; the error has names that are near.
        """
        wanted = text.strip().strip("`")
        columns = [column for column in self.steps if column == wanted]
        columns = columns or [column for column in self.steps if column.endswith(f".{wanted}")]
        columns = columns or [column for column in self.steps if f".{wanted}." in f".{column}"]
        if columns:
            return columns
        bare = {column.split(".", 1)[-1] for column in self.steps}
        near = get_close_matches(wanted, [*self.steps], n=3) if "." in wanted else []
        near = near or get_close_matches(wanted.split(".", 1)[-1], sorted(bare), n=3, cutoff=0.5)
        advice = f"Did you mean {', '.join(near)}?" if near else "List all with `paystream migrate lineage`."
        raise UsageError(f"Column '{wanted}' is in no file of sql/ and dictionaries/. {advice}")

    def before(self, columns: Iterable[str]) -> list[Step]:
        """Return the steps to some columns, theirs included: the topic's first, each after what it is made of."""
        reached = self._reached(columns, lambda column: [part for step in self.steps[column] for part in _parts(step)])
        ordered = sorted(reached, key=lambda column: (not column.startswith(f"{TOPIC}."), self._place[column]))
        return [step for column in ordered for step in self.steps[column]]

    def after(self, columns: Iterable[str]) -> list[str]:
        """Return the columns that some columns go into, at any remove, without themselves."""
        start = set(columns)
        reached = self._reached(start, lambda column: self.uses.get(column, []))
        return sorted(reached - start, key=lambda column: self._place[column])

    def _reached(self, columns: Iterable[str], following: Callable[[str], list[str]]) -> set[str]:
        reached: set[str] = set()
        waiting = list(columns)
        while waiting:
            if (column := waiting.pop()) in self.steps and column not in reached:
                reached.add(column)
                waiting += following(column)
        return reached

    def ends(self) -> list[str]:
        """Return the columns of the objects that are made of others and that no object reads."""
        read = {name for reader in self.graph.objects for name in self.graph.reads(reader)}
        return [
            str(leaf)
            for name, schema_object in self.graph.objects.items()
            if name not in read
            and schema_object.target in (None, name)
            and schema_object.kind != "dictionary"
            and (schema_object.query is not None or self.graph.writers_of(name))
            for leaf in self.graph.leaves_of(name)
        ]

    def summary(self, column: str) -> Summary:
        """Return what a column is made of in the end."""
        name, _, rest = column.partition(".")
        origins = list(self.graph.origins(name, rest))
        values = {str(origin) for origin in origins if origin.role == "value"}

        def chosen(wanted: Callable[[Leaf], bool]) -> tuple[str, ...]:
            return tuple(dict.fromkeys(str(origin) for origin in origins if wanted(origin)))

        return Summary(
            column,
            chosen(lambda origin: origin.object == TOPIC and origin.role == "value"),
            chosen(lambda origin: self._kind(origin) == "dictionary" and origin.role == "value"),
            chosen(lambda origin: self._is_written_outside(origin) and origin.role == "value"),
            chosen(lambda origin: origin.object == TOPIC and origin.role == "key" and str(origin) not in values),
            chosen(lambda origin: origin.role == "function"),
        )

    def _kind(self, leaf: Leaf) -> str:
        schema_object = self.graph.objects.get(leaf.object)
        return schema_object.kind if schema_object else ""

    def _is_written_outside(self, leaf: Leaf) -> bool:
        # Also what the engine itself keeps, in tables that are in no file.
        is_table = self._kind(leaf) in ("table", "") and leaf.object not in ("", "?", TOPIC)
        return is_table and not self.graph.makings(leaf.object, leaf.column)


def _parts(step: Step) -> list[str]:
    return [*step.of, *step.found_by]


def picture(graph: Graph) -> str:
    """Draw the objects that payments and dimensions pass through as a Mermaid flowchart; ends without a newline.

    What only says how far roll-ups have come is none of them. Views at the end that are made of the same share a box.
    """
    shown: dict[str, str] = {}
    edges: list[tuple[str, str, str]] = []
    for name in _in_order(graph):
        schema_object = graph.objects[name]
        if schema_object.is_kafka:
            shown[TOPIC] = f'{TOPIC}[/"Kafka topic"/]'
            edges.append((TOPIC, "-->", name))
        for source in graph.rows_of(name):
            if writer := _command_writing(graph, source):
                command = writer.replace(" ", "_")
                shown[command] = f'{command}(["{writer}"])'
                edges.append((command, "-->", source))
            edges.append((source, "-->", name))
        edges += [(dictionary, "-. dictGet .->", name) for dictionary in _dictionaries_of(graph, name)]
        if schema_object.target and schema_object.target != name:
            edges.append((name, "-->", schema_object.target))
    # From what nothing here feeds: bookkeeping that feeds itself alone is not reached.
    edges = list(dict.fromkeys(edges))
    fed = {right for _, _, right in edges}
    reached = list(dict.fromkeys(left for left, _, _ in edges if left not in fed))
    for name in reached:
        reached += dict.fromkeys(right for left, _, right in edges if left == name and right not in reached)
    edges = [edge for edge in edges if edge[0] in reached]

    alike: dict[frozenset[tuple[str, str]], list[str]] = {}
    for name in reached:
        if name in graph.objects and graph.objects[name].kind == "view" and not any(edge[0] == name for edge in edges):
            alike.setdefault(frozenset(edge[:2] for edge in edges if edge[2] == name), []).append(name)
    boxes = {name: names for names in alike.values() for name in names}
    edges = [edge for edge in edges if boxes.get(edge[2], [edge[2]])[0] == edge[2]]
    for name in (end for left, _, right in edges for end in (left, right)):
        if name not in shown:
            schema_object = graph.objects.get(name)
            shown[name] = _shape(schema_object, boxes.get(name, [name])) if schema_object else f'{name}["{name}"]'
    return "\n".join(["flowchart TB", *(f"    {line}" for line in (*shown.values(), *map(" ".join, edges)))])


def _command_writing(graph: Graph, name: str) -> str | None:
    """Return the command that fills a table, as its file's head names it; None where a view does."""
    table = graph.objects.get(name)
    if table is None or graph.writers_of(name):
        return None
    named = re.match(r"`(paystream [a-z ]+?)`", table.comment("Written by:"))
    return named[1] if named else None


def _in_order(graph: Graph) -> list[str]:
    """Return the objects that read or are Kafka's, each after what it reads as far as there is an order."""
    order: dict[str, None] = {}

    def add(name: str) -> None:
        if name in order or name not in graph.objects:
            return
        order[name] = None
        before = [*graph.rows_of(name), *_dictionaries_of(graph, name), *graph.writers_of(name)]
        for feeder in before:
            add(feeder)
        del order[name]
        order[name] = None

    for name in [queue for queue in graph.objects if graph.objects[queue].is_kafka] + graph.ingest_views:
        add(name)
    for name in graph.objects:
        add(name)
    return list(order)


def _dictionaries_of(graph: Graph, name: str) -> list[str]:
    leaves = [
        leaf
        for scope in graph.scopes(name)
        for node in scope.outputs.values()
        for leaf in scope.trace(node)
        if leaf.object in graph.objects and graph.objects[leaf.object].kind == "dictionary"
    ]
    return list(dict.fromkeys(leaf.object for leaf in leaves))


def _shape(schema_object: SchemaObject, names: list[str]) -> str:
    if schema_object.kind == "dictionary":
        return f'{schema_object.name}{{{{"{schema_object.name}<br/>dictionary"}}}}'
    if schema_object.kind == "materialized view":
        how = "<br/>refreshed" if schema_object.is_refreshed else ""
        return f'{schema_object.name}>"{schema_object.name}{how}"]'
    if schema_object.kind == "view":
        return f'{schema_object.name}("{"<br/>".join(names)}<br/>view{"s" if len(names) > 1 else ""}")'
    if schema_object.is_kafka or schema_object.engine == "Null":
        return f'{schema_object.name}["{schema_object.name}<br/>{schema_object.engine}"]'
    return f'{schema_object.name}[("{schema_object.name}<br/>{schema_object.engine}")]'


def picture_of(lineage: Lineage, columns: list[str]) -> str:
    """Draw the steps that lead to some columns as a Mermaid flowchart, a box for each object."""
    steps = lineage.before(columns)
    boxes: dict[str, list[str]] = {}
    for step in steps:
        boxes.setdefault(step.column.partition(".")[0], []).append(step.column)
    ids = {column: f"c{number}" for number, column in enumerate(dict.fromkeys(step.column for step in steps))}
    lines = ["flowchart LR"]
    for name, held in boxes.items():
        lines.append(f'    subgraph {name}_box["{name}"]')
        lines += [f'        {ids[column]}["{column.partition(".")[2]}"]' for column in dict.fromkeys(held)]
        lines.append("    end")
    for step in steps:
        lines += [f"    {ids[column]} --> {ids[step.column]}" for column in step.of if column in ids]
        lines += [f"    {ids[column]} -. key .-> {ids[step.column]}" for column in step.found_by if column in ids]
    return "\n".join(lines)
