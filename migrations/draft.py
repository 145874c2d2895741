"""Write the next version: from what the versions give to what the files say, and back."""

import re
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from textwrap import indent

from paystream.errors import UsageError
from paystream.migrations import freeze, scratch
from paystream.migrations.history import UNWRITTEN, Version, object_name, read_history, versions_folder
from paystream.migrations.lock_file import snapshot_path
from paystream.migrations.schema import Difference, diff
from paystream.migrations.schema_graph import Graph, read_graph
from paystream.migrations.sources import Source, read_sources
from paystream.migrations.statement import select_of, words_of
from paystream.migrations.text import write_text
from paystream.migrations.types import holds
from paystream.settings import Settings, project_folder

# In this order the steps of a version run. What is read comes before what reads it, what is dropped comes after what
# read it, and nothing is lost while ingest goes on.
_PAUSE, _BEFORE, _TABLES, _VIEWS, _INGEST, _DROPS, _RESUME = range(7)


@dataclass(frozen=True)
class Draft:
    """What ``new`` wrote."""

    version: str | None
    """None: the versions give what the files say already, and nothing was written."""
    statements: tuple[str, ...] = ()
    unwritten: int = 0
    """Steps that are left to be written by hand. Until then the version is not locked."""
    differences: tuple[Difference, ...] = ()
    """What the files say anew."""


@dataclass
class _Steps:
    """Statements in the order of their phases, each with the one that takes it back."""

    pairs: list[tuple[int, str, str]] = field(default_factory=list)

    def add(self, phase: int, statement: str, rollback: str) -> None:
        self.pairs.append((phase, statement, rollback))

    def unwritten(self, phase: int, why: str, lines: tuple[str, ...] = ()) -> None:
        detail = "".join(f"--     {line}\n" for line in lines)
        self.add(
            phase,
            f"{indent(why, '-- ')}\n{detail}SELECT throwIf(1, '{UNWRITTEN}')",
            f"SELECT '{UNWRITTEN}: what takes it back'",
        )

    def ordered(self) -> list[tuple[str, str]]:
        return [(statement, back) for _, statement, back in sorted(self.pairs, key=lambda step: step[0])]


def new(name: str, root: Path | None = None, engine: Settings | None = None) -> Draft:
    """Write the version that brings the newest one to what the files say, with its rollback, and lock it.

    The version is tried out before: applied to what the versions give, it gives what the files say, and taken back it
    gives what was there before. What it cannot write surely it leaves as marked steps; then it is not locked yet.

    Args:
        name: what the version does, in lower case with underscores; its number is put in front.
        root: the project folder.
        engine: an engine to try things out in; without it, one is started.

    Raises:
        UsageError: the name, a file or a version cannot be used, or the engine is not installed.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,60}", name):
        raise UsageError(
            f"Name '{name}' cannot be a version's. Take lower-case letters, digits and underscores: add_channel."
        )
    root = root or project_folder()
    folder = versions_folder(root)
    history = read_history(folder)
    sources = read_sources(root)
    with nullcontext(engine) if engine else scratch.scratch_engine() as engine, ExitStack() as stack:
        order, wanted = scratch.load(engine, sources)
        order = _read_first(order, read_graph(root))
        replay = stack.enter_context(scratch.replayed(engine, history))
        given = replay.spelled()
        differences = tuple(freeze.compare(given, wanted))
        if not differences:
            if snapshot_path(folder).exists():
                freeze.write(folder, history, sources, given)  # words of files may have changed, not what they say
            return Draft(None)
        steps = _steps(history, sources, order, given, wanted)
        version = f"{int(history[-1].number) + 1:04d}_{name}"
        head = f"-- {name.replace('_', ' ').capitalize()}.\n-- depends: {history[-1].id}\n"
        files = [folder / f"{version}.sql", folder / f"{version}.rollback.sql"]
        draft = _written(files, head, steps, lambda draft: _try_out(steps, draft, given, wanted, replay))
        unwritten = len(draft.unwritten_steps())
        if not unwritten:
            freeze.write(folder, [*history, draft], sources, wanted)
        return Draft(version, draft.statements, unwritten, differences)


def _read_first(order: list[str], graph: Graph) -> list[str]:
    """Put what is read before what reads it: a view with parameters can be created before what it reads."""
    visited: set[str] = set()
    ordered: list[str] = []

    def visit(name: str) -> None:
        if name in order and name not in visited:
            visited.add(name)
            for read in graph.reads(name):
                visit(read)
            ordered.append(name)

    for name in order:
        visit(name)
    return ordered


def _written(files: list[Path], head: str, steps: _Steps, try_out: Callable[[Version], None]) -> Version:
    """Write a version's two files and return it; whatever goes wrong, none of the two is left."""
    try:
        draft = _write(files, head, steps)
        if not draft.unwritten_steps():
            try_out(draft)
            draft = _write(files, head, steps)
    except BaseException:
        for path in files:
            path.unlink(missing_ok=True)
        raise
    return draft


