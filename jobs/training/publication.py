"""From a trained model to a folder that counts."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any

import orjson

from jobs.config.fields import identity
from jobs.contract.child import report_result
from jobs.contract.files import to_json
from jobs.contract.log import LOG
from jobs.contract.manifest import Manifest
from jobs.contract.metrics import read_metrics
from jobs.contract.publish import attempt_id, publish_into, staging
from jobs.training.adapters import save
from jobs.training.card import model_card
from jobs.training.claim import UNFINISHED
from jobs.training.curves import draw_curves
from jobs.training.faults import told_plainly
from jobs.training.libraries import library_versions
from jobs.training.report import print_summary

if TYPE_CHECKING:
    from jobs.training.session import TrainingSession


def publish(session: TrainingSession, trainer: Any) -> None:
    """Stage the model, the tokenizer (beside it and in tokenizer/), config.json with our settings, card and curves."""
    config, step = session.config, session.step
    model = trainer.accelerator.unwrap_model(trainer.model)
    # Every process takes part: with ZeRO-3 each holds a share of the weights.
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if config.deepspeed else None
    if not session.world.first:
        return
    assert session.lock is not None
    facts = {
        "chat_template": session.encoder.templated,
        "rows": session.encoded["train"].accounting(),
        "processes": session.world.size,
    }
    with told_plainly(config), staging(session.folder, session.lock) as staged:
        save(model, config, staged, state)
        tokenizer = session.materials.tokenizer
        tokenizer.save_pretrained(staged)
        tokenizer.save_pretrained(staged / "tokenizer")
        settings = {
            "step": step,
            "version": importlib.metadata.version("aios-alignment"),
            "inputs": session.inputs,
            "config": identity(config),
            "precision": session.precision,
            "metrics": _lasting(session.summary),
        }
        path = staged / "config.json"
        path.write_bytes(to_json(orjson.loads(path.read_bytes()) | {"alignment": settings | facts}))
        card = model_card(session, facts, _lasting(session.summary))
        (staged / "README.md").write_text(card, encoding="utf-8", newline="\n")
        draw_curves(
            read_metrics(session.folder / "metrics.jsonl"), staged / "curves.png", f"{step} {session.folder.name}"
        )
        manifest = Manifest(
            step=step, attempt=attempt_id(), inputs=session.inputs, config=identity(config), files=[],
            versions=library_versions(),
        )  # fmt: skip
        manifest = publish_into(session.folder, staged, manifest, session.lock)
    (session.folder / UNFINISHED).unlink(missing_ok=True)
    report_result(exit_code=0, message="published", manifest_sha256=manifest.sha256, skipped=False)
    print_summary(f"{step} {session.folder.name}", session.summary)
    LOG.info("Published %s", session.folder)


def _lasting(summary: dict[str, Any]) -> dict[str, Any]:
    """Return the figures that two equal runs share."""
    return {key: value for key, value in summary.items() if not key.endswith(("_s", "_mb"))}
