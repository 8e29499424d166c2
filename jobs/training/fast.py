"""Less arithmetic for the same losses on CPUs: --fast, which is the default; --no-fast runs TRL's own path.

Where TRL 1.16 spends a step on a CPU, and what is done about it:

- It projects every position onto the vocabulary, prompt and padding included, and again in the backward pass (where
  there is Triton it does not). `ScoredTokens` projects the positions that predict an answer token, once.
- It computes the prompt of a pair twice and pads all sequences to the longest. `packing` does neither; where an
  architecture does not support it, `groups_by_length` at least runs the short sequences apart.
- Under autocast, weights are cast at every pass and the residual stream stays in fp32. `HalfCopy` keeps a bf16 copy of
  the weights for the passes; gradients, clipping, optimizer, checkpoints and the published model stay in fp32.

Shapes: N scored positions, V vocabulary, H width, B sequences, L tokens, T tokens that are computed.
"""

from __future__ import annotations

import contextlib
import copy
import types
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jobs.training.packing import SHARED_START, pack, packed_states

if TYPE_CHECKING:
    from jobs.config.training import TrainingConfig

CHUNK_POSITIONS = 256
"""Rows of the logit matrix at a time: 256 x 49,152 fp32 is 50 MB; all positions of a batch would be gigabytes."""

KEPT_BYTES = 1 << 29
"""Probabilities kept for the backward pass; more are computed again there."""

GROUP_COST_TOKENS = 48
"""What starting another group costs, in tokens of padding it must save: small products use a CPU less well."""


class ScoredTokens(torch.autograd.Function):
    """Log-probability of each target under softmax(hidden @ weight.T + bias); entropy, mean logit, top-1 beside it."""

    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, target_N: Tensor
    ) -> tuple[Tensor, ...]:
        device = hidden_NH.device.type
        compute = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_NH.dtype
        count, vocabulary = len(target_N), len(weight_VH)
        hidden, weight = hidden_NH.to(compute), weight_VH.to(compute)
        bias = None if bias_V is None else bias_V.to(compute)
        keep = any(ctx.needs_input_grad[:3]) and count * vocabulary * compute.itemsize <= KEPT_BYTES
        logps, entropy, mean_logit = (torch.empty(count, device=hidden.device) for _ in range(3))
        top1 = torch.empty(count, dtype=torch.bool, device=hidden.device)
        kept = []
        for rows in _chunks(count):
            logits = torch.nn.functional.linear(hidden[rows], weight, bias).float()
            logp = torch.log_softmax(logits, dim=-1)
            chosen = logp.gather(1, target_N[rows, None]).squeeze(1)
            logps[rows], top1[rows] = chosen, chosen >= logp.amax(1)
            mean_logit[rows] = logits.mean(1)
            probabilities = logp.exp()
            # entropy = -sum p log p; a probability of 0 adds nothing.
            entropy[rows] = -torch.linalg.vecdot(probabilities, logp.clamp_(min=-1e4))
            if keep:
                kept.append(probabilities.to(compute))
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V, target_N, *kept)
        ctx.compute = compute
        ctx.mark_non_differentiable(entropy, mean_logit, top1)
        return logps, entropy, mean_logit, top1

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        hidden_NH, weight_VH, bias_V, target_N, *kept = ctx.saved_tensors
        compute = ctx.compute
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        hidden, weight = hidden_NH.to(compute), weight_VH.to(compute)
        grad_hidden = torch.empty(hidden.shape, device=hidden.device, dtype=hidden_NH.dtype) if needs_hidden else None
        grad_weight = torch.zeros_like(weight_VH, dtype=torch.float32) if needs_weight else None
        grad_bias = torch.zeros_like(bias_V, dtype=torch.float32) if needs_bias else None
        for index, rows in enumerate(_chunks(len(target_N))):
            if kept:
                logit_grad = kept[index]
            else:
                bias = None if bias_V is None else bias_V.to(compute)
                logits = torch.nn.functional.linear(hidden[rows], weight, bias).float()
                logit_grad = torch.softmax(logits, dim=-1).to(compute)
            # d logp / d logits = onehot(target) - softmax
            logit_grad.mul_(-grad_N[rows, None].to(compute))
            logit_grad.scatter_add_(1, target_N[rows, None], grad_N[rows, None].to(compute))
            if grad_hidden is not None:
                grad_hidden[rows] = (logit_grad @ weight).to(hidden_NH.dtype)
            if grad_weight is not None:
                grad_weight += logit_grad.t() @ hidden[rows]
            if grad_bias is not None:
                grad_bias += logit_grad.sum(0, dtype=torch.float32)
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight_VH.dtype),
            None if grad_bias is None else grad_bias.to(bias_V.dtype),
            None,
        )