def _try_out(
    steps: _Steps, draft: Version, given: dict[str, str], wanted: dict[str, str], replay: scratch.Replay
) -> None:
    """Add a marked step for whatever does not come out as it should."""
    try:
        after, back = replay.there_and_back(draft)
    except UsageError as error:
        steps.unwritten(_RESUME, f"tried out, the engine refuses a step. {error}")
        return
    for difference in freeze.compare(after, wanted):
        steps.unwritten(_RESUME, f"{difference.name} is not yet what its file says.", difference.diff)
    for name in sorted(name for name in {*given, *back} if given.get(name) != back.get(name)):
        lines = diff(given.get(name, ""), back.get(name, ""))
        steps.unwritten(_RESUME, f"taken back, {name} is not what it was before.", lines)


def _write(files: list[Path], head: str, steps: _Steps) -> Version:
    pairs = steps.ordered()
    write_text(files[0], head + "".join(f"\n{_ended(statement)}" for statement, _ in pairs))
    write_text(files[1], "".join(_ended(back) for _, back in reversed(pairs)))
    return read_history(files[0].parent, finished=False)[-1]


def _ended(statement: str) -> str:
    # Behind a comment, the semicolon would be part of it.
    has_comment_last = words_of(statement)[-1].end < len(statement.rstrip())
    return f"{statement.rstrip()}\n;\n" if has_comment_last else f"{statement};\n"


def _steps(
    history: list[Version], sources: dict[str, Source], order: list[str], given: dict[str, str], wanted: dict[str, str]
) -> _Steps:
    steps = _Steps()
    changed = [name for name in order if given.get(name) != wanted[name]]
    kafka = [name for name in changed if name in given and _is_kafka(wanted[name]) and _is_kafka(given[name])]
    readers = [name for name in order if name in given and _reads_kafka(given[name], given)]
    # A view that is given another query needs the table that it reads, which is gone meanwhile.
    stops = bool(kafka) and any(name in changed for name in readers)
    stops |= any(_needs_stop(given[name], wanted[name]) for name in changed if name in given)
    for name in changed:
        source, old, now = sources[name], given.get(name), wanted[name]
        if name in kafka or (stops and name in readers):
            continue
        if old is None:
            _create(steps, source, now)
        elif _kind(old) != _kind(now):
            steps.unwritten(_TABLES, f"{name} was a {_kind(old).lower()} and becomes a {_kind(now).lower()}.")
        elif source.kind == "MATERIALIZED VIEW":
            _change_ingest_view(steps, source, history, old, now)
        elif source.kind == "TABLE":
            _change_table(steps, name, old, now)
        else:
            loaded = [other for other in given if other in wanted and _loads_from(given[other], name)]
            for dictionary in loaded:
                why = f"-- Changes nothing: its rollback loads {dictionary} once {name} is as it was.\n"
                steps.add(_BEFORE, f"{why}SELECT '{name} is as it was'", f"SYSTEM RELOAD DICTIONARY {dictionary}")
            _replace(steps, source, old)
            for dictionary in loaded:
                _load(steps, dictionary, f"-- It holds what {name} gave when it was loaded.\n")
    for name in given:
        if name not in wanted:
            _drop(steps, name, given[name], history)
    why = "-- Ingest pauses until it is there again, and goes on from the offsets it had committed.\n"
    for name in readers if stops else []:
        drop = f"DROP VIEW IF EXISTS {name} SYNC"
        steps.add(_PAUSE, why + drop, _if_not_exists(_authored(name, given[name], history)))
    for name in kafka:
        drop = f"DROP TABLE IF EXISTS {name} SYNC"
        steps.add(_PAUSE, why + drop, _if_not_exists(_authored(name, given[name], history)))
        steps.add(_RESUME, sources[name].text, drop)
    for name in readers if stops else []:
        if name in wanted:
            steps.add(_RESUME, sources[name].text, f"DROP VIEW IF EXISTS {name} SYNC")
    return steps


