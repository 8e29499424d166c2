"""First pass, in a worker: one unit of input becomes finished lines in buckets, and the counts that describe it.

A bucket holds the pairs whose prompts hash into one range, so duplicates, contradictions and all pairs of a prompt
meet in the same one, and the second pass can take the buckets one by one. Beside each line stands a fixed-size
entry with what the second pass compares; it never parses a line again.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

import orjson

from jobs.contract.errors import BadData
from jobs.contract.log import LOG
from jobs.ingest import fast
from jobs.ingest.anonymize import hidden_id
from jobs.ingest.lengths import Measure
from jobs.ingest.pairs import Pair, PairMaker
from jobs.ingest.plan import Plan
from jobs.ingest.reasons import DropError
from jobs.ingest.source import Unit, first_line, line_number, range_lines
from jobs.ingest.texts import canonical, characters

ENTRY = struct.Struct("<16s16s16sIIIIIIB")
"""Prompt hash, pair hash, dedup hash, record number in the unit, bytes of row and of meta, lengths of prompt,
chosen and rejected in tokens, flags."""
SWAPPED, FIRST_KNOWN, FIRST_WON, LONGER_WON, SAME_LENGTH = 1, 2, 4, 8, 16
SAMPLE_IDS = 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SPILL_BUFFER_BYTES = 1 << 20
_NOTHING = object()
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
    statuses: dict[Any, Counter[str]] = field(default_factory=dict)
    sources: Counter[str] = field(default_factory=Counter)
    pii: Counter[str] = field(default_factory=Counter)
    spill: str = ""
    offsets: list[int] = field(default_factory=list)
    """Position of entries and of lines of each bucket in the spill file: 2 x buckets + 1 numbers."""


class Sink:
    """What one unit writes: entries and lines for each bucket, and drops where they are wanted."""

    def __init__(self, buckets: int) -> None:
        self.entries: list[list[bytes]] = [[] for _ in range(buckets)]
        self.lines: list[list[bytes]] = [[] for _ in range(buckets)]
        self.drops: list[bytes] = []


class Chunker:
    """Works on units one after the other; one for each process."""

    def __init__(self, rules: Rules, name: str) -> None:
        self.rules = rules
        self.measure = Measure(rules.tokenizer)
        self.keyed = sha256(rules.seed.to_bytes(8, "little", signed=True))
        self.shift = 16 - (rules.buckets.bit_length() - 1)
        self.spill_path = rules.spill_dir / f"spill-{name}"
        self.spill: IO[bytes] = self.spill_path.open("ab", buffering=_SPILL_BUFFER_BYTES)
        self.dedup_is_pair = len(rules.dedup) in (0, 3)
        self._verdict_texts: dict[Any, bytes] = {}
        self.anonymizer: Any = None
        if rules.anonymize:
            from jobs.ingest.anonymize import Anonymizer

            self.anonymizer = Anonymizer(rules.anonymize)
        self.fast = fast.LineReader(self) if fast.applies(self) else None

    def close(self) -> None:
        """Close the spill file."""
        self.spill.close()

    def run(self, unit: Unit) -> UnitResult:
        """Read one unit, write its lines to the spill file and return the counts."""
        result = UnitResult(index=unit.index, spill=str(self.spill_path))
        maker = PairMaker(self.rules.plan, self.rules.min_suggestion_score)
        sink = Sink(self.rules.buckets)

        def take(number: int, row: Any) -> None:
            self._take(number, row, maker, result, sink)

        if unit.shape == "parquet":
            from jobs.ingest.parquet import iter_rows

            for number, row in enumerate(iter_rows(Path(unit.path), range(unit.start, unit.end)), start=1):
                take(number, row)
        else:

            def parse(number: int, line: bytes) -> None:
                row = self._parse(unit, number, line, result)
                if row is not _NOTHING:
                    take(number, row)

            if self.fast is not None:
                self.fast.read(_lines(unit), maker, result, sink, parse)
            else:
                for number, line in enumerate(_lines(unit), start=1):
                    parse(number, line)
        result.tallies, result.statuses = maker.tallies, maker.statuses()
        if self.anonymizer is not None:
            result.statuses = {hidden_id(user): counts for user, counts in result.statuses.items()}
        self._spill(result, sink)
        return result

    def _take(self, number: int, row: Any, maker: PairMaker, result: UnitResult, sink: Sink) -> None:
        """Turn one record into lines, or count why not."""
        result.records += 1
        try:
            made = [self._finished(pair, number, row, maker, result) for pair in maker.pairs(row)]
        except DropError as drop:
            self._count(result, drop.reason, row, maker, sink)
        except (UnicodeEncodeError, orjson.JSONEncodeError):
            self._count(result, "invalid_unicode", row, maker, sink)
        except (TypeError, ValueError, AttributeError, LookupError) as exc:
            # Files edited by hand hold anything anywhere: one odd record must not cost the other millions.
            LOG.debug("a record of an unexpected form: %s", type(exc).__name__)
            self._count(result, "wrong_type", row, maker, sink)
        else:
            for bucket, entry, line in made:
                sink.entries[bucket].append(entry)
                sink.lines[bucket].append(line)
            result.pairs += len(made)
            result.with_pairs += 1

    def _parse(self, unit: Unit, number: int, line: bytes, result: UnitResult) -> Any:
        """Return the value of a line; `_NOTHING` for a blank one and for a bad one that is skipped and counted."""
        try:
            return orjson.loads(line)
        except orjson.JSONDecodeError:
            if not line.strip():
                return _NOTHING
        try:
            return parse_slowly(line)
        except BadLineError as bad:
            if not self.rules.skip_bad_lines:
                raise bad_line(f"{unit.path}: {_place(unit, number)}", bad) from None
            result.records += 1
            result.drops[bad.reason] += 1
            samples = result.samples.setdefault(bad.reason, [])
            if len(samples) < SAMPLE_IDS:
                samples.append(_place(unit, number))
            return _NOTHING

    def _finished(
        self, pair: Pair, number: int, row: Mapping[str, Any], maker: PairMaker, result: UnitResult
    ) -> tuple[int, bytes, bytes]:
        """Return the bucket of a pair, its entry and its two lines; raises `DropError` for its length."""
        names: dict[tuple[str, str], str] = {}
        if self.anonymizer is not None:
            pair = self.anonymizer.pair(pair, names, result.pii)
        prompt_toks = self.measure(pair.prompt)
        if prompt_toks < self.rules.min_prompt_toks:
            raise DropError("too_short")
        if prompt_toks > self.rules.max_prompt_toks:
            raise DropError("too_long")
        limit = self.rules.max_chars
        if limit and max(characters(text) for text in (pair.prompt, pair.chosen, pair.rejected)) > limit:
            raise DropError("too_long")
        row_line = orjson.dumps({"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}) + b"\n"
        meta_line = self._meta_line(pair, row, maker, names, result)
        result.sources[pair.source] += 1
        prompt, chosen, rejected = canonical(pair.prompt), canonical(pair.chosen), canonical(pair.rejected)
        swapped = chosen > rejected
        hashed = self.keyed.copy()
        hashed.update(prompt.encode())
        prompt_hash = hashed.digest()[:16]
        one, other = (rejected, chosen) if swapped else (chosen, rejected)
        hashed.update(b"%b%b\0%b" % (prompt_hash, one.encode(), other.encode()))
        pair_hash = hashed.digest()[:16]
        entry = ENTRY.pack(
            prompt_hash,
            pair_hash,
            self._dedup_hash(pair_hash, prompt, chosen, rejected),
            number,
            len(row_line),
            len(meta_line),
            prompt_toks,
            self.measure(pair.chosen),
            self.measure(pair.rejected),
            _flags(pair, swapped),
        )
        return int.from_bytes(prompt_hash[:2], "big") >> self.shift, entry, row_line + meta_line

    def _meta_line(
        self,
        pair: Pair,
        row: Mapping[str, Any],
        maker: PairMaker,
        names: dict[tuple[str, str], str],
        result: UnitResult,
    ) -> bytes:
        verdict = self.verdict_text(pair)
        own_id, server_id = self._ids(row, maker)
        metadata = maker.view.metadata(row, maker.plan.used)
        if self.anonymizer is not None:
            metadata = self.anonymizer.value(metadata, names, result.pii)
        return b'{"id":%b,"server_id":%b,%b,"metadata":%b}\n' % (
            _dump(own_id),
            _dump(server_id),
            verdict,
            _dump(metadata),
        )

    def _ids(self, row: Mapping[str, Any], maker: PairMaker) -> tuple[Any, Any]:
        own_id, server_id = maker.view.ids(row)
        return (hidden_id(own_id), hidden_id(server_id)) if self.anonymizer is not None else (own_id, server_id)

    def verdict_text(self, pair: Pair) -> bytes:
        """Return the part of the meta line that many pairs share."""
        judged = (pair.votes, pair.agreement, pair.chosen_first, pair.source)
        text = self._verdict_texts.get(judged)
        if text is None:
            votes = None if pair.votes is None else dict(zip(("a", "b", "tie"), pair.votes, strict=True))
            about = {"agreement": pair.agreement, "chosen_first": pair.chosen_first, "source": pair.source}
            text = self._verdict_texts[judged] = orjson.dumps({"votes": votes} | about)[1:-1]
        return text

    def _dedup_hash(self, pair_hash: bytes, prompt: str, chosen: str, rejected: str) -> bytes:
        if self.dedup_is_pair:
            return pair_hash
        texts = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        return sha256("\0".join(texts[name] for name in self.rules.dedup).encode()).digest()[:16]

    def _count(self, result: UnitResult, reason: str, row: Any, maker: PairMaker, sink: Sink) -> None:
        if reason == "tie" and self.rules.stop_on_tie:
            raise BadData(
                f"record {self._ids(row, maker)[0]}: the annotators tie", next_step="decide it, or --on-tie drop"
            )
        result.drops[reason] += 1
        samples = result.samples.setdefault(reason, [])
        if len(samples) < SAMPLE_IDS or self.rules.write_drops:
            own_id = next((i for i in self._ids(row, maker) if i is not None), None) if isinstance(row, dict) else None
            if len(samples) < SAMPLE_IDS:
                samples.append(own_id)
            if self.rules.write_drops:
                sink.drops.append(_DROP_LINE % (_dump(own_id), reason.encode()))

    def _spill(self, result: UnitResult, sink: Sink) -> None:
        position = self.spill.tell()
        for bucket in zip(sink.entries, sink.lines, strict=True):
            for pieces in bucket:
                result.offsets.append(position)
                position += self.spill.write(b"".join(pieces))
        result.offsets.append(position)
        position += self.spill.write(b"".join(sink.drops))
        result.offsets.append(position)
        self.spill.flush()


class BadLineError(Exception):
    """A line that is no JSON; carries the reason's name and what the parser said."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def parse_slowly(line: bytes) -> Any:
    """Parse what orjson refuses and Python's parser accepts: NaN, lone surrogates, huge numbers."""
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError as exc:
        raise BadLineError("invalid_unicode", f"invalid UTF-8 at byte {exc.start + 1}") from None
    except RecursionError:
        raise BadLineError("invalid_json", "nested too deep") from None
    except ValueError as exc:
        raise BadLineError("invalid_json", f"not JSON ({exc})") from None


def _lines(unit: Unit) -> Iterable[bytes]:
    """Return the lines or records of a unit as text."""
    if unit.shape == "records":
        assert isinstance(unit.lines, list)
        return unit.lines
    if unit.shape == "jsonl":
        lines = range_lines(unit)
        return lines if unit.start else _without_mark(lines)
    assert isinstance(unit.lines, bytes)
    return unit.lines.removeprefix(_BYTE_ORDER_MARK).split(b"\n")


def _without_mark(lines: Iterator[bytes]) -> Iterator[bytes]:
    yield next(lines, b"").removeprefix(_BYTE_ORDER_MARK)
    yield from lines


def _place(unit: Unit, number: int) -> str:
    first = unit.first_number or line_number(Path(unit.path), first_line(unit))
    return f"{'record' if unit.shape == 'records' else 'line'} {first + number - 1}"


def bad_line(place: str, bad: BadLineError) -> BadData:
    """Return the error about a line that is no record."""
    return BadData(
        f"{place}: {bad}",
        needed="one JSON object a line",
        next_step="mend it, or --on-bad-line skip to drop and count such lines",
    )


def _flags(pair: Pair, swapped: bool) -> int:
    flags = SWAPPED if swapped else 0
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
