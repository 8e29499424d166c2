"""Runs: all of them on this volume, live, with a filter; several can be laid over each other."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from urllib.parse import quote

from nicegui import ui
from starlette.requests import Request

from k8s.conductor import Phase
from k8s.gui.pages.elements import (
    badge,
    box,
    button,
    card,
    cell,
    link,
    row,
    scrolling,
    search_box,
    segments,
    stacked,
    tag,
)
from k8s.gui.pages.frame import frame, live
from k8s.gui.runs import BOOK
from k8s.gui.settings import SETTINGS
from k8s.show import progress_text
from k8s.view import RunView, StepView

_PAGE = 25
_FILTERS = {"all": "All", "active": "Active", "succeeded": "Succeeded", "failed": "Failed", "stopped": "Stopped"}
_MEANS = {
    "active": ("running", "stopping"),
    "succeeded": ("succeeded",),
    "failed": ("failed", "unreadable", "abandoned"),
    "stopped": ("stopped",),
}


async def page(request: Request, compare: str = "") -> None:
    """Show the runs; one may be chosen for a comparison already."""
    views = await asyncio.to_thread(BOOK.refresh, 0.5)
    with frame(request, "Runs", "/runs") as titles, titles:
        box("grow")
        if not SETTINGS.read_only:
            link("Start a run", "/start", "button main")
    listing = RunList()
    listing.chosen |= {compare} if compare else set()
    with card() as top:
        top.set_visibility(True)
        with top:
            segments(_FILTERS, "all", listing.filter, "Which runs")
            box("grow")
            listing.compare = button("Compare selected", listing.go_compare, "small")
            search_box("Search", "Search runs", listing.search)
        listing.build(views)
    live(listing.update)


class RunList:
    """The table of runs. Only the rows that are shown travel to the browser, and only when they change."""

    def __init__(self, limit: int = _PAGE) -> None:
        self.limit, self.at = limit, 0
        self.word, self.which = "", "all"
        self.chosen: set[str] = set()
        self.compare: Any = None
        self._shown: Any = None

    def build(self, views: tuple[RunView, ...], *, paged: bool = True) -> None:
        """Add the table."""
        self.area = box("")
        with box("line") as self.pager:
            self.back = button("Previous", lambda: self._turn(-self.limit), "small")
            self.next = button("Next", lambda: self._turn(self.limit), "small")
            self.where = tag("span", "", "hint").props('role="status"')
        self.pager.set_visibility(paged)
        self._draw(views)

    async def update(self) -> None:
        """Draw anew what has changed."""
        self._draw(await asyncio.to_thread(BOOK.refresh, 0.4))

    async def filter(self, which: str) -> None:
        """Show only runs in some state."""
        self.which, self.at = which, 0
        await self.update()

    async def search(self, event: Any) -> None:
        """Show only runs whose name holds a word."""
        self.word, self.at = (event.value or "").lower(), 0
        await self.update()

    async def _turn(self, by: int) -> None:
        self.at = max(0, self.at + by)
        await self.update()

    def go_compare(self) -> None:
        """Open the chosen runs side by side."""
        if len(self.chosen) < 2:
            ui.notify("Select two runs or more")
            return
        ui.navigate.to(f"/compare?runs={quote(','.join(sorted(self.chosen)))}")

    def _wanted(self, view: RunView) -> bool:
        means = _MEANS.get(self.which)
        return (means is None or view.phase in means) and self.word in view.name.lower()

    def _draw(self, views: tuple[RunView, ...]) -> None:
        wanted = [view for view in views if self._wanted(view)]
        shown = wanted[self.at : self.at + self.limit]
        state = ([(v.name, v.phase, _steps_text(v), _age(v)) for v in shown], len(wanted), self.at)
        if state == self._shown:
            return
        self._shown = state
        self.where.text = f"{self.at + 1}–{self.at + len(shown)} of {len(wanted):,}" if wanted else ""
        self.back.set_enabled(self.at > 0)
        self.next.set_enabled(self.at + self.limit < len(wanted))
        self.area.clear()
        with self.area:
            if not shown:
                tag("p", "No runs here." if views else "No runs yet.", "empty")
                return
            _table(shown, self.chosen if self.compare else None)


def _table(views: list[RunView], chosen: set[str] | None) -> None:
    headings = (*([""] if chosen is not None else []), "Run", "State", "Steps", "Where", "Age")
    with scrolling("Runs"), stacked(headings):
        for view in views:
            _row(view, chosen)


def _row(view: RunView, chosen: set[str] | None) -> None:
    with row():
        if chosen is not None:
            with cell():
                mark = box("", "input").props('type="checkbox"')
                mark.props["aria-label"] = f"Select {view.name}"
                mark.props["checked"] = view.name in chosen
                mark.on("change", lambda _, name=view.name: chosen.symmetric_difference_update({name}))
        with cell(classes="name"):
            link(view.name, f"/runs/{quote(view.name, safe='')}", "breakable")
        with cell():
            badge(view.phase)
        cell(_steps_text(view) if view.steps else view.message, "muted steps breakable wide")
        cell(view.profile, "muted")
        cell(_age(view), "muted nowrap number")


def _steps_text(view: RunView) -> str:
    """Return `rm done · dpo step 37/100  loss 0.61 · evaluation waiting`."""
    return "  ·  ".join(_step_text(step) for step in view.steps)


def _step_text(step: StepView) -> str:
    if step.phase is Phase.RUNNING:
        return f"{step.name} {progress_text(step) or step.state}"
    return f"{step.name} {'done' if step.phase is Phase.SUCCEEDED else step.state}"


def _age(view: RunView) -> str:
    """Return the age in whole minutes, hours or days: a table that ticks every second would be drawn every second."""
    seconds = time.time() - view.created
    if not view.created:
        return ""
    if seconds < 60:
        return "just now"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min"
    return f"{seconds // 3600:.0f} h" if seconds < 172800 else f"{seconds // 86400:.0f} days"
