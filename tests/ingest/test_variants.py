"""Layouts that the genuine files lack: published conventions, Label Studio, more than two responses, settings."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard

from jobs.contract.errors import BadConfig, BadData
from tests.ingest.helpers import Result, run, write_lines


def texts(result: Result) -> list[tuple[Any, Any, Any]]:
    """Return the rows by prompt."""
    rows = [(row["prompt"], row["chosen"], row["rejected"]) for row, _ in result.kept]
    return sorted(rows, key=lambda row: orjson.dumps(row))


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def test_ultrafeedback_binarized_columns(tmp_path: Path) -> None:
    """instruction, chosen_response, rejected_response; --min-rating-gap drops equal ratings only when given."""
    row = {"instruction": "why is it so?", "chosen_response": "because", "rejected_response": "no idea"}
    rated = [row | {"chosen_avg_rating": 4.0, "rejected_avg_rating": worse, "source": worse} for worse in (4.0, 2.0)]
    path = write_lines(tmp_path / "x.jsonl", [rated[0], rated[1] | {"instruction": "and why that?"}])
    assert run(tmp_path / "all", path).report["totals"]["pairs"] == 2
    assert run(tmp_path / "gap", path, min_rating_gap=1.0).counts == {"below_min_rating_gap": 1}


def test_orca_pairs_carry_a_system_prompt_and_marked_ties(tmp_path: Path) -> None:
    """A system column makes message lists; status `tie` there is the judge's verdict, not an answer's status."""
    rows = [
        {"system": "Be brief.", "input": "what is it?", "chosen": "this", "rejected": "that", "status": "swapped"},
        {"system": "", "input": "and that?", "chosen": "this", "rejected": "that", "status": "unchanged"},
        {"system": "", "input": "or what?", "chosen": "this", "rejected": "that", "status": "tie"},
    ]
    result = run(tmp_path / "out", write_lines(tmp_path / "x.jsonl", rows))
    assert result.counts == {"tie": 1}
    assert [row[0] for row in texts(result)] == [
        [said("system", "Be brief."), said("user", "what is it?")],
        [said("user", "and that?")],
    ]


def test_multi_turn_conversations_keep_only_the_last_answer(tmp_path: Path) -> None:
    """Capybara: whole conversations in chosen and rejected, the prompt repeated beside them."""
    turns = [said("user", "hi"), said("assistant", "hello"), said("user", "what now?")]
    row = {
        "conversation": [{"input": "hi", "output": "hello"}], "prompt": "what now?",
        "chosen": [*turns, said("assistant", "this")], "rejected": [*turns, said("assistant", "that")],
    }  # fmt: skip
    result = run(tmp_path / "out", write_lines(tmp_path / "x.jsonl", [row]))
    assert texts(result) == [(turns, [said("assistant", "this")], [said("assistant", "that")])]


def test_metadata_called_chosen_or_preference_is_not_mapped(tmp_path: Path) -> None:
    """A metadata column does not become an answer because of its name."""
    row = {
        "id": "1", "_server_id": "s", "prompt": "what is it?", "response_a": "this", "response_b": "that",
        "chosen": "nonsense", "rejected": "more", "preference": "response_a",
        "better.responses": ["response_b"], "better.responses.users": ["u"], "better.responses.status": ["submitted"],
    }  # fmt: skip
    result = run(tmp_path / "out", write_lines(tmp_path / "x.jsonl", [row]))
    assert texts(result) == [("what is it?", "that", "this")]


def test_label_studio_pairwise_export(tmp_path: Path) -> None:
    """One task with annotations: left and right, skipped ones, and a majority over annotators."""

    def task(number: int, *sides: str, cancelled: bool = False) -> dict[str, Any]:
        annotations = [
            {
                "completed_by": {"id": person}, "was_cancelled": cancelled,
                "result": [{"from_name": "pw", "type": "pairwise", "value": {"selected": side}}],
            }
            for person, side in enumerate(sides)
        ]  # fmt: skip
        data = {"prompt": f"question {number}", "answer1": "this", "answer2": "that", "lang": "en"}
        return {"id": number, "data": data, "annotations": annotations, "predictions": []}

    tasks = [task(1, "left"), task(2, "right", "right", "left"), task(3, "left", "right"), task(4)]
    tasks.append(task(5, "left", cancelled=True))
    path = tmp_path / "x.json"
    path.write_bytes(orjson.dumps(tasks, option=orjson.OPT_INDENT_2))
    result = run(tmp_path / "out", path)
    assert texts(result) == [("question 1", "this", "that"), ("question 2", "that", "this")]
    assert result.counts == {"no_majority": 1, "no_response": 1, "no_submitted_response": 1}
    assert result.kept[0][1]["metadata"] == {"lang": "en"}


def ranked(**ranks: int) -> dict[str, Any]:
    values = [{"value": f"response-{name[1:]}", "rank": rank} for name, rank in ranks.items()]
    return {
        "id": "s", "external_id": "e", "fields": {"prompt": "which?", "response-1": "one", "response-2": "two",
        "response-3": "three"}, "metadata": {}, "suggestions": [],
        "responses": [{"user_id": "u", "status": "submitted", "values": {"order": {"value": values}}}],
    }  # fmt: skip


def test_more_than_two_responses(tmp_path: Path) -> None:
    """best-worst takes the ends, all every pair with a winner, adjacent the neighbours; ties make no pair."""
    path = write_lines(tmp_path / "x.jsonl", [ranked(r1=2, r2=1, r3=3)])
    made = {kind: texts(run(tmp_path / kind, path, pairs=kind)) for kind in ("best-worst", "all", "adjacent")}
    assert made["best-worst"] == [("which?", "two", "three")]
    assert made["all"] == [("which?", "one", "three"), ("which?", "two", "one"), ("which?", "two", "three")]
    assert made["adjacent"] == [("which?", "one", "three"), ("which?", "two", "one")]
    tied = write_lines(tmp_path / "tied.jsonl", [ranked(r1=1, r2=1, r3=2), ranked(r1=1, r2=1, r3=1)])
    assert run(tmp_path / "tied", tied).counts == {"no_unique_best_worst": 1, "tie": 1}


def labelled(*labels: Any) -> list[dict[str, Any]]:
    return [
        {
            "id": str(i), "prompt": f"question {i}", "response_a": "this", "response_b": "that",
            "q.responses": [label], "q.responses.users": ["u"], "q.responses.status": ["submitted"],
        }
        for i, label in enumerate(labels)
    ]  # fmt: skip


def test_labels_that_do_not_name_responses_need_a_map(tmp_path: Path) -> None:
    """Unknown labels are refused with an example; --label-map says what they mean, drop included."""
    path = write_lines(tmp_path / "x.jsonl", labelled(*["oben"] * 6, *["unten"] * 5, *["egal"] * 4, "weg"))
    with pytest.raises(BadData, match="oben"):
        run(tmp_path / "out", path)
    result = run(tmp_path / "out", path, question=("q",), label_map="oben=a,unten=b,egal=tie,weg=drop")
    assert result.counts == {"tie": 4, "dropped_by_annotators": 1}
    assert [meta["chosen_first"] for _, meta in result.kept].count(True) == 6


@pytest.mark.parametrize(
    ("first", "second"),
    [("A", "B"), ("Response A", "Response B"), ("response_a is better", "B is better"), ("1", "2"), ("left", "right")],
)
def test_usual_labels_are_understood(tmp_path: Path, first: str, second: str) -> None:
    """Labels name the responses in many ways, and a tie too."""
    result = run(tmp_path / "out", write_lines(tmp_path / "x.jsonl", labelled(first, second, "Both", first)))
    assert sorted(meta["chosen_first"] for _, meta in result.kept) == [False, True, True]
    assert result.counts == {"tie": 1}


@pytest.mark.parametrize(
    "answers", [["0", "1"], ["0", "1", "2"], [0, 1], [1, 2, 3, 4, 5], [True], ["A>B", "B>A"], ["yes", "no"]]
)
def test_answers_that_may_mean_anything_are_refused(tmp_path: Path, answers: list[Any]) -> None:
    """0 and 1 may number the responses or be a tie and the first one; one rating compares nothing: no guess."""
    path = write_lines(tmp_path / "x.jsonl", labelled(*[answers[i % len(answers)] for i in range(30)]))
    with pytest.raises(BadData, match="is better"):
        run(tmp_path / "out", path)


def test_numbers_can_be_mapped(tmp_path: Path) -> None:
    """--label-map reads a scale from -1 to 1."""
    path = write_lines(tmp_path / "x.jsonl", labelled(*[-1, 0, 1] * 10))
    result = run(tmp_path / "out", path, question=("q",), label_map="-1=a,0=tie,1=b")
    assert [meta["chosen_first"] for _, meta in result.kept].count(True) == 10
    assert result.counts == {"tie": 10}


def corrected(number: int, **answers: Any) -> dict[str, Any]:
    """Return a 1.x record whose annotators could rewrite the response."""
    given = [{"user_id": user, "value": text, "status": "submitted"} for user, text in answers.items()]
    return {"instruction": f"question {number}", "original-response": "as it was", "new-response": given,
            "quality": [], "metadata": "{}", "external_id": str(number)}  # fmt: skip


def test_corrections_beat_what_they_correct(tmp_path: Path) -> None:
    """Every different correction is chosen over the original; unchanged is a tie, and half and half no majority."""
    rows = [
        corrected(1, u="better"), corrected(2, u="better", v="best"), corrected(3, u="as it was"),
        corrected(4, u="better", v="as it was "), corrected(5), corrected(6, u=" "),
    ]  # fmt: skip
    path = write_lines(tmp_path / "x.jsonl", rows)
    result = run(tmp_path / "out", path, corrected_question="new-response")
    assert texts(result) == [
        ("question 1", "better", "as it was"),
        ("question 2", "best", "as it was"),
        ("question 2", "better", "as it was"),
    ]  # fmt: skip
    assert result.counts == {"tie": 1, "no_majority": 1, "no_response": 1, "no_submitted_response": 1}
    with pytest.raises(BadData, match="no such question"):
        run(tmp_path / "no", path, corrected_question="nothing")


def test_legacy_text_classification(tmp_path: Path) -> None:
    """1.x before FeedbackDataset: one annotation a record; Validated counts, Default and Discarded do not."""

    def record(number: int, annotation: str | None, status: str) -> dict[str, Any]:
        inputs = {"prompt": f"question {number}", "response_a": "this", "response_b": "that"}
        return {"text": None, "inputs": inputs, "prediction": [{"label": "response_a", "score": 0.9}],
                "annotation": annotation, "annotation_agent": "ann", "status": status, "id": str(number),
                "metadata": {"lang": "en"}, "event_timestamp": None}  # fmt: skip

    rows = [record(1, "response_b", "Validated"), record(2, "response_a", "Discarded"), record(3, None, "Default")]
    path = write_lines(tmp_path / "x.jsonl", rows)
    result = run(tmp_path / "out", path)
    assert texts(result) == [("question 1", "that", "this")]
    assert result.counts == {"no_response": 1, "no_submitted_response": 1}
    assert result.kept[0][1]["metadata"] == {"lang": "en"}
    assert run(tmp_path / "s", path, use_suggestions=True).report["totals"]["pairs"] == 3


def test_legacy_text2text_is_a_correction(tmp_path: Path) -> None:
    """The validated text is better than the surest prediction."""
    row = {"text": "shorten this", "prediction": [{"text": "meh", "score": 0.1}, {"text": "hm", "score": 0.7}],
           "annotation": "short", "annotation_agent": "ann", "status": "Validated", "id": "1"}  # fmt: skip
    result = run(tmp_path / "out", write_lines(tmp_path / "x.jsonl", [row]), corrected_question="annotation")
    assert texts(result) == [("shorten this", "short", "hm")]


def test_distilabel_generations_with_ratings(tmp_path: Path) -> None:
    """Before distilabel makes pairs of them: best against worst, equal ratings tie, missing ones are no answer."""
    rows = [
        {"instruction": f"question {i}", "generations": ["one", "two", "three"], "ratings": ratings, "model": "m"}
        for i, ratings in enumerate([[3, 5, 1], [2, 2, 2], [5, 5, 1], None, [1, None, 2]])
    ]
    path = write_lines(tmp_path / "x.jsonl", rows)
    result = run(tmp_path / "out", path)
    assert texts(result) == [("question 0", "two", "three")]
    assert result.counts == {"tie": 1, "no_unique_best_worst": 1, "no_response": 1, "no_submitted_response": 1}
    assert (result.kept[0][1]["source"], result.kept[0][1]["metadata"]) == ("file", {"model": "m"})


def test_distilabel_questions_for_every_generation(tmp_path: Path) -> None:
    """PreferenceToArgilla: fields generations-0..n, a rating question each, an id field over the record's own."""
    row = {"id": "hash", "_server_id": "s", "status": "completed", "instruction": "which?", "generations-0": "one",
           "generations-1": "two"}  # fmt: skip
    for i, rating in enumerate((2, 4)):
        row |= {f"generations-{i}-rating.responses": [rating], f"generations-{i}-rating.responses.users": ["u"],
                f"generations-{i}-rating.responses.status": ["submitted"],
                f"generations-{i}-rationale.responses": ["for a reason"],
                f"generations-{i}-rationale.responses.users": ["u"],
                f"generations-{i}-rationale.responses.status": ["submitted"]}  # fmt: skip
    result = run(tmp_path / "out", write_lines(tmp_path / "x.jsonl", [row]))
    assert texts(result) == [("which?", "two", "one")]


