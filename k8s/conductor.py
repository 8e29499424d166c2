"""Which step may start now: a pure function, the same for processes here and for Jobs in a cluster.

It holds no state. What it sees is what the world says, so it may die between any two calls, run twice at once, or see
what is no longer true: a release is refused by the world where the step has moved on, and is then decided anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """Where a step stands."""

    WAITING = "waiting"
    """Not released, or stopped and to be released again by `resume`."""
    RUNNING = "running"
    """Released, retries included: whoever runs it (Job controller, local driver) is not done with it."""
    SUCCEEDED = "succeeded"
    """Its output is published and checked."""
    FAILED = "failed"
    """It will not be tried again."""
    SKIPPED = "skipped"
    """It cannot run any more, since a step before it failed."""


class Outcome(StrEnum):
    """How a run ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, kw_only=True, slots=True)
class StepState:
    """One step as the world shows it."""

    phase: Phase
    needs: tuple[str, ...] = ()
    ailing: bool = False
    """It runs, but would go better with a change that its Job takes only while it is held."""
    held: bool = False
    """We hold it, to change it and let it go on; for all others it runs."""
    quiet: bool = True
    """Nothing of it writes any more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What to do now. `outcome` is None while something runs or can still run."""

    release: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    hold: tuple[str, ...] = ()
    mend: tuple[str, ...] = ()
    outcome: Outcome | None = None


def decide(steps: Mapping[str, StepState], *, stopped: bool = False) -> Plan:
    """Decide what follows from the states of a run's steps."""
    phases = {name: step.phase for name, step in steps.items()}
    skip = _unreachable(steps, phases)
    phases |= dict.fromkeys(skip, Phase.SKIPPED)
    ready = [
        name
        for name, step in steps.items()
        if phases[name] is Phase.WAITING and all(phases[need] is Phase.SUCCEEDED for need in step.needs)
    ]
    release = [] if stopped else ready
    if release or Phase.RUNNING in phases.values():
        running = {} if stopped else {name: step for name, step in steps.items() if step.phase is Phase.RUNNING}
        return Plan(
            release=tuple(release),
            skip=tuple(skip),
            hold=tuple(name for name, step in running.items() if step.ailing and not step.held),
            mend=tuple(name for name, step in running.items() if step.held and step.quiet),
        )
    return Plan(skip=tuple(skip), outcome=_outcome(set(phases.values())))


def _unreachable(steps: Mapping[str, StepState], phases: Mapping[str, Phase]) -> list[str]:
    """Return the waiting steps that a failure before them has cut off, however far away it is."""
    cut_off: list[str] = []
    dead = {name for name, phase in phases.items() if phase in (Phase.FAILED, Phase.SKIPPED)}
    while True:
        found = [
            name
            for name, step in steps.items()
            if name not in dead and phases[name] is Phase.WAITING and dead.intersection(step.needs)
        ]
        if not found:
            return cut_off
        cut_off += found
        dead.update(found)


def _outcome(phases: set[Phase]) -> Outcome:
    if Phase.FAILED in phases:
        return Outcome.FAILED
    # Nothing runs and nothing may be released, yet something waits: the run was stopped.
    return Outcome.STOPPED if Phase.WAITING in phases else Outcome.SUCCEEDED


def order(needs: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return the steps so that each comes after those it needs.

    Raises:
        ValueError: a step needs itself, directly or through others, or one that is not there.
    """
    placed: list[str] = []
    rest = dict(needs)
    while rest:
        ready = [name for name, before in rest.items() if set(before) <= set(placed)]
        if not ready:
            raise ValueError(" and ".join(sorted(rest)))
        placed += ready
        rest = {name: before for name, before in rest.items() if name not in ready}
    return placed
