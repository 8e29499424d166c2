"""The fast head against TRL's own, on random batches of several architectures."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from trl.trainer.utils import add_fused_lm_head

from jobs.training.fast import unsupported, use_fast_head

SHAPE = {
    "vocab_size": 211, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
}  # fmt: skip
ARCHITECTURES = {
    "gpt2": {"vocab_size": 211, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "llama": SHAPE,
    "qwen2": SHAPE,
    "gemma": SHAPE,
}


@pytest.fixture(params=ARCHITECTURES)
def models(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """A random model with TRL's head, and its copy with the fast one."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(request.param, **ARCHITECTURES[request.param])
    config.attn_implementation = "eager"
    own = AutoModelForCausalLM.from_config(config).eval()
    fast = copy.deepcopy(own)
    for model in (own, fast):
        add_fused_lm_head(model, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    assert not unsupported(fast)
    use_fast_head(fast)
    return own, fast


def batch(seed: int) -> dict[str, torch.Tensor]:
    """A padded batch whose prompts are not scored."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 211, (4, 23), generator=generator)
    mask = torch.ones_like(ids)
    labels = ids.clone()
    for row in range(4):
        labels[row, : 3 + 2 * row] = -100
        if row:
            ids[row, -row:], mask[row, -row:], labels[row, -row:] = 0, 0, -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 1e-2)])
def test_the_fast_head_gives_the_same_figures_and_gradients(
    models: tuple[Any, Any], dtype: torch.dtype, tolerance: float
) -> None:
    """Log-probabilities, entropy, mean logits, top-1 and every gradient agree in fp32 and in bf16."""
    outputs = []
    for model in models:
        automatic = torch.autocast("cpu", dtype) if dtype != torch.float32 else contextlib.nullcontext()
        with automatic:
            output = model(**batch(1), fused_lm_head=True)
        logps = output.log_probs.sum(dim=1)
        (-torch.nn.functional.logsigmoid(0.1 * (logps[:2] - logps[2:]))).mean().backward()
        outputs.append(output)
    own, fast = outputs
    for name in ("log_probs", "entropy", "mean_logits"):
        difference = (getattr(own, name) - getattr(fast, name)).abs().max()
        assert difference <= tolerance * getattr(own, name).abs().max(), name
    if dtype == torch.float32:
        assert torch.equal(own.is_top1, fast.is_top1)
    for (name, first), second in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert first.grad is not None
        assert second.grad is not None, name
        assert (first.grad - second.grad).norm() <= 2 * tolerance * first.grad.norm() + 1e-7, name


def test_probabilities_that_are_too_many_to_keep_are_computed_again(
    models: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the limit the backward pass projects once more, with the same gradients; the chunks do not matter."""
    own, fast = models
    monkeypatch.setattr("jobs.training.fast.KEPT_BYTES", 0)
    monkeypatch.setattr("jobs.training.fast.CHUNK_POSITIONS", 7)
    for model in (own, fast):
        model(**batch(2), fused_lm_head=True).log_probs.sum().backward()
    for first, second in zip(own.parameters(), fast.parameters(), strict=True):
        assert first.grad is not None
        assert torch.allclose(first.grad, second.grad, rtol=1e-3, atol=1e-5)


def test_a_head_that_changes_its_logits_keeps_trls_path() -> None:
    """Gemma 2 caps its logits: the reason is told, and nothing is replaced."""
    config = AutoConfig.for_model("gemma2", **SHAPE)
    assert "final_logit_softcapping" in unsupported(AutoModelForCausalLM.from_config(config))
