"""Rows that were tokenized before are not tokenized again, and only those."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.training.encode import PairEncoder, encode_split
from jobs.training.token_cache import CACHE, encoded_split
from tests.tiny import make_tokenizer

ROWS = [
    {"prompt": "how do I make tea", "chosen": "here is a clear answer", "rejected": "no idea at all"},
    {"prompt": "with milk", "chosen": "take these steps", "rejected": "take these steps"},
    {"prompt": "make tea " * 40, "chosen": "thanks for asking", "rejected": "go away please"},
]


@pytest.fixture
def tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A tokenizer, in a workspace whose cache is empty."""
    monkeypatch.chdir(tmp_path)
    return make_tokenizer(tmp_path / "tokenizer")


def encoder(tokenizer: Any, **changed: Any) -> PairEncoder:
    """The same encoder but for what is changed."""
    return PairEncoder(tokenizer, **({"chat_template": "auto", "max_length": 48, "truncation": "right"} | changed))


def files() -> set[str]:
    return {path.name for path in CACHE.glob("*")}


def test_what_is_read_back_is_what_was_encoded(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Pairs, their rows and all counts come back; the second time the tokenizer is not asked."""
    expected = encode_split(encoder(tokenizer), ROWS)
    assert (expected.truncated, expected.dropped) == (1, {"identical_tokens": 1})
    assert encoded_split(encoder(tokenizer), ROWS, write=True) == expected
    again = encoder(tokenizer)
    again.encode = None  # type: ignore[method-assign, assignment]  # to encode would raise
    assert encoded_split(again, ROWS, write=True) == expected
    assert len(files()) == 1


@pytest.mark.parametrize("change", ["rows", "length", "truncation", "template", "token"])
def test_whatever_changes_the_tokens_changes_the_key(tokenizer: Any, change: str) -> None:
    """Other rows, lengths, templates or words never meet an old entry."""
    encoded_split(encoder(tokenizer), ROWS, write=True)
    before = files()
    rows, changed = ROWS, encoder(tokenizer)
    if change == "rows":
        rows = ROWS[:2]
    elif change == "length":
        changed = encoder(tokenizer, max_length=47)
    elif change == "truncation":
        changed = encoder(tokenizer, truncation="left")
    elif change == "template":
        tokenizer.chat_template += " "
    else:
        tokenizer.add_tokens(["tea"])
    assert encoded_split(changed, rows, write=True) == encode_split(changed, rows)
    assert len(files() - before) == 1


def test_a_torn_entry_is_made_again_and_readers_write_nothing(tokenizer: Any) -> None:
    """Half a file, as a full disk leaves it elsewhere, counts as none; only the first process writes."""
    expected = encoded_split(encoder(tokenizer), ROWS, write=False)
    assert not files()
    encoded_split(encoder(tokenizer), ROWS, write=True)
    path = next(CACHE.glob("*"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert encoded_split(encoder(tokenizer), ROWS, write=True) == expected
    assert path.read_bytes() == whole
