"""From the files of a run's attempts to the phase of each step: what the Job controller would say of a Job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.contract.attempts import STDOUT, supervised
from jobs.contract.errors import NEVER_RETRIED, ExitCode
from k8s.conductor import Outcome, Phase, StepState, decide
from k8s.machine.store import Run
from k8s.progress import read_progress
from k8s.values import enabled_steps, output_folder
from k8s.view import RunView, StepView

ALIVE = ("starting", "running")
FINISHED = ("succeeded", "skipped")
_TAIL_BYTES, _KEPT_LINES = 4096, 8
RETRY_BASE_S, RETRY_CAP_S = 1.0, 60.0
"""The Job controller begins at 10 s and doubles up to 6 minutes; at home a node does not need that long to recover."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """A step as its attempts show it."""

    phase: Phase
    number: int = 0
    folder: Path | None = None
    status: Mapping[str, Any] | None = None
    orphaned: bool = False
    """Its supervisor is gone without a last word: the attempt counts as died once its process is gone too."""
    retry_at: float | None = None


def observe(run: Run, name: str, step: Mapping[str, Any], control: Mapping[str, Any]) -> Observed:
    """Return where a step stands."""
    attempts = run.attempts(name)
    if not attempts:
        return Observed(phase=Phase.WAITING)
    number, folder, status = attempts[-1]
    seen: dict[str, Any] = {"number": number, "folder": folder, "status": status}
    state = status.get("state")
    if state in ALIVE:
        return Observed(phase=Phase.RUNNING, orphaned=not supervised(status), **seen)
    if state in FINISHED:
        return Observed(phase=Phase.SUCCEEDED, **seen)
    # What ended before `resume` was called is forgiven: it neither counts nor decides.
    forgiven = int(control["forgiven"].get(name, 0))
    codes = [s.get("exit_code") for n, _, s in attempts if n > forgiven and s.get("state") not in FINISHED]
    failures = [code for code in codes if code != ExitCode.INTERRUPTED]
    if failures and (failures[-1] in NEVER_RETRIED or len(failures) > step["backoffLimit"]):
        return Observed(phase=Phase.FAILED, **seen)
    if control["stopped"]:
        return Observed(phase=Phase.WAITING, **seen)
    pause = min(RETRY_CAP_S, RETRY_BASE_S * 2 ** max(0, len(failures) - 1)) if codes else 0.0
    return Observed(phase=Phase.RUNNING, retry_at=(status.get("finished_at") or 0.0) + pause, **seen)


def step_states(observed: Mapping[str, Observed], steps: Mapping[str, Mapping[str, Any]]) -> dict[str, StepState]:
    """Return what the conductor's pure function takes."""
    return {name: StepState(phase=observed[name].phase, needs=tuple(step["needs"])) for name, step in steps.items()}


def view(run: Run) -> RunView:
    """Return the picture of a run, from its files alone."""
    document, control = run.document(), run.control()
    steps = enabled_steps(document["values"])
    observed = {name: observe(run, name, step, control) for name, step in steps.items()}
    plan = decide(step_states(observed, steps), stopped=control["stopped"])
    cut_off = set(plan.skip)
    views = tuple(_step_view(name, steps[name], seen, name in cut_off, control) for name, seen in observed.items())
    failed = next((v for v in views if v.phase is Phase.FAILED), None)
    return RunView(
        name=run.name,
        phase=_phase(run, plan.outcome, stopped=control["stopped"]),
        profile=document.get("profile", "local"),
        created=document.get("created", 0.0),
        steps=views,
        message=f"{failed.name}: {failed.message}" if failed else "",
    )


def _phase(run: Run, outcome: Outcome | None, *, stopped: bool) -> str:
    if outcome is not None:
        return outcome.value
    if not run.conducted() and not run.newborn():
        return "abandoned"
    return "stopping" if stopped else "running"


def _step_view(
    name: str, step: Mapping[str, Any], seen: Observed, cut_off: bool, control: Mapping[str, Any]
) -> StepView:
    status = seen.status or {}
    phase = Phase.SKIPPED if cut_off else seen.phase
    return StepView(
        name=name,
        phase=phase,
        state=_word(phase, seen, control),
        needs=tuple(step["needs"]),
        attempt=seen.number,
        exit_code=status.get("exit_code"),
        message=status.get("message") or status.get("hung") or ("" if not cut_off else "a step before it failed"),
        started_at=status.get("started_at"),
        finished_at=status.get("finished_at"),
        node=status.get("host", ""),
        progress=read_progress(Path(output_folder(name, step)) / "metrics.jsonl") if seen.number else {},
        manifest_sha256=status.get("manifest_sha256"),
        lines=_last_lines(seen.folder / STDOUT) if seen.folder and phase is Phase.RUNNING else (),
    )


def _last_lines(log: Path) -> tuple[str, ...]:
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
            return tuple(file.read().decode(errors="replace").splitlines()[-_KEPT_LINES:])
    except OSError:
        return ()


def _word(phase: Phase, seen: Observed, control: Mapping[str, Any]) -> str:
    status = seen.status or {}
    if phase is Phase.RUNNING and seen.retry_at is not None:
        return "retrying"
    if phase is Phase.RUNNING:
        return "stopping" if control["stopped"] else str(status.get("state", "running"))
    if phase is Phase.WAITING and seen.number:
        return "stopped"
    if phase is Phase.SUCCEEDED and status.get("state") == "skipped":
        return "already done"
    return phase.value


def live(run: Run) -> bool:
    """Tell whether anything of this run still happens: a conductor, or a step that outlived it."""
    if run.conducted() or run.newborn():
        return True
    steps = [path.name for path in (run.folder / "steps").glob("*") if path.is_dir()]
    return any(
        status.get("state") in ALIVE and supervised(status)
        for step in steps
        for _, _, status in run.attempts(step)[-1:]
    )
