"""Splits: exact shares, whole prompts, the same bytes again and on any number of workers, one format throughout."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import orjson
import pytest

from jobs.contract.splits import SPLITS
from tests.ingest.helpers import lines, run, write_lines


def flat(number: int, **extra: Any) -> dict[str, Any]:
    """Return a 2.x flat record with one submitted answer."""
    return {
        "id": f"r{number}",
        "_server_id": f"s{number}",
        "status": "completed",
        "prompt": f"what about number {number}?",
        "response_a": f"first answer {number}",
        "response_b": f"second answer to {number}",
        "source": "web",
        "q.responses": ["response_b" if number % 3 else "response_a"],
        "q.responses.users": ["u1"],
        "q.responses.status": ["submitted"],
    } | extra


def digest(folder: Path) -> str:
    """Hash the published content, without times and attempt."""
    content = hashlib.sha256()
    for path in sorted(folder.glob("*.jsonl")):
        content.update(path.name.encode() + path.read_bytes())
    return content.hexdigest() + str(orjson.loads((folder / "schema_report.json").read_bytes()))


def test_shares_are_exact_and_no_prompt_is_in_two_splits(tmp_path: Path) -> None:
    """300 pairs over 100 prompts at 0.8/0.1/0.1: every prompt whole, sizes right to within one prompt."""
    rows = [{"prompt": f"prompt number {i % 100}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(300)]
    settings = {"train_ratio": 0.8, "eval_ratio": 0.1, "test_ratio": 0.1}
    result = run(tmp_path / "out", write_lines(tmp_path / "x.jsonl", rows), **settings)
    sizes = {name: len(result.rows[name]) for name in SPLITS}
    assert sizes == {"train": 240, "eval": 30, "test": 30}
    prompts = [{row["prompt"] for row in result.rows[name]} for name in SPLITS]
    assert sum(map(len, prompts)) == len(set().union(*prompts)) == 100


@pytest.mark.parametrize("count", [1, 2, 3, 4, 10])
def test_small_sets_fill_every_split_from_three_prompts_on(tmp_path: Path, count: int) -> None:
    """At 5 % of ten pairs nothing would be left for the verdict: each split gets at least one prompt."""
    rows = [{"prompt": f"prompt number {i}", "chosen": "good", "rejected": "bad"} for i in range(count)]
    result = run(tmp_path / "out", write_lines(tmp_path / "x.jsonl", rows))
    sizes = [len(result.rows[name]) for name in SPLITS]
    assert sum(sizes) == count
    assert count < 3 or min(sizes) >= 1


@pytest.mark.parametrize(
    ("ratios", "empty"), [((1, 0, 0), {"eval", "test"}), ((0, 0, 1), {"train", "eval"}), ((0.5, 0, 0.5), {"eval"})]
)
def test_split_that_is_not_asked_for_is_empty(tmp_path: Path, ratios: tuple[float, ...], empty: set[str]) -> None:
    """A ratio of zero means no pair at all."""
    rows = [{"prompt": f"prompt number {i}", "chosen": "good", "rejected": "bad"} for i in range(40)]
    train, evaluation, test = ratios
    result = run(
        tmp_path / "out", write_lines(tmp_path / "x.jsonl", rows),
        train_ratio=train, eval_ratio=evaluation, test_ratio=test,
    )  # fmt: skip
    assert {name for name in SPLITS if not result.rows[name]} == empty


def test_growing_export_moves_hardly_any_prompt(tmp_path: Path) -> None:
    """A prompt's place depends on its own hash: 10 % more records leave at least 97 % of the prompts in their split."""
    rows = [{"prompt": f"prompt number {i}", "chosen": "good", "rejected": "bad"} for i in range(1100)]
    before = run(tmp_path / "a", write_lines(tmp_path / "a.jsonl", rows[:1000]))
    after = run(tmp_path / "b", write_lines(tmp_path / "b.jsonl", rows))
    place = {row["prompt"]: name for name in SPLITS for row in after.rows[name]}
    moved = sum(place[row["prompt"]] != name for name in SPLITS for row in before.rows[name])
    assert moved <= 30


def test_bytes_are_the_same_on_one_and_two_workers_and_again(tmp_path: Path) -> None:
    """Many units and buckets, duplicates and contradictions across them, drafts, chats: nothing depends on the race."""
    source = random.Random(5)
    rows = []
    for i in range(24_000):
        k = source.randrange(0, 22_000)
        extra = {"response_a": "x" * source.randrange(1, 1800)} if i % 2 else {}
        status = source.choice(["submitted", "submitted", "draft", "discarded"])
        rows.append(flat(k, **extra, **{"q.responses.status": [status]}))
    path = write_lines(tmp_path / "x.jsonl", rows)
    assert path.stat().st_size > 16 << 20
    results = [run(tmp_path / f"out{n}", path, workers=n, write_drops=False) for n in (1, 2)]
    again = run(tmp_path / "again", path, workers=1, write_drops=False)
    assert results[0].report["drops"].keys() >= {"duplicate", "no_submitted_response"}
    assert digest(tmp_path / "out1") == digest(tmp_path / "out2") == digest(again.folder)
    other = run(tmp_path / "other", path, workers=1, write_drops=False, shuffle_seed=43)
    assert [r["prompt"] for r in other.rows["train"]] != [r["prompt"] for r in again.rows["train"]]


