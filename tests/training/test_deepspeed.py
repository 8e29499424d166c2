"""DeepSpeed: trains on a CPU where it is installed, says how to go on where it is not."""

from __future__ import annotations

import importlib.util
import os

import pytest

from jobs.contract.errors import ExitCode
from jobs.contract.manifest import read_manifest, verify
from tests.training.study import Study

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
