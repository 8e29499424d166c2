"""Second pass: bucket by bucket, drop duplicates and contradictions, give each prompt its split, write the lines.

`settle` decides what a bucket keeps and writes its plan; when all are settled the cuts between the splits are known
exactly, and with them the place of every bucket in the final files, so that `place` can write them in any order.
"""

from __future__ import annotations

import contextlib
import struct
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
from operator import add, itemgetter
from pathlib import Path
from typing import IO, Any

import orjson

from jobs.contract.splits import SPLITS
from jobs.ingest.chunk import ENTRY, FIRST_KNOWN, FIRST_WON, LONGER_WON, SAME_LENGTH, SAMPLE_IDS, SWAPPED

KEPT = struct.Struct("<16sIQII")
"""Prompt hash, number of the spill part, offset of the lines in the spill file, bytes of row and of meta."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """The lines of one bucket that one unit wrote."""

    spill: str
    unit: int
    entries: int
    lines: int
    end: int


@dataclass(kw_only=True, slots=True)
class Settled:
    """What a bucket keeps and drops."""

    bucket: int
    kept: int = 0
    prompts: int = 0
    row_bytes: int = 0
    meta_bytes: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    dropped: dict[str, list[tuple[int, int, Any]]] = field(default_factory=dict)
    """Reason -> unit, record number and id of the dropped pairs: the first ones, or all with write_drops."""
    lengths: tuple[Counter[int], Counter[int], Counter[int]] = field(
        default_factory=lambda: (Counter(), Counter(), Counter())
    )
    flags: Counter[int] = field(default_factory=Counter)


@dataclass(slots=True)
class _Columns:
    """The entries of a bucket, column by column: whole columns go through C loops, rows one by one would not."""

    prompt: Sequence[bytes]
    pair: Sequence[bytes]
    dedup: Sequence[bytes]
    number: Sequence[int]
    row_bytes: Sequence[int]
    meta_bytes: Sequence[int]
    prompt_toks: Sequence[int]
    chosen_toks: Sequence[int]
    rejected_toks: Sequence[int]
    flags: Sequence[int]
    part: Sequence[int]
    offset: Sequence[int]


def settle(bucket: int, parts: list[Part], plan_path: Path, dedup: tuple[str, ...], keep_all_dropped: bool) -> Settled:
    """Decide which pairs of a bucket stay, in the shuffled order in which they will be written."""
    result = Settled(bucket=bucket)
    columns = _read_entries(parts)
    kept: Sequence[int] = range(len(columns.pair))
    if len(set(columns.pair)) < len(kept) or len(dedup) not in (0, 3):
        kept = _unique(columns, dedup, result, parts, keep_all_dropped)
    # The pair hash is keyed with the seed: its order is the shuffle. Equal hashes keep the order of the input.
    order = sorted(kept, key=columns.pair.__getitem__)
    taken = itemgetter(*order) if len(order) > 1 else lambda column: tuple(column[i] for i in order)
    _describe(columns, taken, result)
    fields = (columns.prompt, columns.part, columns.offset, columns.row_bytes, columns.meta_bytes)
    plan_path.write_bytes(b"".join(map(KEPT.pack, *(taken(column) for column in fields))))
    return result


def _read_entries(parts: list[Part]) -> _Columns:
    blocks = read_blocks([(part.spill, part.entries, part.lines) for part in parts])
    columns = list(zip(*(entry for block in blocks for entry in ENTRY.iter_unpack(block)), strict=True))
    if not columns:
        return _Columns(*[()] * 12)
    part = [number for number, block in enumerate(blocks) for _ in range(len(block) // ENTRY.size)]
    sizes = map(add, columns[4], columns[5])
    offset: list[int] = []
    for number, block in enumerate(blocks):
        count = len(block) // ENTRY.size
        ends = accumulate(islice(sizes, count), initial=parts[number].lines)
        offset += islice(ends, count)
        next(ends)
    return _Columns(*[*columns, part, offset])


def _unique(
    columns: _Columns, dedup: tuple[str, ...], result: Settled, parts: list[Part], keep_all_dropped: bool
) -> list[int]:
    """Drop every copy of a pair that occurs with opposite winners, and all but the first of equal pairs."""
    sides: dict[bytes, int] = {}
    conflicting = {
        pair
        for pair, flags in zip(columns.pair, columns.flags, strict=True)
        if sides.setdefault(pair, flags & SWAPPED) != flags & SWAPPED
    }
    same = columns.pair if len(dedup) == 3 else columns.dedup
    seen: set[bytes] = set()
    kept = []
    dropped: dict[str, list[int]] = {}
    for i, pair in enumerate(columns.pair):
        if pair in conflicting:
            dropped.setdefault("conflicting_duplicate", []).append(i)
        elif dedup and same[i] in seen:
            dropped.setdefault("duplicate", []).append(i)
        else:
            seen.add(same[i])
            kept.append(i)
    for reason, places in dropped.items():
        result.drops[reason] = len(places)
        shown = places if keep_all_dropped else places[:SAMPLE_IDS]
        result.dropped[reason] = [
            (parts[columns.part[i]].unit, columns.number[i], _id_at(columns, parts, i)) for i in shown
        ]
    return kept


def _id_at(columns: _Columns, parts: list[Part], i: int) -> Any:
    """Return the id of a pair, which stands in its meta line."""
    with Path(parts[columns.part[i]].spill).open("rb") as file:
        file.seek(columns.offset[i] + columns.row_bytes[i])
        meta = orjson.loads(file.read(columns.meta_bytes[i]))
    return meta["id"] if meta["id"] is not None else meta["server_id"]


def _describe(columns: _Columns, taken: Callable[[Sequence[Any]], tuple[Any, ...]], result: Settled) -> None:
    prompts = taken(columns.prompt)
    result.kept, result.prompts = len(prompts), len(set(prompts))
    result.row_bytes, result.meta_bytes = sum(taken(columns.row_bytes)), sum(taken(columns.meta_bytes))
    result.lengths = (
        Counter(taken(columns.prompt_toks)),
        Counter(taken(columns.chosen_toks)),
        Counter(taken(columns.rejected_toks)),
    )
    shown = FIRST_KNOWN | FIRST_WON | LONGER_WON | SAME_LENGTH
    for flags, count in Counter(taken(columns.flags)).items():
        result.flags[flags & shown] += count


@dataclass(frozen=True, kw_only=True, slots=True)
class Cuts:
    """Where the splits meet: a prompt whose hash is below `test` is in test, below `eval` in eval, else in train."""

    test: bytes
    eval: bytes

    def split(self, prompt_hash: bytes) -> str:
        """Return the split of a prompt."""
        return "test" if prompt_hash < self.test else "eval" if prompt_hash < self.eval else "train"


def find_cuts(settled: list[Settled], plan_paths: list[Path], shares: dict[str, float]) -> Cuts:
    """Find the hashes at which the splits have their exact sizes, to within the pairs of one prompt.

    A split that is asked for gets at least one prompt where there are as many prompts as splits.
    """
    pairs, prompts = sum(s.kept for s in settled), sum(s.prompts for s in settled)
    wanted = [name for name in SPLITS if shares[name] > 0]
    least = 1 if prompts >= len(wanted) else 0
    test_goal, eval_goal = (max(round(pairs * shares[n]), least if n in wanted else 0) for n in ("test", "eval"))
    walk = _PromptWalk(settled, plan_paths)
    reserve = least * ((1 if "eval" in wanted else 0) + (1 if "train" in wanted else 0))
    test = walk.advance(test_goal, prompts - reserve, everything=wanted == ["test"])
    reserve = least if "train" in wanted else 0
    evaluation = walk.advance(eval_goal, prompts - reserve, everything="train" not in wanted)
    return Cuts(test=test, eval=evaluation)


class _PromptWalk:
    """Goes through prompts in the order of their hashes, whole buckets at once where no cut falls into them."""

    def __init__(self, settled: list[Settled], plan_paths: list[Path]) -> None:
        self.settled, self.plan_paths = settled, plan_paths
        self.bucket, self.passed_prompts = 0, 0
        self.groups: list[tuple[bytes, int]] | None = None
        self.position = 0

    def advance(self, goal: int, last_prompt: int, *, everything: bool) -> bytes:
        """Move on by `goal` pairs, but not beyond the prompt number `last_prompt`; return the hash of the next one."""
        taken = 0
        while self.bucket < len(self.settled):
            bucket = self.settled[self.bucket]
            whole = self.groups is None and taken + bucket.kept <= goal
            if (whole and self.passed_prompts + bucket.prompts <= last_prompt) or everything:
                taken += bucket.kept
                self.passed_prompts += bucket.prompts
                self.bucket, self.groups, self.position = self.bucket + 1, None, 0
                continue
            if self.groups is None:
                self.groups, self.position = prompt_groups(self.plan_paths[bucket.bucket]), 0
            while self.position < len(self.groups):
                prompt_hash, size = self.groups[self.position]
                # Stop where the goal is nearest: a prompt with many pairs may overshoot by half of them.
                if self.passed_prompts >= last_prompt or taken >= goal or (taken and taken + size / 2 > goal):
                    return prompt_hash
                taken += size
                self.passed_prompts += 1
                self.position += 1
            self.bucket, self.groups, self.position = self.bucket + 1, None, 0
        return b"\xff" * 17


def prompt_groups(plan_path: Path) -> list[tuple[bytes, int]]:
    """Return the prompts of a bucket with their numbers of pairs, by hash."""
    counts = Counter(entry[0] for entry in KEPT.iter_unpack(plan_path.read_bytes()))
    return sorted(counts.items())


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Pairs and bytes of a bucket in each split, in the order of `SPLITS`."""

    pairs: array[int]
    rows: array[int]
    metas: array[int]
    prompts: array[int]


