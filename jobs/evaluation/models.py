"""One model at a time on the device: loaded in the evaluation's precision, scored in batches of similar length."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np

from jobs.contract.errors import BadConfig, OutOfMemory
from jobs.evaluation.recorded import Recorded
from jobs.evaluation.statistics import Floats
from jobs.models.load import load_causal, load_reward, load_tokenizer
from jobs.training.encode import PairEncoder
from jobs.training.hardware import torch_dtype
from jobs.training.logps import completion_logps, packs, padded, passes
from jobs.training.packing import pack, packed_states, use_shared_start


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
            model.to(device).eval()
            if device == "cpu" and (hasattr(model, "score") or model.get_output_embeddings() is not None):
                use_shared_start(model)
            yield model
    except torch.cuda.OutOfMemoryError as exc:
        raise OutOfMemory("the device has no memory left", next_step="use a smaller --batch-size") from exc
    finally:
        del model
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()


CPU_BATCH_TOKENS = 1024
"""Activations of more tokens leave a CPU's caches: with 4,096 a token costs 30 to 40 % more time, in fp32 and bf16."""


def _batches(
    model: Any, sequences: Sequence[Sequence[int]], clusters: Sequence[Hashable], batch_size: int
) -> Iterator[list[int]]:
    on_cpu = next(model.parameters()).device.type == "cpu"
    max_tokens = CPU_BATCH_TOKENS if on_cpu else None
    return passes(model, sequences, clusters, batch_size=batch_size, max_tokens=max_tokens)


def score_sequences(
    model: Any, sequences: Sequence[list[int]], clusters: Sequence[Hashable], pad_id: int, batch_size: int
) -> Floats:
    """Return the reward of each sequence of ids; sequences of one cluster share their start, usually the prompt.

    Equal sequences are scored once: judges of several pairs of a prompt meet the same answer again.
    """
    first = {tuple(ids): i for i, ids in reversed(list(enumerate(sequences)))}
    asked = sorted(first.values())
    scores = _scores(model, [sequences[i] for i in asked], [clusters[i] for i in asked], pad_id, batch_size)
    place = {i: n for n, i in enumerate(asked)}
    return scores[[place[first[tuple(ids)]] for ids in sequences]]


def _scores(
    model: Any, sequences: Sequence[list[int]], clusters: Sequence[Hashable], pad_id: int, batch_size: int
) -> Floats:
    scores = np.empty(len(sequences))
    for batch in _batches(model, sequences, clusters, batch_size):
        ids = [sequences[i] for i in batch]
        if packs(model):
            layout = pack(ids, [clusters[i] for i in batch])
            rewards_B1 = model.score(packed_states(model, layout)[layout.ends_B])
        else:
            rewards_B1 = model(**padded(ids, pad_id, next(model.parameters()).device), use_cache=False).logits
        if rewards_B1.shape[1:] != (1,):
            raise BadConfig(
                f"the reward model gives {rewards_B1.shape[1]} numbers per answer",
                needed="one",
                next_step="name a folder made by rm-train, or a classifier with num_labels = 1",
            )
        scores[batch] = rewards_B1[:, 0].float().cpu().numpy()
    return scores


def answer_logps(
    model: Any, sequences: Sequence[tuple[list[int], list[int]]], pad_id: int, batch_size: int
) -> tuple[Floats, Floats]:
    """Return (sum, tokens) for each (prompt ids, answer ids): log-probability of the answer and its length."""
    sums, tokens = np.empty(len(sequences)), np.empty(len(sequences))
    joined = [prompt + answer for prompt, answer in sequences]
    for batch in _batches(model, joined, [tuple(prompt) for prompt, _ in sequences], batch_size):
        sums_B, tokens_B = completion_logps(model, [sequences[i] for i in batch], pad_id)
        sums[batch], tokens[batch] = sums_B.float().cpu().numpy(), tokens_B.cpu().numpy()
    return sums, tokens
