"""`paystream loadtest report`: what it says of a result, its exit codes, and files that are no results."""

import io
import json
import re
import xml.etree.ElementTree as ET

import pytest
import results
from rich.console import Console

from paystream.loadtest import report_compare, report_text
from paystream.loadtest.report_figures import seconds, size
from paystream.loadtest.report_file import parse
from paystream.loadtest.report_junit import junit_xml
from paystream.loadtest.report_page import page


@pytest.fixture
def report(own_settings, paystream_here, tmp_path):
    """A function that writes documents to files and runs the command on them, with more arguments if any."""

    def run(*documents, arguments=()):
        files = []
        for number, document in enumerate(documents):
            file = tmp_path / f"result-{number}.json"
            file.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
            files.append(str(file))
        return paystream_here(own_settings, "loadtest", "report", *files, *arguments)

    return run


def on_terminal(document, width=110):
    screen = io.StringIO()
    report_text.show_document(Console(file=screen, width=width), document)
    return [" ".join(line.split()) for line in screen.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("document", "code"),
    [(results.passing(), 0), (results.failing(), 1), (results.invalid(), 1), (results.interrupted(), 1)],
    ids=["pass", "fail", "invalid", "partial"],
)
def test_the_exit_code_is_the_verdict(report, document, code):
    exit_code, out, err = report(document)
    assert (exit_code, err) == (code, [])
    assert out.startswith(f"loadtest workload={document['workload']['name']} verdict={document['verdict']} ")
    assert out.count("\n") == 1


def test_a_log_gets_one_line_with_the_values(report):
    document = results.failing()
    _, out, _ = report(document)
    fields = dict(re.findall(r"(\w+)=(\S+)", out))
    assert fields["p95_seconds"] == f"{document['visibility']['p95_s']:.3f}"
    assert (fields["lost"], fields["duplicated"], fields["sent"]) == ("3", "0", "300000")
    assert fields["broken"] == "p95_seconds,lost,wrong_sums"
    assert "not_a_result" not in fields
    _, out, _ = report(results.interrupted())
    assert 'not_a_result="ended early: Ctrl-C after 20 s of 60"' in out
    assert "stored=" not in out


def test_a_person_sees_the_thresholds_first():
    lines = on_terminal(results.failing())
    assert lines[0] == "FAIL ten_times: 300,000 messages at 5,000/s"
    assert re.fullmatch(r"✗ payment to queryable row, 95th percentile 1\.\d\d s at most 0\.6 s", lines[1])
    assert lines[2:4] == ["✗ lost 3 at most 0", "✓ counted twice 0 at most 0"]
    assert lines[11] == "p50 p95 p99 p99.9 max"
    assert lines[12].startswith("payment to queryable ")
    assert lines[14].startswith("Kafka to stored ")
    assert "lag peak 48,211 none left after 0.200 s" in lines
    assert "parts at the start 6 at the end 11 peak 20 inserted 300 time in merges 3.10 s" in lines
    assert "bytes a message on the wire 236 B a row on disk 61 B" in lines
    assert "memory peak, together 634 MiB broker 200 MiB clickhouse 438 MiB" in lines
    assert "sums EUR 123.4000 sent, 100.0000 stored; exact in GBP, USD" in lines


def test_what_was_not_measured_is_said_to_be_so():
    lines = on_terminal(results.interrupted())
    assert lines[0] == "PARTIAL today: 10,000 messages at 500/s"
    assert lines[1] == "! not a result: ended early: Ctrl-C after 20 s of 60"
    assert "? lost not measured at most 0" in lines
    assert "Kafka to stored not measured" in lines
    assert "bytes not measured" in lines
    assert "transactions not measured" in lines


def test_a_percentile_that_too_few_canaries_reached_is_never_and_not_unmeasured():
    document = results.failing()
    document["visibility"] |= {"p95_s": None, "p99_s": None, "max_s": None, "never_seen": 120}
    document["thresholds"][0]["measured"] = None
    lines = on_terminal(document)
    assert "✗ payment to queryable row, 95th percentile never at most 0.6 s" in lines
    del document["visibility"]["canaries"]
    assert "? payment to queryable row, 95th percentile not measured at most 0.6 s" in on_terminal(document)


def lacking():
    """Yield failed results that lack one thing each, or have it as null, and one in which all that may be is null."""
    whole = results.failing()
    for name in whole.keys() - {"format", "verdict", "thresholds", "workload"}:
        yield results.without(whole, name)
        yield whole | {name: None}
        for key in whole[name] if isinstance(whole[name], dict) else []:
            yield results.without(whole, name, key)
            yield whole | {name: whole[name] | {key: None}}
    thresholds = [threshold | {"measured": None, "limit": None} for threshold in whole["thresholds"]]
    required = {name: whole[name] for name in ("format", "verdict")} | {
        "workload": {"name": "x", "rate_per_second": None}
    }
    yield dict.fromkeys(whole) | required | {"thresholds": thresholds}


