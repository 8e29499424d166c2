"""`aios artifacts`: what is on the volume, and making room on it before it fills."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
import orjson

from jobs.contract.errors import AiosError, BadConfig
from jobs.contract.files import remove_tree
from jobs.contract.lock import FolderLock, read_owner
from jobs.contract.manifest import read_manifest, verify
from jobs.training.checkpoints import newest_complete

ROOTS = {
    "base": Path("artifacts/base"),
    "dataset": Path("training_data/curated_datasets"),
    "rm": Path("artifacts/rm"),
    "dpo": Path("artifacts/dpo"),
    "evaluation": Path("artifacts/evaluation"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """One output folder as it stands on the volume."""

    kind: str
    folder: Path
    state: str
    """published, unfinished, being written, or damaged."""
    bytes: int
    checkpoint_bytes: int
    created: float | None
    inputs: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the artifact for `--json`."""
        return {
            "kind": self.kind, "folder": self.folder.as_posix(), "state": self.state, "bytes": self.bytes,
            "checkpoint_bytes": self.checkpoint_bytes, "created": self.created, "inputs": self.inputs,
        }  # fmt: skip


@click.group()
def artifacts() -> None:
    """What is on the volume, and making room on it."""


@artifacts.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
@click.option("--verify", "content", is_flag=True, help="Compare the hash of every file with its manifest.")
def list_command(as_json: bool, content: bool) -> None:
    """List data sets, models and verdicts with their state and size.

    \b
    Example:
      aios artifacts list --verify
    """
    found = find_artifacts(content=content)
    if as_json:
        click.echo(orjson.dumps([artifact.to_json() for artifact in found], option=orjson.OPT_INDENT_2))
        return
    if not found:
        click.echo("Nothing here yet: artifacts/ and training_data/curated_datasets/ are empty.", err=True)
        return
    _print_table(found)


@artifacts.command()
@click.option("--checkpoints", is_flag=True, help="Delete the checkpoints of published models.")
@click.option("--unfinished-days", type=click.FloatRange(0), help="Delete unfinished folders untouched for so long.")
@click.option("--cache", is_flag=True, help="Delete cached reference log-probabilities.")
@click.option("--yes", is_flag=True, help="Delete; without it only what would go is shown.")
def prune(checkpoints: bool, unfinished_days: float | None, cache: bool, yes: bool) -> None:
    """Make room: nothing that is published, in use or needed to resume goes unless you name it.

    \b
    Examples:
      aios artifacts prune --checkpoints                  # show what would go
      aios artifacts prune --checkpoints --cache --yes    # delete it
    """
    if not (checkpoints or cache or unfinished_days is not None):
        raise BadConfig("nothing to prune was named", needed="--checkpoints, --unfinished-days or --cache")
    freed = 0
    for path, kind in _prunable(checkpoints, unfinished_days, cache):
        size = _size(path)
        click.echo(f"{_human(size):>10}  {kind:<12} {path.as_posix()}")
        freed += size if _delete(path, kind, yes) else 0
    click.echo(f"{_human(freed)} {'freed' if yes else 'would be freed; add --yes to delete'}", err=True)


def find_artifacts(*, content: bool = False) -> list[Artifact]:
    """Return every output folder below the working directory."""
    folders = [(kind, path) for kind, root in ROOTS.items() for path in sorted(root.glob("*")) if path.is_dir()]
    return [_describe(kind, path, content) for kind, path in folders if not path.name.startswith(".")]


def _describe(kind: str, folder: Path, content: bool) -> Artifact:
    owner = read_owner(folder.with_name(f".{folder.name}.lock"))
    manifest = None
    try:
        manifest = verify(folder, content=content) if read_manifest(folder) is not None else None
        state = "published" if manifest else "unfinished"
    except AiosError:
        state = "damaged"
    if owner is not None and owner.alive():
        state = "being written"
    checkpoints = _size(folder / "checkpoints")
    return Artifact(
        kind=kind, folder=folder, state=state, bytes=_size(folder) - checkpoints, checkpoint_bytes=checkpoints,
        created=manifest.created if manifest else None, inputs=manifest.inputs if manifest else {},
    )  # fmt: skip


def _print_table(found: list[Artifact]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for column in ("kind", "folder", "state", "size", "checkpoints", "made"):
        justify: Literal["left", "right"] = "right" if column in {"size", "checkpoints"} else "left"
        table.add_column(column, justify=justify, no_wrap=True)
    for item in found:
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(item.created)) if item.created else "-"
        sizes = _human(item.bytes), _human(item.checkpoint_bytes) if item.checkpoint_bytes else "-"
        table.add_row(item.kind, item.folder.as_posix(), item.state, *sizes, made)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    free = shutil.disk_usage(Path.cwd()).free
    Console(stderr=True).print(
        f"{_human(sum(a.bytes + a.checkpoint_bytes for a in found))} in all, {_human(free)} free"
    )


def _prunable(checkpoints: bool, unfinished_days: float | None, cache: bool) -> list[tuple[Path, str]]:
    found: list[tuple[Path, str]] = []
    for item in find_artifacts():
        if item.state == "published" and checkpoints and item.checkpoint_bytes:
            found.append((item.folder / "checkpoints", "checkpoints"))
        if item.state == "unfinished" and unfinished_days is not None and _age_days(item.folder) >= unfinished_days:
            newest = newest_complete(item.folder / "checkpoints")
            found.append((item.folder, "resumable" if newest else "unfinished"))
    if cache and Path("artifacts/cache").is_dir():
        found.append((Path("artifacts/cache"), "cache"))
    return found


def _delete(path: Path, kind: str, really: bool) -> bool:
    """Delete under the folder's lock, so that nothing in use goes; tells whether it counts as freed."""
    if not really:
        return True
    folder = path.parent if kind == "checkpoints" else path
    try:
        with FolderLock(folder, attempt="prune"):
            remove_tree(path)
    except AiosError as exc:
        click.echo(f"            kept: {exc}", err=True)
        return False
    return True


def _size(path: Path) -> int:
    return sum(p.lstat().st_size for p in path.rglob("*") if p.is_file()) if path.exists() else 0


def _age_days(folder: Path) -> float:
    newest = max((p.lstat().st_mtime for p in folder.rglob("*")), default=folder.stat().st_mtime)
    return (time.time() - newest) / 86400


def _human(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
