"""What the local ClickHouse endpoint must know about a statement before the engine parses it. Pure text, no engine.

The engine as a library reads inline INSERT data line by line and runs whatever follows as further statements, so the
endpoint has to find by itself where an INSERT ends and its data begins, and whether a request is one statement.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

# Every repetition is possessive and no two alternatives can start with the same byte: matching is linear in the text.
# The multi-byte sequences are the Unicode spaces that ClickHouse's own lexer skips.
_SPACE = (
    rb"(?:\s|\xc2[\x85\xa0]|\xe1\x9a\x80|\xe1\xa0\x8e|\xe2\x80[\x80-\x8d\xa8\xa9\xaf]|\xe2\x81[\x9f\xa0]"
    rb"|\xe3\x80\x80|\xef\xbb\xbf)"
)
_COMMENT = rb"--[^\n]*+|\#[ !][^\n]*+|/\*(?:[^*]++|\*(?!/))*+(?:\*/)?"
# An unclosed literal runs to the end, else each of its quotes would be tried as the opening one in turn.
# A dollar inside a name opens no heredoc.
_LITERAL = (
    rb"'(?:[^'\\]++|\\.)*+'?|\"(?:[^\"\\]++|\\.)*+\"?|`(?:[^`\\]++|\\.)*+`?"
    rb"|(?<![\w$])\$(?P<tag>\w*)\$(?:.*?\$(?P=tag)\$|.*)"
)

_TOKEN = re.compile(
    rb"(?P<blank>(?:" + _SPACE + rb"|" + _COMMENT + rb")++)"
    rb"|(?P<literal>" + _LITERAL + rb")|(?P<word>[A-Za-z_][\w$]*+)|(?P<other>.)",
    re.DOTALL,
)
_HIDDEN = re.compile(rb"(?P<comment>" + _COMMENT + rb")|" + _LITERAL, re.DOTALL)
_SPACES = re.compile(_SPACE + rb"++")
_FORMAT_WORD = re.compile(rb"\bFORMAT\b(?!\s*\()", re.IGNORECASE)  # with a parenthesis it is the function
_FORMAT_CLAUSE = re.compile(rb"\bFORMAT\s+(\w+)\s*(?:;|SETTINGS\b.*|\Z)", re.IGNORECASE | re.DOTALL)
# As in ClickHouse: blanks and at most one line break separate the format's name from the data.
_BEFORE_DATA = re.compile(rb"[ \t\f]*\r?\n?")
_INPUT_FUNCTION = re.compile(rb"\binput\s*\(", re.IGNORECASE)

_WITH_RESULT = {"SELECT", "WITH", "FROM", "SHOW", "DESC", "DESCRIBE", "EXISTS", "EXPLAIN", "CHECK", "KILL", "BACKUP"}


@dataclass(frozen=True)
class Insert:
    """An INSERT whose data follows it. ``head`` and ``settings`` are the statement around the place of its data."""

    head: bytes
    settings: bytes
    format: str
    data_at: int
    """Where the data begins in the text that was split."""

    def reading(self, path: str) -> bytes:
        """Return the same INSERT taking its data from a file."""
        # Line breaks, since a comment may end either part.
        return b"%s\nFROM INFILE '%s'\n%s\nFORMAT %s" % (self.head, path.encode(), self.settings, self.format.encode())


@dataclass(frozen=True)
class Statement:
    """Facts about the text of one request."""

    count: int
    """How many statements it holds."""
    words: tuple[str, ...]
    """Its first words in upper case."""
    format: str | None
    """The output format it names; ``""`` when it says FORMAT somewhere that is not plainly a closing clause."""
    calls_input: bool
    readable: bool
    """Whether its first character can begin a statement. The engine skips a text that begins otherwise, in silence."""

    @property
    def selects(self) -> bool:
        """Whether it may be a SELECT, whose result the engine can stream."""
        return self.words[:1] in (("SELECT",), ("WITH",), ("FROM",))

    @property
    def has_result(self) -> bool:
        """Whether it answers with rows, be they none."""
        return bool(self.words) and self.words[0] in _WITH_RESULT

    @property
    def changes_connection(self) -> bool:
        """Whether it leaves something on the connection: a setting, the current database, a temporary table."""
        return self.words[:1] in (("SET",), ("USE",)) or "TEMPORARY" in self.words

    @property
    def changes_databases(self) -> bool:
        """Whether a database may have come or gone."""
        return "DATABASE" in self.words[:3] and not self.has_result


def split_insert(text: bytes) -> Insert | None:
    """Find where the data of an INSERT begins.

    Returns:
        None for any other statement, and for an INSERT without data of its own (``INSERT … SELECT``).
    """
    words = _tokens(text)
    if not _is(next(words, None), "INSERT"):
        return None
    depth = 0
    target_named = False
    settings_at = None
    for token in words:
        symbol = token[0]
        if symbol in (b"(", b"{", b"["):
            depth += 1
        elif symbol in (b")", b"}", b"]"):
            depth -= 1
        elif depth:
            continue
        elif not target_named:
            # INTO, TABLE and FUNCTION come before the name; a table may itself be named `format` or `values`.
            target_named = not any(_is(token, word) for word in ("INTO", "TABLE", "FUNCTION"))
        elif symbol == b".":
            target_named = False
        elif _is(token, "SETTINGS"):
            settings_at = token.start()
        elif _is(token, "FORMAT") or _is(token, "VALUES"):
            head_end = settings_at or token.start()
            settings = text[head_end : token.start()]
            if _is(token, "VALUES"):
                return Insert(text[:head_end], settings, "Values", token.end())
            name = next(words, None)
            if name is None or name.lastgroup != "word":
                return None
            return Insert(text[:head_end], settings, name[0].decode(), _BEFORE_DATA.match(text, name.end()).end())
        elif any(_is(token, word) for word in ("SELECT", "WITH", "FROM", "WATCH")):
            return None
        if symbol == b"}" and not depth:
            target_named = True  # the name is a query parameter, {name:Identifier}
    return None


def describe(text: bytes) -> Statement:
    """Describe a statement that carries no INSERT data."""
    bare = _SPACES.sub(b" ", _HIDDEN.sub(lambda match: b" " if match["comment"] else b"''", text))
    words = tuple(word.decode().upper() for word in re.findall(rb"[A-Za-z_]\w*", bare[:400])[:5])
    format_name = None
    if _FORMAT_WORD.search(bare):
        clause = _FORMAT_CLAUSE.search(bare)
        format_name = clause[1].decode() if clause else ""
    return Statement(
        count=sum(1 for part in bare.split(b";") if part.strip()),
        words=words,
        format=format_name,
        readable=bare.strip()[:1].isascii() and bare.strip()[:1].decode().isprintable(),
        calls_input=words[:1] == ("INSERT",) and bool(_INPUT_FUNCTION.search(bare)),
    )


def _tokens(text: bytes) -> Iterator[re.Match[bytes]]:
    return (match for match in _TOKEN.finditer(text) if match.lastgroup != "blank")


def _is(token: re.Match[bytes] | None, word: str) -> bool:
    return token is not None and token.lastgroup == "word" and token[0].upper() == word.encode()
