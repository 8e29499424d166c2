"""Which page answers which address."""

from __future__ import annotations

from nicegui import ui

from k8s.gui.pages import compare, data, folder, ingest, overview, run, runs, start, verdict


def register() -> None:
    """Tell NiceGUI of the pages."""
    ui.page("/")(overview.page)
    ui.page("/data")(data.page)
    ui.page("/ingest")(ingest.page)
    ui.page("/ingest/{name}")(ingest.result)
    ui.page("/start")(start.page)
    ui.page("/runs")(runs.page)
    ui.page("/runs/{name}")(run.page)
    ui.page("/compare")(compare.page)
    ui.page("/verdicts")(verdict.listing)
    ui.page("/verdicts/{name}")(verdict.page)
    ui.page("/files-of/{path:path}")(folder.page)
