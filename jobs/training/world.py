"""The processes that train together: how many there must be, and what they tell each other.

torchrun sets RANK, WORLD_SIZE and LOCAL_RANK; Kubeflow's trainer sets PET_NNODES and PET_NPROC_PER_NODE for torchrun.
A launcher that ignores them gives several processes that each train alone and write the same folder, without a word
(kubeflow/trainer#3930), so the number is asserted.
"""

from __future__ import annotations

import importlib.util
import os
import socket
from dataclasses import dataclass
from typing import Any

from jobs.contract.errors import AiosError, BadConfig, EnvironmentUnfit


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """This process among those that train together."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Tell whether this process writes files and speaks for all."""
        return self.rank == 0

    def share(self, value: Any) -> Any:
        """Return the first process's value on every process."""
        if self.size == 1:
            return value
        from accelerate.utils import broadcast_object_list

        box = [value]
        broadcast_object_list(box, from_process=0)
        return box[0]

    def collect(self, value: Any) -> list[Any]:
        """Return the values of all processes, in the order of their ranks, on every process."""
        if self.size == 1:
            return [value]
        from torch import distributed

        box: list[Any] = [None] * self.size
        distributed.all_gather_object(box, value)
        return box

    def agree(self, value: Any, error: AiosError | None) -> Any:
        """Return the first process's value everywhere, or end every process with its error."""
        value, error = self.share((value, error))
        if error is not None:
            raise error
        return value


def join_world(processes: int | None) -> World:
    """Meet the other processes and check that they are as many as were asked for.

    Raises:
        BadConfig: there are more or fewer processes than `processes`.
        EnvironmentUnfit: the launcher's variables contradict what runs, or GPUs would idle.
    """
    announced = int(os.environ.get("WORLD_SIZE", "1"))
    planned = _planned()
    if planned is not None and planned != announced:
        raise EnvironmentUnfit(
            f"PET_NNODES x PET_NPROC_PER_NODE ask for {planned} processes, WORLD_SIZE says {announced}",
            needed="a start by torchrun, which reads both",
            next_step="run `torchrun -m jobs.cli hrm-hf ...`",
        )
    if processes is not None and processes != announced:
        raise BadConfig(
            f"{announced} process(es) take part",
            needed=f"{processes} (--processes)",
            next_step=f"start with `torchrun --nproc-per-node {processes} -m jobs.cli hrm-hf ...`",
        )
    _check_gpus(announced)
    if announced == 1:
        return World()
    return _meet(announced)


def ready_for_deepspeed() -> None:
    """Check that DeepSpeed is there, and give a single process the variables of torchrun, else DeepSpeed asks MPI.

    Raises:
        EnvironmentUnfit: it is not installed.
    """
    if importlib.util.find_spec("deepspeed") is None:
        raise EnvironmentUnfit(
            "--deepspeed, and DeepSpeed is not installed",
            next_step="pip install 'aios-alignment[deepspeed]', or go on without --deepspeed",
        )
    if "WORLD_SIZE" in os.environ:
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    os.environ.update(alone | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})


def _planned() -> int | None:
    nodes, each = os.environ.get("PET_NNODES", "1"), os.environ.get("PET_NPROC_PER_NODE", "")
    # An elastic range (1:4) or `auto`, `gpu`, `cpu` are torchrun's to resolve.
    return int(nodes) * int(each) if nodes.isdigit() and each.isdigit() else None


def _check_gpus(announced: int) -> None:
    import torch

    gpus = torch.cuda.device_count()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(announced)))
    if announced == 1 and gpus > 1:
        raise EnvironmentUnfit(
            f"one process sees {gpus} GPUs",
            needed="one process per GPU",
            next_step=f"start with `torchrun --nproc-per-node {gpus} -m jobs.cli hrm-hf ...`, or set "
            "CUDA_VISIBLE_DEVICES=0 to use one",
        )
    if gpus and local > gpus:
        raise EnvironmentUnfit(f"{local} processes share {gpus} GPU(s)", needed="one process per GPU")


def _meet(announced: int) -> World:
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    if state.num_processes != announced:
        raise EnvironmentUnfit(
            f"{state.num_processes} process(es) met", needed=f"{announced} (WORLD_SIZE)", next_step="start by torchrun"
        )
    return World(rank=state.process_index, size=state.num_processes, local_rank=state.local_process_index)
