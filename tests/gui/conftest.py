"""A browser for the tests of the panel."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from tests.gui.panel import Browser, chromium


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Keep what the windows of a failed test showed: its picture, its text and its console."""
    report = yield
    if report.when == "call" and report.failed:
        for name, window in getattr(item, "funcargs", {}).items():
            if isinstance(window, Browser):
                report.sections.append((f"what {name} showed", window.last_words(f"failed-{item.name}-{name}")))
    return report


@pytest.fixture(scope="session")
def _chromium() -> None:
    if chromium() is None:
        message = "Chromium and chromedriver are not installed (Debian: apt-get install chromium chromium-driver)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture(scope="module")
def browser(_chromium: None) -> Iterator[Browser]:
    """One window that the tests of a file share."""
    window = Browser()
    yield window
    window.close()


@pytest.fixture
def second_browser(_chromium: None) -> Iterator[Browser]:
    """Another person's browser."""
    window = Browser()
    yield window
    window.close()
