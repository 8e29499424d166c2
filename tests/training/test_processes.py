"""Several processes that train together: the numbers of one, stopped and resumed as one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from jobs.contract.errors import ExitCode
from jobs.contract.manifest import read_manifest, verify
from jobs.contract.metrics import read_metrics
from tests.conftest import REPOSITORY
from tests.training.study import Study, arguments, wait_until

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are slow to start without fork")
FOUR_STEPS = ("--max-steps", "4", "--batch-size", "2")


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def start_two(study: Study, step: str, output: str, *more: object) -> list[BaseProcess]:
    """Start the two ranks of a training, with the variables that torchrun sets."""
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return [
        study.start(step, output, *more, "--processes", 2, env=world | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]


@pytest.mark.parametrize("step", ["rm", "dpo"])
def test_two_processes_learn_as_one_with_doubled_accumulation(study: Study, step: str) -> None:
    """Batches of two processes are the two accumulated batches of one: the same losses, one published folder."""
    one, two = f"artifacts/{step}/accumulated", f"artifacts/{step}/together"
    alone = study.start(step, one, *FOUR_STEPS, "--gradient-accumulation", "2")
    for process in (alone, *start_two(study, step, two, *FOUR_STEPS)):
        process.join()
        assert process.exitcode == 0, study.log(two)
    assert study.losses(two) == pytest.approx(study.losses(one), abs=1e-6)
    verify(study.root / two)
    evals = [[line["eval_loss"] for line in study.metrics(folder, "eval")] for folder in (one, two)]
    assert evals[1] == pytest.approx(evals[0], abs=1e-6)
    assert study.metrics(two, "start")[0]["processes"] == 2


def test_a_stop_that_reaches_one_process_stops_both_at_the_same_step(study: Study) -> None:
    """SIGTERM to the second rank alone: both save, end with 75, and go on to the numbers of an undisturbed run."""
    calm, output, more = "artifacts/rm/two-calm", "artifacts/rm/two-stopped", ("--epochs", 4, "--batch-size", 2)
    for process in start_two(study, "rm", calm, *more):
        process.join()
        assert process.exitcode == 0, study.log(calm)
    ranks = start_two(study, "rm", output, *more)
    wait_until(lambda: len(study.metrics(output, "train")) >= 3, ranks[0])
    os.kill(ranks[1].pid or 0, signal.SIGTERM)
    for process in ranks:
        process.join()
    assert [process.exitcode for process in ranks] == [ExitCode.INTERRUPTED] * 2, study.log(output)
    assert read_manifest(study.root / output) is None
    for process in start_two(study, "rm", output, *more):
        process.join()
        assert process.exitcode == 0, study.log(output)
    assert study.metrics(output) == study.metrics(calm)
    assert study.published(output) == study.published(calm)


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"} | more


@pytest.mark.train
def test_a_stopped_torchrun_ends_with_75_under_the_supervisor_and_resumes(study: Study) -> None:
    """torchrun turns every end into 1; what its ranks wrote down makes it 75, and the next attempt goes on."""
    output, more = "artifacts/rm/torchrun", ("--epochs", 30, "--batch-size", 2, "--save-steps", 1000)
    line = ["aios", *arguments("rm", output, *more, "--processes", 2)]
    settings = environment(AIOS_RUN="demo", AIOS_STEP="rm", AIOS_NPROC="2", AIOS_OUTPUT=output)
    command = [sys.executable, "-m", "jobs.supervisor", *line]
    first = subprocess.Popen(command, cwd=study.root, env=settings)
    metrics = study.root / output / "metrics.jsonl"
    while len(read_metrics(metrics)) < 10 and first.poll() is None:
        time.sleep(0.02)
    first.send_signal(signal.SIGTERM)
    assert first.wait() == ExitCode.INTERRUPTED
    stopped = read_metrics(metrics)[-1]["step"]
    assert 0 < stopped < 180
    assert (study.root / output / f"checkpoints/checkpoint-{stopped}/_COMPLETE.json").exists()
    assert read_manifest(study.root / output) is None
    assert subprocess.run(command, cwd=study.root, env=settings, check=False).returncode == 0
    verify(study.root / output)
    steps = [row["step"] for row in read_metrics(metrics) if row["kind"] == "train"]
    assert steps == list(range(1, 181)), "two of the 24 rows a process: 6 steps in each of 30 passes"


@pytest.mark.train
def test_two_nodes_meet_by_the_variables_of_kubeflow(study: Study, tmp_path: Path) -> None:
    """Two torchruns that know of each other by PET_ variables alone train as one of two processes does."""
    output, port = "artifacts/rm/nodes", free_port()
    line = arguments("rm", output, *FOUR_STEPS, "--processes", 2)
    nodes = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "-m", "jobs.cli", *line],
            cwd=study.root,
            env=environment(
                PET_NNODES="2", PET_NPROC_PER_NODE="1", PET_NODE_RANK=str(rank),
                PET_MASTER_ADDR="127.0.0.1", PET_MASTER_PORT=port,
            ),
        )
        for rank in range(2)
    ]  # fmt: skip
    assert [node.wait() for node in nodes] == [0, 0]
    alone = "artifacts/rm/one-node"
    assert study.train("rm", alone, *FOUR_STEPS, "--gradient-accumulation", 2) == 0
    assert study.losses(output) == pytest.approx(study.losses(alone), abs=1e-6)