def _chunks(count: int) -> list[slice]:
    return [slice(start, min(start + CHUNK_POSITIONS, count)) for start in range(0, count, CHUNK_POSITIONS)]


def groups_by_length(lengths: list[int]) -> list[list[int]]:
    """Cut a batch into groups of similar length; returns the indices of each, longest first.

    Padding and groups cost: the cut with the least tokens in all, by dynamic programming over the sorted lengths.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    # best[i]: (cost, start of the last group) of the first i sequences
    best: list[tuple[int, int]] = [(0, 0)]
    for end in range(1, len(order) + 1):
        best.append(
            min(
                (best[start][0] + lengths[order[start]] * (end - start) + GROUP_COST_TOKENS, start)
                for start in range(end)
            )
        )
    groups, end = [], len(order)
    while end:
        start = best[end][1]
        groups.append(order[start:end])
        end = start
    return groups[::-1]


def body_states(model: Any, input_ids_BL: Tensor, attention_BL: Tensor) -> tuple[Tensor, Tensor]:
    """Run a model's body over a right-padded batch of pairs, chosen answers first.

    Returns (states_TH, place_BL): the state of token j of sequence i is states_TH[place_BL[i, j]].
    """
    lengths = attention_BL.sum(1).tolist()
    if model.config._attn_implementation == SHARED_START:
        sequences = [ids[:length] for ids, length in zip(input_ids_BL.tolist(), lengths, strict=True)]
        layout = pack(sequences, [i % max(1, len(sequences) // 2) for i in range(len(sequences))])
        place_BL = layout.places(*torch.meshgrid(*map(torch.arange, input_ids_BL.shape), indexing="ij"))
        return packed_states(model, layout), place_BL
    parts, place_BL, count = [], torch.zeros_like(input_ids_BL), 0
    for group in groups_by_length(lengths):
        rows, width = torch.tensor(group, device=input_ids_BL.device), lengths[group[0]]
        ids, attention = input_ids_BL[rows, :width], attention_BL[rows, :width]
        states = model.base_model(input_ids=ids, attention_mask=attention, use_cache=False).last_hidden_state
        parts.append(states.flatten(0, 1))
        place_BL[rows, :width] = count + torch.arange(ids.numel()).view(ids.shape)
        count += ids.numel()
    return torch.cat(parts), place_BL


_PLAIN = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")


def unsupported(model: Any) -> str:
    """Return why the fast path cannot stand in for a model's own; empty when it can."""
    config = model.config.get_text_config()
    changed = [name for name in _PLAIN if getattr(config, name, None) not in (None, 1, 1.0)]
    if changed:
        return f"its logits are transformed ({', '.join(changed)})"
    if getattr(config, "output_router_logits", None) is not None:
        return "it is a mixture of experts"
    score = getattr(model, "score", None)
    if score is not None:
        return "its score has a bias" if getattr(score, "bias", None) is not None else ""
    head = model.get_output_embeddings()
    return "" if isinstance(head, torch.nn.Linear) else f"its head is a {type(head).__name__}"


