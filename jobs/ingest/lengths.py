"""Lengths in tokens: exact with a tokenizer, else about four characters each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.contract.errors import BadConfig
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


def load_tokenizer(name: str) -> Any:
    """Load a fast tokenizer from a model's folder, its tokenizer.json, or the hub's local cache.

    Raises:
        BadConfig: there is none under this name.
    """
    from tokenizers import Tokenizer

    path = Path(name)
    for candidate in (path, path / "tokenizer.json", path / "tokenizer" / "tokenizer.json"):
        if candidate.is_file():
            return Tokenizer.from_file(str(candidate))
    try:
        return Tokenizer.from_pretrained(name)
    except Exception as exc:
        raise BadConfig(
            f"no tokenizer at {name} ({type(exc).__name__})", needed="a folder with tokenizer.json, or a hub id"
        ) from exc
