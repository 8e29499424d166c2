"""TRL's DPOTrainer on rows that are already encoded, and whose reference log-probabilities are kept beside them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from trl import DPOTrainer
from trl.trainer import dpo_trainer

from jobs.training.trainer import GuardedTrainer

if TYPE_CHECKING:
    from jobs.dpo.reference import References


class PolicyTrainer(GuardedTrainer, DPOTrainer):  # type: ignore[misc]  # trl is untyped
    """Learns as DPOTrainer does; preparation and the reference pass are ours, see `jobs.training.encode`.

    Args:
        references: the reference's log-probabilities of the rows, which carry their number in the column `pair`.
    """

    def __init__(self, *args: Any, references: References, processing_class: Any, **kwargs: Any) -> None:
        self.references = references
        collator = _NumberingCollator(pad_token_id=processing_class.pad_token_id)
        with _without_hashing():
            super().__init__(*args, processing_class=processing_class, data_collator=collator, **kwargs)

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["prompt_ids", "chosen_ids", "rejected_ids", "pair"]

    def put_off_evaluation(self, before: Callable[[], None]) -> None:
        """Put off the reference pass too: each pair of the first step is asked about there, the others after it."""

        def then() -> None:
            before()
            self.references.complete()

        super().put_off_evaluation(then)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Compute TRL's loss, against the log-probabilities of the pairs in the batch."""
        inputs = dict(inputs)
        pairs = inputs.pop("pair").tolist()
        known = self.references.of("train" if self.model.training else "eval", pairs)
        for name, values in zip(("ref_chosen_logps", "ref_rejected_logps"), known, strict=True):
            inputs[name] = torch.tensor(values, device=inputs["input_ids"].device)
        return super().compute_loss(model, inputs, *args, **kwargs)


class _NumberingCollator(dpo_trainer.DataCollatorForPreference):  # type: ignore[misc]
    """TRL's collator, which also hands on the pairs' numbers."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super().torch_call(examples)
        return batch | {"pair": torch.tensor([example["pair"] for example in examples])}


@contextlib.contextmanager
def _without_hashing() -> Iterator[None]:
    """Spare TRL the hash over all weights, the key of a cache that is not used: half a second per 100 M weights."""
    original = dpo_trainer.hash_module
    dpo_trainer.hash_module = lambda module: ""
    try:
        yield
    finally:
        dpo_trainer.hash_module = original
