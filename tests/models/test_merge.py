"""Folding adapters into their base: the same outputs from one whole model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from jobs.contract.errors import ExitCode
from jobs.contract.manifest import read_manifest, verify
from tests import tiny
from tests.training.study import Study

Aios = Callable[..., int]
AUTO = {"rm": AutoModelForSequenceClassification, "dpo": AutoModelForCausalLM}


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A policy and a reward model published as adapters beside their base."""
    study = Study(tmp_path_factory.mktemp("adapted"))
    tiny.make_model(study.root / "tiny")
    tiny.make_splits(study.root / "data", train=12, held_out=4)
    for step in AUTO:
        more = ("--lora-rank", 4, "--max-steps", 3, "--save-steps", 2, "--lr", 0.02, "--no-lora-merge")
        assert study.train(step, step, *more) == 0
    return study


def outputs(auto: type, folder: Path) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = auto.from_pretrained(folder).eval()(torch.tensor([[5, 6, 7, 8, 2]])).logits  # type: ignore[attr-defined]
    return logits


@pytest.mark.parametrize("step", AUTO)
def test_a_merged_model_is_whole_and_gives_the_same_outputs(adapted: Study, aios: Aios, step: str) -> None:
    """Merged and adapted folder agree; the merged one verifies, knows its training and needs no adapters."""
    source = adapted.root / step
    assert aios("hrm-hf", "merge", "--model", source, "--output-dir", "merged") == 0
    merged = Path("merged")
    files = {entry.path for entry in verify(merged, step=step).files}
    assert {"model.safetensors", "config.json", "README.md", "tokenizer/tokenizer.json"} <= files
    assert not any("adapter" in name or name.startswith("base") for name in files)
    assert torch.allclose(outputs(AUTO[step], merged), outputs(AUTO[step], source), atol=1e-5)
    if step == "dpo":  # a reward model's base has no head to compare with
        assert not torch.allclose(outputs(AUTO[step], merged), outputs(AUTO[step], adapted.root / "tiny"), atol=1e-3)
    settings, trained = (orjson.loads((folder / "config.json").read_bytes()) for folder in (merged, source))
    assert settings["alignment"] == trained["alignment"]
    card = (merged / "README.md").read_text(encoding="utf-8")
    assert "## Merged" in card
    assert "## Adapters" not in card
    assert 'FOLDER = "merged"' in card
    assert AutoTokenizer.from_pretrained(merged).pad_token == AutoTokenizer.from_pretrained(source).pad_token


def test_a_checkpoint_is_merged_with_the_base_that_is_named(adapted: Study, aios: Aios) -> None:
    """A checkpoint holds adapters alone: its base is named; --dtype says how the weights are stored."""
    checkpoint = adapted.root / "dpo/checkpoints/checkpoint-2"
    line = ("hrm-hf", "merge", "--model", checkpoint, "--output-dir", "early", "--base-model", adapted.root / "tiny")
    assert aios(*line, "--dtype", "bf16") == 0
    weights = load_file("early/model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    verify(Path("early"), step="dpo")


def test_a_finished_folder_is_not_overwritten(adapted: Study, aios: Aios, capsys: pytest.CaptureFixture[str]) -> None:
    """The same merge again does nothing; another one is refused without --overwrite."""
    line = ("hrm-hf", "merge", "--model", adapted.root / "rm", "--output-dir", "out")
    assert aios(*line) == 0
    before = read_manifest(Path("out"))
    assert aios(*line) == 0
    assert read_manifest(Path("out")) == before
    assert aios(*line, "--dtype", "bf16") == ExitCode.CONFIG
    assert "--overwrite" in capsys.readouterr().err
    assert read_manifest(Path("out")) == before
    assert aios(*line, "--dtype", "bf16", "--overwrite") == 0


@pytest.mark.parametrize("case", ["whole", "quantized", "foreign"])
def test_what_cannot_be_merged_is_refused(
    adapted: Study, aios: Aios, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    """A whole model, a quantized base and a base that the adapters do not belong to: one line, nothing written."""
    model: Path = adapted.root / "dpo"
    more: tuple[str, ...] = ()
    if case == "whole":
        model, code, words = adapted.root / "tiny", ExitCode.UPSTREAM, "its model is whole already"
    elif case == "foreign":
        tiny.make_model(Path("other"), seed=1)
        more, code, words = (
            ("--base-model", "other"),
            ExitCode.CONFIG,
            "not the model that the adapters were trained on",
        )
    else:
        model = Path(shutil.copytree(model, "quantized", ignore=shutil.ignore_patterns("_SUCCESS.json", "checkpoints")))
        settings = orjson.loads((model / "config.json").read_bytes()) | {"quantization_config": {"load_in_4bit": True}}
        (model / "config.json").write_bytes(orjson.dumps(settings))
        code, words = ExitCode.CONFIG, "--base-model"
    assert aios("hrm-hf", "merge", "--model", model, "--output-dir", "out", *more) == code
    assert words in capsys.readouterr().err
    assert not Path("out").exists()
