"""The libraries beneath a training: kept quiet, named with their versions, watched for what they count."""

from __future__ import annotations

import importlib.metadata
import os


def quiet_libraries() -> None:
    """Keep libraries from calling home and from printing over our own output, and let torch ask for huge pages.

    To be called before they are imported.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    # Tensors of a batch come and go: in pages of 2 MB instead of 4 KB a CPU step takes a seventh less time.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def library_versions() -> dict[str, str]:
    """Return the versions that decide the numbers."""
    names = ("torch", "transformers", "trl", "datasets", "accelerate", "peft", "aios-alignment")
    return {name: importlib.metadata.version(name) for name in names}
