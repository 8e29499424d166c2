"""Weights & Biases, offline: nothing of these tests leaves the machine."""

from __future__ import annotations

import pytest

from jobs.contract.errors import ExitCode
from tests.training.study import Study


def test_without_a_key_the_run_ends_before_it_begins(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Online without a key: 77 and what to do, instead of a question on a terminal that nobody watches."""
    pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(study.root))  # no ~/.netrc
    assert study.train("rm", "artifacts/rm/no-key", "--wandb", "project") == ExitCode.AUTH
    assert "WANDB_MODE=offline" in capsys.readouterr().err


def test_offline_runs_keep_their_id_tags_and_metrics(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """An offline run lies in the output folder, named, tagged, and holds the keys of metrics.jsonl."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    output = "artifacts/rm/tracked"
    assert study.train("rm", output, "--max-steps", 2, "--wandb", "project") == 0
    folder = study.root / output / "wandb"
    run_id = (folder / "run_id").read_text()
    (record,) = folder.glob(f"offline-run-*/run-{run_id}.wandb")
    content = record.read_bytes()
    for words in (b"pf-001", b"tracked", b"train/loss", b"eval/eval_auc"):
        assert words in content
