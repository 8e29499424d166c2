"""rm-score against transformers' text-classification pipeline: the same model, rows and precision, side by side.

    python -m benchmarks.rm_score MODEL [ROWS]

MODEL is a reward model; a causal one gets a random head, which costs the same. Times are CPU seconds of this process
beside wall seconds, since a shared machine stretches the latter. The pipeline gets the best of five batch sizes.
"""

from __future__ import annotations

import functools
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, pipeline

from jobs.evaluation.models import reward_on_device
from jobs.evaluation.rows import Row
from jobs.evaluation.scoring import score_rows
from jobs.models.load import load_tokenizer
from jobs.training.encode import PairEncoder
from jobs.training.hardware import set_threads, torch_dtype

WORDS = ["the", "tea", "is", "hot", "and", "you", "should", "wait", "a", "few", "minutes", "before", "guests", "drink"]
BATCHES = (1, 4, 8, 16, 32)


def make_rows(count: int) -> list[Row]:
    """Rows whose answers have 5 to 150 words, short ones more often, as in chat data."""
    rng = random.Random(0)

    def text(words: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(words))

    return [{"prompt": text(rng.randint(5, 25)), "response": text(int(5 * 30 ** rng.random()))} for _ in range(count)]


def timed(work: Callable[[], object]) -> tuple[float, float, object]:
    """Return CPU seconds, wall seconds and the result."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    return time.process_time() - cpu, time.perf_counter() - wall, result


def main(model: str, count: int = 128) -> None:
    """Print one line per precision: rows per CPU second of both, and the ratio."""
    set_threads()
    tokenizer = load_tokenizer(model)
    encoder = PairEncoder(tokenizer, chat_template="auto", max_length=1024, truncation="right")
    rows = make_rows(count)
    texts = [tokenizer.decode(ids) for ids in encoder.encode_joined([(r["prompt"], r["response"]) for r in rows])]
    for precision in ("fp32", "bf16"):
        cpu_stock, wall_stock, batch = best_of_pipeline(model, tokenizer, texts, precision)
        torch.manual_seed(0)
        with reward_on_device(model, tokenizer, precision) as ours:
            score_rows(ours, encoder, rows[:4], batch_size=2)
            cpu, wall, _ = timed(functools.partial(score_rows, ours, encoder, rows, batch_size=32))
        print(
            f"{precision}: rm-score {count / cpu:.1f} rows per CPU s ({count / wall:.1f}/s), "
            f"pipeline at its best batch ({batch}) {count / cpu_stock:.1f} ({count / wall_stock:.1f}/s): "
            f"x{cpu_stock / cpu:.2f} (wall x{wall_stock / wall:.2f})",
            flush=True,
        )


def best_of_pipeline(model: str, tokenizer: Any, texts: list[str], precision: str) -> tuple[float, float, int]:
    """Return CPU seconds, wall seconds and batch size of the pipeline's fastest run."""
    stock = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1, dtype=torch_dtype(precision))
    stock.config.pad_token_id = tokenizer.pad_token_id
    classify = pipeline("text-classification", model=stock, tokenizer=tokenizer, device="cpu")
    classify(texts[:4], function_to_apply="none", batch_size=2)
    runs = []
    for batch in BATCHES:
        cpu, wall, _ = timed(functools.partial(classify, texts, function_to_apply="none", batch_size=batch))
        runs.append((cpu, wall, batch))
        print(f"  pipeline {precision} batch {batch}: {cpu:.1f} CPU s, {wall:.1f} s", flush=True)
    return min(runs)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]))
