"""The whole pipeline on this machine: two runs at once, one of which loses its trainer to kill -9."""

from __future__ import annotations

import signal
from pathlib import Path

import orjson
import psutil
import pytest

from jobs.contract.manifest import Manifest, verify
from jobs.contract.metrics import TIME_KEYS, read_metrics
from tests import tiny
from tests.conftest import REPOSITORY
from tests.runs.helpers import Cli, until

STEPS = 12
SETTINGS = [
    f"--set=steps.{step}.args.{name}={value}"
    for step in ("rm", "dpo")
    for name, value in {"max_steps": STEPS, "lr": 1e-3, "max_length": 96, "save_steps": 2, "precision": "fp32"}.items()
] + [
    "--set=steps.rm.args.base_model=tiny",
    "--set=steps.dpo.args.policy_model=tiny",
    "--set=steps.ingest.args.test_ratio=0.2",
    "--set=steps.ingest.args.train_ratio=0.6",
    "--set=steps.ingest.args.eval_ratio=0.2",
    "--set=steps.evaluation.args.num_generations=4",
    "--set=steps.evaluation.args.max_new_tokens=4",
]


@pytest.fixture
def exports(tmp_path: Path) -> list[Path]:
    """Two exports of 60 records each, and a tiny model, in one workspace."""
    tiny.make_model(tmp_path / "tiny")
    lines = (REPOSITORY / "training_data/sample/argilla_export.jsonl").read_bytes().split(b"\n")
    paths = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    for number, path in enumerate(paths):
        path.write_bytes(b"\n".join(lines[60 * number : 60 * number + 60]) + b"\n")
    return paths


def test_two_runs_at_once_and_a_killed_trainer(tmp_path: Path, exports: list[Path]) -> None:
    """Both runs end in a verdict on their own data; the one whose trainer was killed ends in the very same model."""
    cli = Cli(tmp_path)
    for name, export in (("killed", exports[0]), ("other", exports[1])):
        cli("jobs", "submit", "--name", name, "--input", str(export), *SETTINGS)
    _kill_trainer(cli, "killed")
    for name in ("killed", "other"):
        cli("jobs", "status", name, "--wait")
    assert cli.status("killed")["steps"][1]["attempt"] == 2

    calm_settings = [*SETTINGS, "--set=steps.evaluation.enabled=false"]
    cli("jobs", "submit", "--name", "calm", "--input", str(exports[0]), *calm_settings, "--follow")
    for step in ("rm", "dpo"):
        killed, calm = tmp_path / f"artifacts/{step}/killed", tmp_path / f"artifacts/{step}/calm"
        assert _weights(verify(killed)) == _weights(verify(calm))
        assert _timeless(killed) == _timeless(calm)
        assert _weights(verify(tmp_path / f"artifacts/{step}/other")) != _weights(verify(calm))
    for name in ("killed", "other"):
        verify(tmp_path / "artifacts/evaluation" / name, step="evaluation")
    first, second = (verify(tmp_path / "training_data/curated_datasets" / name) for name in ("killed", "other"))
    assert first.content_sha256 != second.content_sha256


def _kill_trainer(cli: Cli, run: str) -> None:
    """Send SIGKILL to the reward model's trainer once its first checkpoint is written."""
    folder = cli.workspace / "artifacts/rm" / run
    until(lambda: any(line["step"] >= 3 for line in read_metrics(folder / "metrics.jsonl")), 180)
    status = orjson.loads((cli.attempt(run, "rm") / "status.json").read_bytes())
    psutil.Process(status["pid"]).send_signal(signal.SIGKILL)


def _weights(manifest: Manifest) -> dict[str, str]:
    return {entry.path: entry.sha256 for entry in manifest.files if entry.path.endswith(".safetensors")}


def _timeless(folder: Path) -> list[dict[str, object]]:
    """Return the metrics without figures that depend on the clock, or on what another run left in the cache."""
    lines = [line for line in read_metrics(folder / "metrics.jsonl") if line["kind"] != "reference"]
    return [{k: v for k, v in line.items() if k not in TIME_KEYS} for line in lines]
