"""What every page has in common: its frame, its clock, and how it changes something."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from nicegui import ui
from starlette.requests import Request

from jobs.contract.errors import AiosError
from k8s.gui.pages.elements import badge, box, link, note, tag
from k8s.gui.settings import SETTINGS, require_write

_NAVIGATION = (
    ("Overview", "/"),
    ("Data", "/data"),
    ("Runs", "/runs"),
    ("Verdicts", "/verdicts"),
    ("Start a run", "/start"),
)
TICK_S = 0.5
"""How often an open page looks for news: a new line of metrics shows within a second."""


async def attempt(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> tuple[bool, Any]:
    """Do something that changes the world, in a thread; what goes wrong is shown as the one line it is."""
    try:
        require_write()
        return True, await asyncio.to_thread(function, *arguments, **keywords)
    except AiosError as exc:
        ui.notify(str(exc), type="negative", multi_line=True, timeout=12000, close_button="Close", position="top")
        return False, None


def live(update: Callable[[], Awaitable[None]]) -> None:
    """Call `update` now and for as long as somebody looks at the page."""
    busy = False

    async def tick() -> None:
        nonlocal busy
        if busy:
            return
        busy = True
        try:
            await update()
        finally:
            busy = False

    ui.timer(TICK_S, tick)


def scheme(request: Request) -> str:
    """Return `dark` or `light`; panel.js keeps the cookie equal to the system's until a person chooses."""
    return "dark" if request.cookies.get("aios_scheme") == "dark" else "light"


def csrf(request: Request) -> str:
    """Return the token that requests of this page carry."""
    return SETTINGS.access.csrf(request.state.session)


@contextlib.contextmanager
def frame(request: Request, title: str, here: str = "") -> Iterator[Any]:
    """Lay out a page; yields the row of its heading."""
    dark = scheme(request) == "dark"
    ui.page_title(f"{title} · Alignment panel")
    background = "#0e1217" if dark else "#f5f6f8"
    ui.add_head_html(
        f'<script>document.documentElement.dataset.scheme="{scheme(request)}"</script>'
        f"<style>html,body{{background:{background}}}</style>"
        '<link rel="stylesheet" href="/panel/panel.css"><script src="/panel/panel.js"></script>'
    )
    ui.dark_mode(value=dark)
    with ui.header(), box("bar"):
        link("Alignment", "/", "brand")
        with box("", "nav").props('aria-label="Pages"'):
            for text, target in _NAVIGATION:
                if target == "/start" and SETTINGS.read_only:
                    continue
                element = link(text, target)
                if target == here:
                    element.props('aria-current="page"')
        if SETTINGS.read_only:
            badge("stopped", "read-only")
        other = "light" if dark else "dark"
        switch = tag("button", "Light" if dark else "Dark", "button small q-btn")
        switch.props(f'type="button" aria-label="Switch to the {other} scheme"')
        switch.on("click", js_handler=f"() => window.panelScheme('{other}')")
    with box("titles") as titles:
        heading = tag("h1", title)
    ui.skip_link("Skip to the content", target=heading)
    yield titles


def missing(request: Request, error: AiosError) -> None:
    """Show a page that says what is not there."""
    with frame(request, "Not found"):
        pass
    note(str(error), "bad")
