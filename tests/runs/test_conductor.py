"""The conductor's decisions: single ones, and every order of events that may befall them."""

from __future__ import annotations

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from k8s.conductor import Outcome, Phase, Plan, StepState, decide, order

W, R, S, F, K = Phase.WAITING, Phase.RUNNING, Phase.SUCCEEDED, Phase.FAILED, Phase.SKIPPED
LINE = {"ingest": (), "rm": ("ingest",), "dpo": ("ingest", "rm"), "evaluation": ("ingest", "rm", "dpo")}


def states(*phases: Phase) -> dict[str, StepState]:
    return {name: StepState(phase=phase, needs=LINE[name]) for name, phase in zip(LINE, phases, strict=True)}


def test_the_first_step_is_released_at_once() -> None:
    """A step that needs nothing starts when the run does."""
    assert decide(states(W, W, W, W)) == Plan(release=("ingest",))


def test_a_step_waits_for_all_it_needs() -> None:
    """What runs holds back what comes after it."""
    assert decide(states(S, R, W, W)) == Plan()
    assert decide(states(S, S, W, W)) == Plan(release=("dpo",))


def test_a_failure_cuts_off_all_that_follows() -> None:
    """A failed step skips the next one and the one after that in one decision, and ends the run as failed."""
    assert decide(states(S, F, W, W)) == Plan(skip=("dpo", "evaluation"), outcome=Outcome.FAILED)


def test_other_branches_go_on_after_a_failure() -> None:
    """A failure in one branch does not end the run while another branch runs."""
    steps = {
        "ingest": StepState(phase=S),
        "rm": StepState(phase=F, needs=("ingest",)),
        "dpo": StepState(phase=R, needs=("ingest",)),
    }
    assert decide(steps) == Plan()


def test_a_stopped_run_releases_nothing() -> None:
    """After `stop` nothing starts; the run has stopped when nothing runs any more."""
    assert decide(states(S, R, W, W), stopped=True) == Plan()
    assert decide(states(S, W, W, W), stopped=True) == Plan(outcome=Outcome.STOPPED)


def test_a_run_that_finished_while_it_was_stopped_has_succeeded() -> None:
    """Stopping a run whose last step was just ending does not make its result a stopped one."""
    assert decide(states(S, S, S, S), stopped=True) == Plan(outcome=Outcome.SUCCEEDED)


def test_order_puts_each_step_after_those_it_needs() -> None:
    """The order is a topological one."""
    assert order({name: LINE[name] for name in reversed(LINE)}) == list(LINE)


@dataclasses.dataclass
class World:
    """What the API server or the disk holds. Every change of a step raises its version, as resourceVersion does."""

    steps: dict[str, StepState]
    version: dict[str, int]
    stopped: bool = False
    starts: dict[str, int] = dataclasses.field(default_factory=dict)

    def move(self, name: str, phase: Phase) -> None:
        self.steps[name] = dataclasses.replace(self.steps[name], phase=phase)
        self.version[name] += 1

    def release(self, name: str, seen_version: int) -> None:
        if seen_version != self.version[name]:
            return  # 409 Conflict in a cluster, an attempt folder that exists at home
        assert all(self.steps[need].phase is S for need in self.steps[name].needs), f"{name} started early"
        self.starts[name] = self.starts.get(name, 0) + 1
        self.move(name, R)


graphs = st.integers(2, 6).flatmap(
    lambda n: st.tuples(
        st.just(n),
        st.lists(st.sets(st.integers(0, n - 1)), min_size=n, max_size=n),
    )
)


@settings(max_examples=400, deadline=None)
@given(graph=graphs, data=st.data())
def test_no_order_of_events_starts_a_step_early_twice_or_never(
    graph: tuple[int, list[set[int]]], data: st.DataObject
) -> None:
    """Deaths, duplicates and delays of two conductors, failures, stop and resume: each step starts at most once,
    never before those it needs, and when all calm down the run ends with every reachable step done.
    """
    count, edges = graph
    names = [f"s{i}" for i in range(count)]
    steps = {
        name: StepState(phase=W, needs=tuple(names[j] for j in sorted(edges[i]) if j < i))
        for i, name in enumerate(names)
    }
    world = World(steps=steps, version=dict.fromkeys(names, 0))
    # Each conductor keeps what it saw and has decided; it may act on it much later, in part, or never (it died).
    minds: list[list[tuple[str, int]]] = [[], []]
    for _ in range(data.draw(st.integers(0, 40), label="events")):
        event = data.draw(st.sampled_from(["look", "act", "die", "succeed", "fail", "stop", "resume"]))
        mind = data.draw(st.integers(0, 1))
        running = [name for name in names if world.steps[name].phase is R]
        if event == "look":
            minds[mind] = [(n, world.version[n]) for n in decide(world.steps, stopped=world.stopped).release]
        elif event == "act" and minds[mind]:
            index = data.draw(st.integers(0, len(minds[mind]) - 1))
            world.release(*minds[mind].pop(index))
        elif event == "die":
            minds[mind] = []
        elif event in ("succeed", "fail") and running:
            world.move(data.draw(st.sampled_from(running)), S if event == "succeed" else F)
        elif event in ("stop", "resume"):
            world.stopped = event == "stop"
    # Calm: one conductor that lives, steps that succeed.
    world.stopped = False
    for _ in range(3 * count + 3):
        plan = decide(world.steps)
        for name in plan.release:
            world.release(name, world.version[name])
        for name in names:
            if world.steps[name].phase is R:
                world.move(name, S)
    final = decide(world.steps)
    failed = {name for name in names if world.steps[name].phase is F}
    assert final.outcome is (Outcome.FAILED if failed else Outcome.SUCCEEDED)
    assert all(times == 1 for times in world.starts.values()), "a step was started twice"
    for name in names:
        assert (world.steps[name].phase in (S, F)) is (name in world.starts)
        assert (name in final.skip) is (world.steps[name].phase is W)
