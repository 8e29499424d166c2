"""First pass, in a worker: one unit of input becomes finished lines in buckets, and the counts that describe it.

A bucket holds the pairs whose prompts hash into one range, so duplicates, contradictions and all pairs of a prompt
meet in the same one, and the second pass can take the buckets one by one. Beside each line stands a fixed-size
entry with what the second pass compares; it never parses a line again.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

import orjson

from jobs.contract.errors import BadData
from jobs.ingest.lengths import Measure
from jobs.ingest.pairs import Pair, PairMaker
from jobs.ingest.plan import Plan
from jobs.ingest.reasons import DropError
from jobs.ingest.source import Unit, line_number, read_range
from jobs.ingest.texts import canonical, characters

ENTRY = struct.Struct("<16s16s16sIIIIIIB")
"""Prompt hash, pair hash, dedup hash, record number in the unit, bytes of row and of meta, lengths of prompt,
chosen and rejected in tokens, flags."""
SWAPPED, FIRST_KNOWN, FIRST_WON, LONGER_WON, SAME_LENGTH = 1, 2, 4, 8, 16
SAMPLE_IDS = 20
_DROP_LINE = b'{"id":%b,"reason":"%b"}\n'


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """Everything a worker needs besides its unit; pickled once for each worker."""

    plan: Plan
    spill_dir: Path
    buckets: int
    seed: int
    dedup: tuple[str, ...]
    min_prompt_toks: int
    max_prompt_toks: int
    max_chars: int | None
    skip_bad_lines: bool
    stop_on_tie: bool
    min_suggestion_score: float
    tokenizer: str | None
    anonymize: str | None
    """Language, or None for no anonymisation."""
    write_drops: bool


@dataclass(kw_only=True, slots=True)
class UnitResult:
    """What one unit contributed."""

    index: int
    records: int = 0
    pairs: int = 0
    with_pairs: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    samples: dict[str, list[Any]] = field(default_factory=dict)
    tallies: Counter[tuple[int, int, int]] = field(default_factory=Counter)
    statuses: dict[Any, dict[str, int]] = field(default_factory=dict)
    sources: Counter[str] = field(default_factory=Counter)
    pii: Counter[str] = field(default_factory=Counter)
    spill: str = ""
    offsets: list[int] = field(default_factory=list)
    """Position of entries and of lines of each bucket in the spill file: 2 x buckets + 1 numbers."""


class Chunker:
    """Works on units one after the other; one for each process."""

    def __init__(self, rules: Rules, name: str) -> None:
        self.rules = rules
        self.measure = Measure(rules.tokenizer)
        self.key = rules.seed.to_bytes(8, "little", signed=True)
        self.shift = 16 - (rules.buckets.bit_length() - 1)
        self.spill_path = rules.spill_dir / f"spill-{name}"
        self.spill: IO[bytes] = self.spill_path.open("ab")
        self.anonymizer: Any = None
        if rules.anonymize:
            from jobs.ingest.anonymize import Anonymizer  # type: ignore[import-untyped,unused-ignore]

            self.anonymizer = Anonymizer(rules.anonymize, self.key)

    def run(self, unit: Unit) -> UnitResult:
        """Read one unit, write its lines to the spill file and return the counts."""
        result = UnitResult(index=unit.index, spill=str(self.spill_path))
        maker = PairMaker(self.rules.plan, self.rules.min_suggestion_score)
        entries: list[list[bytes]] = [[] for _ in range(self.rules.buckets)]
        lines: list[list[bytes]] = [[] for _ in range(self.rules.buckets)]
        drops: list[bytes] = []
        for number, row in self._rows(unit, result):
            result.records += 1
            try:
                made = maker.pairs(row)
                for pair in made:
                    self._check_length(pair)
                    if self.anonymizer is not None:
                        pair = self.anonymizer.pair(pair, result.pii)
                    bucket, entry, line = self._encode(pair, number, row, maker)
                    entries[bucket].append(entry)
                    lines[bucket].append(line)
                    result.sources[pair.source] += 1
                result.pairs += len(made)
                result.with_pairs += 1
            except DropError as drop:
                self._count(result, drop.reason, row, maker, drops)
            except (UnicodeEncodeError, orjson.JSONEncodeError):
                self._count(result, "invalid_unicode", row, maker, drops)
        result.tallies, result.statuses = maker.tallies, maker.statuses
        self._spill(result, entries, lines, drops)
        return result

    def _rows(self, unit: Unit, result: UnitResult) -> Iterator[tuple[int, Any]]:
        if unit.shape == "parquet":
            from jobs.ingest.parquet import iter_rows

            yield from enumerate(iter_rows(Path(unit.path), range(unit.start, unit.end)), start=1)
            return
        offset, block = read_range(unit) if unit.shape == "jsonl" else (0, unit.lines or b"")
        if isinstance(block, bytes):
            block = block.removeprefix(b"\xef\xbb\xbf")
        lines = block.split(b"\n") if isinstance(block, bytes) else block
        loads = orjson.loads
        for number, line in enumerate(lines, start=1):
            try:
                row = loads(line)
            except orjson.JSONDecodeError:
                if not line.strip():
                    continue
                try:
                    row = _parse_slowly(line)
                except BadLineError as bad:
                    if not self.rules.skip_bad_lines:
                        raise _bad_line(unit, offset, number, bad) from None
                    result.records += 1
                    result.drops[bad.reason] += 1
                    result.samples.setdefault(bad.reason, []).append(f"line {number} of unit {unit.index + 1}")
                    continue
            yield number, row

    def _check_length(self, pair: Pair) -> None:
        toks = self.measure(pair.prompt)
        if toks < self.rules.min_prompt_toks:
            raise DropError("too_short")
        if toks > self.rules.max_prompt_toks:
            raise DropError("too_long")
        limit = self.rules.max_chars
        if limit and max(characters(text) for text in (pair.prompt, pair.chosen, pair.rejected)) > limit:
            raise DropError("too_long")

    def _encode(self, pair: Pair, number: int, row: Any, maker: PairMaker) -> tuple[int, bytes, bytes]:
        """Return the bucket of a pair, its entry and its two lines."""
        prompt, chosen, rejected = canonical(pair.prompt), canonical(pair.chosen), canonical(pair.rejected)
        swapped = chosen > rejected
        low, high = (rejected, chosen) if swapped else (chosen, rejected)
        prompt_hash = blake2b(prompt.encode(), digest_size=16, key=self.key).digest()
        pair_hash = blake2b(f"{low}\0{high}".encode(), digest_size=16, key=prompt_hash).digest()
        plan = maker.plan
        own_id, server_id = maker.view.ids(row)
        votes = pair.votes
        meta = {
            "id": own_id,
            "server_id": server_id,
            "votes": None if votes is None else {"a": votes[0], "b": votes[1], "tie": votes[2]},
            "agreement": pair.agreement,
            "chosen_first": pair.chosen_first,
            "source": pair.source,
            "metadata": maker.view.metadata(row, plan.used),
        }
        row_line = orjson.dumps({"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}) + b"\n"
        meta_line = _dump(meta) + b"\n"
        flags = (SWAPPED if swapped else 0) | _flags(pair)
        entry = ENTRY.pack(
            prompt_hash,
            pair_hash,
            self._dedup_hash(pair_hash, prompt, chosen, rejected),
            number,
            len(row_line),
            len(meta_line),
            self.measure(pair.prompt),
            self.measure(pair.chosen),
            self.measure(pair.rejected),
            flags,
        )
        return int.from_bytes(prompt_hash[:2], "big") >> self.shift, entry, row_line + meta_line

    def _dedup_hash(self, pair_hash: bytes, prompt: str, chosen: str, rejected: str) -> bytes:
        if len(self.rules.dedup) in (0, 3):
            return pair_hash
        texts = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        return blake2b("\0".join(texts[name] for name in self.rules.dedup).encode(), digest_size=16).digest()

    def _count(self, result: UnitResult, reason: str, row: Any, maker: PairMaker, drops: list[bytes]) -> None:
        if reason == "tie" and self.rules.stop_on_tie:
            raise BadData(
                f"record {maker.view.ids(row)[0]}: the annotators tie", next_step="decide it, or --on-tie drop"
            )
        result.drops[reason] += 1
        samples = result.samples.setdefault(reason, [])
        if len(samples) < SAMPLE_IDS or self.rules.write_drops:
            own_id = next((i for i in maker.view.ids(row) if i is not None), None) if isinstance(row, dict) else None
            if len(samples) < SAMPLE_IDS:
                samples.append(own_id)
            if self.rules.write_drops:
                drops.append(_DROP_LINE % (_dump(own_id), reason.encode()))

    def _spill(
        self, result: UnitResult, entries: list[list[bytes]], lines: list[list[bytes]], drops: list[bytes]
    ) -> None:
        position = self.spill.tell()
        for some_entries, some_lines in zip(entries, lines, strict=True):
            for block in (b"".join(some_entries), b"".join(some_lines)):
                result.offsets.append(position)
                position += self.spill.write(block)
        result.offsets.append(position)
        position += self.spill.write(b"".join(drops))
        result.offsets.append(position)
        self.spill.flush()


class BadLineError(Exception):
    """A line that is no JSON; carries the reason's name and what the parser said."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def _parse_slowly(line: bytes) -> Any:
    """Parse what orjson refuses and Python's parser accepts: NaN, lone surrogates, huge numbers."""
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError as exc:
        raise BadLineError("invalid_unicode", f"invalid UTF-8 at byte {exc.start + 1}") from None
    except RecursionError:
        raise BadLineError("invalid_json", "nested too deep") from None
    except ValueError as exc:
        raise BadLineError("invalid_json", f"not JSON ({exc})") from None


def _bad_line(unit: Unit, offset: int, number: int, bad: BadLineError) -> BadData:
    first = unit.first_number or line_number(Path(unit.path), offset)
    what = "record" if unit.shape == "records" else "line"
    return BadData(
        f"{unit.path}: {what} {first + number - 1}: {bad}",
        needed="one JSON object a line",
        next_step="mend it, or --on-bad-line skip to drop and count such lines",
    )


def _flags(pair: Pair) -> int:
    flags = 0
    if pair.chosen_first is not None:
        flags |= FIRST_KNOWN | (FIRST_WON if pair.chosen_first else 0)
    longer, shorter = characters(pair.chosen), characters(pair.rejected)
    return flags | (SAME_LENGTH if longer == shorter else LONGER_WON if longer > shorter else 0)


def _dump(document: Any) -> bytes:
    """Serialise metadata, whatever Parquet or a hand-edited file put into it."""
    try:
        return orjson.dumps(document, default=_plain, option=orjson.OPT_NON_STR_KEYS)
    except (TypeError, orjson.JSONEncodeError):
        text = json.dumps(document, default=_plain, ensure_ascii=True)
        return text.encode()


def _plain(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
