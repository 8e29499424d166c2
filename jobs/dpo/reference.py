"""Log-probabilities of the reference model: computed once, kept on the volume for resumes and sweeps over beta."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from jobs.contract.files import sha256_json, write_atomic
from jobs.contract.log import LOG
from jobs.training.encode import EncodedPair
from jobs.training.logps import by_length, completion_logps

CACHE = Path("artifacts/cache/reference")
_FORMAT = 1


def reference_logps(
    load: Callable[[], Any],
    pairs: list[EncodedPair],
    *,
    model_sha256: str,
    precision: str,
    batch_size: int,
    pad_id: int,
) -> tuple[list[float], list[float], bool]:
    """Return the summed log-probabilities of chosen and rejected answers, and whether they were computed now.

    `load` gives the reference model and is called only when the cache has no answer. The key is a hash of the model,
    the token ids (so of data, template and length) and the precision.
    """
    ids = [[pair.prompt_ids, pair.chosen_ids, pair.rejected_ids] for pair in pairs]
    path = CACHE / f"{sha256_json([_FORMAT, model_sha256, precision, ids])}.json"
    try:
        cached = orjson.loads(path.read_bytes())
        return cached["chosen"], cached["rejected"], False
    except (FileNotFoundError, orjson.JSONDecodeError, KeyError):
        pass
    LOG.info("Reference log-probabilities of %d pairs", len(pairs))
    sums = _compute(load(), pairs, precision, batch_size, pad_id)
    chosen, rejected = sums[: len(pairs)], sums[len(pairs) :]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, orjson.dumps({"chosen": chosen, "rejected": rejected}))
    return chosen, rejected, True


def _compute(model: Any, pairs: list[EncodedPair], precision: str, batch_size: int, pad_id: int) -> list[float]:
    import torch

    from jobs.training.hardware import torch_dtype

    sequences = [(p.prompt_ids, p.chosen_ids) for p in pairs] + [(p.prompt_ids, p.rejected_ids) for p in pairs]
    sums = [0.0] * len(sequences)
    device = next(model.parameters()).device.type
    model.eval()
    with torch.no_grad(), torch.autocast(device, torch_dtype(precision), enabled=precision != "fp32"):
        for batch in by_length([len(p) + len(a) for p, a in sequences], 2 * batch_size):
            totals, _ = completion_logps(model, [sequences[i] for i in batch], pad_id)
            for index, value in zip(batch, totals.tolist(), strict=True):
                sums[index] = value
    return sums