def test_no_part_has_to_be_there():
    for document in lacking():
        result = parse(document)
        assert on_terminal(document)[0].startswith("FAIL ")
        assert report_text.as_fields(result)["verdict"] == "fail"
        assert b"<failure" in junit_xml(result)
        assert "</html>" in page(result)
        assert report_compare.changes(parse(results.passing()), result)
        assert report_compare.changes(result, parse(results.passing()))


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (b"", "empty, so its run wrote no result"),
        (b"PASS today", "not JSON: "),
        (json.dumps(results.passing()).encode()[:2_000], "cut short"),
        (b"[1, 2]", "JSON, but no result of a load test"),
        (results.without(results.passing(), "format"), "format 1, of an older Paystream"),
        (results.passing() | {"format": 3}, "format 3, and this Paystream reads format 2"),
        (results.without(results.passing(), "verdict"), "verdict: missing"),
        (results.without(results.passing(), "thresholds"), "thresholds: missing"),
        (results.without(results.passing(), "workload", "name"), "workload.name: missing"),
        (results.passing() | {"verdict": "maybe"}, "verdict: should be 'pass', 'fail', 'invalid' or 'partial'"),
        (results.failing() | {"verdict": "pass"}, "verdict: is 'pass' although p95_seconds and lost and wrong_sums"),
        (results.passing() | {"thresholds": []}, "verdict: is 'pass' although nothing was held against it"),
        (results.passing() | {"lag": 5}, "lag: should be a valid dictionary"),
        (
            results.passing() | {"visibility": {"histogram": {"bounds_s": [1, 2], "counts": [1]}}},
            "visibility.histogram: should have one count more than bounds",
        ),
    ],
)
def test_what_is_no_result_is_said_in_one_line(report, document, said):
    for arguments in ([], ["--json"]):
        code, out, err = report(document, arguments=arguments)
        assert (code, out, len(err)) == (2, "", 1), err
        assert said in err[0]
        assert re.search(r"(Make it anew with|Name a file that|Read it with)", err[0])
        assert report(results.passing(), document)[0] == 2


def test_files_that_cannot_be_read_or_written(own_settings, paystream_here, report, tmp_path):
    code, out, err = paystream_here(own_settings, "loadtest", "report", str(tmp_path / "absent.json"))
    assert (code, out, len(err)) == (2, "", 1)
    assert "cannot be read: No such file" in err[0]
    code, _, err = report(results.passing(), arguments=["--html", "absent/page.html"])
    assert (code, len(err)) == (2, 1)
    assert "Page 'absent/page.html' cannot be written: No such file" in err[0]
    code, _, err = report(results.passing(), arguments=["--junit", str(tmp_path / "result-0.json")])
    assert (code, len(err)) == (2, 1)
    assert "is the result file itself" in err[0]
    assert json.loads((tmp_path / "result-0.json").read_text())["verdict"] == "pass"
    code, _, err = report(results.passing(), results.passing(), arguments=["--html", "page.html"])
    assert (code, len(err)) == (2, 1)


def test_json_is_the_file_without_the_points_of_the_plots(report):
    document = results.passing()
    code, out, _ = report(document, arguments=["--json"])
    summary = json.loads(out)
    assert code == 0
    assert summary.keys() == document.keys()
    assert summary["thresholds"] == document["thresholds"]
    assert summary["visibility"]["p95_s"] == document["visibility"]["p95_s"]
    assert '"timeline":' not in out
    assert "counts" not in summary["visibility"]


def test_junit_has_a_case_per_threshold(report, tmp_path):
    assert report(results.failing(), arguments=["--junit", str(tmp_path / "junit.xml")])[0] == 1
    [suite] = ET.parse(tmp_path / "junit.xml").getroot()
    assert [suite.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["9", "3", "0", "0"]
    cases = {case.get("name"): case.find("failure") for case in suite.iter("testcase")}
    assert len(cases) == 9
    assert {name for name, failure in cases.items() if failure is not None} == {"p95_seconds", "lost", "wrong_sums"}
    assert cases["lost"].get("message") == "lost: 3, at most 0"
    [suite] = ET.fromstring(junit_xml(parse(results.passing())))
    assert [suite.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["9", "0", "0", "0"]


@pytest.mark.parametrize("document", [results.invalid(), results.interrupted()], ids=["invalid", "partial"])
def test_junit_of_a_run_that_proves_nothing_is_an_error(document):
    [suite] = ET.fromstring(junit_xml(parse(document)))
    assert [suite.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["10", "0", "1", "9"]
    [error] = suite.iter("error")
    assert error.get("type") == document["verdict"]
    assert re.search("fell behind|Ctrl-C", error.get("message"))


def test_junit_holds_whatever_a_broker_may_say():
    document = results.invalid() | {"invalid": ["<broker> said \x00\x1b & ended"]}
    [suite] = ET.fromstring(junit_xml(parse(document)))
    assert "<broker> said \ufffd\ufffd & ended" in next(suite.iter("error")).get("message")


def test_markup_in_a_result_is_text():
    document = results.invalid() | {"invalid": ["[red]and[/nonsense]"]}
    document["workload"]["name"] = "[bold]x"
    assert on_terminal(document)[:2] == [
        "INVALID [bold]x: 30,000 messages at 500/s",
        "! not a result: [red]and[/nonsense]",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0004, "0.0004"),
        (0.019, "0.019"),
        (0.9999, "1.00"),
        (9.996, "10.0"),
        (99.96, "100"),
        (3600, "3,600"),
    ],
)
def test_seconds_have_three_digits_and_no_exponent(value, text):
    assert seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (236.4, "236 B"), (1536, "1.5 KiB"), (634 << 20, "634 MiB"), (4 << 30, "4.0 GiB"), (23 << 30, "23 GiB")],
)
def test_sizes_are_short(value, text):
    assert size(value) == text
