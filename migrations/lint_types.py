"""Types: what the files alone tell of an expression's, and which may be stored as which without harm."""

import re

from sqlglot import exp

from paystream.migrations.schema_graph import (
    Leaf,
    Scope,
    arguments,
    dictionary_call,
    function_name,
    split_arguments,
    type_text,
)

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


def plain(type_name: str) -> str:
    """Return a type without what does not change a value: LowCardinality, a time zone, SimpleAggregateFunction."""
    text = " ".join(type_name.split())
    if found := re.fullmatch(r"LowCardinality\((.*)\)", text):
        return plain(found[1])
    if found := re.fullmatch(r"SimpleAggregateFunction\((.*)\)", text):
        return plain(split_arguments(found[1])[-1])
    if found := re.fullmatch(r"Nullable\((.*)\)", text):
        return f"Nullable({plain(found[1])})"
    text = re.sub(r"(DateTime64\(\d+), ?'[^']*'\)", r"\1)", text)
    text = re.sub(r"DateTime\('[^']*'\)", "DateTime", text)
    if found := re.fullmatch(r"Decimal(32|64|128|256)\((\d+)\)", text):
        return f"Decimal({ {'32': 9, '64': 18, '128': 38, '256': 76}[found[1]] }, {found[2]})"
    return text


def is_text(type_name: str) -> bool:
    """Return whether values of a type are spelled out, so that converting one can fail by its spelling."""
    inner = re.sub(r"^(?:(?:LowCardinality|Nullable|Array)\()*", "", type_name)
    return inner.startswith(("String", "FixedString", "Dynamic", "Variant", "JSON", "Object"))


def fits(source: str, target: str) -> bool:
    """Return whether every value of a type can be stored as another without being changed or refused."""
    source, target = plain(source), plain(target)
    if source == target:
        return True
    nullable = re.fullmatch(r"Nullable\((.*)\)", target)
    if found := re.fullmatch(r"Nullable\((.*)\)", source):
        return bool(nullable) and (found[1] == "Nothing" or fits(found[1], nullable[1]))
    if nullable:
        return fits(source, nullable[1])
    for pattern in (r"Array\((.*)\)", r"Map\((.*)\)", r"Tuple\((.*)\)"):
        inner, outer = re.fullmatch(pattern, source), re.fullmatch(pattern, target)
        if inner and outer:
            parts, wanted = split_arguments(inner[1]), split_arguments(outer[1])
            if pattern.startswith("Tuple"):
                parts, wanted = ([re.sub(r"^\w+ (?=[A-Z])", "", one) for one in both] for both in (parts, wanted))
            return len(parts) == len(wanted) and all(map(fits, parts, wanted))
    return _widens(source, target)


def _widens(source: str, target: str) -> bool:
    source = "UInt8" if source == "Bool" else source
    target = "UInt8" if target == "Bool" else target
    number, wider = (re.fullmatch(r"(U?)Int(\d+)", one) for one in (source, target))
    if number and wider:
        if number[1] == wider[1]:
            return int(wider[2]) >= int(number[2])
        return number[1] == "U" and int(wider[2]) > int(number[2])
    decimal, room = (re.fullmatch(r"Decimal\((\d+), ?(\d+)\)", one) for one in (source, target))
    if room:
        digits = int(room[1]) - int(room[2])
        if decimal:
            return int(room[2]) >= int(decimal[2]) and digits >= int(decimal[1]) - int(decimal[2])
        return bool(number) and digits >= {8: 3, 16: 5, 32: 10, 64: 20}.get(int(number[2]), 77)
    if target == "Float64":
        return source == "Float32" or bool(number and int(number[2]) <= 32)
    if target == "Float32":
        return bool(number and int(number[2]) <= 16)
    times, finer = (re.fullmatch(r"DateTime64\((\d+)\)", one) for one in (source, target))
    if finer:
        return source == "DateTime" or bool(times and int(finer[1]) >= int(times[1]))
    if target == "String":
        return source.startswith(("FixedString", "Enum"))
    return (source, target) == ("Date", "Date32")


def declared_type(scope: Scope, node: exp.Expression, active: frozenset[str] = frozenset()) -> str:
    """Return an expression's type where the files say it outright: a column as it is, or a CAST. Else ``""``."""
    if isinstance(node, exp.Paren):
        return declared_type(scope, node.this, active)
    if (cast := _cast_to(node)) is not None:
        return cast
    if not isinstance(node, exp.Column) or (node.table and node.table not in scope.sources):
        return ""
    if not node.table and node.name in scope.aliases and node.name not in active:
        return declared_type(scope, scope.aliases[node.name], active | {node.name})
    found = scope.source_of(node.name, node.table)
    if found is None:
        return ""
    if isinstance(found[1], str):
        if declared := scope.graph.type_of(Leaf(found[1], node.name)):
            return declared
        inner = scope.graph.scopes(found[1])
    else:
        inner = found[1]
    if not inner or node.name not in inner[0].outputs:
        return ""
    return declared_type(inner[0], inner[0].outputs[node.name], frozenset({node.name}))


def holds_text(scope: Scope, node: exp.Expression, active: frozenset[str] = frozenset()) -> bool:
    """Return whether an expression may be a text that is not known beforehand. Where the files don't tell, it may."""
    if isinstance(node, (exp.Literal, exp.Null, exp.Boolean)):
        return False
    if isinstance(node, exp.Column):
        return _column_holds_text(scope, node, active)
    if (cast := _cast_to(node)) is not None:
        return is_text(cast)
    name = function_name(node)
    if called := dictionary_call(node):
        dictionary, attributes, _ = called
        types = [scope.graph.type_of(Leaf(dictionary, one)) for one in attributes]
        return any(is_text(one) or not one for one in types)
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
        return any(holds_text(scope, one, active) for one in [*given[1:-1:2], given[-1]])
    if isinstance(node, exp.If):
        values = [node.args.get("true"), node.args.get("false")]
        return any(holds_text(scope, one, active) for one in values if one is not None)
    if isinstance(node, (exp.Identifier, exp.Subquery)):
        return True
    return any(holds_text(scope, child, active) for child in node.iter_expressions())


def _column_holds_text(scope: Scope, node: exp.Column, active: frozenset[str]) -> bool:
    if node.table and node.table not in scope.sources and node.table in scope.aliases:
        whole = scope.aliases[node.table]
        if function_name(whole).lower() == "jsonextract" and arguments(whole):
            for part in split_arguments(re.sub(r"^\s*Tuple\((.*)\)\s*$", r"\1", arguments(whole)[-1].name, flags=re.S)):
                name, _, kind = part.partition(" ")
                if name == node.name:
                    return is_text(kind.strip())
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
    found = scope.source_of(node.name, node.table)
    if found is None:
        return True
    inner = scope.graph.scopes(found[1]) if isinstance(found[1], str) else found[1]
    if not inner or node.name not in inner[0].outputs:
        return True
    return holds_text(inner[0], inner[0].outputs[node.name], frozenset({node.name}))


def _cast_to(node: exp.Expression) -> str | None:
    if isinstance(node, exp.CastToStrType):
        return node.args["to"].name
    return type_text(node.args["to"]) if isinstance(node, exp.Cast) else None
