"""The building blocks that pages are made of.

Text that people or models wrote goes through `tag`, whose content is text and never markup.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement

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
    return tag("span", text or state, badge_classes(state))


def badge_classes(state: str) -> str:
    """Return the classes of a state's badge."""
    return f"badge {TONES.get(state, '')}"


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


def folder_link(text: str, folder: Path, classes: str = "") -> Any:
    """Add a link to the page that shows what a folder of the workspace holds."""
    return link(text, f"/files-of/{quote(folder.as_posix())}", classes)


def copy_button(text: Callable[[], str], label: str = "Copy") -> Any:
    """Add a button that copies a text."""

    async def copy() -> None:
        await ui.run_javascript(f"window.panelCopy({_js(text())})")
        ui.notify("Copied")

    return button(label, copy, "small")


def _js(text: str) -> str:
    """Return a text as a JavaScript string that may stand anywhere."""
    return json.dumps(text).replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def code(title: str, text: str) -> None:
    """Add a text for a terminal or a file, with a button that copies it."""
    with box("rows").style("gap: 4px"):
        with box("line"):
            tag("h3", title).classes("grow")
            copy_button(lambda: text)
        # Long lines scroll; broken ones would read like other commands.
        block = tag("pre", text, "code").props('tabindex="0" role="region"')
        block.props["aria-label"] = title


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
    sections(headings, {"": rows}, right=right, label=label)


def sections(
    headings: list[str],
    groups: dict[str, list[list[Any]]],
    *,
    right: tuple[int, ...] = (),
    label: str = "",
    classes: str = "plain",
) -> None:
    """Add a table whose rows stand in groups, each under its name."""
    with scrolling(label or "Table"), box(classes, "table").props('role="table"'):
        with box("", "thead").props('role="rowgroup"'), row():
            for index, heading in enumerate(headings):
                # An empty heading is a cell like any other: a screen reader would announce a column without a name.
                head = tag("th" if heading else "td", heading, "right" if index in right else "")
                head.props(f'role="{"columnheader" if heading else "cell"}"')
        for name, rows in groups.items():
            with box("", "tbody").props('role="rowgroup"'):
                if name:
                    with row():
                        tag("th", name, "group").props(f'colspan="{len(headings)}" scope="rowgroup" role="rowheader"')
                for cells in rows:
                    _table_row(cells, right)


def _table_row(cells: list[Any], right: tuple[int, ...]) -> None:
    with row():
        for index, content in enumerate(cells):
            classes = "right number nowrap" if index in right else ""
            if callable(content):
                with cell(classes=classes):
                    content()
            else:
                cell(str(content), classes)


@contextlib.contextmanager
def stacked(headings: tuple[str, ...]) -> Iterator[None]:
    """Add a table whose rows become blocks on a phone; the roles keep it a table for a screen reader there too."""
    with box("plain stacked", "table").props('role="table"'):
        with box("", "thead").props('role="rowgroup"'), row():
            for heading in headings:
                head = tag("th", heading).props('scope="col" role="columnheader"')
                if not heading:
                    head.props('aria-label="Selected"')
        with box("", "tbody").props('role="rowgroup"'):
            yield


def row() -> Any:
    """Add a row of such a table."""
    return box("", "tr").props('role="row"')


def cell(text: str = "", classes: str = "") -> Any:
    """Add a cell of such a table."""
    return tag("td", text, classes).props('role="cell"')


def scrolling(label: str) -> Any:
    """Add what a table too wide for a phone scrolls in, by keyboard as well."""
    area = box("scroll").props('tabindex="0" role="region"')
    area.props["aria-label"] = label
    return area


def search_box(placeholder: str, label: str, on_change: Callable[..., Any]) -> None:
    """Add a field whose text is looked for as it is typed."""
    field = ui.input(placeholder=placeholder, on_change=on_change).classes("search")
    field.props(f'dense outlined clearable debounce=250 aria-label="{label}" type=search')


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
