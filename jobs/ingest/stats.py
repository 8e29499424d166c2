"""Sums over all units and buckets, and the proof that no record got lost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from jobs.contract.errors import AiosError
from jobs.ingest.chunk import SAMPLE_IDS, UnitResult
from jobs.ingest.merge import Settled
from jobs.ingest.plan import Plan


@dataclass(kw_only=True, slots=True)
class Totals:
    """Everything the report is made of."""

    plan: Plan
    records: int = 0
    with_pairs: int = 0
    pairs: int = 0
    kept: int = 0
    prompts: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    samples: dict[str, list[Any]] = field(default_factory=dict)
    across: dict[str, list[tuple[int, int, Any]]] = field(default_factory=dict)
    tallies: Counter[tuple[int, int, int]] = field(default_factory=Counter)
    statuses: dict[Any, Counter[str]] = field(default_factory=dict)
    sources: Counter[str] = field(default_factory=Counter)
    pii: Counter[str] = field(default_factory=Counter)
    lengths: tuple[Counter[int], Counter[int], Counter[int]] = field(
        default_factory=lambda: (Counter(), Counter(), Counter())
    )
    flags: Counter[int] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    split_prompts: Counter[str] = field(default_factory=Counter)
    drop_parts: list[tuple[str, int, int]] = field(default_factory=list)

    def add_unit(self, result: UnitResult) -> None:
        """Add what one unit counted; units come in the order of the input."""
        self.records += result.records
        self.pairs += result.pairs
        self.with_pairs += result.with_pairs
        self.drops.update(result.drops)
        for reason, ids in result.samples.items():
            kept = self.samples.setdefault(reason, [])
            kept += ids[: SAMPLE_IDS - len(kept)]
        self.tallies.update(result.tallies)
        for user, counts in result.statuses.items():
            self.statuses.setdefault(user, Counter()).update(counts)
        self.sources.update(result.sources)
        self.pii.update(result.pii)
        self.drop_parts.append((result.spill, result.offsets[-2], result.offsets[-1]))

    def add_settled(self, result: Settled) -> None:
        """Add what one bucket kept and dropped."""
        self.kept += result.kept
        self.prompts += result.prompts
        self.drops.update(result.drops)
        for reason, named in result.dropped.items():
            self.across.setdefault(reason, []).extend(named)
        for mine, other in zip(self.lengths, result.lengths, strict=True):
            mine.update(other)
        self.flags.update(result.flags)

    def write_drops(self, path: Path) -> None:
        """Write every dropped record with its reason: those found alone in file order, then those found together."""
        with path.open("wb") as file:
            for spill, start, end in self.drop_parts:
                with Path(spill).open("rb") as source:
                    source.seek(start)
                    file.write(source.read(end - start))
            for reason, named in sorted(self.across.items()):
                for _, _, own_id in sorted(named, key=lambda n: n[:2]):
                    file.write(orjson.dumps({"id": own_id, "reason": reason}) + b"\n")

    def check(self) -> None:
        """Fail unless rows in = rows out + rows dropped, here and in every split."""
        across = self.drops["duplicate"] + self.drops["conflicting_duplicate"]
        alone = sum(self.drops.values()) - across
        sums = {
            "records = records with pairs + records dropped": (self.records, self.with_pairs + alone),
            "pairs made = pairs kept + duplicates": (self.pairs, self.kept + across),
            "pairs kept = train + eval + test": (self.kept, sum(self.splits.values())),
        }
        for rule, (left, right) in sums.items():
            if left != right:
                raise AiosError(f"rows were lost: {rule} is {left} = {right}", next_step="report this as a bug")
