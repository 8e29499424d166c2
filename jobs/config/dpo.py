"""Settings of the step `dpo`: `aios hrm-hf dpo-train`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jobs.config.fields import option
from jobs.config.training import TrainingConfig
from jobs.contract.errors import BadConfig


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

    loss_type: Literal[
        "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
        "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
    ] = "sigmoid"  # fmt: skip
    """Loss, by TRL's names: sigmoid is DPO itself; ipo and hinge bound the margin, robust expects wrong labels,
    apo_zero and apo_down anchor one side, sft ignores the rejected answers."""

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        if self.beta == 0:
            raise BadConfig("--beta 0 makes every reward 0", needed="more than 0; 0.1 is usual")
        if self.loss_type == "exo_pair" and not self.label_smoothing:
            raise BadConfig("--loss-type exo_pair with --label-smoothing 0", needed="more than 0, such as 0.001")
