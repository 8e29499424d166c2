"""Trainings that are stopped and killed, in processes of their own."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from jobs.contract.errors import ExitCode, UpstreamMissing
from jobs.contract.manifest import read_manifest, verify
from tests.training.study import Study, wait_until

MORE = {"rm": ("--epochs", "2", "--save-steps", "3"), "dpo": ("--epochs", "2", "--save-steps", "3")}
STEPS = 12


@pytest.fixture(scope="module", params=["rm", "dpo"])
def undisturbed(request: pytest.FixtureRequest, study: Study) -> tuple[str, str, float]:
    """A training that nobody interrupts: its step, its folder, the seconds it took."""
    step, output = request.param, f"artifacts/{request.param}/undisturbed"
    process = study.start(step, output, *MORE[step])
    wait_until((study.root / output).exists, process)  # the first start is also the server's own
    started = time.monotonic()
    process.join()
    assert process.exitcode == 0, study.log(output)
    assert len(study.losses(output)) == STEPS
    return step, output, time.monotonic() - started


def assert_same(study: Study, output: str, undisturbed: str) -> None:
    """The published weights and the metrics are those of the training that was left alone."""
    assert study.published(output) == study.published(undisturbed)
    # Reference log-probabilities may come from the cache of the attempt before.
    ours, theirs = (
        [{k: v for k, v in line.items() if k != "reference_pairs_computed"} for line in study.metrics(folder)]
        for folder in (output, undisturbed)
    )
    assert ours == theirs


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("count", [1, pytest.param(50, marks=[pytest.mark.train, pytest.mark.timeout(3600)])])
def test_a_training_that_is_interrupted_at_random_ends_in_the_same_result(
    study: Study, undisturbed: tuple[str, str, float], number: signal.Signals, count: int
) -> None:
    """Kills and stops at any moment: the same command again ends in the same weights and metrics."""
    step, reference, duration = undisturbed
    rng = random.Random(f"{step} {number}")
    for attempt in range(count):
        output = f"artifacts/{step}/hit-{number.name}-{count}-{attempt}"
        process = study.start(step, output, *MORE[step])
        time.sleep(rng.uniform(0.05, 1.0) * duration)
        if process.is_alive():
            os.kill(process.pid or 0, number)
        process.join()
        assert process.exitcode in {0, -number, ExitCode.INTERRUPTED}, study.log(output)
        if process.exitcode:
            with pytest.raises(UpstreamMissing):
                verify(study.root / output)
        again = study.start(step, output, *MORE[step])
        again.join()
        assert again.exitcode == 0, study.log(output)
        assert_same(study, output, reference)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals of POSIX")
def test_sigterm_saves_within_the_step_and_publishes_nothing(study: Study, undisturbed: tuple[str, str, float]) -> None:
    """A stop in the middle writes a checkpoint of that step and exits with 75."""
    step, reference, _ = undisturbed
    output = f"artifacts/{step}/stopped"
    process = study.start(step, output, *MORE[step])
    folder = study.root / output
    wait_until(lambda: len(study.metrics(output, "train")) >= 5, process)
    os.kill(process.pid or 0, signal.SIGTERM)
    process.join()
    assert process.exitcode == ExitCode.INTERRUPTED, study.log(output)
    last = study.metrics(output, "train")[-1]["step"]
    assert (folder / "checkpoints" / f"checkpoint-{last}" / "_COMPLETE.json").exists()
    assert read_manifest(folder) is None
    assert not (folder / "model.safetensors").exists()
    again = study.start(step, output, *MORE[step])
    again.join()
    assert f"Continuing from step {last}" in study.log(output)
    assert_same(study, output, reference)


def test_a_torn_checkpoint_is_passed_over(study: Study, undisturbed: tuple[str, str, float]) -> None:
    """Where the newest checkpoint lacks a file, the one before it is used, and the result is the same."""
    step, reference, _ = undisturbed
    output = f"artifacts/{step}/torn"
    process = study.start(step, output, *MORE[step])
    wait_until(lambda: len(study.metrics(output, "train")) >= 8, process)
    process.kill()
    process.join()
    checkpoints = sorted(
        (study.root / output / "checkpoints").glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1])
    )
    (checkpoints[-1] / "optimizer.pt").write_bytes(b"torn")
    again = study.start(step, output, *MORE[step])
    again.join()
    assert again.exitcode == 0, study.log(output)
    assert f"Passing over {checkpoints[-1].relative_to(study.root)}" in study.log(output)
    assert_same(study, output, reference)


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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are slow to start without fork")
@pytest.mark.parametrize("step", ["rm", "dpo"])
def test_two_processes_learn_as_one_with_doubled_accumulation(study: Study, step: str) -> None:
    """Batches of two processes are the two accumulated batches of one: the same losses, one published folder."""
    one, two = f"artifacts/{step}/accumulated", f"artifacts/{step}/together"
    more = ("--max-steps", "4", "--batch-size", "2")
    alone = study.start(step, one, *more, "--gradient-accumulation", "2")
    port = str(random.Random(step + str(os.getpid())).randint(20000, 60000))
    together = [
        study.start(
            step,
            two,
            *more,
            "--processes",
            2,
            env={
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "LOCAL_WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            },
        )
        for rank in range(2)
    ]
    for process in (alone, *together):
        process.join()
        assert process.exitcode == 0, study.log(two)
    assert study.losses(two) == pytest.approx(study.losses(one), abs=1e-6)
    verify(study.root / two)
    evals = [[line["eval_loss"] for line in study.metrics(folder, "eval")] for folder in (one, two)]
    assert evals[1] == pytest.approx(evals[0], abs=1e-6)
    assert study.metrics(two, "start")[0]["processes"] == 2
