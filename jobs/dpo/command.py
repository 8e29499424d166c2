"""`aios hrm-hf dpo-train`."""

from __future__ import annotations

import click

from jobs.config.dpo import DPOConfig
from jobs.options import config_options


@click.command("dpo-train")
@config_options(DPOConfig)
def command(config: DPOConfig) -> None:
    """Train a policy by direct preference optimisation.

    \b
    Example:
      aios hrm-hf dpo-train --policy-model artifacts/base/smollm2-135m-instruct \\
        --dataset-dir training_data/curated_datasets/preferences \\
        --output-dir artifacts/dpo/demo --max-steps 100
    """
    from jobs.dpo.train import run

    run(config)
