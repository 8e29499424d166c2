"""Answers of a model to prompts, sampled so that a prompt's answer does not depend on the batch it stands in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jobs.training.logps import by_length


class GumbelSampler:
    """Logits processor that makes greedy decoding sample: argmax(logits / T + Gumbel noise) is a draw from softmax.

    Each prompt has its own noise, a function of the seed, its number and the position alone. So two models that are
    equal give equal answers, and what differs between policy and reference is not luck.
    """

    def __init__(self, *, seed: int, rows: Sequence[int], temperature: float, device: Any) -> None:
        import torch

        self.temperature = temperature
        self.generators = []
        for row in rows:
            generator = torch.Generator(device="cpu")
            generator.manual_seed((seed * 1_000_003 + row) % 2**63)
            self.generators.append(generator)
        self.device = device

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Return the scores with each row's noise of this position added."""
        import torch

        noise = torch.stack(
            [torch.empty(scores.shape[1]).exponential_(generator=generator) for generator in self.generators]
        )
        return scores.float() / self.temperature - noise.log_().to(self.device)


def generate_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    batch_size: int,
    numbers: Sequence[int] | None = None,
) -> list[list[int]]:
    """Return the ids of one answer per prompt, its end-of-text token included where it got there.

    `prompts` are ids; `numbers` are what their noise depends on beside the seed, their positions by default.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    numbers = range(len(prompts)) if numbers is None else numbers
    for batch in by_length([len(ids) for ids in prompts], batch_size):
        rows, sampler = [prompts[i] for i in batch], None
        if temperature:
            device = next(model.parameters()).device
            noise = [numbers[i] for i in batch]
            sampler = GumbelSampler(seed=seed, rows=noise, temperature=temperature, device=device)
        for i, ids in zip(batch, _generate(model, tokenizer, rows, sampler, max_new_tokens), strict=True):
            answers[i] = ids
    return answers


def _generate(
    model: Any, tokenizer: Any, prompts: Sequence[list[int]], sampler: GumbelSampler | None, max_new_tokens: int
) -> list[list[int]]:
    import torch
    from transformers import GenerationConfig, LogitsProcessorList

    device = next(model.parameters()).device
    width = max(len(ids) for ids in prompts)
    # Prompts are padded on the left, so that all answers begin at the same position.
    input_ids = torch.full((len(prompts), width), tokenizer.pad_token_id, dtype=torch.long)
    attention = torch.zeros((len(prompts), width), dtype=torch.long)
    for row, ids in enumerate(prompts):
        input_ids[row, width - len(ids) :] = torch.tensor(ids)
        attention[row, width - len(ids) :] = 1
    ends = end_ids(model, tokenizer)
    output = model.generate(
        input_ids=input_ids.to(device),
        attention_mask=attention.to(device),
        logits_processor=LogitsProcessorList([sampler] if sampler else []),
        generation_config=GenerationConfig(
            do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id
        ),
    )
    return [_until_end(row, ends) for row in output[:, width:].tolist()]


def end_ids(model: Any, tokenizer: Any) -> list[int]:
    """Return the token ids that end an answer: the tokenizer's and those of the model's generation settings."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    more = configured if isinstance(configured, list) else [configured]
    return sorted({tokenizer.eos_token_id, *(token for token in more if token is not None)})


def _until_end(ids: list[int], ends: list[int]) -> list[int]:
    for position, token in enumerate(ids):
        if token in ends:
            return ids[: position + 1]
    return ids
