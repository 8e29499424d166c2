"""Trainings that are stopped and killed, in processes of their own."""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import dataclass, replace

import pytest

from jobs.contract.errors import ExitCode
from jobs.contract.manifest import MANIFEST_NAME, read_manifest, verify
from tests.training.study import Study, wait_until

STEPS = 12
POSIX = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals of POSIX")
KINDS: dict[str, tuple[object, ...]] = {
    "rm": ("--epochs", 2, "--save-steps", 3),
    "dpo": ("--epochs", 2, "--save-steps", 3),
    # Ends in the middle of a pass and of a window of metrics; dropout draws random numbers at every step.
    "dpo-lora": (
        "--max-steps", 11, "--save-steps", 2, "--batch-size", 2, "--gradient-accumulation", 2, "--logging-steps", 3,
        "--lora-rank", 4, "--lora-dropout", 0.2,
    ),
    # Asks its reference and evaluates the initial model after its first step.
    "dpo-bf16": ("--epochs", 2, "--save-steps", 1, "--bf16"),
    # Stops by itself long before its last step, and publishes an earlier model than its last.
    "rm-early": (
        "--epochs", 40, "--eval-steps", 2, "--early-stopping", 3, "--lr", 0.3, "--lr-scheduler", "constant",
        "--logging-steps", 3,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Undisturbed:
    """A training that nobody interrupts."""

    kind: str
    output: str
    duration_s: float

    @property
    def step(self) -> str:
        return self.kind.partition("-")[0]

    @property
    def more(self) -> tuple[object, ...]:
        return KINDS[self.kind]


def train_undisturbed(study: Study, kind: str) -> Undisturbed:
    step = kind.partition("-")[0]
    study.start(step, "artifacts/warm/up", "--dry-run").join()  # the first start is also the server's own
    output = f"artifacts/{step}/undisturbed-{kind}"
    started = time.monotonic()
    process = study.start(step, output, *KINDS[kind])
    process.join()
    assert process.exitcode == 0, study.log(output)
    return Undisturbed(kind, output, time.monotonic() - started)


@pytest.fixture(scope="module", params=["rm", "dpo"])
def undisturbed(request: pytest.FixtureRequest, study: Study) -> Undisturbed:
    """A plain training of each step."""
    run = train_undisturbed(study, request.param)
    assert len(study.losses(run.output)) == STEPS
    return run


def assert_same(study: Study, output: str, undisturbed: Undisturbed) -> None:
    """The published weights and the metrics are those of the training that was left alone."""
    assert study.published(output) == study.published(undisturbed.output)
    # Reference log-probabilities may come from the cache of the attempt before.
    ours, theirs = (
        [{k: v for k, v in line.items() if k != "reference_pairs_computed"} for line in study.metrics(folder)]
        for folder in (output, undisturbed.output)
    )
    assert ours == theirs


def hit_until_done(
    study: Study, run: Undisturbed, output: str, number: signal.Signals, moments: list[float]
) -> tuple[int, float]:
    """Train, with a signal at each of `moments`, and the same command again, until it is done.

    Moments are shares of an undisturbed training's time, the first ones used last. Returns how many signals ended a
    process, and the seconds of an undisturbed training: a busy machine may have measured too many. After each signal
    the folder is whole or does not count.
    """
    counted, duration_s = 0, run.duration_s
    while True:
        process, started = study.start(run.step, output, *run.more), time.monotonic()
        process.join(moments.pop() * duration_s if moments else None)
        if process.is_alive():
            os.kill(process.pid or 0, number)
            process.join()
        elif counted == 0:
            duration_s = min(duration_s, time.monotonic() - started)
        assert process.exitcode in {0, -number, ExitCode.INTERRUPTED}, study.log(output)
        if (study.root / output / MANIFEST_NAME).exists():
            verify(study.root / output)
        if process.exitcode == 0:
            assert_same(study, output, run)
            return counted, duration_s
        counted += 1


@POSIX
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_training_that_is_interrupted_at_random_ends_in_the_same_result(
    study: Study, undisturbed: Undisturbed, number: signal.Signals
) -> None:
    """A kill or a stop at any moment: the same command again ends in the same weights and metrics."""
    moment = random.Random(f"{undisturbed.kind} {number}").uniform(0.3, 0.9)
    hit_until_done(study, undisturbed, f"artifacts/{undisturbed.step}/hit-{number.name}", number, [moment])


@POSIX
@pytest.mark.train
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("kind", KINDS)
def test_fifty_interruptions_change_nothing(study: Study, kind: str, number: signal.Signals) -> None:
    """Fifty signals at random moments, several to a training: each ends in the result of one left alone."""
    run = train_undisturbed(study, kind)
    rng = random.Random(f"{kind} {number}")
    counted = trainings = 0
    while counted < 50:
        # Half come anywhere, half late, where the result is saved and published.
        moments = [rng.uniform(rng.choice([0.1, 0.7]), 1.05) for _ in range(min(4, 50 - counted))]
        output = f"artifacts/{run.step}/{kind}-{number.name}-{trainings}"
        hits, duration_s = hit_until_done(study, run, output, number, moments)
        counted, trainings, run = counted + hits, trainings + 1, replace(run, duration_s=duration_s)
    print(f"{kind}: {counted} x {number.name} over {trainings} trainings, all with the same result")


@POSIX
def test_sigterm_saves_within_the_step_and_publishes_nothing(study: Study, undisturbed: Undisturbed) -> None:
    """A stop in the middle writes a checkpoint of that step and exits with 75."""
    step, more = undisturbed.step, undisturbed.more
    output = f"artifacts/{step}/stopped"
    process = study.start(step, output, *more)
    folder = study.root / output
    wait_until(lambda: len(study.metrics(output, "train")) >= 5, process)
    os.kill(process.pid or 0, signal.SIGTERM)
    process.join()
    assert process.exitcode == ExitCode.INTERRUPTED, study.log(output)
    last = study.metrics(output, "train")[-1]["step"]
    assert (folder / "checkpoints" / f"checkpoint-{last}" / "_COMPLETE.json").exists()
    assert read_manifest(folder) is None
    assert not (folder / "model.safetensors").exists()
    again = study.start(step, output, *more)
    again.join()
    assert f"Continuing from step {last}" in study.log(output)
    assert_same(study, output, undisturbed)


def test_a_torn_checkpoint_is_passed_over(study: Study, undisturbed: Undisturbed) -> None:
    """Where the newest checkpoint lacks a file, the one before it is used, and the result is the same."""
    step, more = undisturbed.step, undisturbed.more
    output = f"artifacts/{step}/torn"
    process = study.start(step, output, *more)
    wait_until(lambda: len(study.metrics(output, "train")) >= 8, process)
    process.kill()
    process.join()
    checkpoints = sorted(
        (study.root / output / "checkpoints").glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1])
    )
    (checkpoints[-1] / "optimizer.pt").write_bytes(b"torn")
    again = study.start(step, output, *more)
    again.join()
    assert again.exitcode == 0, study.log(output)
    assert f"Passing over {checkpoints[-1].relative_to(study.root)}" in study.log(output)
    assert_same(study, output, undisturbed)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="file size limits of POSIX")
