"""What a model's training wrote down about itself in its `config.json`, under the key `alignment`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from jobs.contract.manifest import read_manifest

DEFAULT_MAX_LENGTH = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """Settings that scoring must share with training, and the hashes that say what was seen."""

    step: str | None
    dataset_hash: str | None
    settings: dict[str, Any]
    references: dict[str, Any]

    @property
    def chat_template(self) -> str:
        """auto or none, as in training."""
        return str(self.settings.get("chat_template") or "auto")

    @property
    def truncation(self) -> str:
        """right or left, as in training."""
        return str(self.settings.get("truncation") or "right")

    def max_length(self, asked: int | None) -> int:
        """Return the length limit: what was asked for, else what training used."""
        return int(asked or self.settings.get("max_length") or DEFAULT_MAX_LENGTH)


def recorded(model: str) -> Recorded:
    """Read what is known of a model; a base model or a hub id has recorded nothing, which is fine."""
    alignment: dict[str, Any] = {}
    path = Path(model) / "config.json"
    if path.is_file():
        alignment = orjson.loads(path.read_bytes()).get("alignment") or {}
    manifest = read_manifest(Path(model)) if path.is_file() else None
    inputs = alignment.get("inputs") or {}
    return Recorded(
        step=manifest.step if manifest else None,
        dataset_hash=inputs.get("dataset"),
        settings=alignment | (alignment.get("config") or {}),
        references=inputs,
    )
