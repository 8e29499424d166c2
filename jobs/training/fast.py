"""The language-model head on CPU and GPU without arithmetic that nobody uses: same log-probabilities as TRL's own.

TRL 1.16 projects every position of the batch onto the vocabulary where there is no Triton (on CPUs), prompt and
padding included, and again in the backward pass. Here the head sees the positions that predict an answer token, once:
the forward pass keeps the probabilities in the compute precision, the backward pass needs no second projection.

Shapes: N scored positions, V vocabulary, H width.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import Tensor

CHUNK_POSITIONS = 256
"""Rows of the logit matrix at a time: 256 x 49,152 fp32 is 50 MB; all positions of a batch would be gigabytes."""

KEPT_BYTES = 1 << 29
"""Probabilities kept for the backward pass; more are computed again there."""


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
            entropy[rows] = -(probabilities * logp.nan_to_num_(neginf=0.0)).sum(1)
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


_PLAIN = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")


def unsupported(model: Any) -> str:
    """Return why the fast head cannot stand in for a model's own; empty when it can."""
    config = model.config.get_text_config()
    changed = [name for name in _PLAIN if getattr(config, name, None) not in (None, 1, 1.0)]
    if changed:
        return f"its logits are transformed ({', '.join(changed)})"
    if getattr(config, "output_router_logits", None) is not None:
        return "it is a mixture of experts"
    head = model.get_output_embeddings()
    return "" if isinstance(head, torch.nn.Linear) else f"its head is a {type(head).__name__}"


def use_fast_head(model: Any) -> None:
    """Replace the head that TRL put into `model.forward(..., fused_lm_head=True)` by `ScoredTokens`."""
    from trl.trainer.utils import FusedCausalLMOutput

    trl_forward = model.forward

    def forward(self: Any, *args: Any, fused_lm_head: bool = False, labels: Any = None, **kwargs: Any) -> Any:
        if not fused_lm_head:
            return trl_forward(*args, **({} if labels is None else {"labels": labels}), **kwargs)
        kwargs["use_cache"] = False
        hidden_BLH = self.base_model(*args, **kwargs).last_hidden_state[:, :-1]
        labels = labels[:, 1:]
        scored = labels != -100
        head = self.get_output_embeddings()
        per_token = ScoredTokens.apply(  # type: ignore[no-untyped-call]
            hidden_BLH[scored], head.weight, head.bias, labels[scored]
        )
        spread = [values.new_zeros(scored.shape).masked_scatter(scored, values) for values in per_token]
        logps, entropy, mean_logit, top1 = spread
        return FusedCausalLMOutput(
            loss=-logps.sum() / scored.sum().clamp(min=1),
            log_probs=logps,
            entropy=entropy,
            mean_logits=mean_logit,
            is_top1=top1,
            label_mask=scored,
        )

    # `generate` and Trainer read the signature of the wrapped function, which keeps TRL's.
    forward.__wrapped__ = trl_forward  # type: ignore[attr-defined]
    model.forward = types.MethodType(forward, model)
