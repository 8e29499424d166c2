"""Log-probabilities of the reference model: computed once, kept on the volume for resumes and sweeps over beta."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from jobs.contract.files import make_folder, sha256_json, write_atomic
from jobs.contract.log import LOG
from jobs.training.interrupt import StopFlag
from jobs.training.logps import completion_logps, passes

if TYPE_CHECKING:
    from jobs.training.session import TrainingSession

CACHE = Path("artifacts/cache/reference")
_FORMAT = 2
PASS_SEQUENCES, PASS_TOKENS = 64, 8192
"""Batch of the reference pass. Without gradients only one layer's activations are alive, so it may be far larger than
a training batch: on 2 CPU cores 4 sequences at a time took three times as long."""


@dataclass(kw_only=True, slots=True)
class _Table:
    """What is known of one split: first all chosen, then all rejected answers."""

    sequences: list[tuple[list[int], list[int]]]
    path: Path
    sums: list[float | None]
    computed: int = 0


class References:
    """The summed log-probabilities of chosen and rejected answers, for the pairs that were asked for.

    The key of the cache is a hash of the model, the token ids (so of data, template and length) and the arithmetic. The
    processes of a run share the work.

    Args:
        session: what is trained; its encoded splits are those that can be asked about.
        load: gives the reference model, ready to be asked; called only when the cache has no answer.
        variant: "half" for passes on a bf16 copy of the weights, else how the weights are quantized.
    """

    def __init__(self, session: TrainingSession, load: Callable[[], Any], *, variant: str) -> None:
        self.session = session
        self.load: Callable[[], Any] | None = load
        self.model: Any = None
        # A bf16 copy needs no autocast.
        self.precision = "fp32" if variant == "half" else session.precision
        self.tables = {}
        for name, split in session.encoded.items():
            pairs = split.pairs
            sequences = [(p.prompt_ids, p.chosen_ids) for p in pairs] + [(p.prompt_ids, p.rejected_ids) for p in pairs]
            key = sha256_json([_FORMAT, session.inputs["ref_model"], session.precision, variant, sequences])
            path = CACHE / f"{key}.json"
            sums = session.world.share(_read(path, len(sequences)))
            self.tables[name] = _Table(sequences=sequences, path=path, sums=sums)

    def complete(self) -> None:
        """Ask about all pairs that the run comes to, record how many the cache lacked, and let the model go.

        Raises:
            Interrupted: a stop was asked for; what is computed so far is kept for the next attempt.
        """
        config = self.session.config
        for name, table in self.tables.items():
            pairs = len(table.sums) // 2
            draws = config.max_steps and config.max_steps * self.session.pairs_per_step()
            reached = reached_pairs(pairs, wanted=draws, seed=config.seed) if name == "train" else None
            self._ask(table, range(pairs) if reached is None else reached, tell=True)
            self.session.once("reference", split=name, reference_pairs_computed=table.computed)
        self.load = self.model = None  # from here on the policy is the only model in memory

    def of(self, split: str, pairs: Sequence[int]) -> tuple[list[float], list[float]]:
        """Return the log-probabilities of chosen and rejected answers; the model is asked about unknown ones."""
        table = self.tables[split]
        self._ask(table, pairs)
        sums: Any = table.sums
        return [sums[i] for i in pairs], [sums[i + len(sums) // 2] for i in pairs]

    def _ask(self, table: _Table, pairs: Collection[int], *, tell: bool = False) -> None:
        world, stop, count = self.session.world, self.session.stop, len(table.sums) // 2
        missing = [i for i, value in enumerate(table.sums) if value is None and i % count in pairs]
        if not missing:
            return
        table.computed += len({i % count for i in missing})
        if world.first and tell:
            LOG.info("Reference log-probabilities of %d pairs", len({i % count for i in missing}))
        pad_id = self.session.materials.tokenizer.pad_token_id
        if self.model is None:
            assert self.load is not None, "the run came to a pair that the reference was not asked about"
            self.model = self.load()
        mine = _compute(self.model, table.sequences, missing[world.rank :: world.size], self.precision, pad_id, stop)
        for part in world.collect(mine):
            for index, value in part.items():
                table.sums[index] = value
        if world.first:
            make_folder(table.path.parent)
            write_atomic(table.path, orjson.dumps({"sums": table.sums}))
        if any(world.collect(bool(stop))):
            stop.raised = True
            stop.check()


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
