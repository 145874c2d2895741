"""The linter: what in ``sql/`` and ``dictionaries/`` would lose, double or falsify messages once it runs.

A file waives a rule with a line ``-- lint: waive RULE because …``; it holds for that file. The reason is required, and
a waiver that waives nothing is a finding itself, so that none outlives its cause.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from operator import attrgetter
from pathlib import Path

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError

from paystream.clickhouse import cause_of
from paystream.migrations.lint_engine import types_in_engine
from paystream.migrations.lint_rules import RULES
from paystream.migrations.schema_graph import Graph, Unreadable, read_graph

FILE = "file"
"""The rule that a file is one readable CREATE, named as its object. It cannot be waived."""

UNREAD = "unread"
"""The rule that the linter's parser understands a file. ClickHouse may know SQL that is newer."""

WAIVER = "waiver"
"""The rule that a waiver names a rule, gives a reason and waives something. It cannot be waived."""

VIEW_TYPES = "view-types"
"""The rule that the engine, when one answers, checks better than the files can."""

REASONS = {rule.id: rule.reason for rule in RULES} | {
    FILE: "A file that can't be read is not checked, and the next version would be written without it.",
    UNREAD: "A file that the linter can't read is checked by none of its rules.",
    WAIVER: "A waiver without a reason, or one no longer needed, hides the next mistake.",
}
"""Why each rule is one, by id."""

_WAIVER = re.compile(r"--\s*lint\s*:\s*(?P<words>.*?)\s*$", re.IGNORECASE)
_WORDS = re.compile(r"waive\s+(?P<rule>\S+?):?(?:\s+because\b[\s:]*(?P<reason>.*))?", re.IGNORECASE)


@dataclass(frozen=True)
class Finding:
    """One thing to correct or to waive. ``str()`` is the one line to print."""

    rule: str
    path: str
    """Relative to the repository, with forward slashes."""
    line: int
    object: str
    cause: str
    what_next: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule} '{self.object}': {self.cause}. {self.what_next}."


@dataclass
class _Waiver:
    path: str
    line: int
    object: str
    rule: str
    fault: tuple[str, str] | None
    used: bool = False


def lint_files(root: Path | None = None, client: Client | None = None) -> list[Finding]:
    """Check the files of ``sql/`` and ``dictionaries/`` and return what breaks the rules, by file and line.

    Without a server, types are compared only where the files say them outright. Changes nothing anywhere.

    Args:
        root: the folder that ``sql/`` and ``dictionaries/`` are in; else the project.
        client: a server to ask for the types of the views' columns. Nothing of the schema needs to be there; about
            10 ms a view.

    Raises:
        OperationalError: the server was lost on the way.
    """
    graph = read_graph(root)
    waivers = list(_waivers(graph))
    unchecked = {each.path for each in waivers if each.rule == UNREAD and not each.fault}
    findings = [_finding_of_file(unreadable, client) for unreadable in graph.unreadable]
    findings = [finding for finding in findings if finding.rule != UNREAD or finding.path not in unchecked]
    rules = [rule for rule in RULES if client is None or rule.id != VIEW_TYPES]
    broken = [(rule.id, place) for rule in rules for place in rule.check(graph)]
    if client is not None:
        broken += [(VIEW_TYPES, place) for place in types_in_engine(graph, client)]
    for rule, place in broken:
        waiving = [each for each in waivers if (each.path, each.rule) == (place.object.path, rule) and not each.fault]
        for each in waiving:
            each.used = True
        if not waiving:
            where = place.object
            findings.append(Finding(rule, where.path, place.line, where.name, place.cause, place.what_next))
    # Without an engine, a waiver of types may look unused; so does any waiver in a file that no rule could read.
    unread = {unreadable.path for unreadable in graph.unreadable}
    unused = [
        each
        for each in waivers
        if not each.used and each.path not in unread and (client is not None or each.rule != VIEW_TYPES)
    ]
    findings += [_finding_of_waiver(each) for each in waivers if each.fault or each in unused]
    return sorted(dict.fromkeys(findings), key=attrgetter("path", "line", "rule", "cause"))


def _finding_of_file(file: Unreadable, client: Client | None) -> Finding:
    if file.unparsed is None:
        return Finding(FILE, file.path, 1, file.name, file.cause, file.what_next.rstrip("."))
    if client is None:
        return Finding(UNREAD, file.path, 1, file.name, file.cause, f"Correct it, or {_CHECK_AND_WAIVE}")
    try:
        client.query("SELECT formatQuery({text:String})", {"text": file.unparsed.rstrip().rstrip(";")})
    except OperationalError:
        raise
    except DatabaseError as error:
        return Finding(FILE, file.path, 1, file.name, f"the engine refuses it: {cause_of(error)}", "Correct it")
    cause = "ClickHouse reads it, and the linter does not"
    return Finding(UNREAD, file.path, 1, file.name, cause, _CHECK_AND_WAIVE.capitalize())


_CHECK_AND_WAIVE = f"check it yourself and write `-- lint: waive {UNREAD} because …`"


def _finding_of_waiver(waiver: _Waiver) -> Finding:
    cause, what_next = waiver.fault or (f"nothing here breaks {waiver.rule} any more", "Remove the waiver")
    return Finding(WAIVER, waiver.path, waiver.line, waiver.object, cause, what_next)


def _waivers(graph: Graph) -> Iterator[_Waiver]:
    rules = [*(rule.id for rule in RULES), UNREAD]
    texts = [(schema_object.path, schema_object.name, schema_object.text) for schema_object in graph.objects.values()]
    texts += [(file.path, file.name, file.unparsed) for file in graph.unreadable if file.unparsed]
    for path, name, text in texts:
        for number, line in enumerate(text.splitlines(), start=1):
            if not (comment := _WAIVER.search(line)):
                continue
            words = _WORDS.fullmatch(comment["words"])
            rule = words["rule"] if words else ""
            fault = None
            if not words:
                fault = ("its comment `lint:` says nothing", "Write `-- lint: waive RULE because …`")
            elif rule not in rules:
                near = get_close_matches(rule, rules, n=3, cutoff=0.4) or rules
                fault = (f"there is no rule {rule}", f"Write one of {', '.join(near)}")
            elif not (words["reason"] or "").strip(" .…"):
                fault = (f"it waives {rule} without a reason", f"Write `-- lint: waive {rule} because …`")
            yield _Waiver(path, number, name, rule, fault)
