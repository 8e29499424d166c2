"""What a training does before its first step, what it puts off, and what it never does."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from jobs.dpo.trainer import PolicyTrainer
from jobs.rm.trainer import RMTrainer, parts_of
from jobs.training.encode import PairEncoder
from tests.training.study import Study

BF16 = ("--bf16", "--max-steps", 4, "--eval-steps", 2, "--gradient-accumulation", 2, "--batch-size", 2)
OTHER = {"rm": (), "dpo": (), "dpo-lora": ("--lora-rank", 4), "dpo-other": ("--ref-model", "other")}


@pytest.mark.parametrize("kind", OTHER)
def test_what_is_put_off_gives_the_same_figures(study: Study, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """In bf16 the reference pass and the initial evaluation follow the first step, with the numbers of before it."""
    from tests import tiny

    if kind == "dpo-other":
        tiny.make_model(study.root / "other", seed=1)
    step, more = kind.partition("-")[0], (*BF16, *OTHER[kind])
    late, early = f"artifacts/{step}/{kind}-late", f"artifacts/{step}/{kind}-early"
    shutil.rmtree(study.root / "artifacts/cache", ignore_errors=True)
    assert study.train(step, late, *more) == 0
    shutil.rmtree(study.root / "artifacts/cache")
    monkeypatch.setattr(RMTrainer, "put_off_evaluation", lambda self, before: None)
    monkeypatch.setattr(PolicyTrainer, "put_off_evaluation", lambda self, before: self.references.complete())
    assert study.train(step, early, *more) == 0
    kinds = ("reference", "start", "train", "eval")
    ours, theirs = ([line for line in study.metrics(o) if line["kind"] in kinds] for o in (late, early))
    order: Callable[[dict[str, Any]], Any] = lambda line: (line["step"], line["kind"], line.get("split", ""))  # noqa: E731
    assert sorted(ours, key=order) == sorted(theirs, key=order)
    assert study.published(late) == study.published(early)
    steps = [(line["kind"], line["step"]) for line in ours if line["kind"] in ("train", "eval")]
    assert steps[:3] == [("train", 1), ("eval", 0), ("train", 2)]
    evals = study.metrics(late, "eval")
    if kind in ("dpo", "dpo-lora"):
        assert evals[0]["eval_loss"] == pytest.approx(0.6931472, abs=1e-6)
    assert evals[0]["eval_loss"] != evals[1]["eval_loss"]


def test_a_warm_start_tokenizes_nothing(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that an earlier training of the workspace has encoded are read from the volume."""
    assert study.train("rm", "artifacts/rm/cold", "--max-steps", 1) == 0

    def encode(self: PairEncoder, row: dict[str, Any]) -> Any:
        raise AssertionError("tokenized again")

    monkeypatch.setattr(PairEncoder, "encode", encode)
    assert study.train("rm", "artifacts/rm/warm", "--max-steps", 1) == 0
    assert study.losses("artifacts/rm/warm") == study.losses("artifacts/rm/cold")
    assert study.train("rm", "artifacts/rm/warm-else", "--max-steps", 1, "--max-length", 64) != 0


def test_libraries_are_imported_without_what_training_never_uses() -> None:
    """wandb stays out, the solver of object detection losses comes when it is called; afterwards both can be had."""
    program = """
import sys
from jobs.training.libraries import import_libraries
import_libraries()
assert "trl.trainer.dpo_trainer" in sys.modules
assert not {"wandb", "scipy.optimize"} & set(sys.modules)
from transformers.loss.loss_for_object_detection import linear_sum_assignment
assert [list(part) for part in linear_sum_assignment([[2, 1], [1, 2]])] == [[0, 1], [1, 0]]
import scipy.optimize, importlib.util
assert callable(scipy.optimize.minimize)
if importlib.util.find_spec("wandb"):
    import wandb
    assert callable(wandb.init)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_a_batch_is_cut_into_parts_by_its_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pair is in one part, longest first; a pair beyond the bound is alone."""
    monkeypatch.setattr("jobs.rm.trainer.PART_TOKENS", 100)
    assert parts_of([30, 120, 60, 40, 10]) == [[1], [2, 3], [0, 4]]
    assert parts_of([30, 30]) == [[0, 1]]


@pytest.mark.parametrize("precision", ["--bf16", "--precision=fp32"])
def test_parts_of_a_batch_teach_what_the_batch_teaches(
    study: Study, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """Losses, gradients and every figure of the log stay what they are without parts."""
    more = ("--max-steps", 4, "--gradient-accumulation", 2, "--center-rewards", 0.1, precision)
    whole, parts = f"artifacts/rm/whole{precision}", f"artifacts/rm/parts{precision}"
    assert study.train("rm", whole, *more) == 0
    monkeypatch.setattr("jobs.rm.trainer.PART_TOKENS", 60)
    cut: list[int] = []
    monkeypatch.setattr(
        "jobs.rm.trainer.parts_of", lambda tokens: cut.append(len(parts_of(tokens))) or parts_of(tokens)
    )
    assert study.train("rm", parts, *more) == 0
    assert max(cut) > 1
    tolerance = 1e-2 if precision == "--bf16" else 1e-4
    for ours, theirs in zip(study.metrics(parts, "train"), study.metrics(whole, "train"), strict=True):
        assert ours.pop("kind") == theirs.pop("kind")
        assert ours == pytest.approx(theirs, rel=tolerance, abs=tolerance)
