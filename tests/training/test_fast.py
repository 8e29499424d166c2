"""The fast path against TRL's own, on random batches of several architectures."""

from __future__ import annotations

import contextlib
import copy
import shutil
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification
from trl.trainer.utils import add_fused_lm_head

from jobs.training.fast import HalfCopy, groups_by_length, unsupported, use_fast_head, use_fast_score
from tests.training.study import Study

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


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_fast_score_is_the_models_own(architecture: str) -> None:
    """Scores of a padded batch, in its order, and all gradients agree with the model's own forward pass."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **ARCHITECTURES[architecture], num_labels=1, pad_token_id=0)
    own = AutoModelForSequenceClassification.from_config(config).eval()
    fast = copy.deepcopy(own)
    assert not unsupported(fast)
    use_fast_score(fast)
    inputs = {key: value for key, value in batch(3).items() if key != "labels"}
    scores = [model(**inputs, use_cache=False).logits for model in (own, fast)]
    assert torch.allclose(scores[0], scores[1], atol=1e-5)
    for score in scores:
        (-torch.nn.functional.logsigmoid(score[:2] - score[2:])).mean().backward()
    for first, second in zip(own.parameters(), fast.parameters(), strict=True):
        assert first.grad is not None
        assert torch.allclose(first.grad, second.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("lengths", "groups"),
    [([300, 30, 310, 25], [[2, 0], [1, 3]]), ([50, 51, 52], [[2, 1, 0]]), ([7], [[0]]), ([500, 400], [[0], [1]])],
)
def test_sequences_of_similar_length_run_together(lengths: list[int], groups: list[list[int]]) -> None:
    """A group is split off where the padding it saves is worth more than another pass."""
    assert groups_by_length(lengths) == groups


@pytest.mark.parametrize("step", ["rm", "dpo"])
def test_in_bf16_the_losses_stay_those_of_trls_own_path(study: Study, step: str) -> None:
    """Passes on a bf16 copy of the weights lose what autocast loses, to 1e-2; what is published is fp32."""
    shutil.rmtree(study.root / "artifacts/cache", ignore_errors=True)
    more = ("--bf16", "--max-steps", 6, "--batch-size", 2, "--gradient-accumulation", 2, "--lr", 0.003)
    own, fast = f"artifacts/{step}/bf16-own", f"artifacts/{step}/bf16-fast"
    assert study.train(step, own, *more, "--no-fast") == 0
    assert study.train(step, fast, *more) == 0
    assert max(study.losses(own)) > 1.03 * min(study.losses(own))
    assert study.losses(fast) == pytest.approx(study.losses(own), rel=1e-2)
    weights = load_file(study.root / fast / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    before = load_file(study.root / "tiny/model.safetensors")
    assert not any(torch.equal(weights[name], weight) for name, weight in before.items() if name in weights)


def test_a_half_copy_follows_its_model_and_sums_gradients_in_fp32() -> None:
    """The copy takes changed weights, keeps ties and fp32 buffers, and hands its gradients over."""
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SHAPE, tie_word_embeddings=True))
    copied = HalfCopy(model)
    assert copied.model.get_output_embeddings().weight is copied.model.get_input_embeddings().weight
    assert {p.dtype for p in copied.model.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in copied.model.buffers()} == {b.dtype for b in model.buffers()}
    with torch.no_grad():
        model.model.norm.weight.fill_(3.0)
    assert copied.refresh(0).model.norm.weight[0] == 3.0
    for _ in range(2):
        copied.refresh(0)(input_ids=torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
    assert all(p.grad is None for p in copied.model.parameters())
