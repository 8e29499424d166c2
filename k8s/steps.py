"""The steps of a run: their commands, settings and folders. One word per step, everywhere."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jobs.config.fields import field_specs, to_arguments


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What the launcher knows of a step; what it does is the step's own business."""

    name: str
    command: tuple[str, ...]
    config_path: str
    output: str
    """Setting that names the folder it publishes."""
    reads: tuple[str, ...] = ()
    """Settings that name folders or models it reads."""
    manifest: bool = True
    """Whether it publishes a folder with a manifest; else a file, whose hash is its proof."""

    @property
    def config(self) -> type:
        """The step's config dataclass."""
        module, name = self.config_path.split(":")
        config: type = getattr(importlib.import_module(module), name)
        return config

    def arguments(self, args: Mapping[str, Any]) -> list[str]:
        """Return the whole command for these settings, in the order of the config's fields."""
        order = [spec.name for spec in field_specs(self.config)]
        ordered = {name: args[name] for name in order if name in args} | dict(args)
        return ["aios", *self.command, *to_arguments(self.config, ordered)]


STEPS = {
    step.name: step
    for step in (
        Step(
            name="fetch-model",
            command=("hrm-hf", "fetch-model"),
            config_path="jobs.config.models:FetchModelConfig",
            output="output_dir",
        ),
        Step(
            name="ingest",
            command=("data", "argilla-export"),
            config_path="jobs.config.ingest:IngestConfig",
            output="output",
        ),
        Step(
            name="rm",
            command=("hrm-hf", "rm-train"),
            config_path="jobs.config.rm:RMConfig",
            output="output_dir",
            reads=("dataset_dir", "base_model"),
        ),
        Step(
            name="dpo",
            command=("hrm-hf", "dpo-train"),
            config_path="jobs.config.dpo:DPOConfig",
            output="output_dir",
            reads=("dataset_dir", "policy_model", "ref_model"),
        ),
        Step(
            name="evaluation",
            command=("hrm-hf", "evaluate"),
            config_path="jobs.config.evaluation:EvaluationConfig",
            output="output_dir",
            reads=("dataset_dir", "reward_model", "policy_model", "ref_model"),
        ),
        Step(
            name="rm-score",
            command=("hrm-hf", "rm-score"),
            config_path="jobs.config.scoring:RMScoreConfig",
            output="output",
            reads=("model", "input"),
            manifest=False,
        ),
    )
}
"""In the order in which a run goes through them."""
