"""Settings that both trainers share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jobs.config.fields import option


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """What `rm-train` and `dpo-train` have in common."""

    dataset_dir: str = option(metavar="DIR", identity=False)
    """Folder of splits that `aios data argilla-export` made."""

    output_dir: str = option(metavar="DIR", identity=False)
    """Folder to publish to, usually artifacts/rm/NAME or artifacts/dpo/NAME; it also holds checkpoints and metrics."""

    epochs: float = option(1.0, min=0)
    """Passes over train.jsonl, unless --max-steps is given."""

    max_steps: int | None = option(None, min=1)
    """Optimizer steps in all; overrides --epochs."""

    gradient_accumulation: int = option(1, min=1)
    """Batches summed up before each optimizer step: the effective batch is this times --batch-size times processes."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = option("auto", flags={"--bf16": "bf16", "--fp16": "fp16"})
    """Arithmetic of the forward and backward pass. auto is bf16 where the hardware multiplies it fast, else fp32."""

    lr_scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    """How the learning rate moves after warm-up."""

    warmup_ratio: float = option(0.03, min=0, max=1)
    """Share of the steps in which the learning rate rises from 0."""

    weight_decay: float = option(0.01, min=0)
    """Weight decay of AdamW, on all weights but biases and norms."""

    max_grad_norm: float = option(1.0, min=0)
    """Gradients are scaled down to this norm; 0 leaves them as they are."""

    max_length: int = option(1024, min=8)
    """Longest prompt plus answer, in tokens. A longer prompt loses its start, never the answer; see --truncation."""

    truncation: Literal["right", "left"] = option(
        "right", flags={"--truncation-right": "right", "--truncation-left": "left"}
    )
    """Which end an answer loses that is too long even after its prompt was shortened; its end-of-text token stays."""

    chat_template: Literal["auto", "none"] = "auto"
    """auto puts plain-text rows into the tokenizer's chat template as one user and one assistant turn; none joins them
    as they are."""

    eval_steps: int = option(100, min=1)
    """Evaluate on eval.jsonl every so many steps, before the first and after the last."""

    save_steps: int = option(200, min=1, identity=False)
    """Write a checkpoint every so many steps."""

    save_limit: int = option(2, min=2, identity=False)
    """Keep so many checkpoints; two at least, since the newest may be torn by a crash."""

    logging_steps: int = option(1, min=1)
    """Write training metrics every so many steps. 1 makes a resumed run's file equal to an uninterrupted one's."""

    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    seed: int = 42
    """Seed of the order of batches, of dropout and of a new head's weights."""

    deepspeed: str | None = option(None, metavar="FILE")
    """DeepSpeed configuration, such as config/deepspeed_zero2.json."""

    wandb: str | None = option(None, metavar="PROJECT", identity=False)
    """Send metrics to this Weights & Biases project too. Without it nothing leaves the machine."""

    resume: str = option("auto", metavar="auto|never|DIR", identity=False)
    """auto continues from the newest complete checkpoint in the output folder; never starts over; a folder names the
    checkpoint to continue from."""

    overwrite: bool = option(False, identity=False)
    """Replace a finished result of other inputs or settings in the output folder."""
