"""What every page has in common, and the few building blocks that pages are made of.

Text that people or models wrote goes through `tag`, whose content is text and never markup.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import quote

from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement
from starlette.requests import Request

from jobs.contract.errors import AiosError
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

TONES = {
    "succeeded": "good",
    "already done": "good",
    "published": "good",
    "running": "info",
    "starting": "info",
    "retrying": "warn",
    "stopping": "warn",
    "stopped": "warn",
    "skipped": "warn",
    "abandoned": "bad",
    "failed": "bad",
    "unreadable": "bad",
}


def tag(name: str, text: str = "", classes: str = "") -> Any:
    """Add an HTML element with a text in it; whatever the text holds, it is shown and not interpreted."""
    return TextElement(tag=name, text=text).classes(classes)


def box(classes: str, name: str = "div") -> Any:
    """Add an HTML element that holds others."""
    return ui.element(name).classes(classes)


@contextlib.contextmanager
def card(title: str = "", classes: str = "", *, level: str = "h2") -> Iterator[Any]:
    """Add a card; yields its title's row, where buttons may go."""
    with box(f"card {classes}", "section"):
        with box("top") as top:
            if title:
                tag(level, title)
        if not title:
            top.set_visibility(False)
        yield top


def badge(state: str, text: str = "") -> Any:
    """Add a state as a coloured word; the word alone says it all."""
    return tag("span", text or state, f"badge {TONES.get(state, '')}")


def note(text: str, tone: str = "") -> Any:
    """Add a remark that stands out."""
    return tag("div", text, f"note {tone}")


def button(text: str, on_click: Callable[..., Any], classes: str = "") -> Any:
    """Add a button."""
    return ui.button(text, on_click=on_click, color=None).props("no-caps unelevated").classes(f"button {classes}")


def link(text: str, target: str, classes: str = "") -> Any:
    """Add a link to another page of the panel."""
    element = tag("a", text, classes)
    element.props["href"] = target
    return element


def file_link(text: str, path: str, classes: str = "") -> Any:
    """Add a link that downloads a file of the workspace."""
    element = tag("a", text, classes)
    element.props["href"] = f"/files/{quote(path)}"
    element.props["download"] = ""
    return element


def copy_button(text: Callable[[], str], label: str = "Copy") -> Any:
    """Add a button that copies a text."""

    async def copy() -> None:
        await ui.run_javascript(f"window.panelCopy({_js(text())})")
        ui.notify("Copied")

    return button(label, copy, "small")


def _js(text: str) -> str:
    """Return a text as a JavaScript string that may stand anywhere."""
    return json.dumps(text).replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def facts(pairs: dict[str, str]) -> None:
    """Add names and values in two columns."""
    with box("facts"):
        for name, value in pairs.items():
            tag("span", name)
            tag("span", value)


def stats(pairs: dict[str, str]) -> None:
    """Add a few large numbers."""
    with box("stats"):
        for name, value in pairs.items():
            with box("stat"):
                tag("div", value, "value")
                tag("div", name, "name")


def table(headings: list[str], rows: list[list[Any]], *, right: tuple[int, ...] = (), label: str = "") -> None:
    """Add a table. A cell is a text, or a function that adds what stands in it."""
    with scrolling(label or "Table"), box("plain", "table"):
        with box("", "thead"), box("", "tr"):
            for index, heading in enumerate(headings):
                # An empty heading is a cell like any other: a screen reader would announce a column without a name.
                tag("th" if heading else "td", heading, "right" if index in right else "")
        with box("", "tbody"):
            for row in rows:
                with box("", "tr"):
                    for index, cell in enumerate(row):
                        classes = "right number" if index in right else ""
                        if callable(cell):
                            with box(classes, "td"):
                                cell()
                        else:
                            tag("td", str(cell), classes)


def scrolling(label: str) -> Any:
    """Add what a table too wide for a phone scrolls in, by keyboard as well."""
    area = box("scroll").props('tabindex="0" role="region"')
    area.props["aria-label"] = label
    return area


def segments(options: dict[str, str], chosen: str, on_change: Callable[[str], Any], label: str) -> None:
    """Add a row of buttons of which one is pressed."""
    pressed: dict[str, Any] = {}

    async def choose(key: str) -> None:
        for name, element in pressed.items():
            element.props(f'aria-pressed="{str(name == key).lower()}"')
        result = on_change(key)
        if result is not None:
            await result

    with box("segments").props('role="group"') as group:
        group.props["aria-label"] = label
        for key, text in options.items():
            element = tag("button", text).props(f'type="button" aria-pressed="{str(key == chosen).lower()}"')
            element.on("click", lambda _, key=key: choose(key))
            pressed[key] = element


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
