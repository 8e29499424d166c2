"""Log-probabilities of answers under a language model, without logits for tokens that nobody scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    lengths = [len(prompt) + len(answer) for prompt, answer in sequences]
    width = max(lengths)
    input_ids = torch.full((len(sequences), width), pad_id, dtype=torch.long)
    attention = torch.zeros((len(sequences), width), dtype=torch.long)
    scored = torch.zeros((len(sequences), width), dtype=torch.bool)
    for i, (prompt, answer) in enumerate(sequences):
        input_ids[i, : lengths[i]] = torch.tensor(prompt + answer)
        attention[i, : lengths[i]] = 1
        scored[i, len(prompt) : lengths[i]] = True
    input_ids, attention, scored = (t.to(device) for t in (input_ids, attention, scored))
    hidden_BLD = model.base_model(input_ids=input_ids, attention_mask=attention, use_cache=False).last_hidden_state
    predicts = scored[:, 1:]
    hidden_ND, targets_N = hidden_BLD[:, :-1][predicts], input_ids[:, 1:][predicts]
    chunks = zip(torch.split(hidden_ND, CHUNK_TOKENS), torch.split(targets_N, CHUNK_TOKENS), strict=True)
    parts = [
        torch.nn.functional.cross_entropy(_logits(model, hidden), target, reduction="none") for hidden, target in chunks
    ]
    per_token = torch.zeros(predicts.shape, device=device).masked_scatter(predicts, -torch.cat(parts))
    return per_token.sum(dim=1), predicts.sum(dim=1)


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
