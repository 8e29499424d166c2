"""Weights & Biases, offline: nothing of these tests leaves the machine."""

from __future__ import annotations

import os
import signal

import orjson
import pytest

from jobs.contract.errors import ExitCode
from tests.training.study import Study, wait_until


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
    note = orjson.loads((folder / "run.json").read_bytes())
    assert note == {"id": note["id"], "project": "project", "url": None}
    (record,) = folder.glob(f"offline-run-*/run-{note['id']}.wandb")
    content = record.read_bytes()
    for words in (b"pf-001", b"tracked", b"train/loss", b"eval/eval_auc"):
        assert words in content


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals of POSIX")
@pytest.mark.train
def test_a_resumed_training_continues_its_run(study: Study) -> None:
    """After a stop the same command goes on under the same id; --overwrite begins another run."""
    pytest.importorskip("wandb")
    output, more = "artifacts/rm/tracked-twice", ("--max-steps", 6, "--wandb", "project")
    env = {"WANDB_MODE": "offline"}
    process = study.start("rm", output, *more, env=env)
    wait_until(lambda: len(study.metrics(output, "train")) >= 2, process)
    os.kill(process.pid or 0, signal.SIGTERM)
    process.join()
    assert process.exitcode == ExitCode.INTERRUPTED, study.log(output)
    note = study.root / output / "wandb/run.json"
    first = orjson.loads(note.read_bytes())
    again = study.start("rm", output, *more, env=env)
    again.join()
    assert again.exitcode == 0, study.log(output)
    assert orjson.loads(note.read_bytes()) == first
    assert len(list(note.parent.glob(f"offline-run-*/run-{first['id']}.wandb"))) == 2
    anew = study.start("rm", output, *more, "--lr", 0.1, "--overwrite", env=env)
    anew.join()
    assert anew.exitcode == 0, study.log(output)
    assert orjson.loads(note.read_bytes())["id"] != first["id"]
