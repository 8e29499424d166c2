"""TRL's DPOTrainer on rows that are already encoded and carry their reference log-probabilities."""

from __future__ import annotations

from typing import Any

from trl import DPOTrainer


class EncodedDPOTrainer(DPOTrainer):  # type: ignore[misc]  # trl is untyped
    """Learns as DPOTrainer does; preparation and the reference pass are ours, see `jobs.training.encode`."""

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        assert {"ref_chosen_logps", "ref_rejected_logps"} <= set(dataset.column_names)
        return dataset
