"""rm-score split over the pods of an Indexed Job, on a real cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes.cluster import Space, new_space

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]
SCORE = ["steps.rm-score.enabled=true", "steps.rm-score.args.input=training_data/curated_datasets/one/eval.jsonl",
         "steps.rm-score.args.model=artifacts/rm/one", "steps.rm-score.args.precision=fp32",
         "steps.rm-score.resources.requests.memory=256Mi", "steps.rm-score.resources.requests.cpu=100m",
         "steps.dpo.enabled=false", "steps.evaluation.enabled=false"]  # fmt: skip


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Space]:
    """A namespace of its own."""
    with new_space(tmp_path) as made:
        yield made


def scores(space: Space, run: str) -> list[dict[str, Any]]:
    """Return the scored rows of a run."""
    return [json.loads(line) for line in (space.folder / f"artifacts/scores/{run}.jsonl").read_text().splitlines()]


def test_three_pods_score_what_one_would(space: Space) -> None:
    """With `shards: 3` three pods take a third of the rows each; the joined file is that of one pod, row for row."""
    space.install("one", *SCORE, "steps.rm.args.max_steps=2")
    assert space.wait("one", 900) == "succeeded"
    space.install("three", *SCORE, "steps.rm-score.shards=3", "steps.ingest.enabled=false", "steps.rm.enabled=false")
    assert space.wait("three", 900) == "succeeded"
    pods = space.pods("app.kubernetes.io/instance=three,aios-alignment/step=rm-score")
    indexes = {pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] for pod in pods}
    assert (len(pods), indexes) == (3, {"0", "1", "2"})
    one, three = scores(space, "one"), scores(space, "three")
    assert len(one) > 50
    assert [row["row"] for row in three] == list(range(len(one)))
    for key in ("reward_chosen", "reward_rejected"):
        assert [row[key] for row in three] == pytest.approx([row[key] for row in one], abs=1e-5)
    parts = {path.name for path in (space.folder / "artifacts/scores").glob("three.*-of-3.jsonl")}
    assert parts == {f"three.{index}-of-3.jsonl" for index in range(3)}
    assert space.state("three")["steps"]["rm-score"]["phase"] == "succeeded"
