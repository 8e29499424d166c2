"""Settings of the step `dpo`: `aios hrm-hf dpo-train`."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.config.fields import option
from jobs.config.training import TrainingConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class DPOConfig(TrainingConfig):
    """From preference pairs to an aligned policy."""

    policy_model: str = option(metavar="MODEL", identity=False)
    """Model to train: a folder (artifacts/base/NAME, an earlier policy) or a hub id."""

    ref_model: str | None = option(None, metavar="MODEL", identity=False)
    """Model to stay close to, with the same tokenizer. The default is the policy model itself."""

    lr: float = option(5e-6, min=0)
    """Peak learning rate."""

    batch_size: int = option(4, min=1)
    """Pairs per process and forward pass."""

    beta: float = option(0.1, min=0)
    """DPO temperature: higher keeps the policy closer to the reference (Rafailov et al. 2023, eq. 7)."""

    label_smoothing: float = option(0.0, min=0, max=0.4999)
    """Probability that a preference label is wrong, for conservative DPO (Mitchell 2023)."""
