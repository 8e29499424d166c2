"""A folder of the workspace, for those who sit at another machine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from starlette.requests import Request

from jobs.contract.errors import AiosError
from k8s.gui.files import TOPS, listing, size_text
from k8s.gui.pages.elements import card, copy_button, file_link, folder_link, table, tag
from k8s.gui.pages.frame import frame, missing

_MOST = 500


async def page(request: Request, path: str) -> None:
    """Show what a folder holds."""
    folder = Path(path)
    try:
        found = await asyncio.to_thread(listing, folder)
    except (AiosError, OSError) as exc:
        missing(request, exc if isinstance(exc, AiosError) else AiosError(f"{path} is no folder"))
        return
    with frame(request, folder.name) as titles, titles:
        shown = folder.as_posix()
        tag("code", shown, "breakable")
        copy_button(lambda: shown, "Copy path")
    with card():
        rows: list[list[Any]] = [] if shown in TOPS else [[lambda: folder_link("↑ parent folder", folder.parent), ""]]
        for name, is_folder, size in found[:_MOST]:
            rows.append([_entry(folder / name, is_folder), "" if is_folder else size_text(size)])
        table(["Name", "Size"], rows, right=(1,), label="Files")
        if len(found) > _MOST:
            tag("p", f"{len(found) - _MOST:,} more are not shown.", "hint")
        if not found:
            tag("p", "This folder is empty.", "empty")


def _entry(path: Path, is_folder: bool) -> Any:
    if is_folder:
        return lambda: folder_link(f"{path.name}/", path)
    return lambda: file_link(path.name, path.as_posix())
