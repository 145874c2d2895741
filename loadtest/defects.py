"""What can be wrong with a message: each defect turns a valid one into bytes that ingest must refuse.

Functions of the valid message alone, so that the checker can make the same bytes again.
"""

import re
from collections.abc import Callable
from hashlib import shake_256

BINARY_BYTES = 4_096

Defect = Callable[[bytes], bytes]


def _field(name: str, text: bytes) -> Defect:
    """Return a defect that puts another JSON text in the place of one field's value."""
    value = re.compile(rb'(?<="%b":)("[^"]*"|[0-9]+)' % name.encode())
    return lambda message: value.sub(lambda _: text, message, count=1)


def _without(name: str) -> Defect:
    field = re.compile(rb'"%b":("[^"]*"|[0-9]+),' % name.encode())
    return lambda message: field.sub(b"", message, count=1)


def _as_json_string(message: bytes) -> bytes:
    return b'"' + message.replace(b'"', b'\\"') + b'"'


def _with_all_null(message: bytes) -> bytes:
    return re.sub(rb':("[^"]*"|[0-9]+)', b":null", message)


def _binary(message: bytes) -> bytes:
    return shake_256(message).digest(BINARY_BYTES)


# No empty message and no tombstone: the Kafka engine hands over no row for them, so quarantine can't hold them.
DEFECTS: dict[str, Defect] = {
    "not JSON": lambda message: message.replace(b":", b"="),
    "truncated": lambda message: message[: len(message) // 2],
    "invalid UTF-8": _field("status", b'"captur\xc3\x28d"'),
    "array": lambda message: b"[" + message + b"]",
    "two objects": lambda message: message + b"\n" + message,
    "JSON string": _as_json_string,
    "nulls": _with_all_null,
    "field missing": _without("amount"),
    "field twice": lambda message: message[:-1] + b',"amount":"1.00"}',
    "wrong type": _field("merchant_id", b"true"),
    "NaN": _field("amount", b"NaN"),
    "amount 1e400": _field("amount", b"1e400"),
    "merchant 2^64": _field("merchant_id", b"%d" % 2**64),
    "negative amount": _field("amount", b'"-12.34"'),
    "five decimals": _field("amount", b'"12.34567"'),
    "unknown currency": _field("currency", b'"EUX"'),
    "unknown status": _field("status", b'"pending"'),
    "year 0": _field("created_at", b'"0000-01-01T00:00:00Z"'),
    "year 9999": _field("created_at", b'"9999-12-31T23:59:59Z"'),
    "object as id": _field("transaction_id", b'{"uuid":"00000000-0000-4000-8000-000000000000"}'),
    "binary": _binary,
}
