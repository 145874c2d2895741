"""Which type holds every value of which, by the engine: extreme values are stored, and converted."""

import re
from collections.abc import Callable, Iterator

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from paystream.clickhouse import connect
from paystream.migrations.scratch import scratch_engine
from paystream.migrations.types import holds

INTEGERS = {
    f"{sign}Int{bits}": (f"'{0 if sign else -(2 ** (bits - 1))}'", f"'{2 ** (bits if sign else bits - 1) - 1}'")
    for bits in (8, 16, 32, 64, 128, 256)
    for sign in ("U", "")
}
TIMES = ("'1970-01-01 00:00:01'", "'2106-02-07 06:28:15'")
EXTREMES: dict[str, tuple[str, ...]] = {
    **INTEGERS,
    "Bool": ("false", "true"),
    "Float32": ("1.1", "-3.4028235e38", "1e-45", "nan", "-inf"),
    "Float64": ("1.1", "1.7976931348623157e308", "5e-324", "nan", "-inf", "9007199254740993"),
    # Past their digits, too: the engine checks those of a text, not those of a number.
    "Decimal(3, 0)": ("-999", "999", "2147483647"),
    "Decimal(5, 2)": ("'-999.99'", "9999999"),
    "Decimal(9, 2)": ("'-9999999.99'", "21474836"),
    "Decimal(9, 4)": ("'-99999.9999'", "214748"),
    "Decimal(18, 2)": ("'9999999999999999.99'", "'-0.01'"),
    "Decimal(18, 4)": ("'99999999999999.9999'", "'-0.0001'"),
    "Decimal64(4)": ("'99999999999999.9999'", "'-0.0001'"),
    "Decimal(38, 4)": (f"'{'9' * 34}.9999'", "'-0.0001'"),
    "Decimal(76, 10)": (f"'{'9' * 66}.{'9' * 10}'", "'-0.0000000001'"),
    "Date": ("'1970-01-01'", "'2149-06-06'"),
    "Date32": ("'1900-01-01'", "'2299-12-31'"),
    "DateTime('UTC')": TIMES,
    # The hour that comes twice.
    "DateTime('Europe/Berlin')": ("1792888200", "1792891800"),
    **{
        f"DateTime64({digits}, 'UTC')": ("'1900-01-01 00:00:00'", f"'2299-12-31 23:59:59.{'9' * digits}'")
        for digits in (0, 3, 6, 8)
    },
    "DateTime64(9, 'UTC')": ("'1900-01-01 00:00:00'", "'2262-04-11 23:47:16.854775807'"),
    "DateTime64(3, 'Europe/Berlin')": ("1792888200.001", "1792891800.999"),
    "String": ("''", "'a\\0b'", "'\\xff'"),
    "FixedString(3)": ("''", "'abc'", "'\\xff'"),
    "UUID": ("'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"),
    "IPv4": ("'0.0.0.0'", "'255.255.255.255'"),
    "IPv6": ("'::'", "'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff'"),
    "Enum8('a' = 1)": ("'a'",),
    "Enum8('a' = 1, 'b' = 2)": ("'a'", "'b'"),
    "Enum16('b' = 2, 'a' = 1, 'c' = 300)": ("'a'", "'c'"),
    "LowCardinality(String)": ("''", "'a'"),
    "LowCardinality(Nullable(String))": ("NULL", "'a'"),
    "SimpleAggregateFunction(max, UInt64)": ("0", "18446744073709551615"),
    "Nullable(UInt8)": ("NULL", "255"),
    "Nullable(Int64)": ("NULL", "'-9223372036854775808'", "'9223372036854775807'"),
    "Nullable(Decimal(18, 4))": ("NULL", "'99999999999999.9999'"),
    "Array(UInt8)": ("[]", "[0, 255]"),
    "Array(Int16)": ("[-32768, 32767]",),
    "Array(Nullable(UInt32))": ("[NULL, 4294967295]",),
    "Map(String, UInt8)": ("map()", "map('a', 255)"),
    "Map(String, UInt16)": ("map('a', 65535)",),
    "Tuple(UInt8, UInt32)": ("(255, 4294967295)",),
    "Tuple(UInt16, UInt64)": ("(65535, 18446744073709551615)",),
    "Tuple(a UInt8, b UInt8)": ("(1, 255)",),
    "Tuple(b UInt16, a UInt16)": ("(1, 65535)",),
    "Tuple(a UInt16, c UInt16)": ("(1, 65535)",),
    "Tuple(x UInt16, y UInt16)": ("(1, 65535)",),
}

LOSSLESS = [
    ("Int16", "UInt8"),
    ("UInt32", "UInt8"),
    ("Int64", "UInt32"),
    ("UInt8", "Bool"),
    ("Float64", "Int32"),
    ("Float64", "Float32"),
    ("DateTime64(3, 'UTC')", "DateTime('UTC')"),
    ("DateTime64(3, 'UTC')", "DateTime64(3, 'Europe/Berlin')"),
    ("DateTime64(8, 'UTC')", "DateTime64(3, 'UTC')"),
    ("Date32", "Date"),
    ("Nullable(Int64)", "Int32"),
    ("Nullable(Int64)", "Nullable(UInt8)"),
    ("LowCardinality(Nullable(String))", "String"),
    ("LowCardinality(String)", "String"),
    ("String", "Decimal(18, 4)"),
    ("String", "Enum8('a' = 1)"),
    ("String", "DateTime64(3, 'UTC')"),
    ("Decimal(18, 4)", "Decimal(9, 2)"),
    ("Decimal(18, 4)", "Decimal64(4)"),
    ("Decimal64(4)", "UInt8"),
    ("Decimal(38, 4)", "Decimal(18, 4)"),
    ("Enum16('b' = 2, 'a' = 1, 'c' = 300)", "Enum8('a' = 1, 'b' = 2)"),
    ("SimpleAggregateFunction(max, UInt64)", "UInt64"),
    ("Array(Int16)", "Array(UInt8)"),
    ("Array(Nullable(UInt32))", "Array(UInt8)"),
    ("Map(String, UInt16)", "Map(String, UInt8)"),
    ("Tuple(UInt16, UInt64)", "Tuple(UInt8, UInt32)"),
    ("Tuple(x UInt16, y UInt16)", "Tuple(a UInt8, b UInt8)"),
]
"""Pairs of a wide type and a narrow one that have to be seen as such."""

