"""The sample export: made by its script, and fair."""

from __future__ import annotations

import filecmp
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import orjson

from tests.conftest import REPOSITORY

SAMPLE = REPOSITORY / "training_data/sample"


def test_the_script_makes_the_sample_byte_for_byte(tmp_path: Path) -> None:
    """The committed export is what the committed script writes."""
    made = tmp_path / "export.jsonl"
    subprocess.run([sys.executable, SAMPLE / "make_sample.py", "--out", made], check=True)
    assert filecmp.cmp(made, SAMPLE / "argilla_export.jsonl", shallow=False)


def test_the_sample_is_fair(aios: Callable[..., int]) -> None:
    """Over 1,500 records, above 95 % valid; neither the longer nor the first answer wins more than chance."""
    assert aios("data", "argilla-export", "--input", SAMPLE / "argilla_export.jsonl", "--output", "out") == 0
    report = orjson.loads(Path("out/schema_report.json").read_bytes())
    assert report["totals"]["records"] >= 1500
    assert 0.95 < report["validity"] < 1
    assert 0.45 < report["bias"]["longer_wins"] < 0.55
    assert 0.45 < report["bias"]["first_option_wins"] < 0.55
    found = {reason for reason, drop in report["drops"].items() if drop["count"]}
    assert {"tie", "no_majority", "no_submitted_response", "no_response", "duplicate", "missing_prompt"} <= found
