"""What the files alone say about an expression's type."""

import re

from sqlglot import exp

from paystream.migrations.schema_graph import (
    Leaf,
    Scope,
    arguments,
    dictionary_call,
    function_name,
    type_text,
)
from paystream.migrations.types import element_of, is_text, taken_apart

_GIVES_TEXT = re.compile(
    r"(toString|toFixedString|formatDateTime\w*|hex|lower\w*|upper\w*|trim\w*|substring\w*|substr|mid|left|right|concat\w*|"
    r"format|replace\w*|extract(All\w*)?|regexp\w*|splitBy\w+|JSONExtract(String|Raw|Scalar|Keys\w*|ArrayRaw)|JSON_VALUE|"
    r"JSON_QUERY|simpleJSONExtract(String|Raw)|visitParamExtract(String|Raw)|base64\w+|decodeURL\w*|domain\w*|path\w*|"
    r"toJSONString|toValidUTF8|reverse\w*|arrayStringConcat|dictGetString\w*)",
    re.IGNORECASE,
)
_GIVES_NO_TEXT = re.compile(
    r"(to(?!String|FixedString|JSONString|ValidUTF8)\w+|parse\w+|length\w*|position\w*|count\w*|sum\w*|avg\w*|uniq\w*|round|"
    r"floor|ceil\w*|trunc\w*|abs|sqrt|log\w*|exp\w*|pow\w*|intDiv\w*|mod\w*|now\w*|today|yesterday|rand\w*|cityHash\w*|"
    r"sipHash\w*|xxHash\w*|farmHash\w*|bit\w+|is\w+|match|like|not\w*|has\w*|empty|arrayUniq|JSONExtract(U?Int|Float|Bool)|"
    r"JSONLength|JSONHas|dictHas|date\w*|add\w+|subtract\w+|generateUUID\w*|timestamp\w*|age)",
    re.IGNORECASE,
)
# What they give is one of what they are given.
_CHOOSES = re.compile(
    r"(ifNull|coalesce|assumeNotNull|toNullable|any\w*|min|max|least|greatest|materialize)", re.IGNORECASE
)


def declared_type(scope: Scope, node: exp.Expression, active: frozenset[str] = frozenset()) -> str:
    """Return an expression's type where the files state it: a plain column, or a CAST. Else ``""``."""
    if isinstance(node, exp.Paren):
        return declared_type(scope, node.this, active)
    if (cast := _cast_to(node)) is not None:
        return cast
    if not isinstance(node, exp.Column) or (node.table and node.table not in scope.sources):
        return ""
    if not node.table and node.name in scope.aliases and node.name not in active:
        return declared_type(scope, scope.aliases[node.name], active | {node.name})
    origin = scope.source_of(node.name, node.table)
    if origin is None:
        return ""
    if isinstance(origin[1], str):
        if declared := scope.graph.type_of(Leaf(origin[1], node.name)):
            return declared
        inner = scope.graph.scopes(origin[1])
    else:
        inner = origin[1]
    if not inner or node.name not in inner[0].outputs:
        return ""
    return declared_type(inner[0], inner[0].outputs[node.name], frozenset({node.name}))


def holds_text(scope: Scope, node: exp.Expression, active: frozenset[str] = frozenset()) -> bool:
    """Return whether an expression may be a text of unknown form. True where the files don't say."""
    if isinstance(node, (exp.Literal, exp.Null, exp.Boolean)):
        return False
    if isinstance(node, exp.Column):
        return _column_holds_text(scope, node, active)
    if (cast := _cast_to(node)) is not None:
        return is_text(cast)
    name = function_name(node)
    if called := dictionary_call(node):
        dictionary, attributes, _ = called
        types = [scope.graph.type_of(Leaf(dictionary, attribute)) for attribute in attributes]
        return any(is_text(kind) or not kind for kind in types)
    if name.lower() == "jsonextract" and isinstance(arguments(node)[-1], exp.Literal):
        return is_text(arguments(node)[-1].name) or "Tuple" in arguments(node)[-1].name
    # Before the rest: toUInt32OrNull is no text, whatever it is given.
    if name and _GIVES_TEXT.fullmatch(name):
        return True
    if name and not _CHOOSES.fullmatch(name) and _GIVES_NO_TEXT.fullmatch(name):
        return False
    if isinstance(node, (exp.Predicate, exp.Not, exp.Connector)):
        return False
    if isinstance(node, exp.Binary) and not isinstance(node, (exp.DPipe, exp.Dot)):
        return False
    if name.lower() == "multiif":
        given = arguments(node)
        return any(holds_text(scope, value, active) for value in [*given[1:-1:2], given[-1]])
    if isinstance(node, exp.If):
        values = [node.args.get("true"), node.args.get("false")]
        return any(holds_text(scope, value, active) for value in values if value is not None)
    if isinstance(node, (exp.Identifier, exp.Subquery)):
        return True
    return any(holds_text(scope, child, active) for child in node.iter_expressions())


def _column_holds_text(scope: Scope, node: exp.Column, active: frozenset[str]) -> bool:
    if node.table and node.table not in scope.sources and node.table in scope.aliases:
        whole = scope.aliases[node.table]
        if function_name(whole).lower() == "jsonextract" and arguments(whole):
            for name, kind in map(element_of, taken_apart(arguments(whole)[-1].name)[1]):
                if name == node.name:
                    return is_text(kind)
            return True
        if called := dictionary_call(whole):
            dictionary, attributes, _ = called
            if node.name.isdigit() and 0 < int(node.name) <= len(attributes):
                kind = scope.graph.type_of(Leaf(dictionary, attributes[int(node.name) - 1]))
                return is_text(kind) or not kind
        return True
    if not node.table and node.name in scope.aliases and node.name not in active:
        return holds_text(scope, scope.aliases[node.name], active | {node.name})
    if declared := declared_type(scope, node, active):
        return is_text(declared)
    origin = scope.source_of(node.name, node.table)
    if origin is None:
        return True
    inner = scope.graph.scopes(origin[1]) if isinstance(origin[1], str) else origin[1]
    if not inner or node.name not in inner[0].outputs:
        return True
    return holds_text(inner[0], inner[0].outputs[node.name], frozenset({node.name}))


def _cast_to(node: exp.Expression) -> str | None:
    if isinstance(node, exp.CastToStrType):
        return node.args["to"].name
    return type_text(node.args["to"]) if isinstance(node, exp.Cast) else None