LOSSY = [
    ("UInt32", "UInt64"),
    ("UInt64", "Int8"),
    ("Int32", "UInt32"),
    ("Bool", "UInt8"),
    ("Float32", "Int32"),
    ("UInt8", "String"),
    ("String", "LowCardinality(Nullable(String))"),
    ("String", "DateTime('Europe/Berlin')"),
    ("Decimal(18, 2)", "Decimal(18, 4)"),
    ("Decimal(18, 4)", "Decimal(18, 2)"),
    ("Decimal(9, 4)", "Decimal(5, 2)"),
    ("Decimal(18, 4)", "Float64"),
    ("DateTime64(3, 'UTC')", "DateTime64(6, 'UTC')"),
    ("DateTime64(9, 'UTC')", "DateTime64(3, 'UTC')"),
    ("DateTime('UTC')", "Date"),
    ("UInt8", "Nullable(UInt8)"),
    ("Enum8('a' = 1)", "Enum8('a' = 1, 'b' = 2)"),
    ("Tuple(a UInt16, c UInt16)", "Tuple(a UInt8, b UInt8)"),
]


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """An engine with a table for each type, which holds its extreme values."""
    with scratch_engine() as settings, connect(settings, database="") as client:
        client.command("CREATE DATABASE extremes")
        for name, values in EXTREMES.items():
            rows = " UNION ALL ".join(f"SELECT CAST({value} AS {name})" for value in values)
            client.command(f"CREATE TABLE extremes.`{name}` (x {name}) ENGINE = MergeTree ORDER BY tuple()")
            client.command(f"INSERT INTO extremes.`{name}` {rows}")
        yield client


@pytest.fixture(scope="module")
def survives(client: Client) -> Callable[[str, str], bool]:
    """A function that says whether all extreme values of a type survive as another, and on the way back."""

    def check(wide: str, narrow: str) -> bool:
        # What is past the digits of its type is written as a text, but not read as one.
        read_back = re.sub(r"Decimal\(\d+", "Decimal(76", narrow)
        converted = f"CAST(x AS {wide})"
        same = [f"CAST({converted} AS {read_back}) <=> x"]
        if wide.startswith("Enum"):  # it may hold a number without a name
            same.append(f"toString({converted}) <=> toString(x)")
        if not wide.startswith(("String", "LowCardinality")):
            same.append(f"{converted} <=> x")
        try:
            count = client.command(
                f"SELECT countIf(NOT ({' AND '.join(same)}) AND toString(x) != 'nan') FROM extremes.`{narrow}`"
            )
        except DatabaseError:
            return False
        return count == 0

    return check


def test_no_value_is_lost_where_a_type_is_said_to_hold_it(survives: Callable[[str, str], bool]) -> None:
    said = [(wide, narrow) for wide in EXTREMES for narrow in EXTREMES if holds(wide, narrow)]
    assert len(said) > 2 * len(EXTREMES)
    assert [pair for pair in said if not survives(*pair)] == []


@pytest.mark.parametrize(("wide", "narrow"), LOSSLESS)
def test_a_type_that_holds_another(
    client: Client, survives: Callable[[str, str], bool], wide: str, narrow: str
) -> None:
    assert survives(wide, narrow) and holds(wide, narrow)
    # A column's own type is changed as a CAST changes it.
    client.command(f"CREATE OR REPLACE TABLE extremes.altered CLONE AS extremes.`{narrow}`")
    client.command(f"ALTER TABLE extremes.altered MODIFY COLUMN x {wide}", settings={"mutations_sync": 2})
    rows = "SELECT arraySort(groupArray(toString({}))) FROM extremes.`{}`"
    altered = client.query(rows.format("x", "altered")).result_rows
    assert altered == client.query(rows.format(f"CAST(x AS {wide})", narrow)).result_rows


@pytest.mark.parametrize(("wide", "narrow"), LOSSY)
def test_a_type_that_does_not(survives: Callable[[str, str], bool], wide: str, narrow: str) -> None:
    assert not survives(wide, narrow) and not holds(wide, narrow)


@pytest.mark.parametrize(
    ("wide", "narrow", "answer"),
    [
        ("Nullable(Date)", "Nullable(Nothing)", True),
        ("LowCardinality(String)", "String", True),
        ("DateTime64(3)", "DateTime64(3, 'UTC')", True),
        ("Enum8('a'=1, 'b'=2)", "Enum8('a' = 1)", True),
        ("Array(UInt32)", "Array(String)", False),
        ("Tuple(UInt16, String)", "Tuple(a UInt8, b String)", True),
        ("UInt64", "AggregateFunction(max, UInt64)", False),
    ],
)
def test_other_spellings(wide: str, narrow: str, answer: bool) -> None:
    assert holds(wide, narrow) is answer
