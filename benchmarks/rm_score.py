"""rm-score against transformers' text-classification pipeline: the same model, texts and precision, side by side.

    python -m benchmarks.rm_score MODEL [--dataset-dir DIR] [--rows N] [--precision fp32] [--kinds pairs single]

MODEL is a reward model; a causal one gets a random head, which costs the same. Three kinds of rows: pairs of people's
preferences from DIR (one prompt, two answers), samples (four answers to each prompt), and single answers. The
pipeline gets the batch size that is best for it; runs alternate, and medians of their wall times are compared.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import torch
from transformers import AutoModelForSequenceClassification, pipeline

from jobs.evaluation.models import reward_on_device
from jobs.evaluation.rows import Row
from jobs.evaluation.scoring import score_rows, sides_of
from jobs.models.load import load_tokenizer
from jobs.training.encode import PairEncoder
from jobs.training.hardware import set_threads, torch_dtype
from jobs.training.libraries import quiet_libraries

WORDS = ["the", "tea", "is", "hot", "and", "you", "should", "wait", "a", "few", "minutes", "before", "guests", "drink"]
BATCHES = (1, 2, 4, 8, 16)
REPETITIONS = 3


def words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(count))


def made_rows(count: int, samples: int) -> list[Row]:
    """Rows whose answers have 5 to 150 words, short ones more often, as in chat data; so many answers to a prompt."""
    rng = random.Random(0)
    prompts = [words(rng, rng.randint(5, 25)) for _ in range(count // samples)]
    return [{"prompt": p, "response": words(rng, int(5 * 30 ** rng.random()))} for p in prompts for _ in range(samples)]


def pairs(folder: Path, count: int) -> list[Row]:
    """Return the first pairs of the training split."""
    lines = (folder / "train.jsonl").read_bytes().splitlines()[:count]
    return [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in map(orjson.loads, lines)]


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Print one line per kind of rows and precision: rows per second of both, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--dataset-dir", type=Path, default=Path("training_data/curated_datasets/preferences"))
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--kinds", nargs="+", default=["pairs", "samples", "single"])
    options = parser.parse_args()
    set_threads()
    quiet_libraries()
    tokenizer = load_tokenizer(options.model)
    encoder = PairEncoder(tokenizer, chat_template="auto", max_length=1024, truncation="right")
    kinds = {
        "pairs": pairs(options.dataset_dir, options.rows),
        "samples": made_rows(options.rows, 4),
        "single": made_rows(options.rows, 1),
    }
    for precision in options.precision:
        for kind in options.kinds:
            rows = kinds[kind]
            ours, stock, batch = compare(options.model, tokenizer, encoder, rows, precision)
            print(
                f"{precision} {kind:8s} rm-score {len(rows) / ours:6.1f} rows/s, "
                f"pipeline {len(rows) / stock:6.1f} rows/s at its best batch size of {batch}: {stock / ours:.2f} times",
                flush=True,
            )


def compare(
    name: str, tokenizer: Any, encoder: PairEncoder, rows: list[Row], precision: str
) -> tuple[float, float, int]:
    """Return the median seconds of ours and of the pipeline, and the pipeline's batch size."""
    texts = [
        tokenizer.decode(encoder.encode_joined([(row["prompt"], row[side])])[0])
        for row in rows
        for side in sides_of(row)
    ]
    model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=1, dtype=torch_dtype(precision))
    model.config.pad_token_id = tokenizer.pad_token_id
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")

    def stock(some: list[str], batch: int) -> float:
        return seconds(lambda: classify(some, function_to_apply="none", batch_size=batch))

    stock(texts[:4], 2)
    probe = random.Random(1).sample(texts, min(32, len(texts)))
    best = min(BATCHES, key=lambda batch: stock(probe, batch))
    torch.manual_seed(0)
    times: list[tuple[float, float]] = []
    with reward_on_device(name, tokenizer, precision) as ours:
        score_rows(ours, encoder, rows[:4], batch_size=2)
        for _ in range(REPETITIONS):
            times.append((seconds(lambda: score_rows(ours, encoder, rows, batch_size=32)), stock(texts, best)))
    mine, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    return mine, theirs, best


if __name__ == "__main__":
    main()
