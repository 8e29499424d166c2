"""What goes into a training: the splits, the models' identities, the tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.config.fields import identity
from jobs.config.training import TrainingConfig
from jobs.contract.errors import BadConfig
from jobs.contract.manifest import Manifest, read_manifest, verify
from jobs.contract.splits import Split, read_splits
from jobs.models.load import load_tokenizer, model_identity, model_source, same_tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Materials:
    """The inputs of a training, checked."""

    splits: dict[str, Split]
    inputs: dict[str, str]
    """Hash of each input, as the manifest will record it."""
    tokenizer: Any


def read_inputs(config: TrainingConfig, models: dict[str, str]) -> tuple[dict[str, Split], dict[str, str]]:
    """Return the splits and the hash of each input, without any heavy import.

    `models` maps names in the manifest to models: folders or hub ids.
    """
    data, splits = read_splits(Path(config.dataset_dir), ("train", "eval"))
    return splits, {"dataset": data.content_sha256} | {
        name: model_identity(model_source(model)) for name, model in models.items()
    }


def finished(config: TrainingConfig, inputs: dict[str, str]) -> Manifest | None:
    """Return the manifest when the output folder holds exactly this result; a glance, the lock decides later."""
    folder = Path(config.output_dir)
    manifest = read_manifest(folder)
    if manifest is not None and manifest.matches(inputs, identity(config)):
        return verify(folder)
    return None


def gather(
    config: TrainingConfig, models: dict[str, str], splits: dict[str, Split], inputs: dict[str, str]
) -> Materials:
    """Load the first model's tokenizer and check that the other models read tokens alike.

    Raises:
        BadConfig: two models have different tokenizers.
    """
    names = list(models.values())
    tokenizer = load_tokenizer(names[0])
    for other in set(names[1:]) - {names[0]}:
        difference = same_tokenizer(tokenizer, load_tokenizer(other))
        if difference:
            raise BadConfig(
                f"policy {names[0]} and reference {other} have different tokenizers: {difference}",
                needed="two models of one family",
                next_step="choose another --ref-model",
            )
    return Materials(splits=splits, inputs=inputs, tokenizer=tokenizer)
