"""Rewards of many rows: encoded in one go, grouped by prompt, truncated as in training only where they are too long."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from jobs.evaluation.models import score_sequences
from jobs.evaluation.rows import Row
from jobs.training.encode import PairEncoder

SIDES = ("response", "chosen", "rejected")


def problem_of(row: Row) -> str | None:
    """Return why a row cannot be scored; None when it can."""
    wanted = ("prompt", *sides_of(row))
    return next((problem for name in wanted if (problem := problem_with(row, name))), None)


def problem_with(row: Row, name: str) -> str | None:
    """Return what is wrong with one text of a row; None when nothing is."""
    value = row.get(name)
    if value is None:
        return str(row["error"]) if "error" in row else f"no {name}"
    messages = isinstance(value, list) and all(isinstance(m, dict) and "role" in m for m in value)
    if not isinstance(value, str) and not messages:
        return f"{name} is neither text nor messages"
    return None if value else f"empty {name}"


def score_rows(model: Any, encoder: PairEncoder, rows: Sequence[Row], *, batch_size: int) -> list[Row]:
    """Return for each row the columns that scoring adds; rows must be free of problems."""
    jobs = [(i, side) for i, row in enumerate(rows) for side in sides_of(row)]
    full = encoder.encode_joined([(rows[i]["prompt"], rows[i][side]) for i, side in jobs])
    # The longer answer of a pair decides how much prompt both keep, so a long one cuts its sibling too.
    cut = {i for (i, _), ids in zip(jobs, full, strict=True) if len(ids) > encoder.max_length}
    sequences = [_cut(encoder, rows[i], side) if i in cut else ids for (i, side), ids in zip(jobs, full, strict=True)]
    prompts = [rows[i]["prompt"] if isinstance(rows[i]["prompt"], str) else repr(rows[i]["prompt"]) for i, _ in jobs]
    scores = score_sequences(model, sequences, prompts, encoder.tokenizer.pad_token_id, batch_size)
    added: list[Row] = [{"truncated": i in cut} for i in range(len(rows))]
    for (i, side), score in zip(jobs, scores.tolist(), strict=True):
        added[i]["reward" if side == "response" else f"reward_{side}"] = score
    for row in added:
        if "reward_chosen" in row:
            row["margin"] = row["reward_chosen"] - row["reward_rejected"]
            row["preference_probability"] = 0.5 * (1 + math.tanh(0.5 * row["margin"]))
    return added


def sides_of(row: Row) -> tuple[str, ...]:
    """Return which texts of a row are scored."""
    return ("response",) if row.get("response") is not None else ("chosen", "rejected")


def _cut(encoder: PairEncoder, row: Row, side: str) -> list[int]:
    if side == "response":
        prompt, answer = encoder.encode_answer(row["prompt"], row["response"])
        return prompt + answer
    pair = encoder.encode(row)
    return pair.prompt_ids + (pair.chosen_ids if side == "chosen" else pair.rejected_ids)