def _needs_stop(old: str, now: str) -> bool:
    """Return whether rows that pass while an object is changed could lose values, or be missed."""
    if _kind(old) == _kind(now) == "MATERIALIZED VIEW":
        # What is refreshed reads rows that are stored: it misses none by coming later.
        return _target(old) != _target(now) and not (_refresh(old) and _refresh(now))
    return _is_null(old) and _is_null(now) and bool(_added(Table.of(old), Table.of(now)))


def _reads_kafka(create: str, objects: dict[str, str]) -> bool:
    if _kind(create) != "MATERIALIZED VIEW":
        return False
    words = words_of(select_of(create))
    read = [name for at, word in enumerate(words) if word.upper in ("FROM", "JOIN") for name in words[at + 1 :].names()]
    return any(_is_kafka(objects.get(name, "")) for name in read)


def _create(steps: _Steps, source: Source, now: str) -> None:
    kind = "VIEW" if source.kind.endswith("VIEW") else source.kind
    ingest = source.kind == "MATERIALIZED VIEW" or _is_kafka(now)
    phase = _INGEST if ingest else _TABLES if kind == "TABLE" else _VIEWS
    steps.add(phase, source.text, f"DROP {kind} IF EXISTS {source.name} SYNC")
    if kind == "DICTIONARY":
        _load(steps, source.name)


def _loads_from(create: str, name: str) -> bool:
    pairs = pairwise(words_of(create))
    return _kind(create) == "DICTIONARY" and any(key.upper == "TABLE" and value.text == name for key, value in pairs)


def _load(
    steps: _Steps,
    name: str,
    why: str = "-- A dictionary that never loaded makes dictGet throw, and that would stop ingest.\n",
) -> None:
    nothing = "SELECT 'a reload leaves nothing to take back'"
    steps.add(_VIEWS, f"{why}SYSTEM RELOAD DICTIONARY {name}", nothing)


def _replace(steps: _Steps, source: Source, old: str) -> None:
    select = select_of(old)
    before = _or_replace(old) if source.kind == "DICTIONARY" else f"CREATE OR REPLACE VIEW {source.name} AS\n{select}"
    pairs = [(before.upper, word.upper) for before, word in pairwise(words_of(select))]
    if source.kind == "VIEW" and any(pair in pairs for pair in (("SELECT", "*"), (",", "*"), (".", "*"))):
        # A view's columns are those at its creation, so it is made anew once the columns are gone again.
        why = "-- Changes nothing: its rollback makes the view anew once columns are as they were.\n"
        steps.add(_BEFORE, why + before, before)
    steps.add(_VIEWS, _or_replace(source.text), before)
    if source.kind == "DICTIONARY":
        _load(steps, source.name)


def _change_ingest_view(steps: _Steps, source: Source, history: list[Version], old: str, now: str) -> None:
    name = source.name
    was, becomes = _refresh(old), _refresh(now)
    # No ALTER makes a view refreshed or not, or changes whether it appends.
    same_kind = bool(was) == bool(becomes) and was.endswith(" APPEND") == becomes.endswith(" APPEND")
    if _target(old) == _target(now) and same_kind:
        if was != becomes:
            alter = f"ALTER TABLE {name} MODIFY "
            steps.add(_INGEST, alter + becomes, alter + was)
        if was == becomes or select_of(old) != select_of(now):
            alter = f"ALTER TABLE {name} MODIFY QUERY\n"
            steps.add(_INGEST, alter + source.select, alter + select_of(old))
        return
    drop = f"DROP VIEW IF EXISTS {name} SYNC"
    steps.add(_INGEST, drop, _if_not_exists(_authored(name, old, history)))
    steps.add(_INGEST, source.text, drop)


