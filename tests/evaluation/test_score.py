"""`aios hrm-hf rm-score` and `generate`: the scores of training, in any order, in parts, from any file."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.contract.errors import ExitCode
from tests import tiny
from tests.evaluation.conftest import Trained

Aios = Callable[..., int]
REPOSITORY = Path(__file__).parents[2]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSON lines."""
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines."""
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def uneven_rows() -> list[dict[str, Any]]:
    """Pairs of very different lengths."""
    rows = tiny.make_rows(30, seed=3)
    for i, row in enumerate(rows):
        row["chosen"] = " ".join([row["chosen"]] * (1 + i % 4))
        row["id"] = f"r{i}"
    return rows


def scores_in_training(trained: Trained, rows: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """Return the rewards that the reward trainer's own evaluation computes for these rows."""
    import torch
    from datasets import Dataset
    from trl import RewardConfig

    from jobs.models.load import load_reward, load_tokenizer
    from jobs.rm.trainer import RMTrainer
    from jobs.training.encode import PairEncoder

    tokenizer = load_tokenizer(str(trained.rm))
    encoder = PairEncoder(tokenizer, chat_template="auto", max_length=1024, truncation="right")
    pairs = [encoder.encode(row) for row in rows]
    data = Dataset.from_dict(
        {
            "chosen_ids": [p.prompt_ids + p.chosen_ids for p in pairs],
            "rejected_ids": [p.prompt_ids + p.rejected_ids for p in pairs],
        }
    )
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Listening(RMTrainer):
        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            seen.extend(self._scores)
            super().log(logs, start_time)

    Listening(
        model=load_reward(str(trained.rm), tokenizer),
        args=RewardConfig(
            output_dir="unused", per_device_eval_batch_size=7, report_to=[], use_cpu=True, bf16=False, max_length=None
        ),
        train_dataset=data,
        eval_dataset=data,
        processing_class=tokenizer,
    ).evaluate()
    chosen, rejected = (torch.cat(part).tolist() for part in zip(*seen, strict=True))
    return list(zip(chosen, rejected, strict=True))


