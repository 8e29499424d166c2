"""The acceptance checklists of ingestion, reward model and DPO, each line computed from the files on disk.

A line is ticked (True), crossed (False) or open (None: what it asks about was not given).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from jobs.contract.errors import AiosError
from jobs.contract.manifest import verify
from jobs.contract.metrics import read_metrics
from jobs.contract.splits import REPORT_NAME, SPLITS

NEEDED_STEPS = 100
NEEDED_AUC = 0.6
NEEDED_GAIN = 0.05
NEEDED_VALIDITY = 0.95
NO_GO_VALIDITY = 0.90

Metrics = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of a checklist."""

    text: str
    passed: bool | None
    found: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Checklist:
    """The lines of one step."""

    step: str
    title: str
    lines: list[Line]

    @property
    def passed(self) -> bool | None:
        """True when every line is ticked, False when one is crossed, None when some are open."""
        marks = [line.passed for line in self.lines]
        return False if False in marks else (None if None in marks else True)


def acceptance(
    *,
    dataset_dir: Path,
    reward_model: Path | None,
    policy_model: Path | None,
    test_auc: float | None,
    gain: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return the three checklists and the Go/No-Go that follows from them, JSON-ready."""
    _verified.cache_clear()
    lists = [ingestion(dataset_dir), reward(reward_model, test_auc), dpo(policy_model, gain)]
    decision, reasons = go_no_go(lists, validity_of(dataset_dir), {"Reward model": reward_model, "DPO": policy_model})
    return {"checklists": [asdict(c) | {"passed": c.passed} for c in lists], "decision": decision, "reasons": reasons}


def ingestion(folder: Path) -> Checklist:
    """Check what ingestion left: valid rows, three splits, a report that counts every reason."""
    report, validity = schema_report(folder), validity_of(folder)
    rows = {name: _count_lines(folder / f"{name}.jsonl") for name in SPLITS}
    lines = [
        Line(
            text=f"More than {100 * NEEDED_VALIDITY:.0f} % of the records are valid",
            passed=None if validity is None else validity > NEEDED_VALIDITY,
            found="no validity in the report" if validity is None else f"{validity:.1%}",
        ),
        Line(
            text="train, eval and test splits are there",
            passed=all(rows.values()) and _verified(folder) == "",
            found=_verified(folder) or ", ".join(f"{name} {count}" for name, count in rows.items()),
        ),
        Line(
            text=f"{REPORT_NAME} counts every reason",
            passed=_counts_reasons(report),
            found="missing" if report is None else f"{len(report.get('drops', {}))} reasons",
        ),
    ]
    return Checklist(step="ingest", title="Ingestion", lines=lines)


def reward(folder: Path | None, test_auc: float | None) -> Checklist:
    """Check a reward model's training and its AUC."""
    metrics = _metrics(folder)
    aucs = [line["eval_auc"] for line in metrics if line.get("eval_auc") is not None]
    auc = aucs[-1] if aucs else test_auc
    test = "" if test_auc is None else f", {test_auc:.3f} on test"
    lines = [
        _steps_line(folder, metrics),
        _line(
            folder,
            f"AUC on eval pairs above {NEEDED_AUC}",
            lambda: auc is not None and auc > NEEDED_AUC,
            "not measured" if auc is None else f"{auc:.3f}{test if aucs else ' (test)'}",
        ),
        _falling_line(folder, metrics),
        _artifacts_line(folder),
    ]
    return Checklist(step="rm", title="Reward model", lines=lines)


def dpo(folder: Path | None, gain: dict[str, Any] | None) -> Checklist:
    """Check a policy's training and its gain over the reference on held-out pairs."""
    metrics = _metrics(folder)
    losses = [line["eval_loss"] for line in metrics if line.get("eval_loss") is not None]
    lines = [
        _steps_line(folder, metrics),
        Line(
            text=f"Win-rate on held-out pairs up by {100 * NEEDED_GAIN:.0f} points or more, for sure",
            passed=None if gain is None else gain["value"] >= NEEDED_GAIN and gain["low"] > 0,
            found="not measured" if gain is None else points(gain),
        ),
        _line(
            folder,
            "Eval loss improves",
            lambda: len(losses) > 1 and losses[-1] < losses[0],
            f"{losses[0]:.4f} → {losses[-1]:.4f}" if len(losses) > 1 else f"{len(losses)} evaluations",
        ),
        _artifacts_line(folder),
    ]
    return Checklist(step="dpo", title="DPO", lines=lines)


def go_no_go(
    lists: list[Checklist], validity: float | None, trainings: dict[str, Path | None]
) -> tuple[str, list[str]]:
    """Return go, no-go or not yet, and why.

    No-Go is what the guide says: validity below 90 %, or a training that did not finish. Go needs every line ticked.
    """
    reasons = []
    if validity is not None and validity < NO_GO_VALIDITY:
        reasons.append(f"ingestion validity {validity:.1%} is below {NO_GO_VALIDITY:.0%}")
    for title, folder in trainings.items():
        if folder is not None and _verified(folder):
            reasons.append(f"{title}: the training did not finish ({_verified(folder)})")
    if reasons:
        return "no-go", reasons
    open_lines = [
        f"{c.title}: {line.text} ({line.found})" for c in lists for line in c.lines if line.passed is not True
    ]
    return ("not yet", open_lines) if open_lines else ("go", [])


def loss_falls(metrics: Metrics) -> tuple[float, float] | None:
    """Return the mean training loss of the first and of the last quarter of the lines; None with fewer than four."""
    losses = [line["loss"] for line in metrics if line.get("kind") == "train" and line.get("loss") is not None]
    quarter = len(losses) // 4
    if quarter == 0:
        return None
    return math.fsum(losses[:quarter]) / quarter, math.fsum(losses[-quarter:]) / quarter


def points(estimate: dict[str, Any]) -> str:
    """Write a difference of win-rates in points with its interval."""
    value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
    return f"{value:+.1f} points [{low:.1f}, {high:.1f}]"


def schema_report(folder: Path) -> dict[str, Any] | None:
    """Return `schema_report.json`; None where there is none or it is no JSON object."""
    try:
        report = orjson.loads((folder / REPORT_NAME).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    return report if isinstance(report, dict) else None


def validity_of(folder: Path) -> float | None:
    """Return the share of valid records that ingestion reported."""
    validity = (schema_report(folder) or {}).get("validity")
    return float(validity) if isinstance(validity, int | float) else None


def _counts_reasons(report: dict[str, Any] | None) -> bool:
    """Tell whether the reasons with their counts add up to what the report says was dropped."""
    drops, totals = (report or {}).get("drops"), (report or {}).get("totals")
    if not isinstance(drops, dict) or not isinstance(totals, dict):
        return False
    counted = sum(reason.get("count", 0) for reason in drops.values())
    return bool(counted == totals.get("dropped"))


def _count_lines(path: Path) -> int:
    return sum(1 for line in path.read_bytes().split(b"\n") if line.strip()) if path.is_file() else 0


@functools.cache
def _verified(folder: Path) -> str:
    """Return why a folder does not count; empty when it does. Several lines ask, and weights are slow to hash."""
    try:
        verify(folder)
    except (AiosError, OSError) as exc:
        return str(exc).split(";")[0]
    return ""


def _metrics(folder: Path | None) -> Metrics:
    return [] if folder is None else read_metrics(folder / "metrics.jsonl")


def _line(folder: Path | None, text: str, passed: Callable[[], bool], found: str) -> Line:
    if folder is None:
        return Line(text=text, passed=None, found="not given")
    return Line(text=text, passed=passed(), found=found)


def _steps_line(folder: Path | None, metrics: Metrics) -> Line:
    steps = max((line.get("step") or 0 for line in metrics), default=0)
    return _line(
        folder,
        f"Training finishes {NEEDED_STEPS} steps",
        lambda: steps >= NEEDED_STEPS and folder is not None and _verified(folder) == "",
        f"{steps} steps" + (f", {_verified(folder)}" if folder is not None and _verified(folder) else ""),
    )


def _falling_line(folder: Path | None, metrics: Metrics) -> Line:
    quarters = loss_falls(metrics)
    return _line(
        folder,
        "Training loss falls on average",
        lambda: quarters is not None and quarters[1] < quarters[0],
        "too few lines" if quarters is None else f"{quarters[0]:.3f} → {quarters[1]:.3f} (first, last quarter)",
    )


def _artifacts_line(folder: Path | None) -> Line:
    problem = "" if folder is None else _loads(folder)
    return _line(folder, "Artifacts are saved and load", lambda: problem == "", problem or str(folder))


def _loads(folder: Path) -> str:
    """Return why configuration, tokenizer or weights do not load from the folder; empty when they do."""
    if problem := _verified(folder):
        return problem
    from transformers import AutoConfig, AutoTokenizer

    try:
        AutoConfig.from_pretrained(folder, trust_remote_code=False)
        AutoTokenizer.from_pretrained(folder)
        AutoTokenizer.from_pretrained(folder / "tokenizer")
    except (OSError, ValueError) as exc:
        return f"{type(exc).__name__}: {exc}".split("\n")[0]
    return "" if any(folder.glob("*.safetensors")) else "no weights"
