"""A workspace with history: real splits, finished and failed runs, a published verdict, written by the real writers."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import orjson

from jobs.contract.attempts import claim, new_status
from jobs.contract.files import write_json
from jobs.contract.lock import FolderLock
from jobs.contract.manifest import Manifest
from jobs.contract.metrics import MetricsWriter
from jobs.contract.publish import publish_whole, staging
from k8s.gui import launch
from k8s.gui.launch import Form
from tests import tiny

DATA = Path(__file__).with_name("data")


def make(root: Path) -> Path:
    """Fill an empty folder; it must be the working directory."""
    tiny.make_splits(root / "training_data/curated_datasets/preferences")
    add_run("tuned", beta=0.1)
    add_run("tuned-2", beta=0.3)
    add_run("broken", beta=0.5, failed=True)
    _verdict(Path("artifacts/evaluation/tuned"))
    return root


def add_run(name: str, *, beta: float = 0.1, failed: bool = False, age_s: float = 3600) -> None:
    """Write what a run of the pipeline leaves behind."""
    args = {"rm": {"base_model": "models/tiny"}, "dpo": {"policy_model": "models/tiny", "beta": beta}}
    values = launch.compose(Form(kind="pipeline", dataset="preferences", args=args), name)
    folder = Path("artifacts/runs") / name
    folder.mkdir(parents=True)
    write_json(
        folder / "run.json", {"name": name, "profile": "local", "created": time.time() - age_s, "values": values}
    )
    write_json(folder / "control.json", {"stopped": False, "forgiven": {}})
    for step in ("rm",) if failed else ("rm", "dpo", "evaluation"):
        bad = failed and step == "rm"
        status = new_status(name, step, f"artifacts/{step}/{name}", ["aios", step])
        attempt = claim(folder / "steps" / step, status, 1)
        assert attempt is not None
        message = "the loss is no number since step 12" if bad else "published"
        attempt.update(
            state="failed" if bad else "succeeded", exit_code=71 if bad else 0, message=message,
            started_at=time.time() - 900, finished_at=time.time() - 60,
        )  # fmt: skip
        log = "".join(f"{step} step {i}/60  loss {1 / (i + 1):.4f}\n" for i in range(60))
        (attempt.folder / "stdout.log").write_text(log)
        if step != "evaluation":
            curves(Path(f"artifacts/{step}/{name}/metrics.jsonl"), 60, beta)
    write_json(folder / "state.json", {"run": name, "updated": time.time()})


def curves(path: Path, steps: int, beta: float) -> None:
    """Write metrics as the trainers do."""
    writer = MetricsWriter(path)
    for step in range(1, steps + 1):
        writer.write("train", step, **numbers(step, steps, beta))
        if step % 20 == 0:
            writer.write(
                "eval", step, eval_loss=0.7 - step / 300, eval_accuracy=0.5 + step / 200, eval_margin=step / 100
            )
    writer.close()


def numbers(step: int, steps: int, beta: float) -> dict[str, Any]:
    """Return one line of training metrics."""
    wave = math.sin(step) / 20
    done = step / steps
    return {
        "loss": 0.69 * math.exp(-done) + wave,
        "grad_norm": 1 + wave,
        "learning_rate": 5e-6 * (1 - done),
        "accuracy": min(1.0, 0.5 + done / 2),
        "margin": beta * done,
        "reward_chosen": done + wave,
        "reward_rejected": wave - done,
        "logp_chosen": -30 + wave,
        "logp_rejected": -32 - done,
        "tokens_per_s": 3000 + 100 * wave,
        "max_steps": steps,
        "remaining_s": float(steps - step),
    }


def _verdict(folder: Path) -> None:
    rows = [
        {"row": i, "prompt": f"how do I make tea number {i}?", "policy": "take these steps", "reference": "no idea",
         "outcome": (1.0, 0.5, 0.0)[i % 3]}
        for i in range(20)
    ]  # fmt: skip
    publish_verdict(folder, (DATA / "report.json").read_bytes(), rows)


def publish_verdict(folder: Path, report: bytes, rows: list[dict[str, Any]], **pictures: str) -> None:
    """Publish an evaluation's folder; pictures by their name without the ending."""
    with FolderLock(folder, attempt="test") as lock, staging(folder, lock) as staged:
        (staged / "report.json").write_bytes(report)
        (staged / "report.md").write_text("# Verdict")
        (staged / "generations.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
        (staged / "plots").mkdir()
        for name, text in pictures.items():
            (staged / "plots" / f"{name}.svg").write_text(text)
        manifest = Manifest(step="evaluation", attempt="test", inputs={}, config={}, files=[])
        publish_whole(folder, staged, manifest, lock)
