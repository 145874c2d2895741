"""A status as a web page: the same figures and tables as on the terminal, in a page that updates itself."""

from collections.abc import Callable
from html import escape
from pathlib import Path

import orjson

from paystream.status.health import Verdict
from paystream.status.server import Answer
from paystream.status.state import Status
from paystream.status.view import CLOCKS, Figure, Section, document, figures, sections

PAGE = Path(__file__).parent / "page"


def routes(current: Callable[[], tuple[Status, Verdict]]) -> dict[str, Callable[[], Answer]]:
    """Return what each path of the page answers with."""
    return {
        "/": lambda: Answer("text/html", _page(*current()).encode()),
        "/parts.json": lambda: Answer("application/json", orjson.dumps(parts(*current()))),
        "/status.json": lambda: Answer("application/json", orjson.dumps(document(*current()), default=str)),
        "/style.css": lambda: Answer("text/css", (PAGE / "style.css").read_bytes()),
        "/script.js": lambda: Answer("text/javascript", (PAGE / "script.js").read_bytes()),
        "/icon.svg": lambda: Answer("image/svg+xml", (PAGE / "icon.svg").read_bytes()),
    }


def parts(status: Status, verdict: Verdict) -> dict[str, str]:
    """Return the HTML of each part of the page that changes, by its id, and the verdict's word as ``word``.

    What changes all the time is kept apart from what is read aloud (``verdict``), which changes only with the reasons.
    """
    reasons = "".join(
        f"<li>{escape(problem.text)} <span class=where>Runbook: {escape(problem.section)}</span></li>"
        for problem in verdict.problems
    )
    html = {
        "word": verdict.word,
        "verdict": f"<strong>{escape(verdict.word.capitalize())}</strong>",
        "reasons": f"<ul>{reasons}</ul>" if reasons else "",
        "figures": "".join(map(_figure, figures(status))),
        "asked": f"{status.at:%Y-%m-%d %H:%M:%S} UTC, asked in {status.took_s:.2f} s",
    }
    for section in sections(status):
        html[section.key] = _table(section)
        html[f"{section.key}-note"] = escape(section.note)
    return html


def _page(status: Status, verdict: Verdict) -> str:
    html = parts(status, verdict)
    tables = "".join(_section(section, html) for section in sections(status))
    text = (PAGE / "page.html").read_text()
    slots = {name: html[name] for name in ("word", "verdict", "reasons", "figures", "asked")}
    slots |= {"tables": tables, "clocks": escape(CLOCKS), "topic": escape(status.topic)}
    for name, value in slots.items():
        text = text.replace(f"<!--{name}-->", value).replace(f"%{name}%", value)
    return text


def _figure(figure: Figure) -> str:
    value = f"<b>{escape(figure.value)}</b> <small>{escape(figure.note)}</small>"
    return f"<div><dt>{escape(figure.label)}</dt><dd>{value}</dd></div>"


def _section(section: Section, html: dict[str, str]) -> str:
    titled = f'aria-labelledby="{section.key}-title"'
    return (
        f'<section {titled}><h2 id="{section.key}-title">{escape(section.title)}</h2>'
        f'<div class=scroll role=group {titled} id="{section.key}">{html[section.key]}</div>'
        f'<p class=note id="{section.key}-note">{html[f"{section.key}-note"]}</p></section>'
    )


def _table(section: Section) -> str:
    if not section.rows:
        return ""
    head = ""
    if any(section.header):
        cells = "".join(f"<th scope=col>{escape(name)}</th>" for name in section.header)
        head = f"<thead><tr>{cells}</tr></thead>"
    body = "".join(
        f"<tr><th scope=row>{escape(first)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in rest)}</tr>"
        for first, *rest in section.rows
    )
    return f"<table>{head}<tbody>{body}</tbody></table>"
