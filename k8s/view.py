"""What a run looks like, wherever it runs: the one picture that status, the live table and the panel show."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from k8s.conductor import Phase


@dataclass(frozen=True, kw_only=True, slots=True)
class StepView:
    """One step of a run."""

    name: str
    phase: Phase
    state: str
    """The attempt's own word: starting, running, retrying, succeeded, skipped (was done already), stopped, failed..."""
    needs: tuple[str, ...] = ()
    attempt: int = 0
    exit_code: int | None = None
    message: str = ""
    started_at: float | None = None
    finished_at: float | None = None
    node: str = ""
    pod: str = ""
    """In a cluster, the pod of the newest attempt."""
    progress: dict[str, Any] = field(default_factory=dict)
    """From metrics.jsonl: step, max_steps, loss, accuracy, margin, remaining_s; only what is known."""
    manifest_sha256: str | None = None
    diagnosis: dict[str, Any] = field(default_factory=dict)
    """In a cluster, what is wrong: code, summary, detail, resolution, evidence (events)."""
    repairs: tuple[str, ...] = ()
    """What was changed about it before it was tried again."""
    lines: tuple[str, ...] = ()
    """The end of its log while it runs, for the eye; not part of the JSON, which would change with every line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunView:
    """One run."""

    name: str
    phase: str
    """running, succeeded, failed, stopping, stopped, abandoned (nobody conducts it: `resume` goes on)."""
    profile: str = "local"
    created: float = 0.0
    steps: tuple[StepView, ...] = ()
    message: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing will happen any more without somebody asking for it."""
        return self.phase in ("succeeded", "failed", "stopped", "abandoned")

    @property
    def exit_code(self) -> int:
        """The code with which a command that waits for this run ends: that of the failed step."""
        if self.phase == "succeeded":
            return 0
        failed = [step for step in self.steps if step.phase is Phase.FAILED]
        if failed:
            return failed[0].exit_code or 70
        return 75 if self.phase in ("stopped", "stopping") else 70

    def to_json(self) -> dict[str, Any]:
        """Return the document that `--json` prints."""
        document = asdict(self) | {"ended": self.ended, "exit_code": self.exit_code if self.ended else None}
        for step in document["steps"]:
            del step["lines"]
        return document
