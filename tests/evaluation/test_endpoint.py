"""A judge behind a real HTTP server that times out, babbles, limits, drops and dies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from jobs.config.evaluation import EvaluationConfig
from jobs.contract.errors import BadConfig, ExitCode, NotAuthorised, ServiceDown
from jobs.evaluation import endpoint
from jobs.evaluation.endpoint import EndpointJudge, endpoint_card
from jobs.evaluation.generations import Generations
from tests.evaluation.conftest import Trained
from tests.evaluation.judge_server import Judge, serve

ITEMS = 10


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "BACKOFF_S", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def generations() -> Generations:
    """Ten prompts: the policy wins seven, loses two, and says the same as the reference once."""
    policy = [f"good {i}" for i in range(7)] + ["bad 7", "bad 8", "same"]
    reference = [f"bad {i}" for i in range(7)] + ["good 7", "good 8", "same"]
    return Generations(
        rows=list(range(ITEMS)), prompts=[f"prompt {i}" for i in range(ITEMS)], policy=policy, reference=reference
    )


def judge_with(judge: Judge, folder: Path, **settings: Any) -> EndpointJudge:
    """Return the product's judge, told about the server."""
    config = EvaluationConfig(
        dataset_dir="d", output_dir="o", policy_model="p", judge="endpoint", judge_url=judge.url, judge_model="m",
        **({"judge_timeout_s": 0.5, "judge_retries": 2, "judge_concurrency": 3} | settings),
    )  # fmt: skip
    return EndpointJudge(config=config, log=folder / "judgements.jsonl")


EXPECTED = [1.0] * 7 + [0.0] * 2 + [0.5]


def test_consistent_wins_count(tmp_path: Path) -> None:
    """Both orders are asked, equal answers are not, and a win in both orders is a win."""
    with serve(Judge()) as judge:
        judgements = judge_with(judge, tmp_path).compare(generations())
    assert [judgement.outcome for judgement in judgements] == EXPECTED
    assert sum(judge.asked.values()) == 18
    assert endpoint_card(judgements)["position_consistent"] == 1.0


def test_a_judge_that_follows_the_order_decides_nothing(tmp_path: Path) -> None:
    """Who always prefers the first answer gives ties only, and the card says so."""
    with serve(Judge(always_first=True)) as judge:
        judgements = judge_with(judge, tmp_path).compare(generations())
    assert {judgement.outcome for judgement in judgements} == {0.5}
    card = endpoint_card(judgements)
    assert (card["position_consistent"], card["first_position_wins"]) == (0.0, 1.0)


def test_passing_trouble_is_survived_and_nothing_counts_twice(tmp_path: Path) -> None:
    """Time-outs, rate limits, errors, garbage, babble and dropped connections are asked again, once answered."""
    plan = ["slow", "limit", "error", "garbage", "nonsense", "drop"] * 2
    with serve(Judge(plan=plan)) as judge:
        judgements = judge_with(judge, tmp_path, judge_retries=12).compare(generations())
    assert [judgement.outcome for judgement in judgements] == EXPECTED
    assert set(judge.answered.values()) == {1}
    assert len(judge.answered) == 18


def test_a_judge_that_dies_half_way_is_resumed(tmp_path: Path) -> None:
    """A dead server stops the step with 69; the next attempt asks only what is open."""
    with serve(Judge(plan=["ok"] * 8, forever="error")) as judge:
        with pytest.raises(ServiceDown, match=r"left \d+ of 10 items without a verdict"):
            judge_with(judge, tmp_path).compare(generations())
        answered = dict(judge.answered)
        assert len(answered) == 8
        judge.forever = "ok"
        (tmp_path / "judgements.jsonl").open("ab").write(b'{"key": "torn')  # as a crash leaves it
        judgements = judge_with(judge, tmp_path).compare(generations())
    assert [judgement.outcome for judgement in judgements] == EXPECTED
    assert set(judge.answered.values()) == {1}
    lines = [line for line in (tmp_path / "judgements.jsonl").read_bytes().split(b"\n") if line.endswith(b"}")]
    assert len({orjson.loads(line)["key"] for line in lines}) == len(lines) == 18


def test_a_dead_server_is_given_up_soon(tmp_path: Path) -> None:
    """Nobody waits for a thousand time-outs: after a round of failures the rest is not asked."""
    many = generations()
    many.policy, many.reference = [f"good {i}" for i in range(200)], [f"bad {i}" for i in range(200)]
    many.prompts = [f"prompt {i}" for i in range(200)]
    with serve(Judge(forever="error")) as judge:
        with pytest.raises(ServiceDown):
            judge_with(judge, tmp_path, judge_retries=1).compare(many)
        assert sum(judge.asked.values()) < 30


def test_babble_is_missing_not_a_tie(tmp_path: Path) -> None:
    """An item that never gets a verdict is missing; below the limit the others count."""
    with serve(Judge(plan=["nonsense"] * 3)) as judge:
        judgements = judge_with(judge, tmp_path, judge_concurrency=1).compare(generations())
    assert [judgement.outcome for judgement in judgements] == [None, *EXPECTED[1:]]


def test_refusals_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong key names its variable, a wrong path the options; neither is tried again."""
    with serve(Judge(key="secret")) as judge:
        with pytest.raises(NotAuthorised, match="OPENAI_API_KEY"):
            judge_with(judge, tmp_path).compare(generations())
        assert sum(judge.asked.values()) <= 6
        monkeypatch.setenv("MY_KEY", "secret")
        judgements = judge_with(judge, tmp_path, judge_key_env="MY_KEY").compare(generations())
        assert [judgement.outcome for judgement in judgements] == EXPECTED
        judge.url += "/wrong"
        with pytest.raises(BadConfig, match="--judge-url"):
            judge_with(judge, tmp_path, judge_key_env="MY_KEY").compare(generations())
    assert b"secret" not in (tmp_path / "judgements.jsonl").read_bytes()


def test_evaluate_resumes_with_a_judge_that_came_back(
    aios: Callable[..., int], trained: Trained, workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The command exits 69 while the judge is down, publishes nothing, then goes on; the report counts the missing."""
    command = [
        "hrm-hf", "evaluate", "--dataset-dir", trained.data, "--policy-model", trained.dpo, "--ref-model", trained.base,
        "--output-dir", "out", "--num-generations", 10, "--max-new-tokens", 12, "--temperature", 1,
        "--judge", "endpoint", "--judge-model", "m", "--judge-retries", 1, "--judge-price", 2,
    ]  # fmt: skip
    with serve(Judge(plan=["ok"] * 2, forever="error")) as judge:
        command += ["--judge-url", judge.url]
        assert aios(*command, "--judge-max-missing", 0) == ExitCode.UNAVAILABLE
        assert not (workspace / "out" / "_SUCCESS.json").exists()
        judge.forever, judge.plan = "ok", ["nonsense"] * 2
        assert aios(*command, "--judge-max-missing", 0.2, "--judge-concurrency", 1) == 0
    report = orjson.loads((workspace / "out" / "report.json").read_bytes())
    rows = [orjson.loads(line) for line in (workspace / "out" / "generations.jsonl").read_bytes().splitlines()]
    assert set(judge.answered.values()) == {1}
    assert report["generation"]["missing"] == sum(row["outcome"] is None for row in rows) == 1
    assert "missing_judgements" in {finding["code"] for finding in report["findings"]}
    assert report["generation"]["judge"]["kind"] == "endpoint"
