"""DeepSpeed: trains on a CPU where it is installed, says how to go on where it is not."""

from __future__ import annotations

import importlib.util
import os
import signal

import pytest

from jobs.contract.errors import ExitCode
from jobs.contract.manifest import read_manifest, verify
from tests.training.study import Study, wait_until

INSTALLED = importlib.util.find_spec("deepspeed") is not None


@pytest.mark.skipif(INSTALLED, reason="DeepSpeed is installed")
def test_without_deepspeed_the_error_says_how_to_go_on(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    """--deepspeed without the package ends with 78, and nothing is half-written."""
    output = "artifacts/rm/no-deepspeed"
    assert study.train("rm", output, "--deepspeed", "config/deepspeed_zero2.json") == ExitCode.ENVIRONMENT
    assert "without --deepspeed" in capsys.readouterr().err
    assert not (study.root / output).exists()
    assert read_manifest(study.root / output) is None


@pytest.mark.train
@pytest.mark.skipif(not INSTALLED, reason="DeepSpeed is not installed (extra `deepspeed`)")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="DeepSpeed's CPU backend is for POSIX")
@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("step", ["rm", "dpo"])
def test_zero_trains_on_a_cpu_to_the_same_losses(study: Study, step: str, stage: int) -> None:
    """ZeRO-2 and ZeRO-3 with one process publish whole weights, and lose what plain training loses."""
    plain, output = f"artifacts/{step}/plain", f"artifacts/{step}/zero-{stage}"
    for folder, more in ((plain, ()), (output, ("--deepspeed", f"config/deepspeed_zero{stage}.json"))):
        process = study.start(step, folder, "--max-steps", 4, *more, env={"DS_ACCELERATOR": "cpu"})
        process.join()
        assert process.exitcode == 0, study.log(folder)
    verify(study.root / output)
    assert study.losses(output) == pytest.approx(study.losses(plain), abs=1e-4)


@pytest.mark.train
@pytest.mark.skipif(not INSTALLED, reason="DeepSpeed is not installed (extra `deepspeed`)")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="DeepSpeed's CPU backend is for POSIX")
@pytest.mark.parametrize("stage", [2, 3])
def test_a_stopped_zero_run_goes_on_to_the_same_losses(study: Study, stage: int) -> None:
    """DeepSpeed's checkpoints resume too: the losses after a stop are those of a run that was left alone."""
    calm, output = f"artifacts/rm/zero-{stage}-calm", f"artifacts/rm/zero-{stage}-stopped"
    more = ("--epochs", 3, "--deepspeed", f"config/deepspeed_zero{stage}.json")
    env = {"DS_ACCELERATOR": "cpu"}
    process = study.start("rm", calm, *more, env=env)
    process.join()
    assert process.exitcode == 0, study.log(calm)
    process = study.start("rm", output, *more, env=env)
    wait_until(lambda: len(study.metrics(output, "train")) >= 3, process)
    os.kill(process.pid or 0, signal.SIGTERM)
    process.join()
    assert process.exitcode == ExitCode.INTERRUPTED, study.log(output)
    again = study.start("rm", output, *more, env=env)
    again.join()
    assert again.exitcode == 0, study.log(output)
    assert "Continuing from step" in study.log(output)
    assert study.losses(output) == pytest.approx(study.losses(calm), abs=1e-6)
