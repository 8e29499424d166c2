"""TRL's RewardTrainer plus the AUC of each evaluation."""

from __future__ import annotations

from typing import Any

import torch
from trl import RewardTrainer

from jobs.training.trainer import GuardedTrainer

PART_TOKENS = 512
"""Tokens of both answers that are learnt from at once."""


class RMTrainer(GuardedTrainer, RewardTrainer):  # type: ignore[misc]  # trl is untyped
    """Collects the scores of an evaluation and reports AUC and pairwise accuracy over all of its pairs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._scores: list[tuple[torch.Tensor, torch.Tensor]] = []
        super().__init__(*args, **kwargs)

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Learn from a batch in parts, on one process: activations of one part are alive at a time.

        Loss and gradients are sums over pairs, so they stay what they are; so do the figures of the log.
        """
        count = len(inputs["input_ids"]) // 2
        parts = parts_of(inputs["attention_mask"].sum(1).view(2, count).sum(0).tolist())
        if not self.fast or self.args.world_size > 1 or len(parts) == 1:
            return super().training_step(model, inputs, *args, **kwargs)
        known = {key: len(values) for key, values in self._metrics["train"].items()}
        trainer: Any = self
        steps, loss = trainer.current_gradient_accumulation_steps, 0.0
        for part in parts:
            rows = torch.tensor([*part, *(i + count for i in part)])
            trainer.current_gradient_accumulation_steps = steps * count / len(part)
            loss += super().training_step(model, {key: value[rows] for key, value in inputs.items()}, *args, **kwargs)
        trainer.current_gradient_accumulation_steps = steps
        for key, values in self._metrics["train"].items():
            if key != "num_tokens":
                values[known.get(key, 0) :] = [_joined(key, values[known.get(key, 0) :], parts)]
        return loss

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Compute TRL's loss; in evaluation keep the scores of chosen and rejected answers."""
        if self.model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        chosen, rejected = torch.chunk(outputs.logits.detach().float().squeeze(-1), 2)
        gathered = self.accelerator.gather_for_metrics((chosen, rejected))
        self._scores.append((gathered[0].cpu(), gathered[1].cpu()))
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the figures over all pairs to an evaluation's log; TRL's own accuracy is a mean of batch means."""
        if self._scores and "eval_loss" in logs:
            chosen, rejected = (torch.cat(part) for part in zip(*self._scores, strict=True))
            self._scores.clear()
            wins = (chosen > rejected).float() + 0.5 * (chosen == rejected).float()
            self._metrics["eval"]["accuracy"] = [wins.mean().item()]
            self._metrics["eval"]["auc"] = [auc(chosen, rejected)]
        super().log(logs, start_time)


def parts_of(tokens: list[int]) -> list[list[int]]:
    """Cut a batch into parts of at most PART_TOKENS, or single pairs that are longer; longest first.

    The first part has most of the memory, since gradients come into being in it.
    """
    parts: list[list[int]] = []
    room = 0
    for i in sorted(range(len(tokens)), key=lambda i: -tokens[i]):
        if not parts or tokens[i] > room:
            parts.append([])
            room = PART_TOKENS
        parts[-1].append(i)
        room -= tokens[i]
    return parts


def _joined(key: str, values: list[float], parts: list[list[int]]) -> float:
    """Return a batch's figure from those of its parts."""
    if key in ("min_reward", "max_reward"):
        return (min if key == "min_reward" else max)(values)
    return sum(value * len(part) for value, part in zip(values, parts, strict=True)) / sum(map(len, parts))


def auc(chosen_B: torch.Tensor, rejected_B: torch.Tensor) -> float:
    """Return the area under the ROC curve of chosen against rejected scores: P(chosen > rejected), ties half.

    By ranks (Mann-Whitney). scikit-learn gives the same number and costs half a second of imports.
    """
    scores = torch.cat([chosen_B, rejected_B]).double()
    _, inverse, counts = torch.unique(scores, return_inverse=True, return_counts=True)
    last_rank = counts.cumsum(0)
    mean_rank = (last_rank - (counts - 1) / 2)[inverse]
    ones, zeros = len(chosen_B), len(rejected_B)
    return float((mean_rank[:ones].sum() - ones * (ones + 1) / 2) / (ones * zeros))