def test_a_disk_that_fills_while_saving_publishes_nothing(study: Study) -> None:
    """Writing beyond what the disk takes ends with 74; with room again the same command ends well."""
    output = "artifacts/rm/full-disk"
    more = ("--max-steps", "2")
    process = study.start("rm", output, *more, env={"LIMIT_FILE_BYTES": "40000"})
    process.join()
    assert process.exitcode == ExitCode.VOLUME, study.log(output)
    assert "the disk filled up while saving" in study.log(output)
    assert read_manifest(study.root / output) is None
    again = study.start("rm", output, *more)
    again.join()
    assert again.exitcode == 0, study.log(output)


def test_a_torn_checkpoint_of_a_later_step_does_not_cost_a_new_one(study: Study) -> None:
    """With early stopping the best and the newest checkpoint are kept: a torn newer one must not count as either."""
    output, more = "artifacts/rm/torn-later", KINDS["rm-early"]
    assert study.train("rm", output, *more) == 0
    before = study.metrics(output)
    checkpoints = study.root / output / "checkpoints"
    newest = max(checkpoints.iterdir(), key=lambda p: int(p.name.split("-")[1]))
    (newest / "trainer_state.json").unlink()
    (study.root / output / MANIFEST_NAME).unlink()
    assert study.train("rm", output, *more) == 0
    assert study.metrics(output) == before


def test_going_on_from_an_earlier_checkpoint_leaves_the_later_course(study: Study) -> None:
    """--resume DIR cuts metrics and checkpoints after it, and comes to the same end."""
    output, more = "artifacts/rm/earlier", ("--epochs", 1, "--save-steps", 2, "--save-limit", 3)
    assert study.train("rm", output, *more) == 0
    before = study.metrics(output)
    (study.root / output / MANIFEST_NAME).unlink()
    assert study.train("rm", output, *more, "--resume", f"{output}/checkpoints/checkpoint-2") == 0
    assert study.metrics(output) == before
