"""The acceptance checklists and the Go/No-Go, from files on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from jobs.contract.lock import FolderLock
from jobs.contract.manifest import Manifest
from jobs.contract.publish import publish_into, staging
from jobs.evaluation.acceptance import acceptance, loss_falls
from tests import tiny

GAIN = {"value": 0.08, "low": 0.03, "high": 0.13, "n": 100, "prompts": 100}


def data(folder: Path, validity: float = 0.98) -> Path:
    """A data folder with a given validity."""
    tiny.make_splits(folder)
    report = orjson.loads((folder / "schema_report.json").read_bytes()) | {"validity": validity}
    return publish(folder, "ingest", {"schema_report.json": orjson.dumps(report)}, keep=True)


def publish(folder: Path, step: str, files: dict[str, bytes], *, keep: bool = False) -> Path:
    """Publish a folder of given files; `keep` also lists what is already there."""
    folder.mkdir(parents=True, exist_ok=True)
    with FolderLock(folder, attempt="t") as lock, staging(folder, lock) as staged:
        for path in folder.iterdir() if keep else []:
            (staged / path.name).write_bytes(path.read_bytes())
        for name, content in files.items():
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            (staged / name).write_bytes(content)
        (staged / "_SUCCESS.json").unlink(missing_ok=True)
        publish_into(folder, staged, Manifest(step=step, attempt="t", inputs={}, config={}, files=[]), lock)
    return folder


def model(folder: Path, tiny_model: Path, lines: list[dict[str, Any]]) -> Path:
    """A published model with a history of training."""
    files = {path.name: path.read_bytes() for path in tiny_model.iterdir() if path.is_file()}
    files |= {f"tokenizer/{name}": content for name, content in files.items() if name.startswith(("token", "chat"))}
    publish(folder, "rm", files)
    (folder / "metrics.jsonl").write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    return folder


def history(steps: int = 100, *, falls: bool = True, auc: float = 0.8) -> list[dict[str, Any]]:
    """Metrics of a training."""
    sign = -1 if falls else 1
    train = [{"kind": "train", "step": i + 1, "loss": 0.7 + sign * 0.004 * i} for i in range(steps)]
    evals = [{"kind": "eval", "step": s, "eval_loss": 0.7 + sign * 0.001 * s, "eval_auc": auc} for s in (0, steps)]
    return [*train, *evals]


def marks(report: dict[str, Any]) -> list[list[bool | None]]:
    """Return the marks of the three lists."""
    return [[line["passed"] for line in checklist["lines"]] for checklist in report["checklists"]]


def judge(tmp_path: Path, tiny_model: Path, **changes: Any) -> dict[str, Any]:
    """Return the acceptance of a complete run, with changes."""
    settings: dict[str, Any] = {"validity": 0.98, "rm": history(), "dpo": history(), "gain": GAIN} | changes
    return acceptance(
        dataset_dir=data(tmp_path / "data", settings["validity"]),
        reward_model=model(tmp_path / "rm", tiny_model, settings["rm"]),
        policy_model=model(tmp_path / "dpo", tiny_model, settings["dpo"]),
        test_auc=0.75,
        gain=settings["gain"],
    )


def test_a_complete_run_is_go(tmp_path: Path, tiny_model: Path) -> None:
    """Every line ticked makes GO."""
    report = judge(tmp_path, tiny_model)
    assert marks(report) == [[True] * 3, [True] * 4, [True] * 4]
    assert (report["decision"], report["reasons"]) == ("go", [])


@pytest.mark.parametrize(
    ("changes", "where", "decision"),
    [
        ({"validity": 0.93}, (0, 0), "not yet"),
        ({"validity": 0.89}, (0, 0), "no-go"),
        ({"rm": history(99)}, (1, 0), "not yet"),
        ({"rm": history(auc=0.6)}, (1, 1), "not yet"),
        ({"rm": history(falls=False)}, (1, 2), "not yet"),
        ({"gain": GAIN | {"value": 0.04}}, (2, 1), "not yet"),
        ({"gain": GAIN | {"low": -0.01}}, (2, 1), "not yet"),
        ({"dpo": history(falls=False)}, (2, 2), "not yet"),
    ],
)
def test_what_is_missed_is_crossed(
    tmp_path: Path, tiny_model: Path, changes: dict[str, Any], where: tuple[int, int], decision: str
) -> None:
    """One condition missed crosses its line alone, and validity below 90 % is No-Go."""
    report = judge(tmp_path, tiny_model, **changes)
    found = marks(report)
    assert found[where[0]][where[1]] is False
    assert sum(mark is not True for row in found for mark in row) == 1
    assert report["decision"] == decision
    assert report["reasons"]


def test_a_training_that_did_not_finish_is_no_go(tmp_path: Path, tiny_model: Path) -> None:
    """A model folder without its manifest, or with a changed file, did not finish."""
    folder = model(tmp_path / "rm", tiny_model, history())
    (folder / "config.json").write_bytes(b"{}")
    report = acceptance(
        dataset_dir=data(tmp_path / "data"), reward_model=folder, policy_model=None, test_auc=None, gain=None
    )
    assert report["decision"] == "no-go"
    assert marks(report)[2] == [None] * 4


def test_a_data_folder_without_a_report_is_crossed_not_a_crash(tmp_path: Path) -> None:
    """Nothing on disk gives crosses and open lines."""
    report = acceptance(dataset_dir=tmp_path, reward_model=None, policy_model=None, test_auc=None, gain=None)
    assert marks(report) == [[None, False, False], [None] * 4, [None] * 4]


def test_loss_is_compared_by_quarters() -> None:
    """The mean of the first quarter stands against that of the last; fewer than four losses say nothing."""
    lines = [{"kind": "train", "loss": loss} for loss in (4.0, 2.0, 9.0, 9.0, 9.0, 9.0, 1.0, 2.0)]
    assert loss_falls(lines) == (3.0, 1.5)
    assert loss_falls(lines[:3]) is None