def split_sizes(settled: Settled, plan_path: Path, cuts: Cuts, low: bytes, high: bytes) -> Sizes:
    """Return how much of a bucket, whose hashes lie from `low` to `high`, falls into each split."""
    sizes = Sizes(
        pairs=array("Q", [0] * 3), rows=array("Q", [0] * 3), metas=array("Q", [0] * 3), prompts=array("Q", [0] * 3)
    )
    if cuts.split(low) == cuts.split(high):
        split = SPLITS.index(cuts.split(low))
        sizes.pairs[split], sizes.prompts[split] = settled.kept, settled.prompts
        sizes.rows[split], sizes.metas[split] = settled.row_bytes, settled.meta_bytes
        return sizes
    prompts: list[set[bytes]] = [set(), set(), set()]
    for prompt, _, _, row_bytes, meta_bytes in KEPT.iter_unpack(plan_path.read_bytes()):
        split = SPLITS.index(cuts.split(prompt))
        sizes.pairs[split] += 1
        sizes.rows[split] += row_bytes
        sizes.metas[split] += meta_bytes
        prompts[split].add(prompt)
    for split, seen in enumerate(prompts):
        sizes.prompts[split] = len(seen)
    return sizes


def place(
    parts: list[Part], plan_path: Path, cuts: Cuts, out_dir: Path, row_offsets: list[int], meta_offsets: list[int]
) -> None:
    """Write the lines of a bucket to their places in the final files."""
    blocks = [memoryview(b) for b in read_blocks([(part.spill, part.lines, part.end) for part in parts])]
    starts = [part.lines for part in parts]
    rows: list[list[memoryview]] = [[], [], []]
    metas: list[list[memoryview]] = [[], [], []]
    for prompt, part, offset, row_bytes, meta_bytes in KEPT.iter_unpack(plan_path.read_bytes()):
        split = 0 if prompt >= cuts.eval else 2 if prompt < cuts.test else 1
        start = offset - starts[part]
        middle = start + row_bytes
        block = blocks[part]
        rows[split].append(block[start:middle])
        metas[split].append(block[middle : middle + meta_bytes])
    for split, name in enumerate(SPLITS):
        for lines, suffix, at in ((rows, ".jsonl", row_offsets), (metas, ".meta.jsonl", meta_offsets)):
            if lines[split]:
                with (out_dir / (name + suffix)).open("r+b") as file:
                    file.seek(at[split])
                    file.write(b"".join(lines[split]))


def read_blocks(places: list[tuple[str, int, int]]) -> list[bytes]:
    """Read pieces of files, each given by name, start and end."""
    blocks = []
    with contextlib.ExitStack() as stack:
        files: dict[str, IO[bytes]] = {}
        for name, start, end in places:
            file = files.get(name)
            if file is None:
                file = files[name] = stack.enter_context(Path(name).open("rb"))
            file.seek(start)
            blocks.append(file.read(end - start))
    return blocks
