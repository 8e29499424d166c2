"""Every genuine export gives exactly the counts and outcomes that a right reader gets from it, or the refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from jobs.contract.errors import BadData
from tests.ingest.helpers import Result, lines, run

FLAT = ["datasets.jsonl", "datasets.parquet", "datasets-3.4.1.jsonl", "datasets-3.4.1.parquet"]
PANDAS = ["pandas.jsonl", "pandas.parquet"]
NESTED = ["to_json.json", "to_list_nested.jsonl", "to_dict_names.json", "to_dict_index.json"]


def _cases(stem: str, endings: list[str], expected: str, **settings: Any) -> list[Any]:
    return [pytest.param(f"{stem}{e}", expected, settings, id=f"{stem}{e}-{expected}") for e in endings]


CASES = [
    *_cases("v2/label_pref.", [*FLAT, *PANDAS, "to_list_flat.jsonl", "to_hub"], "v2_label_pref"),
    *_cases("v2/label_pref.", NESTED, "v2_label_pref__NESTED_statusless", assume_submitted=True),
    *_cases("v2/rank_ui.", ["rest_api.json", "record_model_dump.jsonl"], "v2_rank_ui__TRUTH"),
    *_cases("v2/rating_pref.", FLAT[:2], "v2_rating_pref__vote_per_annotator"),
    *_cases("v2/rating_pref.", FLAT[:2], "v2_rating_pref__mean", rating_aggregate="mean"),
    *_cases("v2/chat_pref.", FLAT, "v2_chat_pref"),
    *_cases("v2/suggestions_only.", [*FLAT, "to_json.json"], "v2_suggestions_only__default"),
    *_cases(
        "v2/suggestions_only.",
        ["datasets.parquet", "datasets-3.4.1.parquet", "to_json.json"],
        "v2_suggestions_only__use_suggestions",
        use_suggestions=True,
    ),
    *_cases(
        "v1/ranking.", ["format_as.jsonl", "format_as.parquet", *PANDAS, "record_json.jsonl", "push_to_huggingface"],
        "v1_ranking",
    ),
    *_cases("v1/rating_label.", ["format_as.jsonl", "format_as.parquet"], "v1_rating_label", question=("choice",)),
    *_cases("v1/rating_label.", ["format_as.jsonl", "format_as.parquet"], "v1_rating_label", question=("better",)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "expected", "settings"), CASES)
def test_export_gives_the_expected_counts_and_outcomes(
    shared: Path, tmp_path: Path, name: str, expected: str, settings: dict[str, Any]
) -> None:
    """Counts by reason and, record by record, winner, texts and votes are those of the reference."""
    summary = orjson.loads((shared / f"data/argilla/expected/{expected}.summary.json").read_bytes())
    outcomes = lines(shared / f"data/argilla/expected/{expected}.outcomes.jsonl")
    result = run(tmp_path / "out", shared / "data/argilla" / name, **settings)
    assert result.report["totals"]["records"] == summary["records"]
    assert (result.report["totals"]["pairs"], result.counts) == (summary["valid_pairs"], summary["drops"])
    assert _outcomes(result) == _expected(outcomes)


def _outcomes(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = {drop["id"]: drop["reason"] for drop in result.drops}
    for row, meta in result.kept:
        winner = "a" if meta["chosen_first"] else "b"
        found[meta["id"]] = (winner, row["prompt"], row["chosen"], row["rejected"], meta["votes"])
    return found


def _expected(outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        o["id"]: o["drop"] if "drop" in o else (o["winner"], o["prompt"], o["chosen"], o["rejected"], o.get("votes"))
        for o in outcomes
    }


@pytest.mark.parametrize("shape", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    "name",
    [
        "dpo_mix_7k_shape",
        "hh_rlhf_shape",
        "plain_prompt_chosen_rejected",
        "trl_zen_conversational_implicit_prompt_preference",
        "trl_zen_conversational_preference",
        "trl_zen_standard_implicit_prompt_preference",
        "trl_zen_standard_preference",
        "ultrafeedback_binarized_cleaned_shape",
    ],
)
def test_convention_gives_the_expected_counts(shared: Path, tmp_path: Path, name: str, shape: str) -> None:
    """Column layouts that others publish are read without a flag."""
    summary = orjson.loads((shared / f"data/argilla/expected/conventions_{name}.summary.json").read_bytes())
    result = run(tmp_path / "out", shared / f"data/argilla/conventions/{name}.{shape}")
    assert (result.report["totals"]["records"], result.report["totals"]["pairs"], result.counts) == (
        summary["records"],
        summary["valid_pairs"],
        summary["drops"],
    )


REFUSED = [
    *[(f"v2/rank_ui.{e}", {}, "ranking_ranks_missing") for e in [*FLAT[:2], *PANDAS, "to_list_flat.jsonl", *NESTED]],
    *[(f"v2/rank_ui.{e}", {}, "ranking_ranks_missing") for e in ["with_vectors.parquet", "to_disk", "to_hub"]],
    *[(f"v2/rank_ui.{e}", {"ranking_order": "best-first"}, "same order") for e in FLAT[:2]],
    *[(f"v2/label_pref.{e}", {}, "response_statuses_missing") for e in NESTED],
    ("v2/rating_pref.to_json.json", {}, "response_statuses_missing"),
    ("v2/chat_pref.to_json.json", {}, "response_statuses_missing"),
    ("v2/label_pref.pandas.csv", {}, "CSV"),
    ("v2/rank_ui.pandas.csv", {}, "CSV"),
    ("v2/suggestions_only.datasets.jsonl", {"use_suggestions": True}, "integer codes"),
    ("v2/suggestions_only.datasets.jsonl", {"use_suggestions": True, "question": ("preference",)}, "integer codes"),
    ("v1/rating_label.format_as.jsonl", {}, "more than one question"),
    ("v1/rating_label.format_as.parquet", {}, "more than one question"),
]


@pytest.mark.parametrize(("name", "settings", "message"), REFUSED)
def test_what_a_file_cannot_tell_is_refused(
    shared: Path, tmp_path: Path, name: str, settings: dict[str, Any], message: str
) -> None:
    """Lost ranks, lost statuses, lost label names and two candidate questions stop with the remedy."""
    with pytest.raises(BadData, match=message) as caught:
        run(tmp_path / "out", shared / "data/argilla" / name, **settings)
    assert caught.value.next_step
    assert not (tmp_path / "out").exists()
