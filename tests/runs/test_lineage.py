"""`aios jobs lineage`: which link of a run still matches the disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from jobs.contract.errors import ExitCode
from jobs.contract.lock import FolderLock
from jobs.contract.manifest import Manifest
from jobs.contract.publish import publish_into, retire, staging

OUTPUTS = {
    "ingest": "training_data/preferences",
    "rm": "artifacts/rm/demo",
    "dpo": "artifacts/dpo/demo",
    "evaluation": "artifacts/evaluation/demo",
}


def publish(folder: Path, step: str, content: str, inputs: dict[str, str]) -> dict[str, Any]:
    """Publish one file and return what run.json records about it."""
    folder.mkdir(parents=True, exist_ok=True)
    with FolderLock(folder, attempt=f"try-{content}") as lock:
        retire(folder, lock)
        with staging(folder, lock) as staged:
            (staged / "file").write_text(content)
            draft = Manifest(step=step, attempt=lock.owner.attempt, inputs=inputs, config={"seed": 7}, files=[])
            manifest = publish_into(folder, staged, draft, lock)
    return {
        "attempt_id": manifest.attempt,
        "content_sha256": manifest.content_sha256,
        "inputs": manifest.inputs,
        "manifest_sha256": manifest.sha256,
        "output": str(folder),
    }


@pytest.fixture
def run(workspace: Path) -> Path:
    """A finished run of four steps on a base model of this volume."""
    base = publish(Path("artifacts/base/tiny"), "base", "base", {})["content_sha256"]
    entries = {"ingest": publish(Path(OUTPUTS["ingest"]), "ingest", "data", {"export": "e" * 64})}
    dataset = entries["ingest"]["content_sha256"]
    entries["rm"] = publish(Path(OUTPUTS["rm"]), "rm", "rm", {"dataset": dataset, "base_model": base})
    entries["dpo"] = publish(Path(OUTPUTS["dpo"]), "dpo", "dpo", {"dataset": dataset, "policy_model": base})
    made = {"reward_model": entries["rm"]["content_sha256"], "policy": entries["dpo"]["content_sha256"]}
    entries["evaluation"] = publish(Path(OUTPUTS["evaluation"]), "evaluation", "report", {"dataset": dataset} | made)
    folder = workspace / "artifacts" / "runs" / "demo"
    folder.mkdir(parents=True)
    document = {"name": "demo", "profile": "local", "created": 1.0, "values": {"backend": "local"}, "lineage": entries}
    (folder / "run.json").write_bytes(orjson.dumps(document))
    return workspace


def test_an_untouched_run_matches_link_by_link(
    aios: Callable[..., int], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every step is ticked, and each source is traced to the step or the model it came from."""
    assert aios("jobs", "lineage", "demo") == 0
    shown = capsys.readouterr().out
    assert shown.count("✔") == 4
    assert shown.count("from ingest") == 3
    assert shown.count("from artifacts/base/tiny") == 2
    assert "from rm" in shown
    assert "from dpo" in shown
    assert "the export" in shown


def test_the_link_that_changed_is_named(
    aios: Callable[..., int], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder made anew, a file edited and a folder removed each break their own link, and the exit code is 66."""
    publish(Path(OUTPUTS["rm"]), "rm", "another", {"dataset": "x"})
    (run / OUTPUTS["dpo"] / "file").write_text("dpX")
    (run / OUTPUTS["evaluation"] / "_SUCCESS.json").unlink()
    assert aios("jobs", "lineage", "demo", "--json") == ExitCode.UPSTREAM
    problems = {link["step"]: link["problem"] for link in orjson.loads(capsys.readouterr().out)}
    assert problems["ingest"] == ""
    assert "made anew" in problems["rm"]
    assert "is not the file" in problems["dpo"]
    assert "nothing published" in problems["evaluation"]
