"""``paystream loadtest report``."""

from pathlib import Path
from typing import Annotated

import typer

from paystream.errors import UsageError
from paystream.loadtest import report_compare, report_text
from paystream.loadtest.report_file import parse, read_document
from paystream.loadtest.report_junit import junit_xml
from paystream.loadtest.report_page import page
from paystream.output import console, is_terminal, print_fields, print_json

SERIES = ("timeline", "histogram")
"""What the JSON summary leaves out: the points of the plots, which are most of a file."""


def report(
    file: Annotated[Path, typer.Argument(help="A result, as `paystream loadtest run --json FILE` writes it.")],
    other: Annotated[Path | None, typer.Argument(metavar="[OTHER]", help="A later one to compare it with.")] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write one page with plots, for all to read.")
    ] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write JUnit XML, for CI.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document, without timelines.")] = False,
) -> None:
    """Show the result of a load test, or compare two: thresholds first, then what was measured.

    Exit code 0 when the run passed; 1 when it failed, was invalid or ended early; 2 when the file is no result. For a
    comparison, which marks what got worse in OTHER, 0 unless a file is no result.

    Example: paystream loadtest report result.json --html result.html
    """
    document = read_document(file)
    result = parse(document)
    if other is not None:
        if html or junit:
            raise UsageError("Comparison of two results: neither a page nor JUnit is made of it. Name one file.")
        later = parse(read_document(other))
        if as_json:
            print_json(report_compare.as_document(result, later))
        elif is_terminal():
            report_compare.show(console, result, later)
        else:
            for event, fields in report_compare.as_lines(result, later):
                print_fields(event, fields)
        return
    if html:
        _write(html, page(result).encode(), "Page", file)
    if junit:
        _write(junit, junit_xml(result), "JUnit file", file)
    if as_json:
        print_json(_without_series(document))
    elif is_terminal():
        report_text.show(console, result)
    else:
        print_fields("loadtest", report_text.as_fields(result))
    if result.verdict != "pass":
        raise typer.Exit(1)


def _without_series(document: dict) -> dict:
    return {
        name: {key: entry for key, entry in value.items() if key not in SERIES} if isinstance(value, dict) else value
        for name, value in document.items()
    }


def _write(path: Path, content: bytes, what: str, source: Path) -> None:
    if path.exists() and path.samefile(source):
        raise UsageError(f"{what} '{path}' is the result file itself. Name another one.")
    try:
        path.write_bytes(content)
    except OSError as error:
        raise UsageError(f"{what} '{path}' cannot be written: {error.strerror}. Name another one.") from error
