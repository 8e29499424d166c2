"""Overview: the data, the quick actions, the newest runs and the newest verdict."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from k8s.gui.datasets import data_sets
from k8s.gui.pages import data_card
from k8s.gui.pages.elements import box, card, copy_button, folder_link, link, note, tag
from k8s.gui.pages.frame import frame, live
from k8s.gui.pages.runs import RunList
from k8s.gui.runs import BOOK
from k8s.gui.settings import SETTINGS
from k8s.gui.verdicts import verdicts

_ACTIONS = (
    ("rm", "Run RM", "A reward model learns from the pairs what people prefer."),
    ("dpo", "Run DPO", "A policy learns to give the preferred answers."),
    ("pipeline", "Run pipeline", "Both, then the verdict on held-out pairs."),
)


async def page(request: Request) -> None:
    """Show where things stand."""
    views = await asyncio.to_thread(BOOK.refresh, 0.5)
    sets = [item for item in await asyncio.to_thread(data_sets) if not item.draft]
    found = await asyncio.to_thread(verdicts)
    with frame(request, "Overview", "/"):
        pass
    with box("grid"):
        with card("Dataset", "span7") as top:
            if sets:
                with top:
                    tag("span", sets[0].name, "muted")
                data_card.summary(sets[0])
                data_card.drops_in_words(sets[0])
                folder = str(sets[0].folder)
                with box("line"):
                    link("Look closer", f"/data?name={sets[0].name}", "button small")
                    folder_link("Open dataset folder", sets[0].folder, "button small")
                    if not SETTINGS.read_only:
                        link("Re-ingest from Argilla export…", f"/ingest?name={sets[0].name}", "button small")
                    copy_button(lambda: folder, "Copy path")
            else:
                tag("p", "No data yet. Ingest an Argilla export to get train, eval and test splits.", "muted")
                if not SETTINGS.read_only:
                    with box("line"):
                        link("Ingest an Argilla export…", "/ingest", "button main")
        with card("Quick actions", "span5"):
            if SETTINGS.read_only:
                note("This panel is read-only: it shows runs and starts none.")
            else:
                _actions()
    if found:
        newest = found[0]
        with card("Newest verdict") as top:
            with top:
                link("Read it", f"/verdicts/{newest.name}", "button small")
            note(newest.sentence, newest.tone)
    with card("Newest runs") as top:
        with top:
            link("All runs", "/runs", "button small")
        listing = RunList(limit=6)
        listing.build(views, paged=False)
    live(listing.update)


def _actions() -> None:
    for kind, text, meaning in _ACTIONS:
        with box("line").style("flex-wrap: nowrap"):
            link(text, f"/start?kind={kind}", "button nowrap" + (" main" if kind == "pipeline" else ""))
            tag("span", meaning, "hint")
