"""Lengths in tokens: exact with a tokenizer, else about four characters each."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from jobs.contract.errors import BadConfig, EnvironmentUnfit
from jobs.ingest.texts import Text, characters

CHARS_PER_TOKEN = 4


class Measure:
    """Counts the tokens of a text, without special tokens or a chat template."""

    def __init__(self, tokenizer: str | None) -> None:
        self._encode: Any = None
        if tokenizer is not None:
            self._encode = load_tokenizer(tokenizer).encode

    def __call__(self, text: Text) -> int:
        if self._encode is None:
            count = len(text) if isinstance(text, str) else characters(text)
            return (count + CHARS_PER_TOKEN - 1) // CHARS_PER_TOKEN
        parts = [text] if isinstance(text, str) else [m["content"] for m in text]
        return sum(len(self._encode(part, add_special_tokens=False).ids) for part in parts)


def find_tokenizer(name: str) -> Path:
    """Return the tokenizer.json of a model's folder, or of a hub id that was fetched before; nothing is downloaded.

    Raises:
        EnvironmentUnfit: the libraries that read tokenizers are not installed, as in the image of this step.
        BadConfig: there is none under this name.
    """
    if missing := [package for package in ("tokenizers", "huggingface_hub") if not importlib.util.find_spec(package)]:
        raise EnvironmentUnfit(
            f"--tokenizer needs the package '{missing[0]}', which is not installed",
            next_step="run `pip install 'aios-alignment[train]'`, or leave --tokenizer out for approximate lengths",
        )
    path = Path(name)
    for candidate in (path, path / "tokenizer.json", path / "tokenizer" / "tokenizer.json"):
        if candidate.is_file():
            return candidate
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(name, "tokenizer.json")
    except HFValidationError:
        cached = None
    if isinstance(cached, str):
        return Path(cached)
    raise BadConfig(
        f"--tokenizer {name}: no tokenizer.json there, and no such model in the local cache",
        needed="the folder of a model",
        next_step="fetch it with `aios hrm-hf fetch-model`",
    )


def load_tokenizer(path: str) -> Any:
    """Load a fast tokenizer from its tokenizer.json.

    Raises:
        BadConfig: the file is no tokenizer.
    """
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(path)
    except Exception as exc:  # the library raises nothing more precise
        raise BadConfig(f"{path} is no tokenizer ({' '.join(str(exc).split())})", needed="a fast tokenizer") from exc
