"""The dashboard's page in a real browser: what it shows, that it keeps up, the keyboard, and a narrow screen."""

import json
import re
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from datetime import date

import pytest
from page_server import Dashboard
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait
from statuses import HEALTHY, NODE, SECOND, lag, on_cluster

from paystream.status.state import NodeState, Refusals, Status, Subject, Unmeasured

WAIT_S = 30


def run(browser: WebDriver, script: str) -> object:
    return browser.execute_script(f"return {script}")


def text(browser: WebDriver, selector: str) -> str:
    return str(run(browser, f"document.querySelector({json.dumps(selector)}).innerText"))


def wait_for(browser: WebDriver, condition: Callable[[], bool]) -> None:
    WebDriverWait(browser, WAIT_S, poll_frequency=0.05).until(lambda _: condition())


def resize(browser: WebDriver, width: int, height: int = 800) -> None:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


@pytest.fixture(autouse=True)
def empty_page(browser: WebDriver) -> None:
    resize(browser, 1280)
    browser.get("about:blank")
    browser.get_log("browser")


def test_it_shows_the_status(browser: WebDriver, dashboard: Dashboard) -> None:
    browser.get(dashboard.url)
    assert browser.title == "Paystream: healthy"
    assert text(browser, "#verdict") == "Healthy"
    figures = dict(re.findall(r"(.+)\n+(.+)\n+.+", text(browser, "#figures")))
    assert figures["Latency, p95"] == "0.310 s"
    assert figures["Unread"] == "12"
    assert figures["Budget spent"] == "0.2%"
    assert [cell.text for cell in browser.find_elements("css selector", "#unread tbody tr:first-child > *")] == [
        "0", "12", "0.200 s", "0",
    ]  # fmt: skip
    assert "2026-11-24" in text(browser, "#dimensions") and "complete" in text(browser, "#stores")
    assert "not_json" in text(browser, "#refused")


def test_it_keeps_up_by_itself(browser: WebDriver, dashboard: Dashboard) -> None:
    browser.get(dashboard.url)
    dashboard.status = replace(HEALTHY, backlog=lag(messages=7777, seconds=95), ingest_error="<b>Code: 60</b>")
    wait_for(browser, lambda: browser.title == "Paystream: not healthy")
    assert text(browser, "#verdict") == "Not healthy"
    assert "7,777 messages unread, the oldest for 95 s" in text(browser, "#reasons")
    assert "<b>Code: 60</b>" in text(browser, "#reasons")  # the engine's words are text
    assert "Runbook: Ingest stands still" in text(browser, "#reasons")
    colour = "getComputedStyle(document.querySelector('#verdict')).color"
    red = run(browser, colour)
    dashboard.status = HEALTHY
    wait_for(browser, lambda: text(browser, "#verdict") == "Healthy")
    assert run(browser, colour) != red


def test_a_cluster_has_a_table_of_its_nodes(browser: WebDriver, dashboard: Dashboard) -> None:
    browser.get(dashboard.url)
    assert not browser.find_elements("css selector", "#nodes")
    dashboard.status = on_cluster()
    browser.get(dashboard.url)
    rows = "[...document.querySelectorAll('#nodes tbody tr')]"
    assert run(browser, f"{rows}.map(row => [...row.children].map(cell => cell.innerText))") == [
        [NODE.address, "1", "0, 1", "12", "12", "40 s", "fx 3, merchants 9", "25%"],
        [SECOND.address, "2", "none", "0", "12", "40 s", "fx 3, merchants 9", "25%"],
    ]
    assert text(browser, "#nodes-note") == "ClickHouse 26.3.1.1. Schema 0018_rollups_by_shard."
    dashboard.status = on_cluster(NODE, NodeState(SECOND.address, "Connection refused"))
    wait_for(browser, lambda: "10.0.0.2:8123 (away)" in text(browser, "#nodes"))
    assert "10.0.0.2:8123 cannot be asked: Connection refused." in text(browser, "#nodes-note")
    assert "node '10.0.0.2:8123' cannot be asked: Connection refused" in text(browser, "#reasons")


def test_what_is_read_aloud_changes_only_with_the_verdict(browser: WebDriver, dashboard: Dashboard) -> None:
    browser.get(dashboard.url)
    run(
        browser,
        "(window.spoken = 0, new MutationObserver(all => window.spoken += all.length)"
        ".observe(document.querySelector('[aria-live=polite]'), {childList: true, subtree: true}))",
    )
    wait_for(browser, lambda: dashboard.asked.count("/parts.json") >= 1)
    before = run(browser, "window.spoken")
    dashboard.status = replace(HEALTHY, took_s=0.42)
    wait_for(browser, lambda: "0.42 s" in text(browser, "#asked"))
    assert run(browser, "window.spoken") == before
    dashboard.status = replace(HEALTHY, unmeasured=[Unmeasured(Subject.UNREAD, "Kafka is away.", 3)], backlog=None)
    wait_for(browser, lambda: text(browser, "#verdict") == "Unknown")
    assert run(browser, "window.spoken") > before


