"""Our settings as TRL's trainers want them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.config.training import TrainingConfig
from jobs.contract.resources import resource


def trainer_arguments(config: TrainingConfig, *, precision: str, fresh: bool) -> dict[str, Any]:
    """Return the arguments that RewardConfig and DPOConfig of TRL share; `fresh`: not continued from a checkpoint."""
    import torch

    c = config
    cuda = torch.cuda.is_available()
    batch: int = c.batch_size  # type: ignore[attr-defined]  # each step's own default
    early = c.early_stopping is not None
    return {
        "output_dir": str(Path(c.output_dir) / "checkpoints"),
        "num_train_epochs": c.epochs,
        "max_steps": c.max_steps or -1,
        "learning_rate": c.lr,  # type: ignore[attr-defined]
        "per_device_train_batch_size": batch,
        # Without gradients only one layer's activations are alive: four times the pairs still take less memory.
        "per_device_eval_batch_size": 4 * batch,
        "gradient_accumulation_steps": c.gradient_accumulation,
        # TRL switches checkpointing on by default, under the old name too, which transformers 5.23 deprecates.
        "gradient_checkpointing": None,
        "activation_checkpointing": c.gradient_checkpointing,
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "use_cpu": not cuda,
        "dataloader_pin_memory": cuda,
        "optim": "adamw_bnb_8bit" if c.optimizer == "adamw-8bit" else "adamw_torch_fused",
        "lr_scheduler_type": c.lr_scheduler,
        # transformers 5 has no warmup_ratio: a warmup_steps below 1 is the ratio.
        "warmup_steps": c.warmup_ratio,
        "weight_decay": c.weight_decay,
        "max_grad_norm": c.max_grad_norm,
        "max_length": None,  # rows are encoded and cut by jobs.training.encode
        "eval_strategy": "steps",
        "eval_steps": c.eval_steps,
        "eval_on_start": fresh,
        "save_strategy": "steps",
        "save_steps": c.eval_steps if early else c.save_steps,
        "save_total_limit": c.save_limit,
        "load_best_model_at_end": early,
        "metric_for_best_model": "eval_loss" if early else None,
        "greater_is_better": False if early else None,
        "logging_steps": c.logging_steps,
        "logging_nan_inf_filter": False,  # it would hide a NaN behind the last good loss
        "seed": c.seed,
        "data_seed": c.seed,
        "deepspeed": str(resource(c.deepspeed)) if c.deepspeed else None,
        "report_to": [],  # ours is jobs.training.tracking: same keys as metrics.jsonl, nothing else of this machine
        "disable_tqdm": True,
        "remove_unused_columns": True,
    }
