"""Lengths in tokens: exact with a tokenizer, on any number of workers; nothing is fetched for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tests.ingest.helpers import run, write_lines
from tests.ingest.test_splits import digest
from tests.tiny import make_rows, make_tokenizer

Aios = Callable[..., int]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a byte-level tokenizer made on the spot."""
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(folder)
    return folder


def test_lengths_are_those_of_the_tokenizer_on_one_and_two_workers(tokenizer: Path, tmp_path: Path) -> None:
    """The report says exact, its mean is the one counted by hand, and two workers give the same bytes."""
    rows = [row | {"prompt": f"{row['prompt']} — {i} ✓"} for i, row in enumerate(make_rows(400))]
    path = write_lines(tmp_path / "x.jsonl", rows)
    one, two = (run(tmp_path / f"out{n}", path, tokenizer=str(tokenizer), workers=n) for n in (1, 2))
    assert digest(one.folder) == digest(two.folder)
    encode = Tokenizer.from_file(str(tokenizer / "tokenizer.json")).encode
    for name in ("prompt", "chosen", "rejected"):
        counts = [len(encode(row[name], add_special_tokens=False).ids) for row in rows]
        found = one.report["lengths"][name]
        assert (found["mean"], found["max"]) == (round(sum(counts) / len(counts), 2), max(counts))
    assert one.report["lengths"]["exact"]


def test_bounds_are_exact_too(tokenizer: Path, tmp_path: Path) -> None:
    """Twenty letters are five tokens by the rule of thumb; what the tokenizer says decides."""
    encode = Tokenizer.from_file(str(tokenizer / "tokenizer.json")).encode
    text = "qzqzqzqzqzqzqzqzqzqz"
    length = len(encode(text, add_special_tokens=False).ids)
    assert length > 5
    path = write_lines(tmp_path / "x.jsonl", [{"prompt": text, "chosen": "yes", "rejected": "no"}])
    assert run(tmp_path / "a", path, tokenizer=str(tokenizer), max_prompt_toks=length).counts == {}
    assert run(tmp_path / "b", path, tokenizer=str(tokenizer), max_prompt_toks=length - 1).counts == {"too_long": 1}
    assert not run(tmp_path / "c", path, max_prompt_toks=5).report["lengths"]["exact"]


@pytest.mark.parametrize("name", ["no/such-model", "/no/such/folder"])
def test_unknown_tokenizer_is_refused_without_asking_the_hub(aios: Aios, tmp_path: Path, name: str) -> None:
    """Exit 64 at once: only what lies here counts."""
    path = write_lines(tmp_path / "x.jsonl", make_rows(3))
    assert aios("data", "argilla-export", "--input", path, "--output", "out", "--tokenizer", name) == 64
    assert not Path("out").exists()


def test_file_that_is_no_tokenizer_is_refused(aios: Aios, tmp_path: Path) -> None:
    """Any other JSON is named as what it is not, from a worker process too."""
    path = write_lines(tmp_path / "x.jsonl", make_rows(3))
    (tmp_path / "tokenizer.json").write_text("{}")
    command = ("data", "argilla-export", "--input", path, "--output", "out", "--tokenizer", tmp_path)
    assert aios(*command) == 64
    assert aios(*command, "--workers", "2") == 64


def test_without_the_libraries_the_remedy_is_told(
    aios: Aios, tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The image of this step has no tokenizer library: exit 78, the package is named, nothing is written."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    path = write_lines(tmp_path / "x.jsonl", make_rows(3))
    assert aios("data", "argilla-export", "--input", path, "--output", "out", "--tokenizer", tokenizer) == 78
    assert "'tokenizers'" in capsys.readouterr().err
    assert not Path("out").exists()
