"""`aios hrm-hf evaluate`, end to end on really trained models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import orjson
import pytest
from sklearn.metrics import roc_auc_score

from jobs.contract.errors import ExitCode
from jobs.contract.manifest import verify
from jobs.contract.metrics import read_metrics
from tests import tiny
from tests.conftest import REPOSITORY
from tests.evaluation.conftest import Trained

SCHEMA = Path(__file__).parents[2] / "jobs" / "evaluation" / "report.schema.json"
Aios = Callable[..., int]


def evaluate(aios: Aios, trained: Trained, output: Path, *more: object) -> int:
    """Run the command on everything that was trained, with few and short generations."""
    return aios(
        "hrm-hf", "evaluate", "--dataset-dir", trained.data, "--reward-model", trained.rm,
        "--policy-model", trained.dpo, "--ref-model", trained.base, "--output-dir", output,
        "--num-generations", 6, "--max-new-tokens", 8, "--precision", "fp32", *more,
    )  # fmt: skip


def read(folder: Path, name: str = "report.json") -> Any:
    """Return a JSON document or the rows of a JSONL file."""
    content = (folder / name).read_bytes()
    return orjson.loads(content) if name.endswith(".json") else [orjson.loads(line) for line in content.splitlines()]


@pytest.fixture(scope="module")
def published(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One report of everything."""
    from jobs.cli import run

    output = tmp_path_factory.mktemp("evaluation") / "demo"
    assert evaluate(lambda *arguments: run([str(a) for a in arguments]), trained, output, "--slice-by", "id") == 0
    return output


def test_the_report_is_published_and_fits_its_schema(published: Path) -> None:
    """Every promised file stands in the manifest, and report.json is what the committed schema says."""
    names = {entry.path for entry in verify(published, step="evaluation").files}
    assert {
        "report.json",
        "report.md",
        "report.html",
        "pairs.jsonl",
        "generations.jsonl",
        "disagreements.jsonl",
    } <= names
    jsonschema.validate(read(published), orjson.loads(SCHEMA.read_bytes()))
    assert read_metrics(published / "metrics.jsonl")[-1]["gain"] == read(published)["headline"]["gain"]


def test_the_verdict_says_what_was_learnt(published: Path) -> None:
    """The trained policy beats its reference, the reward model orders the pairs, and the judge is called partial."""
    report = read(published)
    assert report["verdict"]["answer"] == "better"
    assert report["policy"]["by_mean"]["gain"]["low"] > 0
    assert report["reward"]["auc"]["low"] > 0.6
    assert report["generation"]["judge"]["self_judged"]
    assert "self_judged" in {finding["code"] for finding in report["findings"]}


def test_the_numbers_follow_from_the_published_rows(published: Path) -> None:
    """A second, plain implementation gets the report's numbers from pairs.jsonl and generations.jsonl."""
    recompute(published)


