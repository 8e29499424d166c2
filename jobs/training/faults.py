"""Faults of libraries told in our words: what ran out, and what to change first."""

from __future__ import annotations

import contextlib
import errno
import re
import traceback
from collections.abc import Iterator
from pathlib import Path

from jobs.config.training import TrainingConfig
from jobs.contract.errors import AiosError, EnvironmentUnfit, OutOfMemory, VolumeFault

_HOST_MEMORY = re.compile(r"DefaultCPUAllocator|can't allocate memory|Cannot allocate memory|std::bad_alloc", re.I)
_DISK = re.compile(
    r"No space left on device|File too large|os error 2[78]|file write failed|PytorchStreamWriter failed", re.I
)


def memory_advice(config: TrainingConfig) -> str:
    """Name what saves memory with these settings, what costs least first."""
    batch: int = getattr(config, "batch_size", 1)
    steps = []
    if batch > 1:
        half = batch // 2
        steps.append(f"--batch-size {half} --gradient-accumulation {config.gradient_accumulation * batch // half}")
    if config.precision == "fp32":
        steps.append("--precision auto")
    if not config.gradient_checkpointing:
        steps.append("--gradient-checkpointing")
    if not config.lora_rank:
        steps.append("--lora-rank 16")
    elif config.quantize == "none":
        steps.append("--load-4bit")
    steps.append(f"--max-length {max(config.max_length // 2, 8)}")
    return "try, in this order: " + ", ".join(steps)


def translate(exc: BaseException, config: TrainingConfig) -> AiosError | None:
    """Return our error for a library's; None for one that says nothing about memory, disk or a missing package."""
    import torch

    text = " ".join(str(exc).split())
    if isinstance(exc, torch.OutOfMemoryError):
        return OutOfMemory(f"the GPU is out of memory ({text[:200]})", next_step=memory_advice(config))
    if isinstance(exc, MemoryError) or (isinstance(exc, RuntimeError) and _HOST_MEMORY.search(text)):
        return OutOfMemory(f"this machine is out of memory ({text[:200]})", next_step=memory_advice(config))
    full = isinstance(exc, OSError) and exc.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    if full or (not isinstance(exc, AiosError) and _DISK.search(text)):
        return VolumeFault(
            f"the disk filled up while saving ({text[:200]})",
            next_step="free space (`aios artifacts prune`) and start the command again: it continues from the newest "
            "complete checkpoint",
        )
    if config.deepspeed and _came_through("deepspeed", exc):
        return EnvironmentUnfit(
            f"DeepSpeed does not work here ({type(exc).__name__}: {text[:200]})",
            needed="a DeepSpeed built for this CUDA and torch",
            next_step="go on without --deepspeed (one GPU, or torchrun for several), or reinstall it: "
            "pip install --no-cache-dir --force-reinstall deepspeed",
        )
    return None


def _came_through(package: str, exc: BaseException) -> bool:
    """Tell whether an exception is about a package or was raised below its code."""
    files = [frame.filename for frame in traceback.extract_tb(exc.__traceback__)]
    return package in f"{type(exc).__module__} {exc}".lower() or any(
        f"/{package}/" in Path(f).as_posix() for f in files
    )


@contextlib.contextmanager
def told_plainly(config: TrainingConfig) -> Iterator[None]:
    """Turn a library's fault in the block into one line that says what to change."""
    try:
        yield
    except AiosError:
        raise
    except Exception as exc:
        error = translate(exc, config)
        if error is None:
            raise
        raise error from exc
