"""A reward model and a policy, really trained on a published folder of splits; once per session."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs.cli import run
from tests import tiny


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """Where everything is."""

    base: Path
    data: Path
    rm: Path
    dpo: Path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Two-layer models after 16 steps of the real trainers, which is enough to learn which words are polite."""
    root = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        base = tiny.make_model(root / "artifacts" / "base" / "tiny")
        data = tiny.make_splits(root / "training_data" / "preferences", train=48, held_out=30)
        common = ["--dataset-dir", data, "--max-steps", 16, "--lr", 1e-2, "--batch-size", 4, "--precision", "fp32"]
        rm, dpo = root / "artifacts" / "rm" / "t", root / "artifacts" / "dpo" / "t"
        assert _run("hrm-hf", "rm-train", "--base-model", base, "--output-dir", rm, *common) == 0
        assert _run("hrm-hf", "dpo-train", "--policy-model", base, "--output-dir", dpo, *common) == 0
    return Trained(base=base, data=data, rm=rm, dpo=dpo)


def _run(*arguments: object) -> int:
    return run([str(argument) for argument in arguments])