def _drop(steps: _Steps, name: str, old: str, history: list[Version]) -> None:
    kind = _kind(old)
    create = _if_not_exists(_authored(name, old, history))
    if kind == "TABLE" and not _is_kafka(old) and not _is_null(old):
        create = f"/* irreversible: the rows of {name} do not come back */\n{create}"
    # Views first: what they read goes after them.
    phase = _DROPS if kind != "MATERIALIZED VIEW" else _INGEST
    steps.add(phase, f"DROP {'VIEW' if kind.endswith('VIEW') else kind} IF EXISTS {name} SYNC", create)


@dataclass(frozen=True)
class Table:
    """The parts of a CREATE TABLE as the engine formats it, each by its name."""

    columns: dict[str, str]
    others: dict[tuple[str, str], str]
    """Indexes, projections and constraints, by kind and name."""
    clauses: dict[str, str]

    @classmethod
    def of(cls, create: str) -> "Table":
        """Take a CREATE TABLE apart, as the engine formats it."""
        words = words_of(create)
        opening, closing = (next(word for word in words if word.upper == sign and word.depth == 0) for sign in "()")
        columns: dict[str, str] = {}
        others: dict[tuple[str, str], str] = {}
        for element in words[words.index(opening) + 1 : words.index(closing)].split():
            if element[0].quote:
                columns[element[0].text] = element[1:].text
            else:
                others[element[0].upper, element[1].text] = element[2:].text
        rest = words[words.index(closing) + 1 :]
        starts = [(at, clause) for at, word in enumerate(rest) for clause in _CLAUSES if word.depth == 0]
        starts = [(at, clause) for at, clause in starts if rest[at:].begins(*clause.split())]
        clauses = {
            clause: rest[at + len(clause.split()) : end].text
            for (at, clause), (end, _) in pairwise([*starts, (len(rest), "")])
        }
        return cls(columns, others, clauses)

    def settings(self) -> dict[str, str]:
        """Return the values of the table's settings, as SQL."""
        settings = words_of(self.clauses.get("SETTINGS", "")).split()
        return {setting[0].text: setting[2:].text for setting in settings if setting}


_CLAUSES = ("ENGINE =", "PARTITION BY", "PRIMARY KEY", "ORDER BY", "SAMPLE BY", "TTL", "SETTINGS", "COMMENT")


_PROPERTIES = ("DEFAULT", "MATERIALIZED", "ALIAS", "CODEC", "COMMENT", "TTL")


