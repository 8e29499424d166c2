"""Which places of the disk a step may read and write: a link must not lead it out of its workspace.

On a shared volume somebody else may have planted the link: a step that follows it would overwrite, or print, what is
not its own. Every writer checks here when it takes a folder's lock, every reader before it opens a manifest, a model or
an export. A place that the user names outright outside the working directory is his own affair.

AIOS_WORKSPACE        set in pods: then nothing outside this folder may be named at all
AIOS_FOLLOW_LINKS=1   links are ours: a person whose `artifacts` is a link to a larger disk
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from jobs.contract.errors import AiosError, BadConfig

_REMEDY = "remove the link; if it is yours and means what it says, set AIOS_FOLLOW_LINKS=1"


def check_place(path: Path, error: type[AiosError] = BadConfig) -> None:
    """Refuse a path that leads out of the workspace.

    Raises:
        error: naming the path and where it leads.
    """
    if os.environ.get("AIOS_FOLLOW_LINKS") == "1":
        return
    confined = os.environ.get("AIOS_WORKSPACE")
    workspace = Path(confined or Path.cwd()).resolve()
    named = _named(path)
    if named.is_relative_to(workspace):
        real = path.resolve()
        if not real.is_relative_to(workspace):
            raise error(f"{path} leads out of the workspace, to {real}", next_step=_REMEDY)
    elif confined and not path.resolve().is_relative_to(workspace):
        raise error(f"{path} is outside the workspace {workspace}", next_step="name a folder below it")


def check_folder(folder: Path, error: type[AiosError] = BadConfig) -> None:
    """Refuse a folder that leads out of the workspace, or that holds a link which does.

    Raises:
        error: naming the link and where it leads.
    """
    check_place(folder, error)
    inside = os.environ.get("AIOS_WORKSPACE") or _named(folder).is_relative_to(Path.cwd())
    if inside and os.environ.get("AIOS_FOLLOW_LINKS") != "1":
        for link in _links(folder):
            check_place(link, error)


def _named(path: Path) -> Path:
    """Return an absolute path without `..`, links not followed."""
    return Path(os.path.abspath(path))  # noqa: PTH100  Path.absolute keeps `..`


def _links(folder: Path) -> Iterator[Path]:
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_symlink():
            yield Path(entry.path)
        elif entry.is_dir():
            yield from _links(Path(entry.path))
