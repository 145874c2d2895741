"""A real browser (Debian's Chromium without a screen, in a profile that talks to nobody), and the dashboard's page."""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from page_server import Dashboard
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.chrome.webdriver import WebDriver

CHROMIUM = Path("/usr/bin/chromium")
DRIVER = Path("/usr/bin/chromedriver")

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture
def dashboard() -> Iterator[Dashboard]:
    page = Dashboard()
    threading.Thread(target=page.server.serve_forever, args=(0.05,), daemon=True).start()
    yield page
    page.server.shutdown()
    page.server.server_close()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    """One headless Chromium for the run; its pages are closed between tests by going to an empty one."""
    if not (CHROMIUM.exists() and DRIVER.exists()):
        pytest.skip(f"needs {CHROMIUM} and {DRIVER}. Get them with `make browser` (as root, on Debian).")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    with _no_proxy():
        driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
        try:
            yield driver
        finally:
            driver.quit()


@contextmanager
def _no_proxy() -> Iterator[None]:
    """Selenium would ask a proxy of the environment for the driver on this machine."""
    kept = {name: os.environ.pop(name) for name in list(os.environ) if re.fullmatch(r"(?i)(https?|all)_proxy", name)}
    try:
        yield
    finally:
        os.environ.update(kept)