def test_fast_path_gives_what_the_ordinary_path_gives(tmp_path: Path) -> None:
    """The loop for common exports and the general code agree on every row, drop, count and statistic."""
    source = random.Random(11)
    odd: list[dict[str, Any]] = [
        {"prompt": ""}, {"response_a": None}, {"response_a": " same ", "response_b": "same"}, {"id": None},
        {"q.responses": None, "q.responses.users": None, "q.responses.status": None},
        {"q.responses": ["response_a", "response_b"], "q.responses.users": ["u1", "u2"],
         "q.responses.status": ["submitted", "submitted"]},
        {"q.responses": ["response_a", "response_b"], "q.responses.users": ["u1", "u1"],
         "q.responses.status": ["submitted", "submitted"]},
        {"q.responses": ["nobody"]}, {"q.responses.status": ["lost"]}, {"q.responses.users": []}, {"q.responses": "x"},
        {"q.responses": ["tie"]}, {"prompt": "é " * 40}, {"prompt": "no"}, {"new column": {"a": [1, None, 2.5]}},
        {"source": None}, {"source": {"nested": "\u2028"}}, {"status": 3}, {"q.responses": []},
    ]  # fmt: skip
    rows = [flat(source.randrange(150), **source.choice([{}, *odd])) for _ in range(3000)]
    path = write_lines(tmp_path / "x.jsonl", rows)
    with path.open("ab") as file:
        file.write(b'{"prompt":"a question of size","response_a":"x","response_b":"y","source":1e999,"id":"huge",')
        file.write(b'"q.responses":["response_a"],"q.responses.users":["u1"],"q.responses.status":["submitted"]}\n')
    fast = run(tmp_path / "fast", path, write_drops=False, min_prompt_toks=3)
    ordinary = run(tmp_path / "ordinary", path, write_drops=False, min_prompt_toks=3, max_chars=10**9)
    assert fast.rows == ordinary.rows
    assert fast.meta == ordinary.meta
    same = {"settings", "outputs"}
    assert {k: v for k, v in fast.report.items() if k not in same} == {
        k: v for k, v in ordinary.report.items() if k not in same
    }


def test_mixed_text_and_chat_become_messages_throughout(tmp_path: Path) -> None:
    """A message list far down the file, which the sample does not show, turns all rows into messages."""
    rows: list[dict[str, Any]] = [
        {"prompt": f"prompt number {i} {'x' * 2000}", "chosen": "good", "rejected": "bad"} for i in range(3000)
    ]
    rows[1000] = {
        "prompt": [{"role": "user", "content": "in a chat"}], "chosen": "good", "rejected": "bad",
    }  # fmt: skip
    result = run(tmp_path / "out", write_lines(tmp_path / "x.jsonl", rows))
    assert result.report["totals"]["pairs"] == 3000
    assert {type(row[name]) for row, _ in result.kept for name in row} == {list}
    assert all(m["role"] == "assistant" for row, _ in result.kept for m in row["chosen"])


def test_trl_chat_forces_messages(tmp_path: Path) -> None:
    """--format trl-chat makes one user and one assistant message of plain text."""
    rows = [{"prompt": "what is it?", "chosen": "good", "rejected": "bad"}]
    result = run(tmp_path / "out", write_lines(tmp_path / "x.jsonl", rows), format="trl-chat")
    assert [row for row, _ in result.kept] == [
        {
            "prompt": [{"role": "user", "content": "what is it?"}],
            "chosen": [{"role": "assistant", "content": "good"}],
            "rejected": [{"role": "assistant", "content": "bad"}],
        }
    ]


def test_dedup_by_decides_what_is_the_same(tmp_path: Path) -> None:
    """The first of equal pairs stays; contradictions go whatever --dedup-by says."""
    pairs = [("p one", "a", "b"), ("p one", "a", "b"), ("p one", "a", "c"), ("p two", "a", "b"), ("p two", "b", "a")]
    rows = [dict(zip(("prompt", "chosen", "rejected"), pair, strict=True)) for pair in pairs]
    path = write_lines(tmp_path / "x.jsonl", rows)
    kept = {
        key: run(tmp_path / key, path, dedup_by=key).report["totals"]["pairs"]
        for key in ("prompt+chosen+rejected", "prompt+chosen", "prompt", "chosen", "none")
    }
    assert kept == {"prompt+chosen+rejected": 2, "prompt+chosen": 1, "prompt": 1, "chosen": 1, "none": 3}


def test_meta_lines_name_record_votes_and_metadata(tmp_path: Path) -> None:
    """Line for line beside the rows: where a pair comes from and how it was decided."""
    row = flat(1, **{
        "q.responses": ["response_b", "response_b", "tie"], "q.responses.users": ["u1", "u2", "u3"],
        "q.responses.status": ["submitted"] * 3,
    })  # fmt: skip
    result = run(tmp_path / "out", write_lines(tmp_path / "x.jsonl", [row]))
    assert [meta for _, meta in result.kept] == [
        {
            "id": "r1",
            "server_id": "s1",
            "votes": {"a": 0, "b": 2, "tie": 1},
            "agreement": 0.6667,
            "chosen_first": False,
            "source": "people",
            "metadata": {"source": "web"},
        }
    ]
    assert lines(tmp_path / "out" / "drops.jsonl") == []
