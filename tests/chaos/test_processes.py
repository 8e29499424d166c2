"""Runs on this machine that are disrupted at random: every process of the tree is stopped and killed.

Each run is one training step of a two-layer model under the real driver, supervisor and trainer; up to ten disruptions
come at random moments, three of them kills that count as failures. AIOS_CHAOS_SEED repeats a round,
AIOS_CHAOS_DISRUPTIONS sets how many there are in all.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest

from jobs.contract.attempts import read_status
from tests import tiny
from tests.chaos.ledger import Ledger, check_whole_or_absent, last_step, redone, result
from tests.runs.helpers import Cli, until

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals of POSIX"),
]

SEED = int(os.environ.get("AIOS_CHAOS_SEED", str(random.SystemRandom().randrange(10**6))))
DISRUPTIONS = int(os.environ.get("AIOS_CHAOS_DISRUPTIONS", "160"))
SAVE_STEPS = 10
SETTINGS = {
    "max_steps": 600, "save_steps": SAVE_STEPS, "eval_steps": 200, "batch_size": 4, "lr": 1e-3, "precision": "fp32",
}  # fmt: skip
# Three kills that count, as many as the backoff limit allows, and stops that must not; each ends an attempt.
ENDING = ("trainer SIGKILL", "trainer SIGKILL", "supervisor SIGKILL", "trainer SIGTERM", "supervisor SIGTERM")
# An attempt outlives these.
BYSTANDERS = ("conductor SIGKILL", "conductor SIGKILL", "conductor SIGTERM", "launcher SIGKILL", "launcher SIGTERM")
START_S = 12.0
"""About as long as a trainer takes until its first step."""


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """A workspace with a model and a published data set."""
    root = tmp_path_factory.mktemp("chaos")
    tiny.make_model(root / "tiny")
    tiny.make_splits(root / "training_data/curated_datasets/data")
    return Cli(root)


def settings(step: str) -> list[str]:
    """Return the flags of a run of one training step on the data set that is there."""
    model = "base_model" if step == "rm" else "policy_model"
    given = SETTINGS | {model: "tiny"}
    off = [name for name in ("ingest", "rm", "dpo", "evaluation") if name != step]
    return [
        "--set=run.dataset=data",
        *(f"--set=steps.{name}.enabled=false" for name in off),
        *(f"--set=steps.{step}.args.{name}={value}" for name, value in given.items()),
    ]


@pytest.fixture(scope="module", params=["rm", "dpo"])
def calm(request: pytest.FixtureRequest, cli: Cli) -> str:
    """A run of each training step that nobody disturbs; returns the step."""
    step = str(request.param)
    process = cli.start("jobs", "submit", "--name", f"calm-{step}", *settings(step), "--follow")
    assert process.wait(600) == 0, process.communicate()
    assert len(result(cli.workspace / "artifacts" / step / f"calm-{step}")[1]) > SETTINGS["max_steps"]
    return step


@dataclass
class Victim:
    """A run under disruption."""

    cli: Cli
    name: str
    step: str
    rng: random.Random
    ledger: Ledger
    launcher: subprocess.Popen[str]
    reached: dict[int, int] = field(default_factory=dict)
    """Attempt -> the last step in the metrics when it died."""

    @property
    def output(self) -> Path:
        return self.cli.workspace / "artifacts" / self.step / self.name

    @property
    def run(self) -> Path:
        return self.cli.workspace / "artifacts/runs" / self.name

    def state(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, orjson.JSONDecodeError):
            document: dict[str, Any] = orjson.loads((self.run / "state.json").read_bytes())
            return document
        return {}

    def attempt(self) -> tuple[int, dict[str, Any]]:
        """Return number and status of the newest attempt."""
        numbers = [int(path.name.split("-")[1]) for path in (self.run / "steps" / self.step).glob("attempt-*")]
        return (n := max(numbers, default=0)), read_status(self.cli.attempt(self.name, self.step, n))

    def processes(self) -> Iterator[tuple[str, psutil.Process]]:
        """Yield the processes of the tree that live right now."""
        _, status = self.attempt()
        found = {"conductor": (self.state().get("conductor") or {}).get("pid"), "launcher": self.launcher.pid}
        if status.get("state") == "running":
            found |= {"trainer": status.get("pid"), "supervisor": status["supervisor"]["pid"]}
        for who, pid in found.items():
            with contextlib.suppress(psutil.Error):
                if pid and (process := psutil.Process(pid)).status() != psutil.STATUS_ZOMBIE:
                    yield who, process

    def wait_for_training(self) -> None:
        """Wait for a moment amid the steps of the attempt that runs or comes."""
        number, reached = self.attempt()[0], last_step(self.output)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not self.over():
            if self.attempt()[0] != number or last_step(self.output) > reached:
                break
            time.sleep(0.02)
        time.sleep(self.rng.uniform(0, 1.5))

    def strike(self, kind: str) -> bool:
        """Send one signal; tells whether somebody was there to be struck."""
        who, _, number = kind.partition(" ")
        target = dict(self.processes()).get(who)
        if target is None:
            return False
        before, status = self.attempt()
        trainer = dict(self.processes()).get("trainer")
        try:
            target.send_signal(getattr(signal, number))
            target.wait(60)
        except psutil.NoSuchProcess:
            return False
        self.ledger.struck[kind] += 1
        if who in ("trainer", "supervisor"):
            if trainer is not None:
                psutil.wait_procs([trainer], timeout=60)  # one without a supervisor saves and leaves
            if status.get("state") == "running":
                self.reached[before] = last_step(self.output)
        check_whole_or_absent(self.output)
        return True

    def strike_when_there(self, kind: str, wait_s: float) -> None:
        """Strike after a while, or as soon as there is somebody to strike; a run that is over is left alone."""
        time.sleep(wait_s)
        deadline = time.monotonic() + 60
        while not self.over() and not self.strike(kind) and time.monotonic() < deadline:
            time.sleep(0.05)  # between two attempts there is no trainer
        self.mend()

    def mend(self) -> None:
        """Do what a person does: resume a run without a conductor, look at it again. Nothing else is repaired."""
        if self.state().get("phase", "running") == "running" and "conductor" not in dict(self.processes()):
            self.cli("jobs", "resume", self.name)
        if self.launcher.poll() is not None:
            self.launcher.communicate()
            self.launcher = self.cli.start("jobs", "status", self.name, "--watch")

    def phase(self) -> str:
        """Return what the conductor wrote last; where none lives, what `status` finds: a step may end without one."""
        written = str(self.state().get("phase", "running"))
        if written != "running" or "conductor" in dict(self.processes()):
            return written
        return str(self.cli.status(self.name)["phase"])

    def over(self) -> bool:
        return self.phase() in ("succeeded", "failed")


def disrupt(cli: Cli, name: str, step: str, seed: str, ledger: Ledger) -> Victim:
    """Run one training under all disruptions of the plan, in random order, to its end."""
    rng = random.Random(seed)
    launcher = cli.start("jobs", "submit", "--name", name, *settings(step), "--follow")
    victim = Victim(cli, name, step, rng, ledger, launcher)
    until(lambda: victim.state().get("conductor"), 60)
    for bystander, ending in zip(rng.sample(BYSTANDERS, 5), rng.sample(ENDING, 5), strict=True):
        victim.strike_when_there(bystander, rng.uniform(0, START_S / 2))
        if rng.random() < 0.5:
            victim.strike_when_there(ending, rng.uniform(0, START_S / 2))
        else:
            victim.wait_for_training()
            victim.strike_when_there(ending, 0)
    until(lambda: (victim.mend(), victim.over())[1], 600)
    victim.launcher.communicate(timeout=60)
    return victim


def test_disrupted_runs_end_as_if_nothing_had_happened(cli: Cli, calm: str) -> None:
    """Whatever dies, and when: the run succeeds, with the weights and metric lines of one that was left alone."""
    ledger, expected = Ledger(), result(cli.workspace / "artifacts" / calm / f"calm-{calm}")
    while ledger.struck.total() < DISRUPTIONS // 2:
        seed = f"{SEED}-{calm}-{ledger.runs}"
        victim = disrupt(cli, f"hit-{calm}-{ledger.runs}", calm, seed, ledger)
        ledger.runs += 1
        print(f"AIOS_CHAOS_SEED={SEED}, run {seed}: {ledger.struck.total()} disruptions so far", flush=True)
        assert victim.phase() == "succeeded", victim.state()
        assert result(victim.output) == expected
        _, status = victim.attempt()
        assert status["state"] in ("succeeded", "skipped")  # struck after it had published: the next one finds it
        ledger.redone_steps += redone(victim.reached, cli.attempt(victim.name, calm).parent)
    print(f"\n{calm}: {ledger.line()}")
    assert max(ledger.redone_steps) <= SAVE_STEPS