def _change_table(steps: _Steps, name: str, old_create: str, new_create: str) -> None:
    """Draft the ALTERs of a table that holds rows, or through which rows pass."""
    old, now = Table.of(old_create), Table.of(new_create)
    alter = f"ALTER TABLE {name}"
    added, taken = _added(now, old), _added(old, now)
    if additions := _additions(now, added, taken, old):
        new = [*(("COLUMN", column) for column in added), *_new_others(now, old)]
        removals = [f"DROP {kind} IF EXISTS {item}" for kind, item in new]
        steps.add(
            _TABLES,
            f"{alter}\n    " + ",\n    ".join(additions),
            f"{alter} " + ", ".join(reversed(removals)),
        )
    for kind, item in _new_others(now, old):
        _materialize(steps, _TABLES, alter, kind, item)
    for column in added:
        if "MATERIALIZED" in _properties(now.columns[column]):
            why = "-- For what is stored already, where it is computed at each read until then.\n"
            nothing = "SELECT 'the column goes next'"
            steps.add(_TABLES, f"{why}{alter} MATERIALIZE COLUMN {column}", nothing)
    clauses = [now.clauses.get(clause, "") for clause in ("ORDER BY", "PARTITION BY", "PRIMARY KEY")]
    keys = {word.text for clause in clauses for word in words_of(clause)}
    for column in now.columns:
        if column in old.columns and now.columns[column] != old.columns[column]:
            _change_column(steps, alter, column, old.columns[column], now.columns[column], keys)
    kept = [column for column in old.columns if column in now.columns]
    if kept != [column for column in now.columns if column in old.columns]:
        steps.unwritten(_TABLES, f"{name}: columns that were there before stand in another order.")
    for (kind, item), text in old.others.items():
        if (kind, item) not in now.others or now.others[kind, item] != text:
            before = f"{alter} ADD {kind} IF NOT EXISTS {item} {text}{_place_of_other(old, kind, item, now)}"
            steps.add(_DROPS, f"{alter} DROP {kind} IF EXISTS {item}", before)
            if (kind, item) in now.others:
                drop = f"{alter} DROP {kind} IF EXISTS {item}"
                place = _place_of_other(now, kind, item, now)
                steps.add(_DROPS, f"{alter} ADD {kind} {item} {now.others[kind, item]}{place}", drop)
                _materialize(steps, _DROPS, alter, kind, item)
    stores = not _is_null(old_create)
    for column in taken:
        before = _place(list(old.columns), column)
        why = f"/* irreversible: the values of {name}.{column} do not come back */\n" if stores else ""
        steps.add(
            _DROPS,
            f"{alter} DROP COLUMN IF EXISTS {column}",
            f"{why}{alter} ADD COLUMN IF NOT EXISTS {column} {old.columns[column]}{before}",
        )
    _change_clauses(steps, name, old, now)


def _materialize(steps: _Steps, phase: int, alter: str, kind: str, item: str) -> None:
    if kind in ("INDEX", "PROJECTION"):
        why = "-- For what is stored already; writes it alone, not the rows.\n"
        steps.add(phase, f"{why}{alter} MATERIALIZE {kind} {item}", f"{alter} CLEAR {kind} IF EXISTS {item}")


def _change_column(steps: _Steps, alter: str, column: str, old: str, now: str, keys: set[str]) -> None:
    was, becomes = _type(old), _type(now)
    if was != becomes and (column in keys or not holds(becomes, was)):
        why = "a key is made of it" if holds(becomes, was) else "the new type may not hold every value"
        steps.unwritten(_TABLES, f"{column} is {was} and becomes {becomes}: {why}.")
        return
    back = "" if holds(was, becomes) else f"/* irreversible: a value of {column} that {was} cannot hold */\n"
    lost = [word for word in _properties(old) if word not in _properties(now)]
    gained = [word for word in _properties(now) if word not in _properties(old)]
    for word in lost:
        steps.add(_TABLES, f"{alter} MODIFY COLUMN {column} REMOVE {word}", f"{alter} MODIFY COLUMN {column} {old}")
    if not (lost and old.startswith(now)):  # then nothing else changed
        undo = f"{back}{alter} MODIFY COLUMN {column} {old}"
        for word in gained:
            nothing = "SELECT 'changes nothing: its rollback removes what the next step adds'"
            steps.add(_TABLES, nothing, f"{alter} MODIFY COLUMN {column} REMOVE {word}")
        steps.add(_TABLES, f"{alter} MODIFY COLUMN {column} {now}", undo)


def _change_clauses(steps: _Steps, name: str, old: Table, now: Table) -> None:
    alter = f"ALTER TABLE {name}"
    ttl, before = now.clauses.get("TTL"), old.clauses.get("TTL")
    if ttl != before:
        steps.add(_TABLES, _ttl(alter, ttl), _ttl(alter, before))
    comment, before = now.clauses.get("COMMENT", "''"), old.clauses.get("COMMENT", "''")
    if comment != before:
        steps.add(_TABLES, f"{alter} MODIFY COMMENT {comment}", f"{alter} MODIFY COMMENT {before}")
    settings, olds = now.settings(), old.settings()
    for setting in sorted({*settings, *olds}):
        if settings.get(setting) != olds.get(setting):
            steps.add(_TABLES, _setting(alter, setting, settings), _setting(alter, setting, olds))
    for clause in ("ENGINE =", "PARTITION BY", "PRIMARY KEY", "ORDER BY", "SAMPLE BY"):
        if now.clauses.get(clause) != old.clauses.get(clause):
            lines = (f"- {clause} {old.clauses.get(clause, '')}", f"+ {clause} {now.clauses.get(clause, '')}")
            steps.unwritten(_TABLES, f"{name} has to be made anew and its rows copied: no ALTER does this.", lines)