def test_the_keyboard_reaches_everything_in_order_and_keeps_its_place(browser: WebDriver, dashboard: Dashboard) -> None:
    browser.get(dashboard.url)
    order = []
    for _ in range(3):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        order.append(str(run(browser, "document.activeElement.innerText")))
        outline = run(browser, "getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none"  # where the focus is can be seen
    assert order == ["Skip to the figures", "Pause", "The same as JSON"]

    browser.get(dashboard.url)
    ActionChains(browser).send_keys(Keys.TAB, Keys.ENTER).perform()
    assert run(browser, "document.activeElement.id") == "main"

    run(browser, "document.querySelector('#pause').focus()")
    ActionChains(browser).send_keys(Keys.SPACE).perform()
    assert run(browser, "document.activeElement.ariaPressed") == "true"
    # Paused: nothing is asked for any more.
    asked = len(dashboard.asked)
    browser.set_script_timeout(WAIT_S)
    browser.execute_async_script("setTimeout(arguments[0], 3500)")
    assert len(dashboard.asked) == asked
    ActionChains(browser).send_keys(Keys.SPACE).perform()
    dashboard.status = replace(HEALTHY, took_s=0.77)
    wait_for(browser, lambda: "0.77 s" in text(browser, "#asked"))
    assert run(browser, "document.activeElement.id") == "pause"


def test_headings_landmarks_and_names(browser: WebDriver, dashboard: Dashboard) -> None:
    browser.get(dashboard.url)
    assert run(browser, "document.documentElement.lang") == "en"
    for landmark in ("header", "main", "footer"):
        assert run(browser, f"document.querySelectorAll('{landmark}').length") == 1
    levels = run(browser, "[...document.querySelectorAll('h1,h2,h3')].map(one => one.tagName)")
    assert levels[0] == "H1" and set(levels[1:]) == {"H2"}
    named = "[...document.querySelectorAll('[aria-labelledby]')]"
    name = "document.getElementById(one.getAttribute('aria-labelledby')).innerText"
    assert run(browser, f"{named}.length") > 6 and run(browser, f"{named}.every(one => {name}.length > 3)")
    assert run(
        browser, "[...document.querySelectorAll('td')].every(one => one.parentNode.querySelector('th[scope=row]'))"
    )
    ids = run(browser, "[...document.querySelectorAll('[id]')].map(one => one.id)")
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("width", [320, 375, 768])
def test_a_narrow_screen_scrolls_no_more_than_its_tables(browser: WebDriver, dashboard: Dashboard, width: int) -> None:
    long = "created_at_in_future_by_very_much_more_than_is_allowed"
    dashboard.status = replace(
        on_cluster(),
        refusals=[Refusals(long, 30, 6.0)],
        dimensions=[replace(HEALTHY.dimensions[0], newest_quote=date(2026, 10, 1)), HEALTHY.dimensions[1]],
        unmeasured=[Unmeasured(Subject.PARTS, "x" * 200, 1)],
    )
    resize(browser, width)
    browser.get(dashboard.url)
    assert run(browser, "document.documentElement.scrollWidth <= innerWidth")
    # A table that is wider than the screen can be reached and scrolled with the keyboard.
    wide = "[...document.querySelectorAll('.scroll')].filter(one => one.scrollWidth > one.clientWidth)"
    wait_for(browser, lambda: bool(run(browser, f"{wide}.every(one => one.tabIndex === 0)")))
    height = run(browser, "document.querySelector('#pause').getBoundingClientRect().height")
    assert isinstance(height, (int, float)) and height >= 44  # a thumb's width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_have_contrast(browser: WebDriver, dashboard: Dashboard, scheme: str) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    grounds = []
    for status in (HEALTHY, replace(HEALTHY, backlog=lag(seconds=95)), _unknown()):
        dashboard.status = status
        browser.get(dashboard.url)
        grounds.append(run(browser, "getComputedStyle(document.body).backgroundColor"))
        pairs = run(
            browser,
            """[...document.querySelectorAll(`h1, h1 span, h2, #verdict strong, #reasons li, .where, #asked, button, dt,
            dd b, small, th, td, .note, footer p, a:not(.skip)`)].filter(one => one.innerText).map(one => {
              let ground = one;
              while (getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)') ground = ground.parentElement;
              return [one.innerText, getComputedStyle(one).color, getComputedStyle(ground).backgroundColor];
            })""",
        )
        assert len(pairs) > 40
        for words, ink, ground in pairs:
            assert contrast(ink, ground) >= 4.5, (words, ink, ground)
    assert (luminance(grounds[0]) < 0.2) == (scheme == "dark")


def _unknown() -> Status:
    return replace(HEALTHY, backlog=None, unmeasured=[Unmeasured(Subject.UNREAD, "Kafka is away.", 3)])


def luminance(colour: str) -> float:
    """Return the relative luminance of WCAG 2."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(colour: str, other: str) -> float:
    """Return the contrast ratio of WCAG 2."""
    low, high = sorted([luminance(colour), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_it_says_when_it_is_old(browser: WebDriver, dashboard: Dashboard) -> None:
    browser.get(dashboard.url)
    assert not text(browser, "#stale")
    dashboard.server.shutdown()
    dashboard.server.server_close()
    wait_for(browser, lambda: "does not answer" in text(browser, "#stale"))


def test_it_needs_nothing_from_elsewhere(browser: WebDriver, dashboard: Dashboard) -> None:
    browser.get(dashboard.url)
    wait_for(browser, lambda: "/parts.json" in dashboard.asked)
    loaded = run(browser, "performance.getEntriesByType('resource').map(one => one.name)")
    assert loaded and all(str(address).startswith(dashboard.url) for address in loaded)
    assert browser.get_log("browser") == []  # no error, and nothing that the page's own policy had to stop
    with urllib.request.urlopen(dashboard.url, timeout=WAIT_S) as answer:
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        page = answer.read().decode()
    assert not re.findall(r"(?:src|href)=\"(?!/|#)", page)
    assert "%" not in re.sub(r"<style.*|[0-9.]+ ?%", "", page)  # no slot was left unfilled


def test_the_same_as_json(dashboard: Dashboard) -> None:
    with urllib.request.urlopen(f"{dashboard.url}status.json", timeout=WAIT_S) as answer:
        document = json.load(answer)
    assert (document["verdict"], document["flow"]["p95_s"], document["exit_code"]) == ("healthy", 0.31, 0)
