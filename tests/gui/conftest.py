"""A browser for the tests of the panel."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.gui.panel import Browser, chromium


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
