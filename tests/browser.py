"""A headless Chromium for tests: a new profile, nothing opened but what it is told to."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",  # containers have little of it
)


def browser_programs() -> tuple[str, str]:
    """Chromium and its driver; without them the test is skipped, except in continuous integration."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    found = chromium is not None and driver is not None
    if not found and not os.environ.get("CI"):
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium chromium-driver)")
    assert chromium is not None and driver is not None, "continuous integration must have Chromium: see .ci/run"
    return chromium, driver


@contextmanager
def running_browser() -> Iterator[Chrome]:
    """A browser that keeps what its console says and what it asks for."""
    chromium, driver = browser_programs()
    options = ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory(prefix="precise-browser-", ignore_cleanup_errors=True) as profile:
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        browser = Chrome(options, ChromeService(driver))
        try:
            yield browser
        finally:
            browser.quit()


def console_of(browser: Chrome) -> list[str]:
    """What the console has said since it was last asked."""
    return [entry["message"] for entry in browser.get_log("browser")]


def asked_for(browser: Chrome) -> set[str]:
    """The addresses that pages have asked for since it was last asked; without what is in a page or the browser."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    return {url for url in asked if not url.startswith(("data:", "chrome:"))}


def show_at(browser: Chrome, width: int) -> None:
    """Lay pages out ``width`` CSS pixels wide, also where a window cannot be so narrow."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def is_too_wide(browser: Chrome) -> bool:
    """Whether the whole page, not a part of it, would have to be scrolled sideways."""
    page = "document.documentElement"
    return bool(browser.execute_script(f"return {page}.scrollWidth > {page}.clientWidth"))
