"""What the machine has: threads, memory, processes."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import pytest
import torch

from jobs.config.rm import RMConfig
from jobs.contract.errors import BadConfig, EnvironmentUnfit, OutOfMemory, VolumeFault
from jobs.training.adapters import check_quantization
from jobs.training.faults import translate
from jobs.training.hardware import cpu_quota
from jobs.training.memory import memory_limit, parameters_in
from jobs.training.world import World, join_world
from tests.training.study import Study

CONFIG = RMConfig(dataset_dir="d", output_dir="o", base_model="m")


def test_threads_follow_the_containers_quota(tmp_path: Path) -> None:
    """cpu.max of cgroup v2 and cfs_quota_us of v1 both limit the cores; without a limit there is none."""
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert cpu_quota(tmp_path) == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cpu_quota(tmp_path) is None
    old = tmp_path / "v1"
    (old / "cpu").mkdir(parents=True)
    (old / "cpu/cpu.cfs_quota_us").write_text("400000\n")
    (old / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert cpu_quota(old) == 4
    assert cpu_quota(tmp_path / "absent") is None


def test_memory_follows_the_containers_limit(tmp_path: Path) -> None:
    """What a container may still use is its limit less what it holds, page cache not counted."""
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("600000\n")
    (tmp_path / "memory.stat").write_text("anon 300000\nfile 300000\n")
    assert memory_limit(tmp_path) == 700_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_limit(tmp_path) > 1 << 20


def test_parameters_are_counted_from_the_files_headers(study: Study) -> None:
    """The count agrees with the model's own, tied embeddings once."""
    assert parameters_in(study.root / "tiny") == 11_072


def test_the_number_of_processes_is_asserted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher that started another number than was planned ends the run before it begins."""
    assert join_world(None) == World()
    assert join_world(1) == World()
    with pytest.raises(BadConfig, match="torchrun --nproc-per-node 4"):
        join_world(4)
    # What Kubeflow sets, under a launcher that ignores it (kubeflow/trainer#3930).
    monkeypatch.setenv("PET_NNODES", "2")
    monkeypatch.setenv("PET_NPROC_PER_NODE", "1")
    with pytest.raises(EnvironmentUnfit, match="ask for 2 processes, WORLD_SIZE says 1"):
        join_world(None)


def test_exhausted_memory_says_what_to_change_first() -> None:
    """GPU and host alike: batch size and accumulation, precision, checkpointing, LoRA, length, in this order."""
    with pytest.raises(RuntimeError) as host:
        torch.empty(1 << 55)
    for exc in (torch.OutOfMemoryError("CUDA out of memory"), host.value, MemoryError()):
        error = translate(exc, CONFIG)
        assert isinstance(error, OutOfMemory)
        words = ["--batch-size 4 --gradient-accumulation 2", "--gradient-checkpointing", "--lora-rank 16"]
        places = [error.next_step.index(word) for word in words]
        assert places == sorted(places)


def test_a_full_disk_is_told_from_other_faults() -> None:
    """Libraries wrap ENOSPC in errors of their own; a plain bug is not taken for one."""
    for text in ("Error while serializing: I/O error: No space left on device (os error 28)", "file write failed"):
        assert isinstance(translate(RuntimeError(text), CONFIG), VolumeFault)
    assert translate(RuntimeError("shape mismatch"), CONFIG) is None


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_quantization_without_bitsandbytes_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU machine without the package, 4 bits, 8 bits and the 8-bit optimizer say what to install."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for settings in ({"quantize": "4bit", "lora_rank": 4}, {"quantize": "8bit", "lora_rank": 4}):
        with pytest.raises(EnvironmentUnfit, match=r"aios-alignment\[quant\]"):
            check_quantization(dataclasses.replace(CONFIG, **settings))
    with pytest.raises(EnvironmentUnfit, match=r"--optim-8bit needs bitsandbytes"):
        check_quantization(dataclasses.replace(CONFIG, optimizer="adamw-8bit"))
