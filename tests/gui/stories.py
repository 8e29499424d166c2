"""What a person reads off the page of a run."""

from __future__ import annotations

import re

from tests.gui.panel import Browser, until


def step_shown(browser: Browser) -> int:
    """Return how far the page says that the training is."""
    found = re.search(r"step (\d+)/\d+", browser.text())
    return int(found.group(1)) if found else 0


def run_name(browser: Browser) -> str:
    """Return the name of the run whose page is open."""
    until(lambda: "/runs/" in browser.driver.current_url, "the run's page")
    return str(browser.driver.current_url).rsplit("/", 1)[1]


def in_state(browser: Browser, state: str, seconds: float = 120) -> None:
    """Wait until the run's heading says so; its log may use the word earlier."""
    until(lambda: browser.driver.find_element("css selector", ".titles .badge").text == state, state, seconds)
