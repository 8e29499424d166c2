"""What a doctor finds: each check with its remedy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One check: `level` is ok, warning or problem; a problem means that a run cannot work."""

    level: str
    what: str
    remedy: str = ""


def ok(what: str) -> Finding:
    """Return a check that passed."""
    return Finding(level="ok", what=what)


def warning(what: str, remedy: str) -> Finding:
    """Return what may become trouble, or could not be looked at."""
    return Finding(level="warning", what=what, remedy=remedy)


def problem(what: str, remedy: str) -> Finding:
    """Return what keeps a run from working."""
    return Finding(level="problem", what=what, remedy=remedy)
