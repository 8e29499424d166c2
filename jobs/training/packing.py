"""Sequences that start alike, laid end to end: their common start is computed once, and nothing is padded.

    layout = pack(sequences, clusters)          # clusters: equal for sequences that may share their start
    states_TH = packed_states(model, layout)
    states_TH[layout.ends_B]                    # the last hidden state of each sequence

The two answers of a pair follow one prompt, so do all samples of a best-of-n, and chat templates put the same words
before every prompt: a third of the tokens of a preference set and more is spared. The row of T tokens begins with what
all sequences share; then comes for each cluster what its sequences share, and what each has of its own. A token attends
to its own sequence only and has its position there.

Shapes: B sequences, T tokens of the row, L tokens of the longest sequence, H width, Q queries, K keys, D head width.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

SHARED_START = "shared_start"
"""Name of the attention in `model.config`."""

EAGER_SCORES = 1 << 20
"""Attention scores, Q x K, up to which the backward pass keeps the probabilities: on CPUs in bf16 that takes two thirds
of the time of sdpa's, which computes them again. The reference's passes do the same, to round the same; those in
inference mode take sdpa, which is faster there."""

_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 3e-2}


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """A row of tokens, and where the sequences lie in it."""

    input_ids_T: Tensor  # noqa: N815
    position_ids_T: Tensor  # noqa: N815
    common: int
    """Tokens that all sequences share, at the start of the row."""
    blocks: list[list[int]]
    """Of each cluster: further tokens that its sequences share, then tokens of each sequence of its own."""
    pieces_B4: Tensor  # noqa: N815
    """Of each sequence: where the cluster's tokens are, how many it has shared in all, where its own are, its length"""

    @property
    def ends_B(self) -> Tensor:  # noqa: N802
        """Where in the row each sequence has its last token."""
        _, shared_B, own_B, lengths_B = self.pieces_B4.unbind(1)
        return own_B + lengths_B - shared_B - 1

    def places(self, sequence_N: Tensor, token_N: Tensor) -> Tensor:
        """Return where in the row token j of sequence i lies."""
        cluster_N, shared_N, own_N, _ = self.pieces_B4[sequence_N].unbind(-1)
        after_N = torch.where(token_N < shared_N, cluster_N - self.common, own_N - shared_N)
        return token_N + torch.where(token_N < self.common, 0, after_N)


def pack(sequences: Sequence[Sequence[int]], clusters: Sequence[Hashable]) -> Layout:
    """Lay sequences out; those of one cluster share as much of their start as is equal."""
    common = _common_start(sequences)
    ids = list(sequences[0][:common])
    positions = list(range(common))
    blocks = []
    pieces_B4 = torch.empty((len(sequences), 4), dtype=torch.long)
    for group in _members(clusters):
        shared = max(common, _common_start([sequences[i] for i in group]))
        cluster = len(ids)
        ids += sequences[group[0]][common:shared]
        positions += range(common, shared)
        for i in group:
            pieces_B4[i] = torch.tensor([cluster, shared, len(ids), len(sequences[i])])
            ids += sequences[i][shared:]
            positions += range(shared, len(sequences[i]))
        blocks.append([shared - common, *(len(sequences[i]) - shared for i in group)])
    return Layout(
        input_ids_T=torch.tensor(ids),
        position_ids_T=torch.tensor(positions),
        common=common,
        blocks=blocks,
        pieces_B4=pieces_B4,
    )


def _members(clusters: Sequence[Hashable]) -> list[list[int]]:
    """Return the indices of each cluster, in the order of first appearance."""
    members: dict[Hashable, list[int]] = {}
    for i, cluster in enumerate(clusters):
        members.setdefault(cluster, []).append(i)
    return list(members.values())


def _common_start(sequences: Sequence[Sequence[int]]) -> int:
    """Return how many leading tokens all share, leaving each at least one of its own; 0 for a single sequence."""
    if len(sequences) == 1:
        return 0
    first, last = min(map(tuple, sequences)), max(map(tuple, sequences))
    shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return min(shared, *(len(ids) - 1 for ids in sequences))


def packed_states(model: Any, layout: Layout) -> Tensor:
    """Run a model's body over a layout; returns states_TH. `use_shared_start` must have accepted the model."""
    output = model.base_model(
        input_ids=layout.input_ids_T[None],
        position_ids=layout.position_ids_T[None],
        # A mask of four dimensions is taken for a finished one, so that none is made; ours is in the blocks.
        attention_mask=torch.ones(1, 1, 1, 1),
        use_cache=False,
        blocks=(layout.common, layout.blocks),
    )
    states: Tensor = output.last_hidden_state[0]
    return states


def use_shared_start(model: Any) -> str:
    """Give a model the attention that packed rows need; returns why it cannot have it, empty when it has it.

    Whether an architecture passes blocks and positions on, and attends to nothing else, is seen from the outcome: the
    hidden states of two short sequences must be those of the model's own attention.
    """
    config = model.config
    own = config._attn_implementation
    if getattr(config.get_text_config(), "attention_dropout", 0.0):
        return "its attention has dropout"
    training = model.training
    try:
        model.eval()
        difference = _difference(model)
    except (NotImplementedError, ValueError, TypeError, RuntimeError, AttributeError) as exc:
        difference, reason = None, str(exc).splitlines()[0] if str(exc) else type(exc).__name__
    finally:
        model.train(training)
    if difference is not None and difference <= _TOLERANCE.get(next(model.parameters()).dtype, 0.0):
        return ""
    config._attn_implementation = own
    return reason if difference is None else f"its hidden states differ by {difference:.1g}"


