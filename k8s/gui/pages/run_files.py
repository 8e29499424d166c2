"""What a run has written, and the words that started it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from nicegui import ui

from k8s.gui import artifacts
from k8s.gui.launch import quoted
from k8s.gui.pages.elements import badge, box, code, file_link, folder_link, link, tag
from k8s.values import command, enabled_steps, to_yaml


def files(found: list[artifacts.StepFiles]) -> None:
    """Add the folder of each step: downloads, the last checkpoint, the run at Weights & Biases."""
    if not any(step.there for step in found):
        tag("p", "Nothing is written yet.", "empty")
    for step in found:
        if not step.there:
            continue
        with box("rows"):
            with box("line"):
                tag("h3", step.step)
                badge("succeeded" if step.published else "waiting", "published" if step.published else "not published")
                if step.step == "evaluation" and step.published:
                    link("Read the verdict", f"/verdicts/{quote(step.folder.name)}", "button small")
            with box("line"):
                folder_link(step.folder.as_posix(), step.folder, "mono breakable")
                for name in step.downloads:
                    file_link(name, (step.folder / name).as_posix())
            if step.checkpoint:
                tag("p", step.checkpoint, "hint")
            words, url = step.tracking
            if url:
                ui.link(words, url, new_tab=True).props('rel="noopener noreferrer"')
            elif words:
                tag("p", words, "hint")


def origin(name: str, values: dict[str, Any]) -> None:
    """Add the command of each step, and the values of the run."""
    text = to_yaml(values)
    for step, settings in enabled_steps(values).items():
        code(step, quoted(command(step, settings)))
    with ui.expansion("Values").classes("w"):
        code("values.yaml", text)
        file_link("Download run.json", f"artifacts/runs/{name}/run.json", "button small")
