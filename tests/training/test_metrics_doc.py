"""docs/metrics.md and metrics.jsonl say the same."""

from __future__ import annotations

import re

from jobs.contract.metrics import TIME_KEYS, read_metrics
from tests.conftest import REPOSITORY
from tests.training.study import Study

PAGE = (REPOSITORY / "docs/metrics.md").read_text(encoding="utf-8")
SELDOM = {
    "dropped_empty_answer",
    "dropped_empty_prompt",
    "dropped_identical_tokens",
    "dropped_identical_after_truncation",
}
"""Only written where rows are dropped for that reason."""


def documented() -> set[str]:
    """Return the keys that the page explains: first cells of tables, and the list of eval_ keys."""
    cells = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    return cells | set(re.findall(r"`(eval_\w+)`", PAGE))


def test_every_key_is_documented_and_every_documented_key_is_written(study: Study) -> None:
    """What trainings write and what the page explains are the same keys."""
    assert study.train("dpo", "artifacts/dpo/keys", "--max-steps", 1) == 0
    assert study.train("rm", "artifacts/rm/keys", "--max-steps", 2, "--eval-steps", 1, "--early-stopping", 1) == 0
    written = {
        key
        for output in ("artifacts/dpo/keys", "artifacts/rm/keys")
        for line in read_metrics(study.root / output / "metrics.jsonl")
        for key in line
    }
    assert written - documented() == set()
    assert documented() - written - SELDOM == set()


def test_the_keys_that_differ_between_equal_runs_are_named() -> None:
    """The page lists the keys that comparisons leave out."""
    section = PAGE.split("## What differs between two equal runs")[1]
    assert set(re.findall(r"`(\w+)`", section)) - {"reference_pairs_computed"} <= TIME_KEYS
