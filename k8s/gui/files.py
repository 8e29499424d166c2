"""Which files the panel may touch: those of the workspace, whatever a path or a link says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.config.fields import field_specs
from jobs.contract.errors import BadConfig
from k8s.steps import STEPS

TOPS = ("training_data", "artifacts")
UPLOADS = Path("training_data/uploads")
_PATHS = ("DIR", "FILE", "MODEL")


def inside(path: str | Path) -> Path:
    """Return the real path of something under training_data/ or artifacts/, links resolved.

    Raises:
        BadConfig: it lies elsewhere, by its name or through a link, or a part of it is hidden.
    """
    root = Path.cwd().resolve()
    real = _real(path)
    tops = [(root / top).resolve() for top in TOPS]
    hidden = any(part.startswith(".") for part in Path(path).parts)
    if hidden or not any(real == top or top in real.parents for top in tops):
        raise BadConfig(f"{str(path)!r} is not a file of the panel", needed=f"a path under {' or '.join(TOPS)}")
    return real


def in_workspace(path: str | Path) -> Path:
    """Return the real path of something anywhere in the workspace.

    Raises:
        BadConfig: it lies elsewhere.
    """
    root = Path.cwd().resolve()
    real = _real(path)
    if real != root and root not in real.parents and not _under_a_top(real):
        raise BadConfig(f"{str(path)!r} leads out of the workspace", needed="a path inside it")
    return real


def _under_a_top(real: Path) -> bool:
    """training_data and artifacts may be links to a larger disk."""
    tops = [(Path.cwd() / top).resolve() for top in TOPS]
    return any(real == top or top in real.parents for top in tops)


def _real(path: str | Path) -> Path:
    try:
        return (Path.cwd() / path).resolve()
    except (ValueError, OSError) as exc:  # a NUL in the name, a circle of links
        raise BadConfig(f"{str(path)!r} is not a path") from exc


def check_values(values: Mapping[str, Any]) -> None:
    """Refuse values whose steps would read or write outside the workspace.

    A model's name may be a hub id, which looks like a relative path and is one where such a folder exists.

    Raises:
        BadConfig: naming the setting.
    """
    for name, step in values["steps"].items():
        if not step.get("enabled"):
            continue
        for spec in field_specs(STEPS[name].config):
            if not any(word in (spec.metadata.get("metavar") or "") for word in _PATHS):
                continue
            given = step["args"].get(spec.name)
            for item in given if isinstance(given, list | tuple) else [given]:
                if isinstance(item, str):
                    _check_path(f"steps.{name}.args.{spec.name}", item)


def _check_path(where: str, path: str) -> None:
    try:
        in_workspace(path)
    except BadConfig as exc:
        raise BadConfig(f"{where}: {exc.found}", needed=exc.needed) from exc


def safe_name(name: str) -> str:
    """Return a file name that a person recognises and no file system minds."""
    base = name.replace("\\", "/").rsplit("/", 1)[-1]
    clean = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in base).lstrip(".")
    return clean[-100:] or "export.jsonl"


def size_text(size: float) -> str:
    """Return 512 B, 3.4 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError


def listing(folder: Path) -> list[tuple[str, bool, int]]:
    """Return name, whether it is a folder, and size of what a folder holds; folders first. Links out are left out."""
    found = []
    with os.scandir(inside(folder)) as entries:
        for entry in entries:
            try:
                inside(folder / entry.name)
                found.append((entry.name, entry.is_dir(), 0 if entry.is_dir() else entry.stat().st_size))
            except (BadConfig, OSError):
                continue
    return sorted(found, key=lambda item: (not item[1], item[0]))
