"""One model at a time on the device: loaded in the evaluation's precision, scored in batches of similar length."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jobs.contract.errors import BadConfig, OutOfMemory
from jobs.evaluation.recorded import Recorded
from jobs.evaluation.statistics import Floats
from jobs.models.load import load_causal, load_reward, load_tokenizer
from jobs.training.encode import PairEncoder
from jobs.training.hardware import torch_dtype
from jobs.training.logps import by_length, completion_logps


def encoder_for(model: str, recorded: Recorded, max_length: int | None) -> PairEncoder:
    """Return the encoder that training used: same tokenizer, template, length and truncation."""
    tokenizer = load_tokenizer(model)
    return PairEncoder(
        tokenizer,
        chat_template=recorded.chat_template,
        max_length=recorded.max_length(max_length),
        truncation=recorded.truncation,
    )


@contextlib.contextmanager
def policy_on_device(model: str, tokenizer: Any, precision: str) -> Iterator[Any]:
    """Load a causal model for inference and let it go at the end."""
    loaded = load_causal(model, tokenizer, dtype=torch_dtype(precision))
    with _on_device(loaded) as placed:
        yield placed


@contextlib.contextmanager
def reward_on_device(model: str, tokenizer: Any, precision: str) -> Iterator[Any]:
    """Load a reward model for inference; its one-row head stays fp32, since bf16 scores would be full of ties."""
    loaded = load_reward(model, tokenizer, dtype=torch_dtype(precision))
    if precision != "fp32":
        head = loaded.get_submodule("score")
        head.float()
        head.register_forward_pre_hook(lambda _, args: (args[0].float(), *args[1:]))
    with _on_device(loaded) as placed:
        yield placed


@contextlib.contextmanager
def _on_device(model: Any) -> Iterator[Any]:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        with torch.inference_mode():
            yield model.to(device).eval()
    except torch.cuda.OutOfMemoryError as exc:
        raise OutOfMemory("the device has no memory left", next_step="use a smaller --batch-size") from exc
    finally:
        del model
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()


CPU_BATCH_TOKENS = 1024
"""Activations of more tokens leave a CPU's caches: with 4,096 a token costs 30 to 40 % more time, in fp32 and bf16."""


def _batches(model: Any, lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    on_cpu = next(model.parameters()).device.type == "cpu"
    return by_length(lengths, batch_size, CPU_BATCH_TOKENS if on_cpu else None)


def score_sequences(model: Any, sequences: Sequence[Sequence[int]], pad_id: int, batch_size: int) -> Floats:
    """Return the reward of each sequence of ids."""
    import torch

    device = next(model.parameters()).device
    scores = np.empty(len(sequences))
    for batch in _batches(model, [len(ids) for ids in sequences], batch_size):
        width = max(len(sequences[i]) for i in batch)
        input_ids = torch.full((len(batch), width), pad_id, dtype=torch.long)
        attention = torch.zeros((len(batch), width), dtype=torch.long)
        for row, i in enumerate(batch):
            input_ids[row, : len(sequences[i])] = torch.tensor(sequences[i])
            attention[row, : len(sequences[i])] = 1
        logits = model(input_ids=input_ids.to(device), attention_mask=attention.to(device), use_cache=False).logits
        if logits.shape[1:] != (1,):
            raise BadConfig(
                f"the reward model gives {logits.shape[1]} numbers per answer",
                needed="one",
                next_step="name a folder made by rm-train, or a classifier with num_labels = 1",
            )
        scores[batch] = logits[:, 0].float().cpu().numpy()
    return scores


def answer_logps(
    model: Any, sequences: Sequence[tuple[list[int], list[int]]], pad_id: int, batch_size: int
) -> tuple[Floats, Floats]:
    """Return (sum, tokens) for each (prompt ids, answer ids): log-probability of the answer and its length."""
    sums, tokens = np.empty(len(sequences)), np.empty(len(sequences))
    for batch in _batches(model, [len(prompt) + len(answer) for prompt, answer in sequences], batch_size):
        sums_B, tokens_B = completion_logps(model, [sequences[i] for i in batch], pad_id)
        sums[batch], tokens[batch] = sums_B.float().cpu().numpy(), tokens_B.cpu().numpy()
    return sums, tokens
