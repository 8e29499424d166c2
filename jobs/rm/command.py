"""`aios hrm-hf rm-train`."""

from __future__ import annotations

import click

from jobs.config.rm import RMConfig
from jobs.options import config_options


@click.command("rm-train")
@config_options(RMConfig)
def command(config: RMConfig) -> None:
    """Train a reward model: given a prompt and an answer, how much would people like it?

    \b
    Example:
      aios hrm-hf rm-train --base-model artifacts/base/smollm2-135m-instruct \\
        --dataset-dir training_data/curated_datasets/preferences \\
        --output-dir artifacts/rm/demo --max-steps 100
    """
    from jobs.rm.train import run

    run(config)
