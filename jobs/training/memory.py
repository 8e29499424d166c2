"""What a training needs and what the machine has, before the first weight is loaded."""

from __future__ import annotations

import contextlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path

import psutil

from jobs.config.training import TrainingConfig
from jobs.contract.errors import EnvironmentUnfit
from jobs.training.encode import EncodedSplit
from jobs.training.faults import memory_advice

GIB = 1 << 30
LIBRARIES = int(0.6 * GIB)
"""What a process holds before it has a model: torch, transformers, TRL, datasets, matplotlib."""


def memory_limit(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes this process may still use: the container's limit (cgroup v2, else v1), else what is free."""
    free = int(psutil.virtual_memory().available)
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):
            # Page cache counts as used but gives way: only what the limit itself leaves is compared.
            allowed = int((root / limit).read_text())
            held = int((root / used).read_text()) - _cache(root)
            return min(free, max(0, allowed - held))
    return free


def available_memory() -> int:
    """Return the bytes of memory that the training may use: of this process's GPU, else of the host."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    return memory_limit()


def _cache(root: Path) -> int:
    for path, key in ((root / "memory.stat", "file"), (root / "memory/memory.stat", "cache")):
        with contextlib.suppress(OSError, ValueError):
            return next(int(v) for k, v in (line.split() for line in path.read_text().splitlines()) if k == key)
    return 0


def parameters_in(folder: Path) -> int | None:
    """Return how many weights the safetensors files of a folder hold, read from their headers; None without any."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        for name, tensor in header.items():
            if name != "__metadata__":
                size = 1
                for extent in tensor["shape"]:
                    size *= extent
                total += size
    return total or None


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """Bytes that a training takes, by purpose."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    libraries: int = 0

    @property
    def total(self) -> int:
        """All of them together."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.libraries

    def table(self) -> dict[str, str]:
        """Return the figures for people."""
        names = ("weights", "gradients", "optimizer", "activations", "libraries", "total")
        return {f"memory, {name}": f"{getattr(self, name) / GIB:.2f} GiB" for name in names}


def estimate(
    config: TrainingConfig, *, parameters: int, precision: str, half: bool, tokens: int, width: int, layers: int
) -> Need:
    """Estimate the memory of a training step.

    Args:
        tokens: tokens of the largest forward pass, padding included (both answers of each pair).
        width: hidden size.
        layers: number of transformer blocks.

    Full training keeps fp32 weights, gradients and two AdamW moments: 16 bytes per weight (ZeRO paper, section 3.1).
    Activations: 34 bytes x width per token and layer in 16-bit precision (Korthikanti et al. 2022, eq. 1, without
    the attention matrix that sdpa never builds), twice that in fp32; with checkpointing 2 bytes x width.
    """
    import torch

    trained = parameters
    if config.lora_rank:
        # Two thin matrices at each of about seven square-ish linear layers of a block.
        trained = 7 * 2 * config.lora_rank * width * layers
    # Passes on a bf16 copy of the weights, see jobs.training.fast.
    copied = 2 * parameters if half else 0
    bytes_each = {"none": 4.0, "8bit": 1.0, "4bit": 0.55}[config.quantize]
    per_token = (2 if config.gradient_checkpointing else 34) * (2 if precision == "fp32" else 1)
    return Need(
        weights=copied + int(parameters * bytes_each) + (4 * trained if config.lora_rank else 0),
        gradients=4 * trained,
        optimizer=(2 if config.optimizer == "adamw-8bit" else 8) * trained,
        activations=per_token * tokens * width * layers,
        libraries=0 if torch.cuda.is_available() else LIBRARIES,
    )


def check_fits(config: TrainingConfig, need: Need, available: int, where: str) -> None:
    """Refuse a model whose weights, gradients and optimizer alone are larger than the memory.

    Raises:
        EnvironmentUnfit: it cannot fit, whatever the batch.
    """
    fixed = need.total - need.activations
    if fixed <= available:
        return
    raise EnvironmentUnfit(
        f"training this model takes {fixed / GIB:.1f} GiB before the first batch, and {where} has"
        f" {available / GIB:.1f} GiB",
        needed="a smaller model or more memory",
        next_step=memory_advice(config),
    )


def needed_memory(
    config: TrainingConfig, model: str, encoded: dict[str, EncodedSplit], parameters: int, precision: str
) -> Need:
    """Estimate what training this model on these rows holds in memory."""
    from jobs.models.load import load_config
    from jobs.training.fast import takes_half

    shape = load_config(model).get_text_config()
    longest = max(tokens for split in encoded.values() for tokens in pair_tokens(split))
    batch: int = config.batch_size  # type: ignore[attr-defined]
    return estimate(
        config,
        parameters=parameters,
        precision=precision,
        half=takes_half(config, precision, 1),
        tokens=batch * longest,
        width=shape.hidden_size,
        layers=shape.num_hidden_layers,
    )


def pair_tokens(split: EncodedSplit) -> list[int]:
    """Return the tokens of each pair: both answers, each with the prompt."""
    return [2 * len(p.prompt_ids) + len(p.chosen_ids) + len(p.rejected_ids) for p in split.pairs]
