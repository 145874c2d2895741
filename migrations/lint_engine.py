"""The types of views' columns, as ClickHouse itself sees them.

The engine is asked with one read-only ``DESCRIBE`` a view that needs nothing of the schema to be there: tables stand in
as ``null('structure')``, and a ``dictGet`` as a default value of the attribute's type.
"""

from collections.abc import Iterator

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError
from sqlglot import exp, parse_one

from paystream.clickhouse import cause_of
from paystream.migrations.lint_rules import Broken, broken_type
from paystream.migrations.schema_graph import KAFKA_COLUMNS, Graph, dictionary_call, function_name
from paystream.migrations.types import holds


def types_in_engine(graph: Graph, client: Client) -> Iterator[Broken]:
    """Yield the columns of views whose type, as the engine finds it, does not go into that of the table they fill.

    Raises:
        OperationalError: the server was lost on the way.
    """
    for _, view in sorted(graph.objects.items()):
        target = graph.objects.get(view.target or "")
        if view.query is None or target is None or target is view or graph.unread & set(graph.reads(view.name)):
            continue
        query = standing_alone(graph, view.query).sql(dialect="clickhouse", comments=False)
        try:
            described = client.query(f"DESCRIBE TABLE ({query})").result_rows
        except OperationalError:
            raise
        except DatabaseError as error:
            yield Broken(view, 1, f"the engine refuses its SELECT: {cause_of(error)}", "Correct it")
            continue
        scopes = graph.scopes(view.name)
        for name, said, *_ in described:
            if name in target.types and not holds(target.types[name], said):
                yield broken_type(view, target, name, said, scopes[0].outputs.get(name))


def standing_alone(graph: Graph, query: exp.Query) -> exp.Query:
    """Return a copy of a query that runs, without rows, where none of the schema's objects exist."""
    query = query.copy()
    named = {cte.alias for cte in query.find_all(exp.CTE)}
    for table in list(query.find_all(exp.Table)):
        source = graph.objects.get(table.name)
        if source is None or table.name in named:
            continue
        if source.query is not None and not source.definitions:
            inner: exp.Expression = standing_alone(graph, source.query)
        else:
            columns = source.types | (
                {name: kind for name, (kind, _) in KAFKA_COLUMNS.items()} if source.is_kafka else {}
            )
            inner = parse_one("SELECT * FROM null('')", dialect="clickhouse")
            structure = ", ".join(f"`{name}` {kind}" for name, kind in columns.items())
            inner.find(exp.Literal).replace(exp.Literal.string(structure))
        place = table.parent if isinstance(table.parent, exp.Final) else table
        place.replace(exp.Subquery(this=inner, alias=exp.TableAlias(this=exp.to_identifier(table.alias_or_name))))
    for node in list(query.walk()):
        if not (called := dictionary_call(node)) or node is query:
            continue
        dictionary, attributes, _ = called
        source = graph.objects.get(dictionary)
        types = [source.types.get(attribute, "") if source else "" for attribute in attributes]
        if attributes and all(types):
            if function_name(node).lower().endswith("ornull"):
                types = [kind if kind.startswith("Nullable") else f"Nullable({kind})" for kind in types]
            kind = types[0] if len(types) == 1 else f"Tuple({', '.join(types)})"
            node.replace(exp.func("defaultValueOfTypeName", exp.Literal.string(kind), dialect="clickhouse"))
    return query
