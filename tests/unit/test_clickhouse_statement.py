"""The endpoint of the local ClickHouse tells statements from their data, and one statement from several."""

import pytest

from devstack.clickhouse_statement import describe, split_insert


@pytest.mark.parametrize(
    ("text", "data_format", "data"),
    [
        (b"INSERT INTO t FORMAT Native\n\n\x00\x01", "Native", b"\n\x00\x01"),
        (b"INSERT INTO t FORMAT CSV \t \r\n1,2", "CSV", b"1,2"),
        (b"INSERT INTO t(a)VALUES(1)", "Values", b"(1)"),
        (b"INSERT INTO format (values) VALUES (1)", "Values", b" (1)"),
        (b"INSERT INTO values.format FORMAT TSV 1", "TSV", b"1"),
        (b"INSERT INTO `a``FORMAT` FORMAT CSV\n1", "CSV", b"1"),
        (b"INSERT INTO FUNCTION file('FORMAT CSV', 'CSV', 'select String') VALUES (1)", "Values", b" (1)"),
        (b"INSERT INTO {d:Identifier}.{t:Identifier} FORMAT CSV\n1", "CSV", b"1"),
        (b"INSERT INTO t /* VALUES */ SETTINGS a = 1, b = 'FORMAT x' FORMAT CSV\n1", "CSV", b"1"),
        (b"INSERT INTO t FORMAT CSV", "CSV", b""),
    ],
)
def test_the_data_of_an_insert_begins_after_its_format(text: bytes, data_format: str, data: bytes) -> None:
    insert = split_insert(text)
    assert insert is not None
    assert (insert.format, text[insert.data_at :]) == (data_format, data)


@pytest.mark.parametrize(
    "text",
    [
        b"SELECT 1 FORMAT CSV",
        b"INSERT INTO t SELECT 1 FORMAT CSV",
        b"INSERT INTO t (SELECT 'VALUES')",
        b"INSERT INTO t WITH 1 AS x SELECT x",
        b"INSERT INTO t FROM INFILE 'x' FORMAT CSV",
        b"-- INSERT INTO t VALUES (1)\nSELECT 1",
        b"INSERT",
        b"INSERT INTO t FORMAT",
        b"INSERT INTO t (a, 'unclosed",
        b"",
    ],
)
def test_other_statements_carry_no_data(text: bytes) -> None:
    assert split_insert(text) is None


def test_the_data_is_read_from_a_file_where_the_grammar_wants_it() -> None:
    insert = split_insert(b"INSERT INTO t (a) -- why\n SETTINGS x = 1 FORMAT CSV\n1")
    assert (
        insert.reading("/f").split() == b"INSERT INTO t (a) -- why FROM INFILE '/f' SETTINGS x = 1 FORMAT CSV".split()
    )
    assert b"-- why\n" in insert.reading("/f")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (b"SELECT 1", 1),
        (b"SELECT 1;", 1),
        (b"SELECT 1; ; -- ;\n", 1),
        (b"SELECT 1; SELECT 2", 2),
        (b"SELECT ';', \";\", `;`, 'it''s;', '\\';' /* ; */ # ;\n", 1),
        (b"SELECT $$;$$, $tag$ ; $$ ; $tag$", 1),
        (b"SELECT a$b; SELECT c$d", 2),
        (b" -- only a comment", 0),
        (b"", 0),
    ],
)
def test_statements_are_counted(text: bytes, count: int) -> None:
    assert describe(text).count == count


@pytest.mark.parametrize(
    ("text", "output_format"),
    [
        (b"SELECT 1", None),
        (b"SELECT 1 FORMAT JSON", "JSON"),
        (b"SELECT 1\nformat CSV SETTINGS max_threads = 1", "CSV"),
        (b"SELECT 1 FORMAT TSV; -- done", "TSV"),
        (b"SELECT 'FORMAT JSON' -- FORMAT XML", None),
        (b"SELECT format('{}', 1)", None),
        (b"SELECT format FROM t", ""),
    ],
)
def test_the_output_format_is_found(text: bytes, output_format: str | None) -> None:
    assert describe(text).format == output_format


def test_what_outlives_a_statement_is_known() -> None:
    for text in (
        b"SET a = 1",
        b"use x",
        b"/* c */ CREATE OR REPLACE TEMPORARY TABLE t (a Int8)",
        b"DROP TEMPORARY TABLE t",
    ):
        assert describe(text).changes_connection, text
    for text in (b"SELECT 'SET'", b"CREATE TABLE t (a Int8)", b"ALTER TABLE t UPDATE a = 1 WHERE 1"):
        assert not describe(text).changes_connection, text
    assert describe(b"DROP DATABASE IF EXISTS x").changes_databases
    assert not describe(b"SHOW CREATE DATABASE x").changes_databases


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text",
    [
        b" " * 1_000_000 + b"INSERT",
        b"\n\t " * 300_000 + b"INSERT INTO t VALUES",
        b"-- \n" * 300_000,
        b"/* " * 300_000,
        b"/*" + b"*" * 1_000_000,
        b"\\'" * 300_000,
        b"'" * 1_000_001,
        b"(\n" * 300_000,
        b"INSERT INTO t (" + b"a, " * 50_000,
        b"".join(b"$a%d$ " % number for number in range(100_000)),
    ],
    ids=range(10),
)
def test_no_text_takes_more_than_linear_time(text: bytes) -> None:
    # The bound is the test's time limit: anything quadratic would take minutes on a text of this size.
    assert split_insert(text) is None or text.endswith(b"VALUES")
    describe(text)
