"""Data: the card of a data set, its rows with search, and the way to a new ingestion."""

from __future__ import annotations

import asyncio
from typing import Any

from nicegui import ui
from starlette.requests import Request

from jobs.contract.errors import AiosError
from jobs.contract.splits import SPLITS
from k8s.gui.datasets import MAX_FOUND, DataSet, Rows, data_set, data_sets, text_of
from k8s.gui.pages import data_card
from k8s.gui.pages.elements import badge, box, button, card, link, search_box, segments, tag
from k8s.gui.pages.frame import frame, missing, scheme
from k8s.gui.settings import SETTINGS

_PAGE = 10


async def page(request: Request, name: str = "") -> None:
    """Show one data set, by default the newest."""
    sets = await asyncio.to_thread(data_sets)
    try:
        chosen = await asyncio.to_thread(data_set, name) if name else next((s for s in sets if not s.draft), None)
    except AiosError as exc:
        missing(request, exc)
        return
    with frame(request, "Data", "/data") as titles, titles:
        _chooser(sets, chosen)
    if chosen is None:
        with card("No data yet"):
            tag("p", "Ingest an Argilla export to get train, eval and test splits.", "muted")
            if not SETTINGS.read_only:
                with box("line"):
                    link("Ingest an Argilla export…", "/ingest", "button main")
        return
    data_card.full(chosen, scheme(request) == "dark")
    Browser(chosen).build()


def _chooser(sets: list[DataSet], chosen: DataSet | None) -> None:
    names = {s.name: f"{s.name} (preview)" if s.draft else s.name for s in sets}
    if chosen and len(names) > 1:
        ui.select(names, value=chosen.name, on_change=lambda e: ui.navigate.to(f"/data?name={e.value}")).props(
            'dense outlined options-dense aria-label="Data set"'
        )
    elif chosen:
        tag("span", chosen.name, "muted")
    if chosen and chosen.draft:
        badge("stopped", "preview")
    box("grow")
    if chosen and not SETTINGS.read_only:
        link("Re-ingest from Argilla export…", f"/ingest?name={chosen.name}", "button")
        link("Train on it", f"/start?kind=pipeline&dataset={chosen.name}", "button main")


class Browser:
    """Rows of a split, ten at a time."""

    def __init__(self, data: DataSet) -> None:
        self.data = data
        self.split = "train"
        self.word = ""
        self.at = 0

    def build(self) -> None:
        """Add the card."""
        with card("Rows") as top:
            with top:
                segments({s: s for s in SPLITS}, self.split, self._choose, "Split")
                search_box("Search prompts and answers", "Search rows", self._search)
            self.where = tag("p", "", "hint").props('role="status"')
            self.list = box("rows")
            with box("line"):
                self.back = button("Previous", lambda: self._turn(-_PAGE), "small")
                self.next = button("Next", lambda: self._turn(_PAGE), "small")
        ui.timer(0, self.show, once=True)

    async def _choose(self, split: str) -> None:
        self.split, self.at = split, 0
        await self.show()

    async def _search(self, event: Any) -> None:
        self.word, self.at = event.value or "", 0
        await self.show()

    async def _turn(self, by: int) -> None:
        self.at = max(0, self.at + by)
        await self.show()

    def _read(self) -> tuple[int, list[tuple[int, dict[str, Any]]], list[dict[str, Any]]]:
        rows, meta = (Rows(self.data.folder / f"{self.split}.{end}") for end in ("jsonl", "meta.jsonl"))
        total = rows.index()
        numbers: Any = rows.search(self.word) if self.word else range(total)
        shown = list(numbers[self.at : self.at + _PAGE])
        found = rows.read(shown)
        # The meta file stands line for line beside the rows, where an older data set has one.
        metas = [m for _, m in meta.read(shown)] if meta.path.is_file() and meta.index() == total else [{}] * len(found)
        return len(numbers), found, metas

    async def show(self) -> None:
        """Read and show the rows of where we are."""
        try:
            total, rows, metas = await asyncio.to_thread(self._read)
        except (AiosError, OSError) as exc:
            self.where.text = str(exc)
            return
        more = " or more" if self.word and total == MAX_FOUND else ""
        last = self.at + len(rows)
        self.where.text = f"{self.at + 1}–{last} of {total:,}{more}" if total else "No rows"
        self.back.set_enabled(self.at > 0)
        self.next.set_enabled(last < total)
        self.list.clear()
        with self.list:
            for (number, row), meta in zip(rows, metas, strict=True):
                _row(number, row, meta)


def _row(number: int, row: dict[str, Any], meta: dict[str, Any]) -> None:
    with box("card", "article"):
        with box("line"):
            tag("span", f"row {number + 1}", "hint number")
            tag("span", f"record {meta['id']}" if "id" in meta else "", "hint breakable")
            agreement = meta.get("agreement")
            tag("span", f"agreement {agreement:.0%}" if isinstance(agreement, int | float) else "", "hint")
        tag("div", text_of(row.get("prompt")), "breakable").style("white-space: pre-wrap")
        with box("sides"):
            for key, classes in (("chosen", "said won"), ("rejected", "said")):
                with box("side"):
                    tag("span", key, "hint")
                    tag("div", text_of(row.get(key)), classes)
