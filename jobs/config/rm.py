"""Settings of the step `rm`: `aios hrm-hf rm-train`."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.config.fields import option
from jobs.config.training import TrainingConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class RMConfig(TrainingConfig):
    """From preference pairs to a reward model."""

    base_model: str = option(metavar="MODEL", identity=False)
    """Model to start from: a folder (artifacts/base/NAME) or a hub id."""

    lr: float = option(2e-5, min=0)
    """Peak learning rate."""

    batch_size: int = option(8, min=1)
    """Pairs per process and forward pass."""

    center_rewards: float | None = option(None, min=0)
    """Weight of a penalty on scores away from 0 (Eisenstein et al. 2023); 0.01 is usual. Without it, only differences
    between scores are learnt and their level drifts."""
