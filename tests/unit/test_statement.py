"""A statement as words."""

import pytest
import sqlglot
from sqlglot.tokens import TokenType

from paystream.migrations.history import read_history
from paystream.migrations.sources import read_sources
from paystream.migrations.statement import select_of, words_of

TEXTS = [source.text for source in read_sources().values()]
TEXTS += [text for version in read_history() for text in (*version.statements, *version.rollbacks)]


def test_the_words_are_those_that_sqlglot_sees():
    """But for operators of two signs and keywords of two words, which it takes together, and the rest of a SYSTEM."""
    for text in TEXTS:
        tokens = sqlglot.tokenize(text, read="clickhouse")
        if tokens[0].text.upper() != "SYSTEM":
            ours = "".join(word.text for word in words_of(text) if word.quote != "'")
            theirs = "".join(token.text for token in tokens if token.token_type is not TokenType.STRING)
            assert ours.upper() == theirs.replace(" ", "").upper()


@pytest.mark.parametrize(
    ("statement", "texts"),
    [
        ("SELECT 'a''b', 'c\\'d' -- 'e\n, \"f g\"", ["SELECT", "a''b", ",", "c\\'d", ",", "f g"]),
        ("/* DROP */ DROP TABLE `a b`;", ["DROP", "TABLE", "a b", ";"]),
        ("SELECT '--', '/*', 1", ["SELECT", "--", ",", "/*", ",", "1"]),
        ("SELECT 'open", ["SELECT", "'", "open"]),
    ],
)
def test_comments_are_left_out_and_quotes_are_one_word(statement, texts):
    assert [word.text for word in words_of(statement)] == texts


def test_what_is_quoted_is_no_keyword():
    words = words_of("ALTER TABLE `drop` COMMENT 'ENGINE = Kafka'")
    assert words[2:].names() == ["drop"]
    assert not words[2:].begins("DROP") and not words.engine()


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("TABLE IF NOT EXISTS db.a, `b`, c SYNC", ["a", "b", "c"]),
        ("NAMED COLLECTION x AS k = 1", ["x"]),
        ("FROM a WHERE 1", ["a"]),
        ("FROM (SELECT 1)", []),
        ("TABLE", []),
        ("TABLE db.", ["db"]),
    ],
)
def test_the_objects_that_come_first(statement, named):
    assert words_of(statement).names() == named


def test_parts_and_clauses_are_those_outside_of_parentheses():
    words = words_of("a Map(String, UInt8), b UInt8 DEFAULT f(x, 'TTL') TTL d")
    assert [part.text for part in words.split()] == ["a Map(String, UInt8)", "b UInt8 DEFAULT f(x, 'TTL') TTL d"]
    assert words.after("TTL").text == "d"
    assert words.until("DEFAULT", "TTL").text == "a Map(String, UInt8), b UInt8"


@pytest.mark.parametrize(
    ("statement", "select"),
    [
        ("CREATE VIEW v AS SELECT 1 AS x", "SELECT 1 AS x"),
        ("CREATE MATERIALIZED VIEW m TO t (x UInt8) AS -- why\nWITH 1 AS y SELECT y", "-- why\nWITH 1 AS y SELECT y"),
        ("CREATE TABLE a AS b", ""),
    ],
)
def test_the_select_of_a_view(statement, select):
    assert select_of(statement) == select
