"""Low-rank adapters and quantized bases: what is trained, and what is published."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from jobs.config.training import TrainingConfig
from jobs.contract.errors import BadConfig, EnvironmentUnfit


def check_quantization(config: TrainingConfig) -> None:
    """Refuse 8- and 4-bit settings where they cannot work.

    Raises:
        EnvironmentUnfit: there is no CUDA GPU, or bitsandbytes is missing or broken.
    """
    asked = [
        flag
        for flag, on in (
            (f"--load-{config.quantize}", config.quantize != "none"),
            ("--optim-8bit", config.optimizer == "adamw-8bit"),
        )
        if on
    ]
    if not asked:
        return
    import torch

    if not torch.cuda.is_available():
        raise EnvironmentUnfit(
            f"{asked[0]} on a machine without GPU",
            needed="a CUDA GPU",
            next_step="leave it out; --lora-rank alone saves most of the memory",
        )
    try:
        import bitsandbytes  # noqa: F401
    except (ImportError, RuntimeError, OSError) as exc:
        raise EnvironmentUnfit(
            f"{asked[0]} needs bitsandbytes, which cannot be imported ({exc})",
            next_step="pip install 'aios-alignment[quant]', or leave the flag out",
        ) from exc


def load_options(config: TrainingConfig, precision: str) -> dict[str, Any]:
    """Return what `from_pretrained` needs for the attention implementation and the bits of the base weights."""
    options: dict[str, Any] = {}
    if config.attention != "auto":
        options["attn_implementation"] = config.attention
    if config.quantize != "none":
        from transformers import BitsAndBytesConfig

        from jobs.training.hardware import torch_dtype

        compute = torch_dtype("bf16" if precision == "fp32" else precision)
        four = config.quantize == "4bit"
        options["quantization_config"] = (
            BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=compute,
            )
            if four
            else BitsAndBytesConfig(load_in_8bit=True)
        )
        options["dtype"] = compute
    return options


def lora(config: TrainingConfig, step: str) -> Any:
    """Return the adapters' configuration for TRL; None when all weights are trained."""
    if not config.lora_rank:
        return None
    from peft import LoraConfig

    targets = config.lora_targets
    return LoraConfig(
        task_type="SEQ_CLS" if step == "rm" else "CAUSAL_LM",
        r=config.lora_rank,
        lora_alpha=config.lora_alpha or 2 * config.lora_rank,
        lora_dropout=config.lora_dropout,
        target_modules=targets if targets == "all-linear" else [name.strip() for name in targets.split(",")],
    )


def prepare(model: Any, config: TrainingConfig) -> Any:
    """Make a quantized base fit for training adapters on it."""
    if config.quantize == "none":
        return model
    from peft import prepare_model_for_kbit_training

    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=config.gradient_checkpointing)


def keep_full_precision(model: Any, config: TrainingConfig) -> None:
    """Give what is trained on a quantized base fp32 weights again, which TRL has made bf16.

    A step of 2e-5 is lost in a bf16 weight of 0.02, and a bf16 reward head does not fit the fp32 states it reads.
    """
    if config.quantize != "none":
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()


def check_attention(config: TrainingConfig) -> None:
    """Refuse FlashAttention where it cannot run.

    Raises:
        EnvironmentUnfit: there is no CUDA GPU, or its package is missing.
    """
    import torch

    installed = importlib.util.find_spec("flash_attn") is not None
    if config.attention == "flash_attention_2" and not (installed and torch.cuda.is_available()):
        raise EnvironmentUnfit(
            "--attention flash_attention_2, and " + ("there is no GPU" if installed else "flash-attn is not installed"),
            needed="a CUDA GPU and the package flash-attn",
            next_step="leave it out: auto takes PyTorch's own, which is about as fast",
        )


def check_targets(model: Any, config: TrainingConfig) -> None:
    """Refuse names of --lora-targets that no layer has.

    Raises:
        BadConfig: a name matches nothing.
    """
    if not config.lora_rank or config.lora_targets == "all-linear":
        return
    layers = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    missing = sorted({name.strip() for name in config.lora_targets.split(",")} - layers)
    if missing:
        linear = sorted({name.rsplit(".", 1)[-1] for name, m in model.named_modules() if "Linear" in type(m).__name__})
        raise BadConfig(
            f"no layer is named {', '.join(missing)}", needed=f"some of {', '.join(linear)} (--lora-targets)"
        )


def save(model: Any, config: TrainingConfig, folder: Path, state: dict[str, Any] | None) -> None:
    """Save a trained model: whole, or as adapters beside their base, which `from_pretrained(folder)` puts together."""
    if not config.lora_rank:
        model.save_pretrained(folder, state_dict=state)
        return
    if config.lora_merge and config.quantize == "none":
        model.merge_and_unload().save_pretrained(folder)
        return
    model.save_pretrained(folder, state_dict=state)
    # Without the base in the same folder, transformers would take a folder with config.json for a broken whole model.
    model.unload().save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty card; ours follows
