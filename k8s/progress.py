"""How far a training step is, read from the end of its metrics.jsonl."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson

_TAIL_BYTES = 1 << 16
SHOWN = {
    "step": ("step",),
    "max_steps": ("max_steps",),
    "loss": ("loss",),
    "eval_loss": ("eval_loss",),
    "accuracy": ("eval_accuracy", "accuracy"),
    "margin": ("eval_margin", "margin"),
    "remaining_s": ("remaining_s",),
}
"""Shown as -> keys of docs/metrics.md, the preferred one first."""
_LOGGED = re.compile(r"\b(?:rm|dpo) step (\d+)/(\d+)\s+(.*)")
_PAIR = re.compile(r"\b([a-z_]+) (-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?=\s|$)")


def read_progress(path: Path) -> dict[str, Any]:
    """Return the newest value of each shown key; empty where there are no metrics yet."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().split(b"\n")
    except OSError:
        return {}
    return progress(_rows(lines))


def _rows(lines: Iterable[bytes]) -> Iterable[Mapping[str, Any]]:
    for line in lines:
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue  # torn: cut by our reading from the middle, or still being written
        if isinstance(row, dict):
            yield row


def progress(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the newest value of each shown key, and the furthest step: step 0 may be evaluated after step 1."""
    newest: dict[str, Any] = {}
    for row in rows:
        step = newest.get("step", 0)
        newest |= {key: value for key, value in row.items() if value is not None}
        if "step" in row:
            newest["step"] = max(step, newest["step"])
    shown = {}
    for name, keys in SHOWN.items():
        value = next((newest[key] for key in keys if key in newest), None)
        if isinstance(value, int | float):
            shown[name] = value
    return shown


def logged(line: str) -> dict[str, Any] | None:
    """Return the metrics that a line of a trainer's log tells of; None for any other line."""
    match = _LOGGED.search(line)
    numbers = {key: float(value) for key, value in _PAIR.findall(match[3])} if match else {}
    if match is None or not numbers:
        return None
    kind = "eval" if any(key.startswith("eval_") for key in numbers) else "train"
    return {"kind": kind, "step": int(match[1]), "max_steps": int(match[2]), **numbers}