def _ttl(alter: str, value: str | None) -> str:
    return f"{alter} MODIFY TTL {value}" if value else f"{alter} REMOVE TTL"


def _setting(alter: str, name: str, values: dict[str, str]) -> str:
    return f"{alter} MODIFY SETTING {name} = {values[name]}" if name in values else f"{alter} RESET SETTING {name}"


def _added(now: Table, old: Table) -> list[str]:
    return [column for column in now.columns if column not in old.columns]


def _new_others(now: Table, old: Table) -> list[tuple[str, str]]:
    return [key for key in now.others if key not in old.others]


def _additions(now: Table, added: list[str], taken: list[str], old: Table) -> list[str]:
    texts = []
    # Those to be dropped are still there, at the end too.
    last = list(old.columns)[-1]
    for column in added:
        place = _place(list(now.columns), column)
        is_last = place == f" AFTER {last}" and not taken
        texts.append(f"ADD COLUMN {column} {now.columns[column]}{'' if is_last else place}")
        last = column if is_last else last
    return texts + [
        f"ADD {kind} {item} {now.others[kind, item]}{_place_of_other(now, kind, item, now)}"
        for kind, item in _new_others(now, old)
    ]


def _place(names: list[str], column: str) -> str:
    position = names.index(column)
    return f" AFTER {names[position - 1]}" if position else " FIRST"


def _place_of_other(table: Table, kind: str, item: str, there: Table) -> str:
    """Return where an index belongs, after one that is there by then; ``""`` at the end."""
    names = [name for other_kind, name in table.others if other_kind == kind]
    if kind != "INDEX" or item == names[-1]:
        return ""
    before = [name for name in names[: names.index(item)] if (kind, name) in there.others]
    return f" AFTER {before[-1]}" if before else " FIRST"


def _properties(definition: str) -> list[str]:
    """Return what a column has beside its type, each by its keyword."""
    return [word.upper for word in words_of(definition) if word.depth == 0 and word.upper in _PROPERTIES]


def _type(definition: str) -> str:
    return words_of(definition).until(*_PROPERTIES).text


def _if_not_exists(create: str) -> str:
    """Return a CREATE that also works where the step that it takes back never ran."""
    kind = next(word for word in words_of(create) if word.upper in ("TABLE", "VIEW", "DICTIONARY"))
    return f"{create[: kind.end]} IF NOT EXISTS{create[kind.end :]}"


def _kind(create: str) -> str:
    kind = words_of(create)[1].upper
    return "MATERIALIZED VIEW" if kind == "MATERIALIZED" else kind


def _is_kafka(create: str) -> bool:
    return words_of(create).engine().begins("KAFKA")


def _is_null(create: str) -> bool:
    return [word.text for word in words_of(create).engine()[:1]] == ["Null"]


def _target(create: str) -> str:
    return next(iter(words_of(create).after("TO").names()), "") if _kind(create) == "MATERIALIZED VIEW" else ""


def _refresh(create: str) -> str:
    """Return when and how a view is refreshed, as the engine spells it; ``""`` where each block runs it."""
    refresh = words_of(create)[1:].behind_name().until("TO", "(")
    return refresh.text if refresh.begins("REFRESH") else ""


def _or_replace(create: str) -> str:
    first = words_of(create)[0]
    return f"{create[: first.end]} OR REPLACE{create[first.end :]}"


def _authored(name: str, create: str, history: list[Version]) -> str:
    """Return the CREATE of an object as a version has it, or as the engine spells it where it was altered since."""
    texts = [text for version in history for text in version.statements if object_name(text) == name]
    words = words_of(texts[-1]) if texts else []
    if words and words.begins("CREATE") and not words.begins("CREATE", "OR"):
        return texts[-1].strip().rstrip(";")
    return create
