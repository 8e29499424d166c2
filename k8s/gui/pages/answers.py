"""What policy and reference answered to the same prompts, side by side, with search."""

from __future__ import annotations

from typing import Any

from k8s.gui.datasets import text_of
from k8s.gui.pages.elements import box, button, card, search_box, segments, tag

_PAGE = 8
_WHO = {"all": "All", "policy": "Policy won", "reference": "Reference won", "tie": "Ties"}


class Answers:
    """A page of answers at a time."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.word, self.which, self.at = "", "all", 0

    def build(self) -> None:
        """Add the card, where there are answers."""
        if not self.rows:
            return
        with card("Answers side by side") as top:
            with top:
                segments(_WHO, "all", self._filter, "Which answers")
                search_box("Search prompts and answers", "Search answers", self._search)
            self.where = tag("p", "", "hint").props('role="status"')
            self.list = box("rows")
            with box("line"):
                self.back = button("Previous", lambda: self._turn(-_PAGE), "small")
                self.next = button("Next", lambda: self._turn(_PAGE), "small")
        self._show()

    def _filter(self, which: str) -> None:
        self.which, self.at = which, 0
        self._show()

    def _search(self, event: Any) -> None:
        self.word, self.at = (event.value or "").lower(), 0
        self._show()

    def _turn(self, by: int) -> None:
        self.at = max(0, self.at + by)
        self._show()

    def _wanted(self, row: dict[str, Any]) -> bool:
        if self.which != "all" and _winner(row) != self.which:
            return False
        return not self.word or any(self.word in text_of(row.get(k)).lower() for k in ("prompt", "policy", "reference"))

    def _show(self) -> None:
        found = [row for row in self.rows if self._wanted(row)]
        shown = found[self.at : self.at + _PAGE]
        self.where.text = f"{self.at + 1}–{self.at + len(shown)} of {len(found)}" if found else "No answers"
        self.back.set_enabled(self.at > 0)
        self.next.set_enabled(self.at + _PAGE < len(found))
        self.list.clear()
        with self.list:
            for row in shown:
                _answer(row)


def _winner(row: dict[str, Any]) -> str:
    outcome = row.get("outcome")
    if not isinstance(outcome, int | float):
        return ""
    return "tie" if outcome == 0.5 else "policy" if outcome > 0.5 else "reference"


def _answer(row: dict[str, Any]) -> None:
    winner = _winner(row)
    with box("card", "article"):
        tag("div", text_of(row.get("prompt")), "breakable").style("white-space: pre-wrap; font-weight: 550")
        with box("sides"):
            for key in ("policy", "reference"):
                with box("side"):
                    tag("span", f"{key}, preferred" if winner == key else key, "hint")
                    tag("div", text_of(row.get(key)), "said won" if winner == key else "said")
        if winner == "tie":
            tag("span", "a tie", "hint")
