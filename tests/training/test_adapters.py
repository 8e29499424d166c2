"""Low-rank adapters: what is trained, what is published, and that no second model is needed."""

from __future__ import annotations

import gc
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaForCausalLM, Trainer

from jobs.contract.manifest import verify
from tests import tiny
from tests.training.study import Study

LORA = ("--lora-rank", 4, "--epochs", 1, "--lr", 0.01)


def test_a_merged_policy_is_a_whole_model(study: Study) -> None:
    """By default the adapters are folded into the weights: linear layers differ from the base, the rest is its own."""
    output = "artifacts/dpo/merged"
    assert study.train("dpo", output, *LORA) == 0
    files = {entry.path for entry in verify(study.root / output).files}
    assert not any("adapter" in name for name in files)
    after, before = (load_file(study.root / folder / "model.safetensors") for folder in (output, "tiny"))
    changed = {name.rsplit(".", 2)[-2] for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert changed == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    start = study.metrics(output, "start")[0]
    assert start["parameters_trained"] < start["parameters"] / 2


@pytest.mark.parametrize("step", ["rm", "dpo"])
def test_unmerged_adapters_load_onto_their_base(study: Study, step: str) -> None:
    """Published beside their base, the adapters give the same outputs as folded in, by `from_pretrained(folder)`."""
    whole, beside = f"artifacts/{step}/whole", f"artifacts/{step}/beside"
    assert study.train(step, whole, *LORA) == 0
    assert study.train(step, beside, *LORA, "--no-lora-merge") == 0
    files = {entry.path for entry in verify(study.root / beside).files}
    assert {"adapter_model.safetensors", "model.safetensors"} <= files
    auto = AutoModelForSequenceClassification if step == "rm" else AutoModelForCausalLM
    ids = torch.tensor([[5, 6, 7, 8, 2]])
    with torch.no_grad():
        first, second = (auto.from_pretrained(study.root / folder).eval()(ids).logits for folder in (whole, beside))
    assert torch.allclose(first, second, atol=1e-5)


def test_reference_log_probabilities_are_computed_once_for_runs_that_differ_in_beta(study: Study) -> None:
    """Three runs with other betas, adapters or not, ask the reference model once; the counter shows it."""
    shutil.rmtree(study.root / "artifacts/cache", ignore_errors=True)
    counts = []
    for beta in (0.05, 0.1, 0.5):
        output = f"artifacts/dpo/beta-{beta}"
        assert study.train("dpo", output, "--max-steps", 5, "--lora-rank", 4, "--beta", beta) == 0
        counts.append([line["reference_pairs_computed"] for line in study.metrics(output, "reference")])
    assert counts == [[20, 8], [0, 0], [0, 0]], "five steps of four pairs come to 20 of the 24"


def test_an_adapted_policy_starts_at_its_reference(study: Study) -> None:
    """New adapters change nothing: with the reference's log-probabilities the first loss is log 2."""
    output = "artifacts/dpo/beta-start"
    assert study.train("dpo", output, "--max-steps", 1, "--lora-rank", 4) == 0
    assert study.losses(output)[0] == pytest.approx(0.6931472, abs=1e-6)


@pytest.mark.parametrize("reference", ["tiny", "other"])
def test_an_adapted_policy_trains_without_a_second_model(
    study: Study, monkeypatch: pytest.MonkeyPatch, reference: str
) -> None:
    """When the first step begins, the policy is the only model in memory, whichever model the reference is."""
    tiny.make_model(study.root / "other", seed=1)
    gc.collect()
    before = {id(model) for model in gc.get_objects() if isinstance(model, LlamaForCausalLM)}
    alive: list[int] = []
    train = Trainer.train

    def counting(self: Trainer, *args: object, **kwargs: object) -> object:
        gc.collect()
        alive.append(sum(isinstance(m, LlamaForCausalLM) and id(m) not in before for m in gc.get_objects()))
        return train(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "train", counting)
    more = ("--lora-rank", 4, "--max-steps", 2, "--ref-model", reference)
    assert study.train("dpo", f"artifacts/dpo/alone-{reference}", *more) == 0
    assert alive == [1]
