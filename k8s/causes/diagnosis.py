"""A diagnosis, and what one is made from."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from jobs.contract.errors import NEVER_RETRIED, ExitCode
from k8s.objects import Object

KEPT_EVENTS = 8
IMAGE_GRACE_S = 120.0
"""How long a wrong image may stay wrong: somebody may be pushing it right now."""
CONFIG_GRACE_S = 600.0
"""How long a Secret or right may be missing: operators that make them need minutes."""

DECISIVE = (NEVER_RETRIED - {ExitCode.DIVERGED}) | {ExitCode.UNAVAILABLE, ExitCode.VOLUME}
"""Codes by which a step speaks of its input or surroundings; what befell its pod besides does not matter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """What is the matter with a step."""

    code: str
    summary: str
    detail: str = ""
    resolution: str = ""
    fatal_after_s: float | None = None
    """Not going to get better: give up when it has lasted this long. None: wait."""
    node: str = ""
    pod: str = ""
    evidence: tuple[str, ...] = ()
    """Events, the newest last."""

    def to_json(self) -> dict[str, Any]:
        """Return what the status holds."""
        return {key: value for key, value in asdict(self).items() if value not in ("", None, ())}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Diagnosis:
        """Read what the status holds."""
        known = {f.name: document[f.name] for f in fields(cls) if f.name in document}
        return cls(**known | {"evidence": tuple(known.get("evidence", ()))})

    def told(self, **changes: Any) -> Diagnosis:
        """Return a copy with more said."""
        return replace(self, **changes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """A pod and what lies around it."""

    pod: Object
    events: Sequence[Object] = ()
    """About this pod, the oldest first."""
    all_events: Sequence[Object] = ()
    nodes: Sequence[Object] = ()
    claims: Sequence[Object] = ()
    now: float = field(default_factory=time.time)

    @property
    def status(self) -> Mapping[str, Any]:
        """The pod's status."""
        found: Mapping[str, Any] = self.pod.get("status", {})
        return found


def said_text(end: Mapping[str, Any], said: Mapping[str, Any]) -> str:
    """Return what a container said at its end: the supervisor's message, or the end of its log."""
    return str(said.get("message") or ("" if said else str(end.get("message") or "").strip()[-600:]))
