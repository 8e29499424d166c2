"""Packed rows against each sequence on its own, for several architectures."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from jobs.training.fast import body_states
from jobs.training.packing import batches, pack, packed_states, use_shared_start
from tests.training.test_fast import ARCHITECTURES, SHAPE, batch

SEQUENCES = [[7, 8, 9, 10, 11], [7, 8, 9, 12], [5], [7, 8, 9, 10], [20, 21, 22], [20, 21, 22]]
CLUSTERS = ["a", "a", "b", "a", "c", "c"]


# The same after a start that all of them share.
TEMPLATED = [[3, 4, *ids] for ids in SEQUENCES]


def random_model(architecture: str, **more: Any) -> Any:
    """A model of two layers with random weights."""
    torch.manual_seed(0)
    if architecture == "opt":
        more |= {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0}
    config = AutoConfig.for_model(architecture, **(ARCHITECTURES.get(architecture, SHAPE) | more))
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize(("sequences", "tokens"), [(SEQUENCES, 12), (TEMPLATED, 14)])
@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "mistral", "qwen3", "opt"])
def test_states_and_gradients_are_those_of_the_sequences_alone(
    architecture: str, sequences: list[list[int]], tokens: int
) -> None:
    """Each sequence's states, and the gradients of all weights, are as if it had been alone."""
    own, packed = random_model(architecture), random_model(architecture)
    assert use_shared_start(packed) == ""
    layout = pack(sequences, CLUSTERS)
    assert len(layout.input_ids_T) == tokens
    states = packed_states(packed, layout)
    for i, ids in enumerate(sequences):
        alone = own.base_model(torch.tensor([ids])).last_hidden_state[0]
        mine = states[layout.places(torch.full((len(ids),), i), torch.arange(len(ids)))]
        assert torch.allclose(mine, alone, atol=1e-5), i
        assert torch.equal(mine[-1], states[layout.ends_B[i]])
        alone[-1].pow(3).sum().backward()
    states[layout.ends_B].pow(3).sum().backward()
    for (name, first), second in zip(own.named_parameters(), packed.parameters(), strict=True):
        if first.grad is not None:
            assert (first.grad - second.grad).norm() <= 1e-4 * first.grad.norm() + 1e-6, name


@pytest.mark.parametrize("window", [2, 4])
def test_a_sliding_window_ends_where_the_model_says(window: int) -> None:
    """A token of a packed row sees as far back as it would in its own sequence."""
    own = random_model("mistral", sliding_window=window)
    packed = copy.deepcopy(own)
    assert use_shared_start(packed) == ""
    layout = pack(TEMPLATED, CLUSTERS)
    with torch.no_grad():
        ends = packed_states(packed, layout)[layout.ends_B]
        for i, ids in enumerate(TEMPLATED):
            alone = own.base_model(torch.tensor([ids])).last_hidden_state[0, -1]
            assert torch.allclose(ends[i], alone, atol=1e-5), i


@pytest.mark.parametrize(
    ("architecture", "more"),
    [("gemma2", {}), ("llama", {"attention_dropout": 0.1}), ("bloom", {"n_layer": 2, "n_head": 4})],
)
def test_an_architecture_that_goes_its_own_way_is_found_out(architecture: str, more: dict[str, Any]) -> None:
    """Capped scores, dropout, or biases of its own: the reason is told, and the model stays as it was."""
    model = random_model(architecture, **more)
    before = model.config._attn_implementation
    assert use_shared_start(model) != ""
    assert model.config._attn_implementation == before
    assert model.base_model(torch.tensor([[1, 2, 3]])).last_hidden_state.isfinite().all()


def test_a_prepared_model_still_generates_and_scores_plain_batches() -> None:
    """Calls without a layout go the model's usual way."""
    own, packed = random_model("llama"), random_model("llama")
    assert use_shared_start(packed) == ""
    inputs = batch(1)
    del inputs["labels"]
    assert torch.allclose(own(**inputs).logits[0], packed(**inputs).logits[0], atol=1e-5)
    ids = torch.tensor([[5, 6, 7]])
    generated = [model.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=0) for model in (own, packed)]
    assert torch.equal(*generated)


@pytest.mark.parametrize("packed", [True, False])
def test_both_ways_give_the_states_of_a_padded_batch(packed: bool) -> None:
    """Token j of sequence i is found at its place, whether starts are shared or lengths are grouped."""
    model = random_model("llama")
    inputs = batch(2)
    inputs["input_ids"][2:, :4] = inputs["input_ids"][:2, :4]
    with torch.no_grad():
        expected = model.base_model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
        assert not packed or use_shared_start(model) == ""
        states, place = body_states(model, inputs["input_ids"], inputs["attention_mask"])
    real = inputs["attention_mask"].bool()
    assert torch.allclose(states[place[real]], expected[real], atol=1e-5)
    assert len(states) < real.numel() or not packed


def test_batches_keep_clusters_together_and_within_bounds() -> None:
    """Every sequence is in one batch; a cluster is split only where the bounds say so."""
    cut = list(batches(SEQUENCES, CLUSTERS, max_sequences=3, max_tokens=8))
    assert cut == [[0, 1, 3], [2, 4, 5]]
    assert list(batches(SEQUENCES, CLUSTERS, max_sequences=9, max_tokens=2)) == [[0], [1], [3], [2], [4], [5]]
