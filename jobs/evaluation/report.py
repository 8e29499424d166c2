"""The report: one document built from what was measured, and the files that are published from it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from jobs.config.fields import identity
from jobs.contract.files import write_json
from jobs.evaluation.acceptance import acceptance, validity_of
from jobs.evaluation.case import Case
from jobs.evaluation.generations import generation_card
from jobs.evaluation.html import to_html
from jobs.evaluation.judge import Judgement
from jobs.evaluation.markdown import to_markdown
from jobs.evaluation.measure import Measured
from jobs.evaluation.plots import plots
from jobs.evaluation.policy import PairLogps, policy_card
from jobs.evaluation.reward import most_disputed, reward_card
from jobs.evaluation.verdict import findings, headline, verdict
from jobs.training.hardware import describe_device

SCHEMA_VERSION = 1
DEFAULT_BETA = 0.1


def build(case: Case, measured: Measured) -> dict[str, Any]:
    """Return `report.json` as a document; `report.schema.json` says what stands in it."""
    config, test = case.config, case.test
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "name": Path(config.output_dir).name,
        "inputs": _inputs(case),
        "settings": identity(config) | {"precision": case.precision},
        "device": describe_device(),
        "reward": None,
        "policy": None,
        "generation": None,
    }
    if measured.rewards is not None:
        report["reward"] = reward_card(test, *measured.rewards, seed=config.seed, slice_by=config.slice_by)
    if measured.policy is not None and measured.reference is not None:
        beta = float(case.known["policy"].settings.get("beta") or DEFAULT_BETA)
        report["policy"] = policy_card(test, measured.policy, measured.reference, beta=beta, seed=config.seed)
    if measured.generations is not None:
        unjudged = Judgement(outcome=None)
        judgements = measured.judgements or [unjudged] * len(measured.generations.rows)
        outcomes = [judgement.outcome for judgement in judgements]
        report["generation"] = generation_card(measured.generations, outcomes, seed=config.seed)
        report["generation"]["judge"] = measured.judge
    report["acceptance"] = acceptance(
        dataset_dir=Path(config.dataset_dir),
        reward_model=_folder(config.reward_model),
        policy_model=_folder(config.policy_model),
        test_auc=report["reward"]["auc"]["value"] if report["reward"] else None,
        gain=report["policy"]["by_mean"]["gain"] if report["policy"] else None,
    )
    report["headline"] = headline(report)
    report["verdict"] = verdict(report)
    report["findings"] = findings(report, case.known, case.inputs)
    document: dict[str, Any] = finite(report)
    return document


def write_files(folder: Path, report: dict[str, Any], measured: Measured) -> None:
    """Write every file of the report into a staging folder."""
    drawn = plots(report, measured)
    generations = list(_generation_rows(measured)) if measured.generations is not None else []
    write_json(folder / "report.json", report)
    (folder / "report.md").write_text(to_markdown(report, list(drawn)), encoding="utf-8", newline="\n")
    (folder / "report.html").write_text(to_html(report, drawn, generations), encoding="utf-8", newline="\n")
    (folder / "plots").mkdir()
    for name, svg in drawn.items():
        (folder / "plots" / f"{name}.svg").write_text(svg, encoding="utf-8", newline="\n")
    _write_rows(folder / "pairs.jsonl", _pair_rows(measured))
    if measured.generations is not None:
        _write_rows(folder / "generations.jsonl", generations)
    if measured.rewards is not None:
        count = int(report["settings"]["disagreements"])
        _write_rows(folder / "disagreements.jsonl", most_disputed(measured.test, *measured.rewards, count))


def finite(document: Any) -> Any:
    """Return a document in which a number that is not finite became null: JSON has none."""
    if isinstance(document, dict):
        return {key: finite(value) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [finite(value) for value in document]
    if isinstance(document, np.generic):
        document = document.item()
    return None if isinstance(document, float) and not math.isfinite(document) else document


def _inputs(case: Case) -> dict[str, Any]:
    folder = case.config.dataset_dir
    described: dict[str, Any] = {
        "dataset": {
            "path": folder,
            "sha256": case.inputs["dataset"],
            "split": "test",
            "pairs": len(case.test.rows),
            "prompts": case.test.num_prompts,
            "validity": validity_of(Path(folder)),
        }
    }
    return described | {role: {"path": name, "sha256": case.inputs[role]} for role, name in case.names.items()}


def _folder(model: str | None) -> Path | None:
    """Return a model's folder; None where it is a hub id, which has no training to check."""
    return Path(model) if model is not None and Path(model).is_dir() else None


def _pair_rows(measured: Measured) -> Iterable[dict[str, Any]]:
    test = measured.test
    for i, row in enumerate(test.rows):
        line: dict[str, Any] = {"row": i, "prompt_number": int(test.clusters[i]), **row, "meta": test.meta[i]}
        if measured.rewards is not None:
            chosen, rejected = measured.rewards
            line |= {"reward_chosen": float(chosen[i]), "reward_rejected": float(rejected[i])}
        for role in ("policy", "reference"):
            logps: PairLogps | None = getattr(measured, role)
            if logps is not None:
                line |= {
                    f"{role}_logp_chosen": float(logps.chosen[i]),
                    f"{role}_logp_rejected": float(logps.rejected[i]),
                    f"{role}_tokens_chosen": float(logps.chosen_tokens[i]),
                    f"{role}_tokens_rejected": float(logps.rejected_tokens[i]),
                }
        yield finite(line)


def _generation_rows(measured: Measured) -> Iterable[dict[str, Any]]:
    generations = measured.generations
    assert generations is not None
    for i, row in enumerate(generations.rows):
        judgement = measured.judgements[i] if measured.judgements else None
        yield finite(
            {
                "row": row,
                "prompt": generations.prompts[i],
                "policy": generations.policy[i],
                "reference": generations.reference[i],
                "policy_tokens": len(generations.policy_ids[i]),
                "policy_logp": float(generations.policy_logps[i]),
                "reference_logp": float(generations.reference_logps[i]),
                "outcome": judgement.outcome if judgement else None,
                "judge": judgement.detail if judgement else None,
            }
        )


def _write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
