"""The page of a load test's result, in a real browser: on a phone, on a screen, on paper, and without a network."""

import base64
import json
import re
import zlib
from urllib.parse import urlsplit

import pytest
import results
from selenium.webdriver.common.by import By

from paystream.loadtest.report_file import parse
from paystream.loadtest.report_page import page

DOCUMENTS = {
    "pass": results.passing(),
    "fail": results.failing(),
    "partial": results.interrupted(),
    "hour": results.passing(seconds=600),
}
"""The last one has as many points as a timeline may have."""

TEXTS = "h1, h2, h3, p, th, td, dt, dd, li, summary, .verdict"

CONTRASTS = """
const light = color => {
  const part = color.match(/[\\d.]+/g).slice(0, 3).map(one => one / 255)
    .map(one => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
  return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
};
const behind = element => {
  for (; element; element = element.parentElement) {
    const color = getComputedStyle(element).backgroundColor;
    if (!color.startsWith('rgba(0, 0, 0, 0')) return color;
  }
  return 'rgb(255, 255, 255)';
};
return [...document.querySelectorAll(arguments[0])].map(element => {
  const style = getComputedStyle(element), drawn = element instanceof SVGElement && element.tagName != 'text';
  const front = light(drawn ? style.stroke : element.tagName == 'text' ? style.fill : style.color);
  const back = light(behind(element));
  return [(Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05), element.outerHTML.slice(0, 80)];
});
"""

OUTSIDE = """
return [...document.querySelectorAll('main *')].filter(element => {
  const box = element.getBoundingClientRect();
  return !element.closest('.hidden') && box.width && (box.right > innerWidth + 0.5 || box.left < -0.5);
}).map(element => element.outerHTML.slice(0, 80));
"""


@pytest.fixture
def show(browser, tmp_path):
    """A function that opens the page of a result at a width, in light or dark, and returns the browser."""

    def opened(name, width, scheme="light"):
        file = tmp_path / f"{name}.html"
        file.write_text(page(parse(DOCUMENTS[name])), encoding="utf-8")
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.get(file.as_uri())
        return browser

    yield opened
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_request_leaves_the_page(show, name):
    driver = show(name, 1280)
    driver.get_log("performance")
    driver.refresh()
    requests = [
        message["params"]["request"]["url"]
        for entry in driver.get_log("performance")
        if (message := json.loads(entry["message"])["message"])["method"] == "Network.requestWillBeSent"
    ]
    assert requests
    assert {urlsplit(url).scheme for url in requests} <= {"file", "data"}
    assert driver.execute_script("return performance.getEntriesByType('resource').map(one => one.name)") in (
        [],
        ["data:,"],
    )
    assert driver.get_log("browser") == []


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_nothing_overflows(show, name, width):
    driver = show(name, width)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    assert driver.execute_script(OUTSIDE) == []
    for details in driver.find_elements(By.TAG_NAME, "details"):
        driver.execute_script("arguments[0].open = true", details)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [360, 1280])
def test_verdict_headings_and_thresholds_are_seen(show, width):
    driver = show("fail", width)
    headings = [heading for heading in driver.find_elements(By.CSS_SELECTOR, "h1, h2")]
    assert all(heading.is_displayed() for heading in headings)
    assert [heading.text for heading in headings] == [
        "Load test “ten_times”",
        "Thresholds",
        "Latency by stage",
        "Course of the run",
        "Figures",
        "To run it again",
        "What the figures mean",
    ]
    verdict = driver.find_element(By.CLASS_NAME, "verdict")
    rows = driver.find_elements(By.CSS_SELECTOR, ".thresholds tbody tr")
    assert verdict.text == "✗ FAIL"
    assert len(rows) == 9
    assert all(row.is_displayed() for row in rows)
    assert re.search(r"✗.*lost 3 0", " ".join(rows[1].text.split()))
    # Verdict and what broke first are on the first screen, without scrolling.
    assert verdict.rect["y"] + verdict.rect["height"] < 150
    assert rows[1].rect["y"] + rows[1].rect["height"] < 800
    plots = driver.find_elements(By.CSS_SELECTOR, "figure > svg")
    assert len(plots) == 6
    assert all(plot.rect["width"] >= 300 for plot in plots)


@pytest.mark.parametrize("width", [360, 1280])
def test_texts_of_a_plot_are_large_enough_and_within_it(show, width):
    driver = show("fail", width)
    for plot in driver.find_elements(By.CSS_SELECTOR, "figure > svg"):
        frame = plot.rect
        for text in plot.find_elements(By.TAG_NAME, "text"):
            box = driver.execute_script("return arguments[0].getBoundingClientRect().toJSON()", text)
            top = frame["y"] - driver.execute_script("return scrollY")
            assert frame["x"] - 1 <= box["left"], text.text
            assert box["right"] <= frame["x"] + frame["width"] + 1, text.text
            assert top - 1 <= box["top"], text.text
            assert box["height"] >= 11, text.text


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["pass", "fail", "partial"])
def test_texts_have_the_contrast_that_wcag_asks_for(show, name, scheme):
    driver = show(name, 1280, scheme)
    dark = driver.execute_script("return getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    assert [text for ratio, text in driver.execute_script(CONTRASTS, f"{TEXTS}, svg text") if ratio < 4.5] == []
    lines = ".s1, .s2, .s3, .s4, .s5, .limit, .mark-line, .axis"
    assert [text for ratio, text in driver.execute_script(CONTRASTS, lines) if ratio < 3] == []


def test_a_screen_reader_hears_what_the_plots_show_and_whether_a_threshold_held(show):
    driver = show("fail", 1280)
    nodes = driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    said = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored")]
    images = [name for role, name in said if role in ("image", "img", "graphics-document")]
    assert any(name.startswith("Lag messages: from ") for name in images), images
    assert any(name.startswith("Latency over time p95: from ") for name in images)
    assert ("StaticText", "not held") in said
    assert ("StaticText", "✗") not in said


def test_the_keyboard_opens_the_numbers_of_a_plot(show):
    driver = show("pass", 1280)
    summary = driver.find_elements(By.TAG_NAME, "summary")[1]
    table = driver.find_elements(By.CSS_SELECTOR, "details table")[1]
    assert not table.is_displayed()
    summary.send_keys("\ue007")
    assert table.is_displayed()
    assert len(table.find_elements(By.CSS_SELECTOR, "tbody tr")) == 60


@pytest.mark.parametrize("name", DOCUMENTS)
def test_it_prints_on_a_few_pages_without_the_hidden_tables(show, name):
    driver = show(name, 1280, "dark")
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    assert not any(details.is_displayed() for details in driver.find_elements(By.TAG_NAME, "details"))
    assert driver.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    printed = driver.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
    pdf = base64.b64decode(printed["data"])
    assert pdf.startswith(b"%PDF-")
    assert 2 <= pages(pdf) <= 5


def pages(pdf):
    """Count a PDF's pages; Chromium may put their objects into compressed streams."""
    streams = []
    for stream in re.findall(rb"stream\r?\n(.*?)endstream", pdf, re.DOTALL):
        try:
            streams.append(zlib.decompress(stream))
        except zlib.error:
            continue
    return sum(len(re.findall(rb"/Type\s*/Page\b", part)) for part in [pdf, *streams])
