"""Settings of the step `ingest`: `aios data argilla-export`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jobs.config.fields import option
from jobs.contract.errors import BadConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestConfig:
    """From an Argilla export to validated splits."""

    input: tuple[str, ...] = option(metavar="FILE")
    """Export to read: .jsonl, .json or .parquet, also .gz, .zst; a glob is expanded; repeat for several files."""

    output: str = option(metavar="DIR", identity=False)
    """Folder of the splits, usually training_data/curated_datasets/preferences; an existing set in it is replaced
    as a whole, and stays as it is if anything fails."""

    format: Literal["trl", "trl-chat"] = "trl"
    """Shape of the rows: trl keeps plain text as strings and chats as message lists, trl-chat makes all of them
    message lists."""

    train_ratio: float = option(0.9, min=0, max=1)
    """Share of the pairs in train.jsonl; the three ratios add up to 1. All pairs of one prompt lie in one split."""

    eval_ratio: float = option(0.05, min=0, max=1)
    """Share of the pairs in eval.jsonl, for curves during training."""

    test_ratio: float = option(0.05, min=0, max=1)
    """Share of the pairs in test.jsonl, kept for the verdict."""

    min_prompt_toks: int = option(3, min=0)
    """Drop a pair whose prompt is shorter, in tokens (about 4 characters each unless a tokenizer is given)."""

    max_prompt_toks: int = option(2048, min=1)
    """Drop a pair whose prompt is longer, in tokens."""

    dedup_by: str = "prompt+chosen+rejected"
    """Fields whose hash decides that two pairs are the same; the first one stays. none keeps all of them."""

    shuffle_seed: int = 42
    """Seed of the order of pairs and of the split they fall into; the same seed gives the same bytes."""

    anonymize: bool = False
    """Replace personal data (emails, phone numbers, names and more) by pseudonyms before anything is written."""

    fail_under: float | None = option(None, min=0, max=1, identity=False)
    """Exit with 3, after publishing, when the share of valid records is below this (a run uses 0.90)."""

    def __post_init__(self) -> None:
        total = self.train_ratio + self.eval_ratio + self.test_ratio
        if abs(total - 1) > 1e-6:
            raise BadConfig(
                f"the ratios add up to {total:g}",
                needed="1",
                next_step="change --train-ratio, --eval-ratio, --test-ratio",
            )
        if self.min_prompt_toks > self.max_prompt_toks:
            raise BadConfig(
                f"--min-prompt-toks {self.min_prompt_toks} is above --max-prompt-toks {self.max_prompt_toks}"
            )
