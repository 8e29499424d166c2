"""TRL's DPOTrainer on rows that are already encoded and carry their reference log-probabilities."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from trl import DPOTrainer
from trl.trainer import dpo_trainer

from jobs.training.trainer import GuardedTrainer


class PolicyTrainer(GuardedTrainer, DPOTrainer):  # type: ignore[misc]  # trl is untyped
    """Learns as DPOTrainer does; preparation and the reference pass are ours, see `jobs.training.encode`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with _without_hashing():
            super().__init__(*args, **kwargs)

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        assert {"ref_chosen_logps", "ref_rejected_logps"} <= set(dataset.column_names)
        return dataset


@contextlib.contextmanager
def _without_hashing() -> Iterator[None]:
    """Spare TRL the hash over all weights, the key of a cache that is not used: half a second per 100 M weights."""
    original = dpo_trainer.hash_module
    dpo_trainer.hash_module = lambda module: ""
    try:
        yield
    finally:
        dpo_trainer.hash_module = original