def _difference(model: Any) -> float:
    """Switch the attention over; return how far packed hidden states are from the model's own, relative to them."""
    size = model.config.get_text_config().vocab_size
    ids = [[i * 7919 % size for i in row] for row in ((1, 2, 3, 4, 5), (1, 2, 3, 6, 7, 8), (1, 9))]
    with torch.no_grad():
        own = [model.base_model(input_ids=torch.tensor([row]), use_cache=False).last_hidden_state[0, -1] for row in ids]
        model.set_attn_implementation(SHARED_START)
        layout = pack(ids, [0, 0, 1])
        packed = packed_states(model, layout)[layout.ends_B]
    expected = torch.stack(own).float()
    return float((packed.float() - expected).norm() / expected.norm())


def attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attend within the sequences of packed rows; a call without blocks is sdpa's.

    Args:
        module: the attention layer that calls.
        query: (1, heads, T, D).
        key: (1, key heads, T, D).
        value: (1, key heads, T, D).
        attention_mask: used by sdpa only.
        options: blocks of the layout, scaling and whatever else the architecture passes.

    Returns:
        (1, T, heads, D), and no probabilities.

    Raises:
        NotImplementedError: the architecture changes its scores in a way that is not known here.
    """
    blocks = options.pop("blocks", None)
    if blocks is None:
        result: tuple[Tensor, None] = ALL_ATTENTION_FUNCTIONS["sdpa"](
            module, query, key, value, attention_mask, **options
        )
        return result
    changed = [name for name in ("softcap", "s_aux", "position_bias") if options.get(name) is not None]
    if changed or options.get("dropout"):
        raise NotImplementedError(f"its attention uses {' and '.join(changed or ['dropout'])}")
    scaling = options.get("scaling")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = options.get("sliding_window")
    # `split` gives its gradient back in one concatenation; slices would each add a tensor of zeros.
    common, clusters = blocks
    sizes = [common, *(size for cluster in clusters for size in cluster)]
    pieces = zip(*(torch.split(states, sizes, dim=2) for states in (query, key, value)), strict=True)
    start_q, start_k, start_v = next(pieces)
    out = [_attend(start_q, start_k, start_v, scaling, window)]
    for shared, *own in clusters:
        q, k, v = next(pieces)
        k, v = _joined(start_k, k), _joined(start_v, v)
        for index, _ in enumerate(own):
            own_q, own_k, own_v = next(pieces)
            # What is shared asks once, together with the first sequence; every sequence sees its keys.
            asking = _joined(q, own_q) if shared and not index else own_q
            out.append(_attend(asking, _joined(k, own_k), _joined(v, own_v), scaling, window))
    return torch.cat(out, dim=2).transpose(1, 2), None


def _joined(before: Tensor, after: Tensor) -> Tensor:
    return torch.cat([before, after], dim=2) if before.shape[2] else after


def _attend(query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None) -> Tensor:
    """Return softmax(query @ key.T) @ value, (1, heads, Q, D); the last query stands at the last key."""
    _, heads, queries, width = query.shape
    key_heads, keys = key.shape[1], key.shape[2]
    if not queries:
        return query
    if queries * keys <= EAGER_SCORES and not torch.is_inference_mode_enabled():
        # Heads that share a key are rows of one product: keys need not be repeated.
        scores = (query * scaling).reshape(key_heads, -1, width) @ key[0].transpose(1, 2)
        hidden = torch.where(_seen(queries, keys, window), 0.0, -torch.inf).to(scores.dtype)
        shaped = scores.view(key_heads, heads // key_heads, queries, keys) + hidden
        # In bf16 the kernel itself computes in fp32; asked for fp32 it would also keep that, thrice the memory.
        probabilities = shaped.softmax(dim=-1)
        return (probabilities.view(key_heads, -1, keys) @ value[0]).view(1, heads, queries, width)
    plain = queries == keys and (window is None or keys <= window)
    return torch.nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=None if plain else _seen(queries, keys, window),
        is_causal=plain,
        scale=scaling,
        enable_gqa=heads != key_heads,
    )


def _seen(queries: int, keys: int, window: int | None) -> Tensor:
    """Return which keys each query sees, (Q, K): itself and those before it, as far as its window goes."""
    seen = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
    return seen if window is None else seen.triu(keys - queries - window + 1)


def batches(
    sequences: Sequence[Sequence[int]], clusters: Sequence[Hashable], *, max_sequences: int, max_tokens: int
) -> Iterator[list[int]]:
    """Yield batches of indices, clusters together, of at most so many sequences and tokens after packing.

    A sequence that is longer than `max_tokens` is a batch of its own.
    """
    common = _common_start(sequences)
    batch: list[int] = []
    tokens = 0
    for group in _members(clusters):
        shared = max(common, _common_start([sequences[i] for i in group]))
        for n, i in enumerate(group):
            new = len(sequences[i]) - (0 if not batch else shared if n else common)
            if batch and (len(batch) == max_sequences or tokens + new > max_tokens):
                yield batch
                batch, tokens, new = [], 0, len(sequences[i])
            batch.append(i)
            tokens += new
    if batch:
        yield batch


AttentionInterface.register(SHARED_START, attention)
AttentionMaskInterface.register(SHARED_START, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