def test_scores_are_those_of_training_in_any_batch_and_order(
    aios: Aios, trained: Trained, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In fp32 rm-score equals the trainer's own evaluation to 1e-5, whatever the batch size and the order of rows."""
    rows = uneven_rows()
    expected = {row["id"]: scores for row, scores in zip(rows, scores_in_training(trained, rows), strict=True)}
    for name, ordered, batch in (("a", rows, 1), ("b", rows[::-1], 7), ("c", sorted(rows, key=str), 64)):
        source = write(workspace / f"{name}.jsonl", ordered)
        code = aios(
            "hrm-hf", "rm-score", "--model", trained.rm, "--input", source, "--output", f"{name}.out.jsonl",
            "--precision", "fp32", "--batch-size", batch, "--chunk-rows", 11,
        )  # fmt: skip
        assert code == 0
        scored = read(workspace / f"{name}.out.jsonl")
        assert [row["id"] for row in scored] == [row["id"] for row in ordered]
        for row in scored:
            assert (row["reward_chosen"], row["reward_rejected"]) == pytest.approx(expected[row["id"]], abs=1e-5)
            assert row["margin"] == pytest.approx(row["reward_chosen"] - row["reward_rejected"])


def test_long_rows_are_cut_as_in_training(aios: Aios, trained: Trained, workspace: Path) -> None:
    """A pair over --max-length gives the scores of the pair as training cuts it, its shorter answer's prompt too."""
    import torch

    from jobs.models.load import load_reward, load_tokenizer
    from jobs.training.encode import PairEncoder

    row = {"prompt": "how do I make tea? " * 12, "chosen": "here is a clear answer " * 6, "rejected": "go away"}
    source = write(workspace / "long.jsonl", [row])
    assert aios(
        "hrm-hf", "rm-score", "--model", trained.rm, "--input", source, "--output", "out.jsonl", "--max-length", 64,
        "--precision", "fp32",
    ) == 0  # fmt: skip
    (scored,) = read(workspace / "out.jsonl")
    tokenizer = load_tokenizer(str(trained.rm))
    pair = PairEncoder(tokenizer, chat_template="auto", max_length=64, truncation="right").encode(row)
    with torch.inference_mode():
        model = load_reward(str(trained.rm), tokenizer).eval()
        sides = [pair.prompt_ids + ids for ids in (pair.chosen_ids, pair.rejected_ids)]
        expected = [model(input_ids=torch.tensor([ids])).logits.item() for ids in sides]
    assert scored["truncated"]
    assert [scored["reward_chosen"], scored["reward_rejected"]] == pytest.approx(expected, abs=1e-5)


def test_shards_and_files_give_the_same_scores(aios: Aios, trained: Trained, workspace: Path) -> None:
    """Three shards hold each row once with the scores of the whole, and Parquet says what JSON lines say."""
    rows = [{"prompt": row["prompt"], "response": row["chosen"], "n": i} for i, row in enumerate(uneven_rows())]
    source = write(workspace / "in.jsonl", rows)
    parquet = workspace / "in.parquet"
    pq.write_table(pa.Table.from_pylist(rows), parquet)
    command = ["hrm-hf", "rm-score", "--model", trained.rm, "--precision", "fp32", "--keep", "n", "--chunk-rows", 7]
    assert aios(*command, "--input", source, "--output", "whole.jsonl") == 0
    assert aios(*command, "--input", parquet, "--output", "whole.parquet") == 0
    for index in range(3):
        assert aios(*command, "--input", source, "--output", "part.jsonl", "--shard", f"{index}/3") == 0
        assert (workspace / "part.jsonl").exists() == (index == 2)  # the last one joins them
    whole = read(workspace / "whole.jsonl")
    together = read(workspace / "part.jsonl")
    assert [row | {"reward": 0} for row in together] == [row | {"reward": 0} for row in whole]
    assert [row["reward"] for row in together] == pytest.approx([row["reward"] for row in whole], abs=1e-5)
    assert aios(*command, "--input", parquet, "--output", "part.parquet", "--shard", "1/2") == 0
    assert aios(*command, "--input", parquet, "--output", "part.parquet", "--shard", "0/2") == 0
    joined_table = pq.read_table(workspace / "part.parquet").to_pylist()
    parts = [row for index in range(3) for row in read(workspace / f"part.{index}-of-3.jsonl")]
    joined = sorted(parts, key=lambda row: int(row["row"]))
    assert [row["row"] for row in joined] == [row["n"] for row in whole] == list(range(30))
    assert [row["reward"] for row in joined] == pytest.approx([row["reward"] for row in whole], abs=1e-5)
    table = pq.read_table(workspace / "whole.parquet").to_pylist()
    assert [row["reward"] for row in joined_table] == pytest.approx([row["reward"] for row in table], abs=1e-5)
    assert [row["row"] for row in joined_table] == list(range(30))
    mended = (workspace / "part.2-of-3.jsonl").read_bytes()
    (workspace / "part.2-of-3.jsonl").unlink()
    (workspace / "part.jsonl").unlink()
    assert aios(*command, "--input", source, "--output", "part.jsonl", "--shard", "0/3") == 0
    assert not (workspace / "part.jsonl").exists()  # a shard is missing
    (workspace / "part.2-of-3.jsonl").write_bytes(mended)
    assert aios(*command, "--input", source, "--output", "part.jsonl", "--shard", "0/3") == 0
    assert (workspace / "part.jsonl").exists()
    assert [row["reward"] for row in table] == pytest.approx([row["reward"] for row in whole], abs=1e-6)
    assert [row["response"] for row in table] == [row["response"] for row in rows]


def test_rows_that_cannot_be_scored_are_counted(
    aios: Aios, trained: Trained, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bad row keeps its place with a reason instead of a score; a file of bad rows alone is bad data."""
    good = {"prompt": "tea?", "response": "thanks for asking"}
    source = workspace / "in.jsonl"
    bad: list[bytes] = [
        b"{torn",
        b"[1]",
        b'{"prompt":"a"}',
        b'{"prompt":"a","response":""}',
        b'{"prompt":7,"response":"b"}',
    ]
    source.write_bytes(b"\n".join([orjson.dumps(good), *bad, orjson.dumps(good)]))
    command = ["hrm-hf", "rm-score", "--model", trained.rm, "--output", "out.jsonl"]
    assert aios(*command, "--input", source) == 0
    summary = orjson.loads(capsys.readouterr().out)
    rows = read(workspace / "out.jsonl")
    assert [row["row"] for row in rows if row["error"] is None] == [0, 6]
    assert rows[3]["error"] == "no chosen"
    assert (summary["rows"], summary["done"], sum(summary["failed"].values())) == (7, 2, 5)
    source.write_bytes(b"\n".join(bad))
    assert aios(*command, "--input", source, "--overwrite") == ExitCode.DATA
    assert aios(*command, "--input", "absent.jsonl") == ExitCode.DATA
    assert aios(*command, "--input", source, "--shard", "3/3") == ExitCode.CONFIG


def test_a_killed_scoring_goes_on_where_it_died(aios: Aios, trained: Trained, workspace: Path) -> None:
    """kill -9 after the first chunks, then the same command: finished chunks stay, the output is that of one go."""
    rows = [row | {"id": f"{k}-{row['id']}"} for k in range(12) for row in uneven_rows()]
    source = write(workspace / "in.jsonl", rows)
    command = [
        "hrm-hf",
        "rm-score",
        "--model",
        trained.rm,
        "--input",
        source,
        "--precision",
        "fp32",
        "--chunk-rows",
        20,
    ]
    arguments = [str(a) for a in [*command, "--output", "killed.jsonl"]]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", *arguments], cwd=workspace, env=environment, stderr=subprocess.DEVNULL
    )
    finished: list[Path] = []
    for _ in range(1200):
        finished = sorted(workspace.glob(".killed.jsonl.parts-*/*0.jsonl"))
        if len(finished) >= 2 or process.poll() is not None:
            break
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert not (workspace / "killed.jsonl").exists()
    before = [path.stat().st_mtime_ns for path in finished]
    assert before
    kept = [path.read_bytes() for path in finished]
    assert aios(*command, "--output", "killed.jsonl") == 0
    assert aios(*command, "--output", "whole.jsonl") == 0
    assert (workspace / "killed.jsonl").read_bytes() == (workspace / "whole.jsonl").read_bytes()
    assert kept[0] in (workspace / "killed.jsonl").read_bytes()
    assert not list(workspace.glob(".killed.jsonl.parts-*"))


def test_generate_answers_do_not_depend_on_shards_or_batches(aios: Aios, trained: Trained, workspace: Path) -> None:
    """Each prompt's samples are the same in one batch, in many, and in a shard; two samples of a prompt differ."""
    prompts = write(workspace / "prompts.jsonl", [{"id": i, "prompt": f"tea number {i * 37}?"} for i in range(7)])
    command = ["hrm-hf", "generate", "--model", trained.dpo, "--input", prompts, "--max-new-tokens", 8]
    command += ["--precision", "fp32", "--samples", 2, "--temperature", 1]
    assert aios(*command, "--output", "a.jsonl", "--batch-size", 64) == 0
    assert aios(*command, "--output", "b.jsonl", "--batch-size", 3, "--chunk-rows", 2) == 0
    assert aios(*command, "--output", "c.jsonl", "--shard", "1/2") == 0
    a, b, c = (read(workspace / name) for name in ("a.jsonl", "b.jsonl", "c.1-of-2.jsonl"))
    assert a == b
    assert [row for row in a if row["row"] % 2 == 1] == c
    assert any(a[i]["response"] != a[i + 1]["response"] for i in range(0, len(a), 2))
    assert aios("hrm-hf", "rm-score", "--model", trained.rm, "--input", "a.jsonl", "--output", "scored.jsonl") == 0
