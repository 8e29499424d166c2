"""Second pass: bucket by bucket, drop duplicates and contradictions, give each prompt its split, write the lines.

`settle` decides what a bucket keeps and writes its plan; when all are settled the cuts between the splits are known
exactly, and with them the place of every bucket in the final files, so that `place` can write them in any order.
"""

from __future__ import annotations

import struct
from array import array
from collections import Counter
from dataclasses import dataclass, field
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


def settle(bucket: int, parts: list[Part], plan_path: Path, dedup: tuple[str, ...], keep_all_dropped: bool) -> Settled:
    """Decide which pairs of a bucket stay, in the shuffled order in which they will be written."""
    result = Settled(bucket=bucket)
    rows = _entries(parts)
    kept = _without_conflicts(rows, result)
    if dedup:
        kept = _without_duplicates(kept, exact=len(dedup) == 3, result=result)
    if result.drops:
        _name_dropped(result, parts, keep_all_dropped)
    # The pair hash is keyed with the seed: its order is the shuffle. Equal hashes keep the order of the file.
    kept.sort(key=lambda row: (row[1], row[3], row[4]))
    _describe(kept, result)
    plan_path.write_bytes(b"".join([KEPT.pack(row[0], row[9], row[10], row[5], row[6]) for row in kept]))
    return result


def _entries(parts: list[Part]) -> list[tuple[Any, ...]]:
    """Return entries as (prompt, pair, dedup, unit, number, row bytes, meta bytes, lengths, flags, part, offset)."""
    rows: list[tuple[Any, ...]] = []
    files: dict[str, IO[bytes]] = {}
    try:
        for number, part in enumerate(parts):
            file = files.get(part.spill)
            if file is None:
                file = files[part.spill] = Path(part.spill).open("rb")  # noqa: SIM115 - closed below
            file.seek(part.entries)
            offset = part.lines
            for entry in ENTRY.iter_unpack(file.read(part.lines - part.entries)):
                prompt, pair, dedup, record, row_bytes, meta_bytes, p, c, r, flags = entry
                rows.append(
                    (prompt, pair, dedup, part.unit, record, row_bytes, meta_bytes, (p, c, r), flags, number, offset)
                )
                offset += row_bytes + meta_bytes
    finally:
        for file in files.values():
            file.close()
    return rows


def _without_conflicts(rows: list[tuple[Any, ...]], result: Settled) -> list[tuple[Any, ...]]:
    """Drop every copy of a pair that occurs with opposite winners."""
    seen: dict[bytes, int] = {}
    conflicting = set()
    for row in rows:
        swapped = row[8] & SWAPPED
        key = row[0] + row[1]
        if seen.setdefault(key, swapped) != swapped:
            conflicting.add(key)
    if not conflicting:
        return rows
    kept = []
    for row in rows:
        if row[0] + row[1] in conflicting:
            _drop(result, "conflicting_duplicate", row)
        else:
            kept.append(row)
    return kept


def _without_duplicates(rows: list[tuple[Any, ...]], *, exact: bool, result: Settled) -> list[tuple[Any, ...]]:
    """Keep the first of equal pairs, in the order of the input."""
    seen: set[bytes] = set()
    kept = []
    for row in rows:
        key = row[0] + row[1] if exact else row[2]
        if key in seen:
            _drop(result, "duplicate", row)
        else:
            seen.add(key)
            kept.append(row)
    return kept


def _drop(result: Settled, reason: str, row: tuple[Any, ...]) -> None:
    result.drops[reason] += 1
    result.dropped.setdefault(reason, []).append((row[3], row[4], (row[9], row[10] + row[5], row[6])))


def _name_dropped(result: Settled, parts: list[Part], keep_all: bool) -> None:
    """Replace the places of dropped pairs by their ids, which stand in the meta lines."""
    for reason, places in result.dropped.items():
        named = []
        for unit, record, (part, offset, size) in places if keep_all else places[:SAMPLE_IDS]:
            with Path(parts[part].spill).open("rb") as file:
                file.seek(offset)
                meta = orjson.loads(file.read(size))
            named.append((unit, record, meta["id"] if meta["id"] is not None else meta["server_id"]))
        result.dropped[reason] = named


def _describe(kept: list[tuple[Any, ...]], result: Settled) -> None:
    result.kept = len(kept)
    result.prompts = len({row[0] for row in kept})
    prompts, chosen, rejected = result.lengths
    for row in kept:
        result.row_bytes += row[5]
        result.meta_bytes += row[6]
        p, c, r = row[7]
        prompts[p] += 1
        chosen[c] += 1
        rejected[r] += 1
        result.flags[row[8] & (FIRST_KNOWN | FIRST_WON | LONGER_WON | SAME_LENGTH)] += 1


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
    blocks = _blocks(parts)
    rows: list[list[memoryview]] = [[], [], []]
    metas: list[list[memoryview]] = [[], [], []]
    for prompt, part, offset, row_bytes, meta_bytes in KEPT.iter_unpack(plan_path.read_bytes()):
        split = SPLITS.index(cuts.split(prompt))
        start = offset - parts[part].lines
        rows[split].append(blocks[part][start : start + row_bytes])
        metas[split].append(blocks[part][start + row_bytes : start + row_bytes + meta_bytes])
    for split, name in enumerate(SPLITS):
        for lines, suffix, at in ((rows, ".jsonl", row_offsets), (metas, ".meta.jsonl", meta_offsets)):
            if lines[split]:
                with (out_dir / (name + suffix)).open("r+b") as file:
                    file.seek(at[split])
                    file.write(b"".join(lines[split]))


def _blocks(parts: list[Part]) -> list[memoryview]:
    blocks = []
    files: dict[str, IO[bytes]] = {}
    try:
        for part in parts:
            file = files.get(part.spill)
            if file is None:
                file = files[part.spill] = Path(part.spill).open("rb")  # noqa: SIM115 - closed below
            file.seek(part.lines)
            blocks.append(memoryview(file.read(part.end - part.lines)))
    finally:
        for file in files.values():
            file.close()
    return blocks
