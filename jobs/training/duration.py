"""How long a training will take: a few layers of the model are really run, the rest is multiplied."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jobs.config.training import TrainingConfig
from jobs.training.encode import EncodedSplit
from jobs.training.fast import takes_half, takes_packed
from jobs.training.hardware import torch_dtype

WHOLE_MODEL = 1.9
"""A whole model takes longer than its layers one by one, whose activations stay in the caches: measured 1.9 and 2.0
times for SmolLM2-135M in bf16 on two cores."""
WRITTEN_BYTES_PER_S = 270e6
"""Checkpoints and the published model, flushed to disk: measured on a virtual disk."""
START_S = 4.0
"""Loading the model, building the trainer, drawing."""
OPTIMIZER_PASSES = 5
"""AdamW itself, clipping, casting weights and gradients: measured 4.6 times AdamW alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Seconds that this machine takes."""

    learn_token_s: float
    """Forward and backward pass of all layers, per token."""
    read_token_s: float
    """Forward pass alone, per token."""
    logits_s: float
    """Projecting one token onto the vocabulary."""
    update_s: float
    """One optimizer step."""


def measure(config: TrainingConfig, shape: Any, *, parameters: int, precision: str, tokens: list[int]) -> Speed:
    """Run one and three layers of the model with random weights, and an optimizer step on a part of them.

    Args:
        shape: the model's configuration (of its text part).
        tokens: tokens of each pair, both answers.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch: int = config.batch_size  # type: ignore[attr-defined]
    width = max(8, round(sum(tokens) / len(tokens) / 2))
    ids = torch.randint(3, 500, (2 * batch, width), device=device)

    def layers(count: int, *, learn: bool) -> float:
        model = _layers(config, shape, count, precision).to(device)
        if config.lora_rank:
            model.requires_grad_(False)
            # As under adapters: gradients of activations, none of weights.
            model.get_input_embeddings().register_forward_hook(lambda *hooked: hooked[2].requires_grad_(learn))
        dtype = torch_dtype(precision)

        def once() -> None:
            with torch.set_grad_enabled(learn), torch.autocast(device, dtype, enabled=precision != "fp32"):
                states = model(input_ids=ids, use_cache=False).last_hidden_state
            if learn:
                states.float().sum().backward()

        return _seconds(once, device)

    learn_s, read_s = (
        WHOLE_MODEL
        * max(0.0, layers(3, learn=learn) - layers(1, learn=learn))
        / 2
        * shape.num_hidden_layers
        / ids.numel()
        for learn in (True, False)
    )
    hidden = torch.ones(256, shape.hidden_size, dtype=torch_dtype(precision), device=device)
    head = torch.ones(8192, shape.hidden_size, dtype=torch_dtype(precision), device=device)
    logits_s = _seconds(lambda: hidden @ head.t(), device) / 256 * shape.vocab_size / 8192
    return Speed(
        learn_token_s=learn_s * (4 / 3 if config.gradient_checkpointing else 1),
        read_token_s=read_s,
        logits_s=logits_s,
        update_s=0.0 if config.lora_rank else OPTIMIZER_PASSES * _adamw_s(device) * parameters,
    )


def estimate_seconds(
    config: TrainingConfig, step: str, encoded: dict[str, EncodedSplit], *, speed: Speed, steps: int, parameters: int
) -> float:
    """Return the seconds of a training on one process: steps, evaluations, the reference pass, checkpoints, start."""
    batch: int = config.batch_size  # type: ignore[attr-defined]
    train, held_out = (_per_pair(encoded[name], packed=takes_packed(config)) for name in ("train", "eval"))
    pairs = batch * config.gradient_accumulation
    heads = step == "dpo"

    def reading(tokens: float, answers: float) -> float:
        return tokens * speed.read_token_s + (answers * speed.logits_s if heads else 0)

    per_step = pairs * (train[0] * speed.learn_token_s + (3 * train[1] * speed.logits_s if heads else 0))
    total = steps * (per_step + speed.update_s)
    count = len(encoded["eval"].pairs)
    total += (2 + (steps - 1) // config.eval_steps) * count * reading(*held_out)
    if heads:
        drawn = min(len(encoded["train"].pairs), steps * pairs)
        total += drawn * reading(*train) + count * reading(*held_out)
    # Weights and two moments of each trained one; with adapters next to nothing.
    every = config.eval_steps if config.early_stopping else config.save_steps
    checkpoints = 0 if config.lora_rank else 1 + (steps - 1) // every
    return START_S + total + (12 * checkpoints + 8) * parameters / WRITTEN_BYTES_PER_S


def _per_pair(split: EncodedSplit, *, packed: bool) -> tuple[float, float]:
    """Return a pair's mean tokens, the prompt once where rows are packed, and how many of them are scored."""
    pairs = max(1, len(split.pairs))
    answers = sum(len(p.chosen_ids) + len(p.rejected_ids) for p in split.pairs)
    prompts = sum(len(p.prompt_ids) for p in split.pairs)
    return (answers + prompts * (1 if packed else 2)) / pairs, answers / pairs


def _layers(config: TrainingConfig, shape: Any, count: int, precision: str) -> Any:
    """Build the body of the model with so many layers and a small vocabulary."""
    from transformers import AutoModel

    small = copy.deepcopy(shape)
    small.num_hidden_layers, small.vocab_size, small.pad_token_id = count, 512, 0
    if getattr(small, "layer_types", None):
        small.layer_types = small.layer_types[:count]
    model = AutoModel.from_config(small)
    return model.to(torch_dtype(precision)) if takes_half(config, precision, 1) else model


def _adamw_s(device: str) -> float:
    """Return the seconds of AdamW per weight."""
    import torch

    size = 1 << 22
    weight = torch.nn.Parameter(torch.zeros(size, device=device))
    weight.grad = torch.ones_like(weight)
    return _seconds(torch.optim.AdamW([weight], fused=True).step, device) / size


def _seconds(work: Callable[[], object], device: str) -> float:
    """Return the shortest of a few tries, the first of which warms up."""
    import torch

    times = []
    for _ in range(4):
        started = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times[1:])
