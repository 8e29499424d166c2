"""`aios hrm-hf compare` on published reports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from jobs.contract.errors import ExitCode
from tests.evaluation.test_acceptance import publish


def report(folder: Path, gain: float | None, data: str = "d1") -> Path:
    """Publish a small report with a gain."""
    document: dict[str, Any] = {
        "name": folder.name,
        "inputs": {"dataset": {"sha256": data}},
        "policy": None
        if gain is None
        else {"by_mean": {"gain": {"value": gain, "low": gain - 0.02, "high": gain + 0.02}}},
        "headline": {"gain": gain, "auc": 0.7, "accuracy": 0.65},
        "verdict": {"answer": "better"},
        "acceptance": {"decision": "go"},
        "findings": [{"severity": "warning", "code": "self_judged", "text": ""}],
    }
    return publish(folder, "evaluation", {"report.json": orjson.dumps(document)})


def test_reports_stand_side_by_side_the_best_first(
    aios: Callable[..., int], workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table, JSON, Markdown and page hold every report in the order of the metric, unmeasured ones last."""
    folders = [report(workspace / name, gain) for name, gain in (("low", 0.01), ("none", None), ("high", 0.09))]
    assert aios("hrm-hf", "compare", *folders, "--json") == 0
    compared = orjson.loads(capsys.readouterr().out)
    assert [row["name"] for row in compared["reports"]] == ["high", "low", "none"]
    assert compared["same_test_data"]
    for name in ("c.md", "c.html", "c.json"):
        assert aios("hrm-hf", "compare", *folders, "--output", name) == 0
        text = (workspace / name).read_text(encoding="utf-8")
        assert text.index("high") < text.index("low")
    assert "<svg" in (workspace / "c.html").read_text(encoding="utf-8")
    assert "+9.0 points" in capsys.readouterr().out


def test_different_data_is_warned_of_and_strangers_are_refused(
    aios: Callable[..., int], workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reports on other test data get a warning; a folder that is no report, or no metric, an error."""
    a, b = report(workspace / "a", 0.1), report(workspace / "b", 0.2, data="d2")
    assert aios("hrm-hf", "compare", a, b) == 0
    assert "different test data" in capsys.readouterr().out
    assert aios("hrm-hf", "compare", a, workspace) == ExitCode.UPSTREAM
    assert aios("hrm-hf", "compare", a, "--sort", "beauty") == ExitCode.CONFIG
    assert aios("hrm-hf", "compare") == ExitCode.USAGE
