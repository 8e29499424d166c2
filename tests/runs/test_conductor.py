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


def test_a_step_that_can_be_helped_is_held_changed_and_let_go() -> None:
    """Held while it writes no more, changed once it is quiet; it counts as running all the while."""
    ailing = states(S, R, W, W) | {"rm": StepState(phase=R, needs=("ingest",), ailing=True)}
    assert decide(ailing) == Plan(hold=("rm",))
    held = StepState(phase=R, needs=("ingest",), held=True, quiet=False)
    assert decide(ailing | {"rm": held}) == Plan()
    quiet = dataclasses.replace(held, quiet=True)
    assert decide(ailing | {"rm": quiet}) == Plan(mend=("rm",))
    assert decide(ailing | {"rm": quiet}, stopped=True) == Plan(), "after `stop` nothing is let go"


@dataclasses.dataclass
class World:
    """What the API server or the disk holds. Every change of a step raises its version, as resourceVersion does."""

    steps: dict[str, StepState]
    version: dict[str, int]
    stopped: bool = False
    starts: dict[str, int] = dataclasses.field(default_factory=dict)
    mended: dict[str, int] = dataclasses.field(default_factory=dict)
    ailed: set[str] = dataclasses.field(default_factory=set)

    def seen(self) -> dict[str, StepState]:
        """Return what an observer makes of it: a held step of a stopped run waits for `resume`."""
        waits = self.stopped
        return {
            name: dataclasses.replace(step, phase=W, held=False) if waits and step.held and step.quiet else step
            for name, step in self.steps.items()
        }

    def change(self, name: str, **values: object) -> None:
        self.steps[name] = dataclasses.replace(self.steps[name], **values)  # type: ignore[arg-type]
        self.version[name] += 1

    def befall(self, event: str, data: st.DataObject) -> None:
        """Let a running step end, or lack something (once); a held one fall quiet; a person decide."""
        if event == "quiet":
            quieten(self)
        if event in ("stop", "resume"):
            self.stopped = event == "stop"
        running = sorted(n for n, step in self.steps.items() if step.phase is R and not step.held)
        if event == "ail":
            running = [name for name in running if name not in self.ailed]
        if not running or event not in ("ail", "succeed", "fail"):
            return
        name = data.draw(st.sampled_from(running))
        if event == "ail":
            self.ailed.add(name)
            self.change(name, ailing=True)
        else:
            self.change(name, phase=S if event == "succeed" else F, ailing=False)

    def act(self, what: str, name: str, seen_version: int) -> None:
        if seen_version != self.version[name]:
            return  # 409 Conflict in a cluster, an attempt folder that exists at home
        step = self.steps[name]
        if what == "release":
            assert all(self.steps[need].phase is S for need in step.needs), f"{name} started early"
            assert not step.held, f"{name} was let go unchanged"
            self.starts[name] = self.starts.get(name, 0) + 1
            self.change(name, phase=R)
        elif what == "hold":
            self.change(name, held=True, ailing=False, quiet=False)
        elif what == "mend":
            assert step.quiet, f"{name} was changed while it wrote"
            self.mended[name] = self.mended.get(name, 0) + 1
            self.change(name, held=False)


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
    """Deaths, duplicates and delays of two conductors, failures, want of memory, stop and resume: each step starts at
    most once, never before those it needs, is changed at most once and never while it writes, and when all calm down
    the run ends with every reachable step done.
    """
    count, edges = graph
    names = [f"s{i}" for i in range(count)]
    steps = {
        name: StepState(phase=W, needs=tuple(names[j] for j in sorted(edges[i]) if j < i))
        for i, name in enumerate(names)
    }
    world = World(steps=steps, version=dict.fromkeys(names, 0))
    # Each conductor keeps what it saw and has decided; it may act on it much later, in part, or never (it died).
    minds: list[list[tuple[str, str, int]]] = [[], []]
    for _ in range(data.draw(st.integers(0, 40), label="events")):
        event = data.draw(st.sampled_from(["look", "act", "die", "succeed", "fail", "ail", "quiet", "stop", "resume"]))
        mind = data.draw(st.integers(0, 1))
        if event == "look":
            minds[mind] = todo(world)
        elif event == "act" and minds[mind]:
            world.act(*minds[mind].pop(data.draw(st.integers(0, len(minds[mind]) - 1))))
        elif event == "die":
            minds[mind] = []
        else:
            world.befall(event, data)
    # Calm: one conductor that lives, steps that succeed.
    world.stopped = False
    for _ in range(5 * count + 5):
        quieten(world)
        for action in todo(world):
            world.act(*action)
        for name in names:
            if world.steps[name].phase is R and not world.steps[name].held and not world.steps[name].ailing:
                world.change(name, phase=S)
    final = decide(world.seen())
    failed = {name for name in names if world.steps[name].phase is F}
    assert final.outcome is (Outcome.FAILED if failed else Outcome.SUCCEEDED)
    assert all(times == 1 for times in world.starts.values()), "a step was started twice"
    assert all(times == 1 for times in world.mended.values()), "a step was changed twice"
    for name in names:
        assert (world.steps[name].phase in (S, F)) is (name in world.starts)
        assert (name in final.skip) is (world.steps[name].phase is W)


def todo(world: World) -> list[tuple[str, str, int]]:
    """Return what a conductor that looks now would do, with the versions that it saw."""
    plan = decide(world.seen(), stopped=world.stopped)
    actions = {"release": plan.release, "hold": plan.hold, "mend": plan.mend}
    return [(what, name, world.version[name]) for what, found in actions.items() for name in found]


def quieten(world: World) -> None:
    """Let the pods of held steps end."""
    for name, step in world.steps.items():
        if step.held and not step.quiet:
            world.change(name, quiet=True)
