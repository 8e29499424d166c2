"""Log-probabilities of answers under a language model, without logits for tokens that nobody scores."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

CHUNK_TOKENS = 512
"""Rows of the logit matrix at a time: 512 x 49,152 fp32 is 100 MB; whole batches would be gigabytes."""


def completion_logps(model: Any, sequences: Sequence[tuple[list[int], list[int]]], pad_id: int) -> tuple[Any, Any]:
    """Return (sum_B, tokens_B): each answer's log-probability, summed over its tokens, and its length in tokens.

    `sequences` holds (prompt ids, answer ids); the model's head is applied to the positions that predict an answer
    token only. Runs under the caller's autocast and grad mode; sums are fp32.
    """
    import torch

    device = next(model.parameters()).device
    # Nothing predicts the first token of an empty prompt's answer.
    answers = [answer if prompt else answer[1:] for prompt, answer in sequences]
    # Sequence and token of each position that predicts, the one before the token that it is asked about.
    sequence_N = torch.tensor([i for i, answer in enumerate(answers) for _ in answer])
    token_N = torch.tensor(
        [
            max(len(prompt), 1) - 1 + j
            for (prompt, _), answer in zip(sequences, answers, strict=True)
            for j in range(len(answer))
        ]
    )
    targets_N = torch.tensor([token for answer in answers for token in answer], device=device)
    hidden_ND = states_at(model, sequences, pad_id, sequence_N, token_N)
    chunks = zip(torch.split(hidden_ND, CHUNK_TOKENS), torch.split(targets_N, CHUNK_TOKENS), strict=True)
    parts = [
        torch.nn.functional.cross_entropy(_logits(model, hidden), target, reduction="none") for hidden, target in chunks
    ]
    sums_B = torch.zeros(len(sequences), device=device).index_add(0, sequence_N.to(device), -torch.cat(parts))
    return sums_B, torch.tensor([len(answer) for answer in answers], device=device)


def states_at(
    model: Any, sequences: Sequence[tuple[list[int], list[int]]], pad_id: int, sequence_N: Any, token_N: Any
) -> Any:
    """Return the hidden states (N, H) of a model's body at token `token_N` of sequence `sequence_N`.

    Sequences with the same prompt share its computation where `use_shared_start` has prepared the model for it; else
    they are padded to the longest.
    """
    joined = [prompt + answer for prompt, answer in sequences]
    if packs(model):
        from jobs.training.packing import pack, packed_states

        layout = pack(joined, [tuple(prompt) for prompt, _ in sequences])
        return packed_states(model, layout)[layout.places(sequence_N, token_N)]
    device = next(model.parameters()).device
    states_BLH = model.base_model(**padded(joined, pad_id, device), use_cache=False).last_hidden_state
    return states_BLH[sequence_N.to(device), token_N.to(device)]


def padded(sequences: Sequence[list[int]], pad_id: int, device: Any) -> dict[str, Any]:
    """Return input_ids_BL and attention_mask_BL of sequences padded on the right."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    ids_BL = pad_sequence([torch.tensor(ids) for ids in sequences], batch_first=True, padding_value=pad_id)
    mask_BL = pad_sequence([torch.ones(len(ids), dtype=torch.long) for ids in sequences], batch_first=True)
    return {"input_ids": ids_BL.to(device), "attention_mask": mask_BL.to(device)}


def packs(model: Any) -> bool:
    """Tell whether a model computes what sequences share once; see `use_shared_start`."""
    return bool(model.config._attn_implementation == "shared_start")


def _logits(model: Any, hidden: Any) -> Any:
    """Apply the head as the architecture does: Gemma 2 caps its logits, Cohere and Granite scale them."""
    config = model.config.get_text_config()
    logits = model.get_output_embeddings()(hidden).float()
    if scale := getattr(config, "logit_scale", None):
        logits = logits * scale
    if scaling := getattr(config, "logits_scaling", None):
        logits = logits / scaling
    if cap := getattr(config, "final_logit_softcapping", None):
        logits = cap * (logits / cap).tanh()
    return logits


def passes(
    model: Any,
    sequences: Sequence[Sequence[int]],
    clusters: Sequence[Hashable],
    *,
    batch_size: int,
    max_tokens: int | None,
) -> Iterator[list[int]]:
    """Yield batches of indices for passes without gradients: those of one cluster together, or of similar length.

    With `max_tokens` a batch holds no more than so many tokens, padding included, but one sequence at least.
    """
    if packs(model):
        from jobs.training.packing import batches

        room = max_tokens or sum(map(len, sequences))
        yield from batches(sequences, clusters, max_sequences=batch_size, max_tokens=room)
    else:
        yield from by_length([len(ids) for ids in sequences], batch_size, max_tokens)


def by_length(lengths: Sequence[int], batch_size: int, max_tokens: int | None = None) -> Iterator[list[int]]:
    """Yield batches of indices of similar length, longest first: little padding, and the largest fails at once.

    With `max_tokens` a batch holds no more than so many tokens, padding included, but one sequence at least.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    start = 0
    while start < len(order):
        fits = max_tokens // lengths[order[start]] if max_tokens else batch_size
        size = max(1, min(batch_size, fits))
        yield order[start : start + size]
        start += size