def use_fast_head(model: Any) -> None:
    """Replace the head that TRL put into `model.forward(..., fused_lm_head=True)` by `ScoredTokens`."""
    from trl.trainer.utils import FusedCausalLMOutput

    trl_forward = model.forward

    def forward(self: Any, *args: Any, fused_lm_head: bool = False, labels: Any = None, **kwargs: Any) -> Any:
        if not fused_lm_head:
            return trl_forward(*args, **({} if labels is None else {"labels": labels}), **kwargs)
        targets_BL = labels[:, 1:]
        scored_BL = targets_BL != -100
        states, place_BL = body_states(self, kwargs["input_ids"], kwargs["attention_mask"])
        head = self.get_output_embeddings()
        per_token = ScoredTokens.apply(  # type: ignore[no-untyped-call]
            states[place_BL[:, :-1][scored_BL]], head.weight, head.bias, targets_BL[scored_BL]
        )
        logps, entropy, mean_logit, top1 = (
            values.new_zeros(scored_BL.shape).masked_scatter(scored_BL, values) for values in per_token
        )
        return FusedCausalLMOutput(
            loss=-logps.sum() / scored_BL.sum().clamp(min=1),
            log_probs=logps,
            entropy=entropy,
            mean_logits=mean_logit,
            is_top1=top1,
            label_mask=scored_BL,
        )

    # `generate` and Trainer read the signature of the wrapped function, which keeps TRL's.
    forward.__wrapped__ = trl_forward  # type: ignore[attr-defined]
    model.forward = types.MethodType(forward, model)


def use_fast_score(model: Any) -> None:
    """Let a sequence classifier apply its head to the last token of each sequence, in fp32."""
    from transformers.modeling_outputs import SequenceClassifierOutputWithPast

    def forward(self: Any, input_ids: Tensor, attention_mask: Tensor, **unused: Any) -> Any:
        states, place_BL = body_states(self, input_ids, attention_mask)
        ends = attention_mask.sum(1, keepdim=True) - 1
        with torch.autocast(input_ids.device.type, enabled=False):
            scores = states[place_BL.gather(1, ends)[:, 0]].float() @ self.score.weight.float().t()
        return SequenceClassifierOutputWithPast(logits=scores)

    model.forward = types.MethodType(forward, model)


class HalfCopy:
    """A bf16 copy of a model that does the passes, while the model itself keeps fp32 weights for the optimizer."""

    def __init__(self, model: Any) -> None:
        self.full = model
        self.model = half(model)
        self.pairs = [
            (mine, copied)
            for mine, copied in zip(model.parameters(), self.model.parameters(), strict=True)
            if mine.requires_grad
        ]
        for mine, copied in self.pairs:
            copied.register_post_accumulate_grad_hook(self._hand_over(mine))
        self._seen = (-1, -1)
        self._held = False

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep the copy's weights as they are while the block runs, whatever the model's have become."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def base(self) -> Any:
        """Return the copy without what wraps it for adapters."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def refresh(self, step: int) -> Any:
        """Return the copy, its weights as they are at this optimizer step; casts only after they have changed."""
        self.model.train(self.full.training)
        if self._held:
            return self.model
        # Loading weights raises their version counters; a fused optimizer does not, so the step counts too.
        changes = (step, sum(mine._version for mine, _ in self.pairs))
        if changes != self._seen:
            with torch.no_grad():
                torch._foreach_copy_([copied for _, copied in self.pairs], [mine for mine, _ in self.pairs])
            self._seen = changes
        return self.model

    @staticmethod
    def _hand_over(mine: Tensor) -> Any:
        """Return what to do with a gradient of the copy once it is there: sum it up in fp32 and let it go."""

        def hook(copied: Tensor) -> None:
            assert copied.grad is not None
            if mine.grad is None:
                mine.grad = copied.grad.float()
            else:
                mine.grad += copied.grad
            copied.grad = None

        return hook


def half(model: Any) -> Any:
    """Return a copy whose weights are bf16; buffers stay, since rotary frequencies lose their meaning in bf16."""
    # Given to deepcopy as if copied already, so that no second set of fp32 weights exists even for a moment.
    made = {
        id(p): torch.nn.Parameter(p.detach().to(torch.bfloat16), requires_grad=p.requires_grad)
        for p in model.parameters()
    }
    return copy.deepcopy(model, made)


def takes_packed(config: TrainingConfig) -> bool:
    """Tell whether what a pair shares may be computed once: on CPUs, unless a certain attention is asked for."""
    return config.fast and config.attention == "auto" and not torch.cuda.is_available() and not config.deepspeed


def takes_half(config: TrainingConfig, precision: str, processes: int) -> bool:
    """Tell whether the passes run on a bf16 copy of the weights: on one CPU process; others keep autocast."""
    on_cpu = not torch.cuda.is_available() and not config.deepspeed
    return config.fast and precision == "bf16" and on_cpu and processes == 1
