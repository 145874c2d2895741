"""The HTML page and its plots, without a browser."""

import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
import results

from paystream.loadtest.report_file import parse
from paystream.loadtest.report_page import page
from paystream.loadtest.report_plots import Level, Line, _ticks, bucket, histogram, line_plot, time_label

VOID = {"meta", "link", "br"}


class Outline(HTMLParser):
    """Collects headings and ids, and fails where tags do not close in order."""

    def __init__(self):
        super().__init__()
        self.open, self.headings, self.ids, self.tags, self.attributes = [], [], [], set(), []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)


def outline(html):
    parsed = Outline()
    parsed.feed(html)
    assert parsed.open == []
    assert len(parsed.ids) == len(set(parsed.ids))
    return parsed


def drawing(svg, style):
    """Return the points of each path of a class."""
    paths = [path.get("d") for path in ET.fromstring(svg).iter("path") if path.get("class") == style]
    return [re.findall(r"[ML](\S+?) (\d+\.\d)", path) for path in paths]


@pytest.mark.parametrize("document", [results.passing(), results.failing(), results.invalid(), results.interrupted()])
def test_the_page_is_whole_and_has_nothing_from_elsewhere(document):
    html = page(parse(document))
    parsed = outline(html)
    assert parsed.headings[:2] == [f"Load test “{document['workload']['name']}”", "Thresholds"]
    assert parsed.headings[-1] == "What the figures mean"
    assert not parsed.tags & {"script", "img", "iframe", "object", "embed"}
    assert "http:" not in html
    assert "https:" not in html
    assert "url(" not in html
    assert "@import" not in html
    assert {value for name, value in parsed.attributes if name in ("src", "href")} == {"data:,"}
    for name, value in parsed.attributes:
        if name == "aria-labelledby":
            assert set(value.split()) <= set(parsed.ids)
    assert len(html) < 200_000


def test_the_page_says_all_that_the_terminal_says():
    html = page(parse(results.failing()))
    for text in (
        "✗ FAIL",
        "3 of 9 thresholds did not hold",
        "48,211",
        "634 MiB",
        "4817203",
        "26.9.2.1",
        "nearest rank",
    ):
        assert text in html
    assert html.count('<svg viewBox="0 0 400') == 6
    assert html.count("as a table</summary>") == 6


def test_texts_of_a_result_cannot_become_markup():
    document = results.invalid() | {"invalid": ["<script>alert(1)</script>"], "definitions": {"<b>": "<i>"}}
    document["workload"] |= {"name": '"><img src=x>', "description": "<h1>", "<u>": "<s>"}
    document["usage"]["timeline"] = [{"at_s": 0, "cpu_share": {"<em>": 1}}, {"at_s": 1, "cpu_share": {"<em>": 1}}]
    document["generator"]["first_error"] = "<video>"
    parsed = outline(page(parse(document)))
    assert not parsed.tags & {"script", "img", "b", "i", "u", "s", "em", "video"}


def test_a_plot_that_has_no_points_says_so():
    html = page(parse(results.interrupted() | {"lag": None, "visibility": {"canaries": 5}}))
    assert html.count('<svg viewBox="0 0 400') == 0
    assert html.count('<p class="soft">not measured</p></figure>') == 6


def test_a_line_stands_where_its_values_are():
    svg = line_plot("n", "t", [Line("a", [(0, 0), (10, 5), (20, 10)])], str, str)
    [points] = drawing(svg, "s1")
    assert points == [("58.0", "184.0"), ("220.0", "100.0"), ("382.0", "16.0")]
    assert ET.fromstring(svg).find("desc").text == "a: from 0 to 10, highest at 20 s."


def test_a_line_is_broken_where_nothing_was_measured():
    svg = line_plot("n", "t", [Line("a", [(0, 1), (1, None), (2, 1), (3, 2), (4, None), (5, 1)])], str, str)
    [path] = [path.get("d") for path in ET.fromstring(svg).iter("path") if path.get("class") == "s1"]
    assert path.count("M") == 3
    assert path.count("L") == 1
    assert path.count("h.01") == 2


def test_a_limit_is_drawn_unless_it_presses_the_lines_flat():
    lines = [Line("a", [(0, 1), (9, 2)])]
    assert 'class="limit"' in line_plot("n", "t", lines, str, str, Level("limit", 4))
    assert 'class="limit"' not in line_plot("n", "t", lines, str, str, Level("limit", 40))


@pytest.mark.parametrize("points", [[], [(0, None)], [(0, 0)], [(5, 0), (5, 0)], [(0, 1e-9)], [(0, 1e15), (1e7, 3)]])
def test_odd_series_are_drawn_without_an_error(points):
    svg = line_plot("n", "t", [Line("a", points)], str, str)
    assert not re.search(r"nan|inf", svg.lower().replace("infinit", ""))
    ET.fromstring(svg)


@pytest.mark.parametrize(
    ("highest", "binary", "whole", "ticks"),
    [
        (0.36, False, False, [0, 0.1, 0.2, 0.3, 0.4]),
        (178, False, False, [0, 50, 100, 150, 200]),
        (1, False, True, [0, 1]),
        (7, False, True, [0, 2, 4, 6, 8]),
        (512 << 20, True, False, [0, 128 << 20, 256 << 20, 384 << 20, 512 << 20]),
    ],
)
def test_labels_of_an_axis_are_round(highest, binary, whole, ticks):
    assert _ticks(highest, binary, whole) == pytest.approx(ticks)


def test_bars_are_as_high_as_their_counts_and_empty_ends_are_left_out():
    svg = histogram("n", "t", [1, 2, 3, 4], [0, 10, 5, 0, 0], lambda value: f"{value:g}", [Level("p95", 2.5)])
    bars = list(ET.fromstring(svg).iter("rect"))
    assert [bar.find("title").text for bar in bars] == ["1 to 2: 10", "2 to 3: 5"]
    assert float(bars[0].get("height")) == pytest.approx(2 * float(bars[1].get("height")))
    [mark] = [path.get("d") for path in ET.fromstring(svg).iter("path") if path.get("class") == "mark-line"]
    middle_of_second = float(bars[1].get("x")) + float(bars[1].get("width")) / 2
    assert float(re.match(r"M(\S+) ", mark)[1]) == pytest.approx(middle_of_second)


def test_the_last_bar_may_be_open():
    svg = histogram("n", "t", [1, 2], [0, 0, 7], lambda value: f"{value:g}", [Level("p95", 9)])
    assert "above 2: 7" in svg
    assert bucket(2, math.inf, str) == "above 2"
    assert "inf" not in svg


@pytest.mark.parametrize(
    ("at_s", "step_s", "text"), [(0, 600, "0 s"), (30, 15, "30 s"), (600, 600, "10 min"), (7200, 3600, "2 h")]
)
def test_moments_are_in_the_unit_of_their_steps(at_s, step_s, text):
    assert time_label(at_s, step_s) == text
