"""The held-out pairs: rows of test.jsonl, what is known of them, and what each model says about them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from jobs.contract.errors import BadData
from jobs.contract.splits import Split
from jobs.evaluation.statistics import Floats, Ints, clusters_of
from jobs.training.encode import EncodedPair, EncodedSplit, PairEncoder, encode_split


def text_of(content: Any) -> str:
    """Return plain text of a prompt or an answer; messages become `role: content` lines, a lone answer its text."""
    if isinstance(content, str):
        return content
    if len(content) == 1 and content[0].get("role") == "assistant":
        return str(content[0].get("content") or "")
    return "\n".join(f"{message.get('role')}: {message.get('content')}" for message in content)


def key_of(content: Any) -> Hashable:
    """Return what makes two prompts the same prompt."""
    return content if isinstance(content, str) else orjson.dumps(content, option=orjson.OPT_SORT_KEYS)


@dataclass(frozen=True, kw_only=True, slots=True)
class TestSet:
    """The test split with what every card needs: prompt of each row and lengths of both answers."""

    __test__ = False  # not for pytest

    rows: list[dict[str, Any]]
    meta: list[dict[str, Any]]
    clusters: Ints
    length_gaps: Floats
    """Characters of the chosen answer minus those of the rejected one."""

    @classmethod
    def of(cls, split: Split, where: str) -> TestSet:
        """Build it from the split that was read; an empty one carries no verdict."""
        if not split.rows:
            raise BadData(
                f"{where} has no rows", needed="held-out pairs", next_step="ingest with a larger --test-ratio"
            )
        meta = split.meta if len(split.meta) == len(split.rows) else [{} for _ in split.rows]
        gaps = [len(text_of(row["chosen"])) - len(text_of(row["rejected"])) for row in split.rows]
        clusters = clusters_of([key_of(row["prompt"]) for row in split.rows])
        return cls(rows=split.rows, meta=meta, clusters=clusters, length_gaps=np.array(gaps, dtype=np.float64))

    @property
    def num_prompts(self) -> int:
        """How many different prompts there are."""
        return int(self.clusters.max()) + 1

    def first_rows(self) -> Ints:
        """Return the index of the first row of each prompt."""
        return np.unique(self.clusters, return_index=True)[1]

    def encode(self, encoder: PairEncoder) -> EncodedSplit:
        """Encode all rows for one model; what it cannot encode is counted, never lost."""
        encoded = encode_split(encoder, self.rows)
        if not encoded.pairs:
            raise BadData(f"none of the {encoded.read} held-out pairs can be encoded ({encoded.dropped})")
        return encoded

    def spread(self, encoded: EncodedSplit, values: Floats) -> Floats:
        """Return one value per row of the test set from one per encoded pair; NaN where a row was dropped."""
        full = np.full(len(self.rows), np.nan)
        full[encoded.kept] = values
        return full


def both_sides(
    pairs: list[EncodedPair], score: Callable[[list[tuple[list[int], list[int]]]], Floats]
) -> tuple[Floats, Floats]:
    """Score chosen and rejected answers in one go, so that batches of similar length mix both sides."""
    sequences = [(p.prompt_ids, p.chosen_ids) for p in pairs] + [(p.prompt_ids, p.rejected_ids) for p in pairs]
    scores = score(sequences)
    return scores[: len(pairs)], scores[len(pairs) :]