def recompute(folder: Path) -> None:
    """Recompute the main numbers of a report with other code than the product's."""
    report, pairs, generations = read(folder), read(folder, "pairs.jsonl"), read(folder, "generations.jsonl")

    def share(values: list[float]) -> float:
        return sum(1.0 if v > 0 else 0.5 if v == 0 else 0.0 for v in values) / len(values)

    def per_token(row: dict[str, Any], role: str) -> float:
        sides = [row[f"{role}_logp_{side}"] / row[f"{role}_tokens_{side}"] for side in ("chosen", "rejected")]
        return float(sides[0] - sides[1])

    scored = [row for row in pairs if row["policy_logp_chosen"] is not None]
    rates = {role: share([per_token(row, role) for row in scored]) for role in ("policy", "reference")}
    by_mean = report["policy"]["by_mean"]
    assert by_mean["policy"]["value"] == pytest.approx(rates["policy"], abs=1e-6)
    assert by_mean["reference"]["value"] == pytest.approx(rates["reference"], abs=1e-6)
    assert by_mean["gain"]["value"] == pytest.approx(rates["policy"] - rates["reference"], abs=1e-6)

    rewarded = [row for row in pairs if row["reward_chosen"] is not None]
    scores = [row["reward_chosen"] for row in rewarded] + [row["reward_rejected"] for row in rewarded]
    labels = [1] * len(rewarded) + [0] * len(rewarded)
    assert report["reward"]["auc"]["value"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-6)
    margins = [row["reward_chosen"] - row["reward_rejected"] for row in rewarded]
    assert report["reward"]["accuracy"]["value"] == pytest.approx(share(margins), abs=1e-6)
    assert report["reward"]["brier"] == pytest.approx(np.mean([(1 - 1 / (1 + np.exp(-m))) ** 2 for m in margins]))

    outcomes = [row["outcome"] for row in generations if row["outcome"] is not None]
    assert report["generation"]["win_rate"]["value"] == pytest.approx(np.mean(outcomes), abs=1e-6)
    divergence = np.mean([row["policy_logp"] - row["reference_logp"] for row in generations])
    assert report["generation"]["kl"]["per_answer"]["value"] == pytest.approx(divergence, abs=1e-4)


