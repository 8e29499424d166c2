"""Sampling by Gumbel noise, and the log-probabilities of what was sampled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.evaluation.generation import GumbelSampler, generate_answers
from jobs.evaluation.generations import choose_prompts
from jobs.evaluation.models import answer_logps
from jobs.models.load import load_causal, load_tokenizer


def test_noise_and_argmax_sample_from_the_softmax() -> None:
    """Over many rows the share of each token is its softmax probability at the temperature."""
    logits, temperature = torch.tensor([2.0, 1.0, 0.0, -1.0]), 0.7
    sampler = GumbelSampler(seed=1, rows=range(20_000), temperature=temperature, device="cpu")
    drawn = sampler(None, logits.repeat(20_000, 1)).argmax(dim=1)
    shares = torch.bincount(drawn, minlength=4) / 20_000
    assert shares.numpy() == pytest.approx(torch.softmax(logits / temperature, 0).numpy(), abs=0.012)


def test_an_answer_does_not_depend_on_its_batch(tiny_model: Path) -> None:
    """The same prompt gets the same answer alone, among longer prompts, and in another order."""
    tokenizer = load_tokenizer(str(tiny_model))
    model = load_causal(str(tiny_model), tokenizer).eval()
    prompts = [tokenizer(f"how do I make tea {'with milk ' * i}")["input_ids"] for i in range(6)]
    settings = {"max_new_tokens": 10, "temperature": 1.0, "seed": 3}
    with torch.inference_mode():
        together = generate_answers(model, tokenizer, prompts, batch_size=6, **settings)
        apart = generate_answers(model, tokenizer, prompts, batch_size=1, **settings)
        other = generate_answers(model, tokenizer, prompts, batch_size=6, **settings | {"seed": 4})
        one = generate_answers(model, tokenizer, prompts[4:5], batch_size=1, numbers=[4], **settings)
    assert together == apart
    assert together != other
    assert one[0] == together[4]


def test_logps_are_those_of_the_full_softmax(tiny_model: Path) -> None:
    """Batched, padded and chunked log-probabilities equal the plain computation for one sequence."""
    tokenizer = load_tokenizer(str(tiny_model))
    model = load_causal(str(tiny_model), tokenizer).eval()
    sequences = [(list(range(5, 9 + i)), list(range(20, 23 + 2 * i))) for i in range(5)]
    with torch.inference_mode():
        sums, tokens = answer_logps(model, sequences, tokenizer.pad_token_id, 2)
        for (prompt, answer), total in zip(sequences, sums, strict=True):
            logits = model(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
            expected = sum(logits[len(prompt) - 1 + k, token].item() for k, token in enumerate(answer))
            assert total == pytest.approx(expected, abs=1e-4)
    assert tokens.tolist() == [len(answer) for _, answer in sequences]


def test_prompts_are_chosen_by_the_seed() -> None:
    """The same seed chooses the same prompts, never one twice, and all when there are few."""
    assert choose_prompts(100, 10, 1) == choose_prompts(100, 10, 1) != choose_prompts(100, 10, 2)
    assert len(set(choose_prompts(100, 10, 1))) == 10
    assert choose_prompts(5, 64, 0) == list(range(5))
    assert np.mean([choose_prompts(100, 1, seed)[0] for seed in range(200)]) == pytest.approx(50, abs=8)
