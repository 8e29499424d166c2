"""Trainings in pods that are disrupted at random: pods deleted, evicted, drained and killed, conductors deleted.

AIOS_CHAOS_SEED repeats a round, AIOS_CHAOS_PODS sets how many runs there are, AIOS_CHAOS_STRIKES how many of the six
disruptions each of them gets: the Job controller waits twice as long before each further pod.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.contract.attempts import read_status
from k8s.cluster.client import ApiError, Object
from tests.chaos.ledger import Ledger, check_whole_or_absent, last_step, redone, result
from tests.kubernetes.cluster import Space, kubectl, new_space, until

pytestmark = [pytest.mark.chaos, pytest.mark.cluster, pytest.mark.timeout(7200)]

SEED = int(os.environ.get("AIOS_CHAOS_SEED", str(random.SystemRandom().randrange(10**6))))
RUNS = int(os.environ.get("AIOS_CHAOS_PODS", "7"))
STRIKES = int(os.environ.get("AIOS_CHAOS_STRIKES", "6"))
SAVE_STEPS = 10
TRAINING = [
    "run.dataset=one", "steps.dpo.enabled=false", "steps.evaluation.enabled=false",
    *(f"steps.rm.args.{name}={value}" for name, value in {
        "max_steps": 600, "save_steps": SAVE_STEPS, "eval_steps": 200, "batch_size": 2, "precision": "fp32",
    }.items()),
]  # fmt: skip
# The last two are failures that count; the others must not.
PLAN = ("delete pod", "evict pod", "delete conductor", "delete conductor", "kill trainer", "kill pid 1")
START_S = 10.0


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    """A namespace with the data set and an undisturbed run, `calm`."""
    with new_space(tmp_path_factory.mktemp("values")) as made:
        made.install("calm", *TRAINING)
        assert made.wait("calm", 1200) == "succeeded"
        yield made


@dataclass
class Victim:
    """A run in the cluster under disruption."""

    space: Space
    name: str
    rng: random.Random
    ledger: Ledger
    reached: dict[int, int] = field(default_factory=dict)
    """Attempt -> the last step in the metrics when its pod was gone."""

    @property
    def output(self) -> Path:
        return self.space.folder / "artifacts/rm" / self.name

    def attempt(self, number: int) -> Path:
        return self.space.folder / "artifacts/runs" / self.name / f"steps/rm/attempt-{number}"

    def newest(self) -> int:
        numbers = [int(path.name.split("-")[1]) for path in self.attempt(1).parent.glob("attempt-*")]
        return max(numbers, default=0)

    def running(self, component: str) -> Object | None:
        """Return the pod of a component that runs and is not about to go."""
        labels = f"app.kubernetes.io/instance={self.name},app.kubernetes.io/component={component}"
        alive = [pod for pod in self.space.pods(labels) if pod["status"].get("phase") == "Running"]
        return next((pod for pod in alive if not pod["metadata"].get("deletionTimestamp")), None)

    def over(self) -> bool:
        return self.space.state(self.name).get("phase") in ("succeeded", "failed")

    def wait_for_a_moment(self) -> None:
        """Half of the moments fall anywhere into a start, half amid the steps of training."""
        if self.rng.random() < 0.5:
            time.sleep(self.rng.uniform(0, START_S))
            return
        number, before = self.newest(), last_step(self.output)
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and self.newest() == number and last_step(self.output) <= before:
            if self.over():
                return
            time.sleep(0.1)
        time.sleep(self.rng.uniform(0, 1.5))

    def strike(self, kind: str) -> bool:
        """Disrupt once; tells whether somebody was there, and waits until he is gone."""
        what, _, target = kind.partition(" ")
        pod = self.running("conductor" if target == "conductor" else "rm")
        if pod is None:
            return False
        number = self.newest()
        try:
            self._hit(what, target, pod, number)
        except (ApiError, psutil.NoSuchProcess, LookupError):
            return False
        self.ledger.struck[kind] += 1
        if target != "conductor":
            until(lambda: self.gone(pod), 120)
            self.reached[number] = last_step(self.output)
            check_whole_or_absent(self.output)
        return True

    def _hit(self, what: str, target: str, pod: Object, number: int) -> None:
        name = pod["metadata"]["name"]
        if what == "delete":
            self.space.api.delete(self.space.api.path("pods", name))
        elif what == "evict":
            body = {"apiVersion": "policy/v1", "kind": "Eviction",
                    "metadata": {"name": name, "namespace": self.space.namespace}}  # fmt: skip
            self.space.api.create(f"{self.space.api.path('pods', name)}/eviction", body)
        elif target == "trainer":
            trainer = read_status(self.attempt(number)).get("pid")
            process_in(pod, lambda inner: inner == trainer).send_signal(signal.SIGKILL)
        else:
            process_in(pod, lambda inner: inner == 1).send_signal(signal.SIGKILL)

    def gone(self, pod: Object) -> bool:
        """Tell whether a pod has come to its end."""
        try:
            now = self.space.api.get(self.space.api.path("pods", pod["metadata"]["name"]))
        except ApiError as exc:
            return exc.status == 404
        return now["status"].get("phase") in ("Failed", "Succeeded")


def process_in(pod: Object, wanted: Any) -> psutil.Process:
    """Return the process of a pod's container that has a pid inside it; found from the node, which is this machine."""
    container = pod["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if container in (folder / "cgroup").read_text():
                inner = (folder / "status").read_text().partition("NSpid:")[2].splitlines()[0].split()
                if wanted(int(inner[-1])):
                    return psutil.Process(int(folder.name))
    raise LookupError(container)


def disrupt(space: Space, number: int) -> tuple[Victim, Ledger]:
    """Run one training under disruptions of the plan, in random order, to its end."""
    name, rng, ledger = f"hit-{number}", random.Random(f"{SEED}-{number}"), Ledger(runs=1)
    space.install(name, *TRAINING, "steps.ingest.enabled=false")
    victim = Victim(space, name, rng, ledger)
    for kind in rng.sample(PLAN, STRIKES):
        if until(lambda: victim.over() or victim.running("rm"), 600) is True:
            break
        victim.wait_for_a_moment()
        deadline = time.monotonic() + 300
        while not victim.over() and not victim.strike(kind) and time.monotonic() < deadline:
            time.sleep(0.2)
    until(victim.over, 900)
    print(f"AIOS_CHAOS_SEED={SEED}, run {number}: {ledger.line()}", flush=True)
    return victim, ledger


def judge(space: Space, victim: Victim, ledger: Ledger) -> None:
    """The run has succeeded with the very result of the undisturbed one; little had to be done again."""
    state = space.state(victim.name)
    assert state["phase"] == "succeeded", state
    assert result(victim.output) == result(space.folder / "artifacts/rm/calm")
    # One that is struck after it has published is replaced by one that finds the result there.
    assert read_status(victim.attempt(victim.newest()))["state"] in ("succeeded", "skipped")
    ledger.redone_steps += redone(victim.reached, victim.attempt(1).parent)


def test_disrupted_pods_end_as_if_nothing_had_happened(space: Space) -> None:
    """Whatever becomes of pods and conductors: the run succeeds, with the weights and metrics of an undisturbed one."""
    whole = Ledger()
    with ThreadPoolExecutor(max_workers=7) as pool:
        for victim, ledger in pool.map(lambda number: disrupt(space, number), range(RUNS)):
            judge(space, victim, ledger)
            whole.struck += ledger.struck
            whole.redone_steps += ledger.redone_steps
            whole.runs += 1
    print(f"\npods: {whole.line()}")
    assert max(whole.redone_steps, default=0) <= SAVE_STEPS


def test_a_drained_node_gives_its_pods_back_and_the_run_goes_on(space: Space) -> None:
    """Cordon and evict, three times: the pod saves, is replaced once the node takes pods again, and nothing counts."""
    space.install("drained", *TRAINING, "steps.ingest.enabled=false")
    victim = Victim(space, "drained", random.Random(f"{SEED}-drained"), Ledger(runs=1))
    for _ in range(3):
        pod = until(lambda: victim.over() or victim.running("rm"), 600)
        assert pod is not True
        victim.wait_for_a_moment()
        node, number = pod["spec"]["nodeName"], victim.newest()
        try:
            kubectl("drain", node, "--pod-selector=app.kubernetes.io/instance=drained,aios-alignment/step=rm",
                    "--delete-emptydir-data", "--ignore-daemonsets", "--timeout=120s")  # fmt: skip
            victim.ledger.struck["drain"] += 1
            victim.reached[number] = last_step(victim.output)
            check_whole_or_absent(victim.output)
        finally:
            kubectl("uncordon", node)
    until(victim.over, 900)
    judge(space, victim, victim.ledger)
    codes = [read_status(victim.attempt(number))["exit_code"] for number in victim.reached]
    assert set(codes) <= {75, 143}, codes
    print(f"\ndrain: {victim.ledger.line()}")