def test_a_finished_report_is_not_made_again(
    aios: Aios, trained: Trained, published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command skips, another setting is refused, and a gate is asked of the report that stands there."""
    before = (published / "_SUCCESS.json").read_bytes()
    assert evaluate(aios, trained, published, "--slice-by", "id") == 0
    assert evaluate(aios, trained, published, "--slice-by", "id", "--fail-under", "gain=0.99") == ExitCode.GATE
    assert "gain is" in capsys.readouterr().err
    assert evaluate(aios, trained, published, "--seed", 1) == ExitCode.CONFIG
    assert (published / "_SUCCESS.json").read_bytes() == before


def test_the_page_needs_nothing_else_and_shows_text_as_text(published: Path) -> None:
    """report.html loads nothing, and markup inside the data stays text."""
    from jobs.evaluation.html import to_html

    page = (published / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert not [word for word in ("<script", "src=", "href=", "url(") if word in page]
    row = {"prompt": "<script>alert(1)</script>", "policy": "<b>", "reference": "&", "outcome": None}
    hostile = to_html(read(published), {"estimates": ""}, [row])
    assert "<script>" not in hostile
    assert "&lt;script&gt;alert(1)" in hostile


def test_a_policy_alone_or_a_reward_model_alone_get_a_verdict(aios: Aios, trained: Trained, workspace: Path) -> None:
    """Either model may be left out; what was not measured is null, and the schema still fits."""
    schema = orjson.loads(SCHEMA.read_bytes())
    common = ["hrm-hf", "evaluate", "--dataset-dir", trained.data, "--num-generations", 4, "--max-new-tokens", 4]
    assert aios(*common, "--reward-model", trained.rm, "--output-dir", "rm-only") == 0
    policy = ["--policy-model", trained.dpo, "--ref-model", trained.base]
    assert aios(*common, *policy, "--output-dir", "policy-only") == 0
    rm_only, policy_only = read(workspace / "rm-only"), read(workspace / "policy-only")
    jsonschema.validate(rm_only, schema)
    jsonschema.validate(policy_only, schema)
    assert rm_only["policy"] is None
    assert policy_only["reward"] is None
    assert policy_only["generation"]["conclusion"] == "not judged"
    assert policy_only["acceptance"]["decision"] == "not yet"


def test_a_policy_equal_to_its_reference_shows_no_gain(aios: Aios, trained: Trained, workspace: Path) -> None:
    """The same model on both sides: gain 0, win-rate one half, divergence 0, verdict no difference."""
    code = aios(
        "hrm-hf", "evaluate", "--dataset-dir", trained.data, "--reward-model", trained.rm, "--policy-model",
        trained.base, "--ref-model", trained.base, "--output-dir", "same", "--num-generations", 5,
        "--max-new-tokens", 6, "--fail-under", "gain=0.05",
    )  # fmt: skip
    assert code == ExitCode.GATE
    report = read(workspace / "same")
    assert report["verdict"]["answer"] == "no difference"
    assert report["headline"]["gain"] == 0
    assert report["generation"]["win_rate"]["value"] == 0.5
    assert report["generation"]["kl"]["per_answer"]["value"] == pytest.approx(0, abs=1e-6)


def test_chat_rows_are_judged_too(aios: Aios, trained: Trained, workspace: Path) -> None:
    """Message lists go through the same template and give a report."""
    data = tiny.make_splits(workspace / "chat", train=2, held_out=6, chat=True)
    arguments = ["--reward-model", trained.rm, "--policy-model", trained.dpo, "--ref-model", trained.base]
    assert (
        aios("hrm-hf", "evaluate", "--dataset-dir", data, *arguments, "--output-dir", "out", "--max-new-tokens", 4) == 0
    )
    report = read(workspace / "out")
    assert report["inputs"]["dataset"]["pairs"] == 6
    assert "other_training_data" in {finding["code"] for finding in report["findings"]}


def test_bad_input_is_one_line_and_leaves_nothing(
    aios: Aios, trained: Trained, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong arguments, absent data, foreign tokenizers: the right exit code, one line, no folder."""
    other = tiny.make_model(workspace / "other", template=False)
    vocabulary = orjson.loads((other / "tokenizer.json").read_bytes())
    merges = vocabulary["model"]["merges"]
    vocabulary["model"]["merges"] = merges[: len(merges) // 2]
    (other / "tokenizer.json").write_bytes(orjson.dumps(vocabulary))
    policy = ["--policy-model", trained.dpo]
    data = ["--dataset-dir", trained.data]
    cases: list[tuple[int, list[object]]] = [
        (ExitCode.CONFIG, [*data]),
        (ExitCode.CONFIG, [*data, *policy, "--fail-under", "beauty=1"]),
        (ExitCode.CONFIG, [*data, *policy, "--fail-under", "gain"]),
        (ExitCode.CONFIG, [*data, *policy, "--ref-model", other]),
        (ExitCode.CONFIG, [*data, *policy, "--judge", "endpoint"]),
        (ExitCode.UPSTREAM, [*data, *policy]),
        (ExitCode.UPSTREAM, [*data, "--reward-model", workspace / "absent"]),
        (ExitCode.UPSTREAM, ["--dataset-dir", workspace / "absent", "--reward-model", trained.rm]),
    ]
    for expected, arguments in cases:
        assert aios("hrm-hf", "evaluate", *arguments, "--output-dir", "out") == expected, arguments
        error = capsys.readouterr().err.strip().splitlines()
        assert len([line for line in error if line.startswith("Error:")]) == 1, error
        assert not (workspace / "out").exists()


@pytest.mark.parametrize("source", ["sample", "pandalm"])
def test_genuine_data_gets_a_verdict_that_can_be_recomputed(
    aios: Aios, trained: Trained, workspace: Path, source: str, request: pytest.FixtureRequest
) -> None:
    """From an export to a report on its test split, whose numbers follow from the published rows."""
    export = REPOSITORY / "training_data" / "sample" / "argilla_export.jsonl"
    if source == "pandalm":
        export = request.getfixturevalue("shared") / "data" / "human" / "pandalm.argilla.jsonl"
    ratios = ["--train-ratio", 0.8, "--eval-ratio", 0.1, "--test-ratio", 0.1]
    assert aios("data", "argilla-export", "--input", export, "--output", "data", *ratios) == 0
    on_it = Trained(base=trained.base, data=workspace / "data", rm=trained.rm, dpo=trained.dpo)
    assert evaluate(aios, on_it, workspace / "out", "--max-length", 200) == 0
    assert read(workspace / "out")["inputs"]["dataset"]["pairs"] > 50
    recompute(workspace / "out")
