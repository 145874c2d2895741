"""ClickHouse's types by name: what a type consists of, and which type holds every value of another."""

import re

_DIGITS_OF_BITS = {"32": 9, "64": 18, "128": 38, "256": 76}
_DIGITS_OF_INTEGER = {"8": 3, "16": 5, "32": 10, "64": 20}
_SPELLED_WHOLE = re.compile(r"U?Int\d+|Float(32|64)|Bool|Decimal|Date(32)?|UUID|IPv[46]|Enum(8|16)|FixedString")
"""Types whose text is all of the value. A time's is so in UTC only: elsewhere one hour a year comes twice."""


def split_arguments(text: str) -> list[str]:
    """Split a type's arguments at the commas that are not within parentheses or quotes."""
    parts, depth, quoted, start = [], 0, False, 0
    for at, sign in enumerate(text):
        if sign == "'":
            quoted = not quoted
        elif not quoted and sign in "()":
            depth += 1 if sign == "(" else -1
        elif not quoted and sign == "," and depth == 0:
            parts.append(text[start:at].strip())
            start = at + 1
    return [*parts, text[start:].strip()]


def taken_apart(type_name: str) -> tuple[str, list[str]]:
    """Return a type's name and arguments, past LowCardinality and SimpleAggregateFunction, which change no value."""
    name, _, rest = " ".join(type_name.split()).partition("(")
    arguments = split_arguments(rest.removesuffix(")")) if rest else []
    if name in ("LowCardinality", "SimpleAggregateFunction"):
        return taken_apart(arguments[-1])
    if sized := re.fullmatch(r"Decimal(32|64|128|256)", name):
        return "Decimal", [str(_DIGITS_OF_BITS[sized[1]]), *arguments]
    return name, arguments


def element_of(argument: str) -> tuple[str, str]:
    """Return the name (``""`` for none) and the type of one element of a tuple."""
    named = re.fullmatch(r"(`[^`]+`|\w+)\s+([A-Za-z].*)", argument, re.DOTALL)
    return (named[1].strip("`"), named[2]) if named else ("", argument)


def is_text(type_name: str) -> bool:
    """Return whether values of a type are text, so that a conversion can fail on their spelling."""
    name, arguments = taken_apart(type_name)
    if name in ("Nullable", "Array"):
        return is_text(arguments[0])
    return name in ("String", "FixedString", "Dynamic", "Variant", "JSON", "Object")


def holds(wide: str, narrow: str) -> bool:
    """Return whether a type holds every value of another, none changed and none refused.

    Takes the spelling of the engine and that of the files. False where the answer is not known.
    """
    (outer, room), (inner, given) = taken_apart(wide), taken_apart(narrow)
    if (outer, room) == (inner, given):
        return True
    match outer, inner:
        case "Nullable", "Nullable":
            return given == ["Nothing"] or holds(room[0], given[0])
        case "Nullable", _:
            return holds(room[0], narrow)
        case ("Array", "Array") | ("Map", "Map"):
            return all(map(holds, room, given))
        case "Tuple", "Tuple":
            return _holds_tuple(room, given)
        case "String", "DateTime" | "DateTime64":
            return given[-1:] == ["'UTC'"]
        case "String", _:
            return _SPELLED_WHOLE.fullmatch(inner) is not None
        case ("Date32", "Date") | ("DateTime", "DateTime") | ("DateTime64", "DateTime"):
            return True
        case "DateTime64", "DateTime64":
            # Years until 2299, but with nine digits only until 2262.
            return int(room[0]) == int(given[0]) or int(given[0]) < int(room[0]) < 9
        case "Enum8" | "Enum16", "Enum8" | "Enum16":
            return {part.replace(" ", "") for part in room} >= {part.replace(" ", "") for part in given}
        case "Decimal", "Decimal":
            return _holds_decimal(*map(int, room), *map(int, given))
    return _holds_number(outer, room, "UInt8" if inner == "Bool" else inner)


def _holds_tuple(room: list[str], given: list[str]) -> bool:
    outer, inner = ([element_of(part) for part in parts] for parts in (room, given))
    names, others = ([name for name, _ in parts] for parts in (outer, inner))
    # The engine goes by place, or by name once a name is in both.
    by_place = names == others or not set(names) & set(others) - {""}
    pairs = zip(outer, inner, strict=False)
    return len(outer) == len(inner) and by_place and all(holds(wide, narrow) for (_, wide), (_, narrow) in pairs)


def _holds_decimal(wide_digits: int, wide_scale: int, digits: int, scale: int) -> bool:
    if wide_scale == scale:
        return wide_digits >= digits
    # The engine stores as many digits as its bytes hold, whatever the type says: 9999999 as a Decimal(5, 2).
    stored = min(size for size in _DIGITS_OF_BITS.values() if size >= digits)
    return wide_scale > scale and wide_digits - wide_scale >= stored - scale


def _holds_number(outer: str, room: list[str], inner: str) -> bool:
    number, wider = (re.fullmatch(r"(U?)Int(\d+)", name) for name in (inner, outer))
    if number and wider:
        if number[1] == wider[1]:
            return int(wider[2]) >= int(number[2])
        return number[1] == "U" and int(wider[2]) > int(number[2])
    if outer == "Decimal":
        digits = _DIGITS_OF_INTEGER.get(number[2]) if number else None
        return digits is not None and int(room[0]) - int(room[1]) >= digits
    if outer == "Float64":
        return inner == "Float32" or bool(number and int(number[2]) <= 32)
    return outer == "Float32" and bool(number and int(number[2]) <= 16)
