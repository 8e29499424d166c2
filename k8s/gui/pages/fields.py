"""One setting of a step as a control: label, hint and limits all come from the config dataclass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nicegui import ui

from jobs.config.fields import FieldSpec
from k8s.gui.launch import parse
from k8s.gui.pages.elements import box, tag

Change = Callable[[Any, str], None]
"""Called with the value (None where empty) and what is wrong with the text, if anything."""


class Field:
    """A control and its hint. One that is left empty keeps the default, which it shows."""

    def __init__(
        self, spec: FieldSpec, value: Any, suggestions: list[str], change: Change, *, default: Any = None
    ) -> None:
        self.spec, self.change = spec, change
        default = spec.default if default is None else default
        label = spec.name.replace("_", " ").capitalize().replace("Lr", "LR")
        with box("rows").style("gap: 2px"):
            if spec.kind is bool:
                self.control = ui.switch(label, value=default if value is None else value, on_change=self._changed)
            elif spec.choices:
                self.control = ui.select(
                    list(spec.choices), label=label, value=value or default, on_change=self._changed
                )
            elif spec.multiple:
                self.control = ui.textarea(label, value="\n".join(value or ()), on_change=self._changed)
                self.control.props("autogrow rows=1")
            else:
                # No `autocomplete`: there Tab takes the first model whose name begins like what was typed.
                self.control = ui.input(
                    label, value=_text(value), placeholder=_text(default) or "not set", on_change=self._changed
                )
                self.control.props("stack-label debounce=250")
            if spec.kind is not bool:
                self.control.props("outlined dense options-dense")
            tag("span", spec.help, "hint")
            if suggestions:
                self._suggest(suggestions)

    def _suggest(self, suggestions: list[str]) -> None:
        with box("line").style("gap: 2px 10px"):
            for path in suggestions[:4]:
                chip = tag("button", path, "chip").props('type="button"')
                chip.on("click", lambda _, path=path: self.control.set_value(path))

    def _changed(self, event: Any) -> None:
        wrong, value = "", None
        try:
            value = parse(self.spec, event.value)
        except ValueError as exc:
            wrong = str(exc)
        if not self.spec.choices and self.spec.kind is not bool:
            self.control.error = f"Needs {wrong}" if wrong else None
        self.change(value, wrong)


def _text(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