def test_minimum_of_annotators_and_agreement(tmp_path: Path) -> None:
    """Too few answers, or too small a majority, drop a record under their own names."""
    rows = labelled("response_a", "response_a")
    rows[1] |= {
        "q.responses": ["response_a", "response_a", "response_b"], "q.responses.users": ["u", "v", "w"],
        "q.responses.status": ["submitted"] * 3,
    }  # fmt: skip
    path = write_lines(tmp_path / "x.jsonl", rows)
    assert run(tmp_path / "a", path, min_annotators=2).counts == {"below_min_annotators": 1}
    assert run(tmp_path / "b", path, min_agreement=0.8).counts == {"below_min_agreement": 1}


def test_on_tie_error_stops(tmp_path: Path) -> None:
    """Where ties are not allowed, the first one is named."""
    with pytest.raises(BadData, match="record 1: the annotators tie"):
        run(tmp_path / "out", write_lines(tmp_path / "x.jsonl", labelled("a", "tie", "b")), on_tie="error")


def test_length_bounds_count_what_they_drop(tmp_path: Path) -> None:
    """About four characters are a token; bounds are inclusive."""
    rows = [{"prompt": "x" * n, "chosen": "this", "rejected": "that"} for n in (8, 9, 40, 41)]
    path = write_lines(tmp_path / "x.jsonl", rows)
    result = run(tmp_path / "out", path, min_prompt_toks=3, max_prompt_toks=10)
    assert result.counts == {"too_short": 1, "too_long": 1}


