"""Log-probabilities of the reference model: computed once, kept on the volume for resumes and sweeps over beta."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import orjson

from jobs.contract.files import make_folder, sha256_json, write_atomic
from jobs.contract.log import LOG
from jobs.training.encode import EncodedPair
from jobs.training.interrupt import StopFlag
from jobs.training.logps import completion_logps, passes
from jobs.training.world import World

CACHE = Path("artifacts/cache/reference")
_FORMAT = 2
PASS_SEQUENCES, PASS_TOKENS = 64, 8192
"""Batch of the reference pass. Without gradients only one layer's activations are alive, so it may be far larger than
a training batch: on 2 CPU cores 4 sequences at a time took three times as long."""


def reference_logps(
    load: Callable[[], Any],
    pairs: list[EncodedPair],
    *,
    reached: Collection[int] | None = None,
    model_sha256: str,
    precision: str,
    variant: str,
    pad_id: int,
    world: World,
    stop: StopFlag,
) -> tuple[list[float], list[float], int]:
    """Return the summed log-probabilities of chosen and rejected answers, and for how many pairs they were computed.

    `load` gives the reference model and is called only when the cache has no answer. The key is a hash of the model,
    the token ids (so of data, template and length) and the arithmetic: `variant` is "half" for passes on a bf16 copy of
    the weights, else how the weights are quantized. The processes of a run share the work.

    `reached` are the pairs that will be trained on; the others are left NaN, so that using one cannot go unnoticed.

    Raises:
        Interrupted: a stop was asked for; what is computed so far is kept for the next attempt.
    """
    sequences = [(p.prompt_ids, p.chosen_ids) for p in pairs] + [(p.prompt_ids, p.rejected_ids) for p in pairs]
    path = CACHE / f"{sha256_json([_FORMAT, model_sha256, precision, variant, sequences])}.json"
    sums = world.share(_read(path, len(sequences)))
    needed = range(len(pairs)) if reached is None else reached
    missing = [i for i, value in enumerate(sums) if value is None and i % len(pairs) in needed]
    if missing:
        if world.first:
            LOG.info("Reference log-probabilities of %d pairs", len({i % len(pairs) for i in missing}))
        from jobs.training.fast import half

        # The policy's arithmetic, to the rounding: else its first margins would be noise, not 0.
        model, autocast = (half(load()), "fp32") if variant == "half" else (load(), precision)
        mine = _compute(model, sequences, missing[world.rank :: world.size], autocast, pad_id, stop)
        for part in world.collect(mine):
            for index, value in part.items():
                sums[index] = value
        if world.first:
            make_folder(path.parent)
            write_atomic(path, orjson.dumps({"sums": sums}))
        if any(world.collect(bool(stop))):
            stop.raised = True
            stop.check()
    known = [math.nan if value is None else value for value in sums]
    return known[: len(pairs)], known[len(pairs) :], len({i % len(pairs) for i in missing})


def reached_pairs(count: int, *, wanted: int | None, seed: int) -> set[int] | None:
    """Return the pairs that `wanted` draws come to in the first pass over the data; None when it is all of them.

    The order is that of accelerate's SeedableRandomSampler, which the trainers use: a permutation seeded anew in each
    pass. A hundred steps on a large set would otherwise wait for the reference model to read all of it.
    """
    import torch

    if wanted is None or wanted >= count:
        return None
    return set(torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()[:wanted])


def _read(path: Path, count: int) -> list[float | None]:
    try:
        sums: list[float | None] = orjson.loads(path.read_bytes())["sums"]
    except (FileNotFoundError, orjson.JSONDecodeError, KeyError):
        return [None] * count
    return sums


def _compute(
    model: Any,
    sequences: list[tuple[list[int], list[int]]],
    wanted: list[int],
    precision: str,
    pad_id: int,
    stop: StopFlag,
) -> dict[int, float]:
    """Return the sums of the wanted sequences; fewer when a stop was asked for."""
    import torch

    from jobs.training.hardware import torch_dtype

    sums: dict[int, float] = {}
    asked = [sequences[i] for i in wanted]
    if not asked:
        return sums
    device = next(model.parameters()).device.type
    dtype = torch_dtype(precision)
    model.eval()
    with torch.no_grad(), torch.autocast(device, dtype, enabled=dtype != torch.float32):
        joined, prompts = zip(*((prompt + answer, tuple(prompt)) for prompt, answer in asked), strict=True)
        for batch in passes(model, joined, prompts, batch_size=PASS_SEQUENCES, max_tokens=PASS_TOKENS):
            if stop:
                break
            indices = [wanted[i] for i in batch]
            totals, _ = completion_logps(model, [asked[i] for i in batch], pad_id)
            sums |= dict(zip(indices, totals.tolist(), strict=True))
    return sums
