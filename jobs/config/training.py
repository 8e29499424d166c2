"""Settings that both trainers share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jobs.config.fields import option
from jobs.contract.errors import BadConfig
from jobs.contract.resources import resource


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

    gradient_checkpointing: bool = option(False, identity=False)
    """Recompute activations in the backward pass: less memory, about a third more time, the same result."""

    fast: bool = True
    """Skip arithmetic whose result nobody uses (logits of prompt and padding tokens, casts of weights): the same
    losses within 1e-4 in fp32 and 1e-2 in bf16, sooner. --no-fast runs TRL's own code."""

    lora_rank: int = option(0, min=0)
    """Train low-rank adapters of this rank (Hu et al. 2021) instead of all weights; 16 is usual, 0 trains all
    weights."""

    lora_alpha: float | None = option(None, min=0)
    """Scale of the adapters' output, divided by the rank. The default is twice the rank."""

    lora_dropout: float = option(0.0, min=0, max=0.9)
    """Dropout in front of the adapters."""

    lora_targets: str = option("all-linear", metavar="NAMES")
    """Layers that get adapters: all-linear, or names such as q_proj,v_proj."""

    lora_merge: bool = True
    """Publish one model with the adapters folded into its weights; otherwise the base model with the adapters beside
    it, which `from_pretrained` puts together. Quantized bases are never merged."""

    quantize: Literal["none", "8bit", "4bit"] = option("none", flags={"--load-8bit": "8bit", "--load-4bit": "4bit"})
    """Load the frozen base weights with 8 or 4 bits (QLoRA, Dettmers et al. 2023); needs --lora-rank, a CUDA GPU and
    the extra `quant`."""

    optimizer: Literal["adamw", "adamw-8bit"] = option("adamw", flags={"--optim-8bit": "adamw-8bit"})
    """adamw keeps 8 bytes of state per trained weight, adamw-8bit 2; that needs a CUDA GPU and the extra `quant`."""

    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """Implementation of attention; auto leaves the choice to the model's own code (sdpa nearly everywhere), and to
    --fast on CPUs, which then computes what the two answers of a pair share only once."""

    early_stopping: int | None = option(None, min=1)
    """Stop when so many evaluations in a row brought no better eval loss, and publish the best model seen instead of
    the last. A checkpoint is then written at every evaluation, whatever --save-steps says."""

    seed: int = 42
    """Seed of the order of batches, of dropout and of a new head's weights."""

    processes: int | None = option(None, min=1)
    """Number of processes that must take part (torchrun's --nproc-per-node times its nodes); a run that finds another
    number stops before it starts. The default accepts what torchrun started."""

    deepspeed: str | None = option(None, metavar="FILE")
    """DeepSpeed configuration, such as config/deepspeed_zero2.json (optimizer and gradients split between GPUs) or
    config/deepspeed_zero3.json (weights too)."""

    wandb: str | None = option(None, metavar="PROJECT", identity=False)
    """Send metrics to this Weights & Biases project too; with WANDB_MODE=offline they stay in the output folder.
    Without this flag nothing leaves the machine."""

    resume: str = option("auto", metavar="auto|never|DIR", identity=False)
    """auto continues from the newest complete checkpoint in the output folder; never starts over; a folder names the
    checkpoint to continue from."""

    overwrite: bool = option(False, identity=False)
    """Replace a finished result of other inputs or settings in the output folder."""

    dry_run: bool = option(False, identity=False)
    """Print the resolved settings, what becomes of every row, and estimates of steps, memory and time; write
    nothing."""

    def __post_init__(self) -> None:
        if self.epochs == 0 and self.max_steps is None:
            raise BadConfig("--epochs 0 trains nothing", needed="more than 0, or --max-steps")
        if self.quantize != "none" and not self.lora_rank:
            raise BadConfig(
                f"--quantize {self.quantize} with all weights trained",
                needed="adapters, since quantized weights cannot be trained",
                next_step="add --lora-rank 16",
            )
        if self.deepspeed and not resource(self.deepspeed).is_file():
            raise BadConfig(
                f"--deepspeed {self.deepspeed} is no file",
                needed="a DeepSpeed configuration",
                next_step="use config/deepspeed_zero2.json or config/deepspeed_zero3.json",
            )