def test_compressions_and_several_files_give_the_same(tmp_path: Path) -> None:
    """gzip, zstd, bzip2 and plain; one file or many through a glob."""
    content = b"".join(orjson.dumps(row) + b"\n" for row in labelled("a", "b", "a", "b"))
    packed = {
        "a.jsonl": content,
        "b.jsonl.gz": gzip.compress(content),
        "c.jsonl.zst": zstandard.compress(content),
        "d.jsonl.bz2": bz2.compress(content),
    }
    for name, data in packed.items():
        (tmp_path / name).write_bytes(data)
    for name in packed:
        assert run(tmp_path / f"out-{name}", tmp_path / name).report["totals"]["pairs"] == 4
    result = run(tmp_path / "all", str(tmp_path / "*.jsonl*"))
    assert (result.report["totals"]["records"], result.counts) == (16, {"duplicate": 12})


def test_second_run_is_skipped_and_other_settings_replace(tmp_path: Path) -> None:
    """The same input and settings leave the folder alone; another seed makes it anew."""
    path = write_lines(tmp_path / "x.jsonl", labelled("a", "b", "a", "b"))
    run(tmp_path / "out", path)
    before = (tmp_path / "out" / "_SUCCESS.json").read_bytes()
    run(tmp_path / "out", path)
    assert (tmp_path / "out" / "_SUCCESS.json").read_bytes() == before
    run(tmp_path / "out", path, shuffle_seed=1)
    assert (tmp_path / "out" / "_SUCCESS.json").read_bytes() != before


@pytest.mark.parametrize(
    "settings",
    [{"train_ratio": 0.5}, {"dedup_by": "text"}, {"label_map": "a"}, {"fail_on": ("tie",)}, {"min_prompt_toks": 9**9}],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Ratios that do not add up, unknown fields, maps and gates without a value."""
    with pytest.raises(BadConfig):
        run(tmp_path / "out", "x.jsonl", **({"max_prompt_toks": 2048} | settings))
