"""A result as JUnit XML, the form in which CI systems take in tests: one test case per threshold."""

import re
import xml.etree.ElementTree as ET

from paystream.loadtest.report_figures import shown
from paystream.loadtest.report_file import ResultFile
from paystream.loadtest.report_text import limit

_NOT_IN_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(result: ResultFile) -> bytes:
    """Return the document.

    A threshold that did not hold is a failure, with measured value and limit. A run that was invalid or ended early is
    an error, in a test case ``run`` of its own; its thresholds are skipped, since none of them was really tested.
    """
    reasons = result.no_result
    suite = ET.Element("testsuite", name=_clean(f"paystream loadtest {result.name}"))
    suite.set("tests", str(len(result.thresholds) + bool(reasons)))
    suite.set("failures", str(0 if reasons else sum(not threshold.held for threshold in result.thresholds)))
    suite.set("errors", str(int(bool(reasons))))
    suite.set("skipped", str(len(result.thresholds) if reasons else 0))
    suite.set("time", f"{result.duration_s or 0:.3f}")
    if result.started_at:
        suite.set("timestamp", result.started_at.isoformat(timespec="seconds"))
    properties = ET.SubElement(suite, "properties")
    facts = {"verdict": result.verdict, "seed": result.seed, **result.machine.model_dump()}
    for name, value in facts.items():
        if value is not None:
            ET.SubElement(properties, "property", name=name, value=_clean(str(value)))
    if reasons:
        case = _case(suite, result, "run")
        ET.SubElement(case, "error", type=result.verdict, message=_clean(f"not a result: {'; '.join(reasons)}"))
    for threshold in result.thresholds:
        case = _case(suite, result, threshold.name)
        measured = shown(result.measured(threshold), threshold.unit)
        compared = _clean(f"{threshold.meaning or threshold.name}: {measured}, at most {limit(threshold)}")
        if reasons:
            ET.SubElement(case, "skipped", message=f"{compared}; the run is not a result")
        elif not threshold.held:
            ET.SubElement(case, "failure", type="threshold", message=compared)
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return ET.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def _case(suite: ET.Element, result: ResultFile, name: str) -> ET.Element:
    case = ET.SubElement(suite, "testcase", classname=_clean(f"loadtest.{result.name}"), name=_clean(name))
    case.set("time", "0")
    return case


def _clean(text: str) -> str:
    """Replace what XML cannot hold at all, not even escaped."""
    return _NOT_IN_XML.sub("\ufffd", text)
