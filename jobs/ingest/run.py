"""The step: look, plan, read all units, settle all buckets, write the splits and the report, publish as a whole."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jobs.config.fields import identity
from jobs.config.ingest import IngestConfig
from jobs.contract.errors import BadData
from jobs.contract.files import fsync_path, remove_tree, sha256_file, write_json
from jobs.contract.lock import FolderLock
from jobs.contract.manifest import MANIFEST_NAME, Manifest
from jobs.contract.publish import already_published, attempt_id, publish_whole, recover, staging
from jobs.contract.splits import REPORT_NAME, SPLITS
from jobs.ingest.anonymize import model_name
from jobs.ingest.chunk import Rules, UnitResult
from jobs.ingest.detect import Settings, detect
from jobs.ingest.lengths import find_tokenizer
from jobs.ingest.merge import Cuts, Part, Settled, find_cuts, place, settle, split_sizes
from jobs.ingest.plan import Plan
from jobs.ingest.pool import Pool, usable_cpus
from jobs.ingest.report import build_report, versions
from jobs.ingest.sample import first_bad_line, label_codes, read_settings, sample, sample_warnings
from jobs.ingest.source import CHUNK_BYTES, Source, find_inputs, open_source
from jobs.ingest.stats import Totals
from jobs.ingest.texts import ChatSeenError
from jobs.ingest.units import iter_units

_BUCKET_BYTES = 16 << 20
_MAX_BUCKETS = 4096
_SMALL_BYTES = 12 << 20
"""Below this, starting a second process takes longer than the work."""
_SLOW_UNIT_BYTES = 64 << 10
"""With personal data to be found a record takes milliseconds: small units keep all workers and the progress going."""
Progress = Callable[[str, float], None]
"""Called with the phase and the share of it that is done."""


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What the command tells the user."""

    report: dict[str, Any]
    manifest: Manifest
    skipped: bool = False


@dataclass(kw_only=True, slots=True)
class _Hashes:
    """Hashes of the inputs, computed beside the work: sha256 lets other threads run."""

    paths: list[Path]
    values: dict[Path, str] = field(default_factory=dict)
    error: BaseException | None = None
    thread: threading.Thread | None = None

    def start(self) -> None:
        self.thread = threading.Thread(target=self._run, name="hash", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            for path in self.paths:
                self.values[path] = sha256_file(path)
        except BaseException as exc:
            self.error = exc

    def wait(self) -> dict[str, str]:
        assert self.thread is not None
        self.thread.join()
        if self.error is not None:
            raise self.error
        if len(self.paths) == 1:
            return {"export": self.values[self.paths[0]]}
        return {f"export-{i}": self.values[path] for i, path in enumerate(self.paths, start=1)}


def ingest(config: IngestConfig, progress: Progress = lambda phase, share: None) -> Outcome:
    """Make the splits of an export and publish them.

    Raises:
        BadData: the input cannot be used; nothing has been changed.
    """
    output = Path(config.output)
    sources = [open_source(path, config.encoding) for path in find_inputs(config.input)]
    # The workers first: they start fastest while this process has no other thread.
    with Pool(_workers(config, sources)) as pool:
        return _ingest(config, output, sources, pool, progress)


def _ingest(config: IngestConfig, output: Path, sources: list[Source], pool: Pool, progress: Progress) -> Outcome:
    paths = [source.path for source in sources]
    hashes = _Hashes(paths=paths)
    hashes.start()
    with FolderLock(output, attempt=attempt_id()) as lock:
        recover(output, lock)
        if (output / MANIFEST_NAME).exists() and not config.overwrite:
            # Another export or other settings replace the set as a whole: that is what re-ingestion is for.
            done = already_published(output, inputs=hashes.wait(), config=identity(config), overwrite=True)
            if done is not None:
                return Outcome(report=_read_report(output), manifest=done, skipped=True)
        with staging(output, lock) as staged, _scratch(staged) as scratch:
            totals = _make_splits(config, sources, pool, staged, scratch, progress)
            inputs = hashes.wait()
            outputs = _sync_and_hash(staged)
            report = build_report(config, totals, inputs, paths, outputs)
            write_json(staged / REPORT_NAME, report)
            manifest = Manifest(
                step="ingest",
                attempt=lock.owner.attempt,
                inputs=inputs,
                config=identity(config),
                files=[],
                versions=versions(),
            )
            manifest = publish_whole(output, staged, manifest, lock, hashes=outputs)
    return Outcome(report=report, manifest=manifest)


def _sync_and_hash(staged: Path) -> dict[str, str]:
    """Force the splits onto the disk and return their hashes: the disk and both cores work at the same time."""
    paths = sorted(staged.iterdir())
    with ThreadPoolExecutor(2 * len(paths)) as threads:
        synced = [threads.submit(fsync_path, path) for path in paths]
        hashes = list(threads.map(sha256_file, paths))
        for future in synced:
            future.result()
    return {path.name: digest for path, digest in zip(paths, hashes, strict=True)}


def _read_report(output: Path) -> dict[str, Any]:
    import orjson

    report: dict[str, Any] = orjson.loads((output / REPORT_NAME).read_bytes())
    return report


@contextlib.contextmanager
def _scratch(staged: Path) -> Iterator[Path]:
    """Yield a folder for intermediate files; a later writer sweeps it away if this process is killed."""
    path = staged.with_name(f"{staged.name}-spill")
    path.mkdir()
    try:
        yield path
    finally:
        remove_tree(path)


def make_plan(config: IngestConfig, sources: list[Source], scratch: Path) -> Plan:
    """Look at the inputs and decide how to read them."""
    settings = read_settings(config.settings, sources)
    codes = label_codes(sources, scratch)
    plans = [_plan(config, source, settings, codes, scratch) for source in sources]
    found = [(plan, source) for plan, source in zip(plans, sources, strict=True)]
    for plan, source in found[1:]:
        if (plan.variant, plan.prompt_fields, plan.response_fields) != _shape(plans[0]):
            raise BadData(
                f"{source.path} is another kind of export ({plan.variant}) than {sources[0].path} ({plans[0].variant})",
                next_step="ingest them one by one",
            )
    first = next((plan for plan in plans if plan.question is not None), plans[0])
    return replace(
        first,
        chat=any(p.chat for p in plans),
        used=frozenset().union(*(p.used for p in plans)),
        columns=tuple(dict.fromkeys(name for p in plans for name in p.columns)),
        warnings=tuple(warning for p in plans for warning in p.warnings),
    )


def _shape(plan: Plan) -> tuple[Any, ...]:
    return plan.variant, plan.prompt_fields, plan.response_fields


def _plan(config: IngestConfig, source: Source, settings: Settings, codes: dict[str, Any], scratch: Path) -> Plan:
    rows = sample(source, scratch)
    if not rows and source.shape == "jsonl" and config.on_bad_line == "fail" and (error := first_bad_line(source)):
        raise error
    try:
        return replace(detect(rows, config, settings, codes), warnings=sample_warnings(rows))
    except BadData as exc:
        raise BadData(f"{source.path}: {exc.found}", needed=exc.needed, next_step=exc.next_step) from exc


def _make_splits(
    config: IngestConfig, sources: list[Source], pool: Pool, staged: Path, scratch: Path, progress: Progress
) -> Totals:
    plan = make_plan(config, sources, scratch)
    if config.anonymize and model_name(config.anonymize_language) is None:
        missing = f"names and places stay in the text: no spaCy model of '{config.anonymize_language}' is installed"
        plan = replace(plan, warnings=(*plan.warnings, missing))
    rules = _rules(config, plan, sources, scratch)
    try:
        return _run(config, pool, rules, sources, staged, progress)
    except ChatSeenError:
        # Text and chats are mixed, which the sample did not show: all rows become messages, from the start.
        rules = replace(rules, plan=replace(plan, chat=True, transcript=False), spill_dir=scratch / "chat")
        rules.spill_dir.mkdir()
        return _run(config, pool, rules, sources, staged, progress)


def _rules(config: IngestConfig, plan: Plan, sources: list[Source], scratch: Path) -> Rules:
    across_prompts = bool(config.dedup_fields) and "prompt" not in config.dedup_fields
    return Rules(
        plan=plan,
        spill_dir=scratch,
        buckets=1 if across_prompts else _bucket_count(sources),
        seed=config.shuffle_seed,
        dedup=config.dedup_fields,
        min_prompt_toks=config.min_prompt_toks,
        max_prompt_toks=config.max_prompt_toks,
        max_chars=config.max_chars,
        skip_bad_lines=config.on_bad_line == "skip",
        stop_on_tie=config.on_tie == "error",
        min_suggestion_score=config.min_suggestion_score,
        tokenizer=None if config.tokenizer is None else str(find_tokenizer(config.tokenizer)),
        anonymize=config.anonymize_language if config.anonymize else None,
        write_drops=config.write_drops,
    )


def _input_bytes(sources: list[Source]) -> int:
    """Return about how much text there is; compressed files hold several times their size."""
    return sum(s.size * (6 if s.compression or s.shape == "parquet" else 1) for s in sources)


def _bucket_count(sources: list[Source]) -> int:
    """Return a power of two that depends on the input alone: it decides the order of the rows."""
    count = 1
    while count < _MAX_BUCKETS and count * _BUCKET_BYTES < _input_bytes(sources):
        count *= 2
    return count


def _run(
    config: IngestConfig, pool: Pool, rules: Rules, sources: list[Source], staged: Path, progress: Progress
) -> Totals:
    totals = Totals(plan=rules.plan)
    parts = _first_pass(pool, rules, sources, totals, progress)
    settled, plan_paths = _settle(pool, rules, parts, totals, progress)
    cuts = find_cuts(settled, plan_paths, {name: getattr(config, f"{name}_ratio") for name in SPLITS})
    _place(pool, rules, parts, settled, plan_paths, cuts, staged, totals, progress)
    if config.write_drops:
        totals.write_drops(staged / "drops.jsonl")
    totals.check()
    return totals


def _workers(config: IngestConfig, sources: list[Source]) -> int:
    small = _input_bytes(sources) < (_SLOW_UNIT_BYTES if config.anonymize else _SMALL_BYTES)
    return config.workers or (1 if small else usable_cpus())


def _first_pass(
    pool: Pool, rules: Rules, sources: list[Source], totals: Totals, progress: Progress
) -> list[list[Part]]:
    parts: list[list[Part]] = [[] for _ in range(rules.buckets)]
    unit_bytes = _SLOW_UNIT_BYTES if rules.anonymize or rules.tokenizer else CHUNK_BYTES
    expected = max(1, _input_bytes(sources) // unit_bytes)
    for result in pool.read_units(rules, iter_units(sources, rules.spill_dir, unit_bytes)):
        totals.add_unit(result)
        for bucket in range(rules.buckets):
            part = _part(result, bucket)
            if part is not None:
                parts[bucket].append(part)
        progress("read", min(1.0, (result.index + 1) / expected))
    return parts


def _part(result: UnitResult, bucket: int) -> Part | None:
    entries, lines, end = result.offsets[2 * bucket : 2 * bucket + 3]
    if entries == lines:
        return None
    return Part(spill=result.spill, unit=result.index, entries=entries, lines=lines, end=end)


def _settle(
    pool: Pool, rules: Rules, parts: list[list[Part]], totals: Totals, progress: Progress
) -> tuple[list[Settled], list[Path]]:
    plan_paths = [rules.spill_dir / f"plan-{bucket}" for bucket in range(rules.buckets)]
    arguments = (
        (bucket, parts[bucket], plan_paths[bucket], rules.dedup, rules.write_drops) for bucket in range(rules.buckets)
    )
    settled = []
    for result in pool.each(settle, arguments):
        totals.add_settled(result)
        # Kept for all buckets until the end: only numbers, the rest is summed up already.
        settled.append(replace(result, lengths=(Counter(), Counter(), Counter()), dropped={}, flags=Counter()))
        progress("settle", len(settled) / rules.buckets)
    return settled, plan_paths


def _place(
    pool: Pool, rules: Rules, parts: list[list[Part]], settled: list[Settled], plan_paths: list[Path], cuts: Cuts,
    staged: Path, totals: Totals, progress: Progress,
) -> None:  # fmt: skip
    for name in SPLITS:
        (staged / f"{name}.jsonl").touch()
        (staged / f"{name}.meta.jsonl").touch()
    row_at, meta_at = [0, 0, 0], [0, 0, 0]
    work = []
    step = 1 << (16 - (rules.buckets.bit_length() - 1))
    for bucket, result in enumerate(settled):
        low = (bucket * step).to_bytes(2, "big") + b"\0" * 14
        high = ((bucket + 1) * step - 1).to_bytes(2, "big") + b"\xff" * 14
        sizes = split_sizes(result, plan_paths[bucket], cuts, low, high)
        if result.kept:
            work.append((parts[bucket], plan_paths[bucket], cuts, staged, list(row_at), list(meta_at)))
        for split, name in enumerate(SPLITS):
            row_at[split] += sizes.rows[split]
            meta_at[split] += sizes.metas[split]
            totals.splits[name] += sizes.pairs[split]
            totals.split_prompts[name] += sizes.prompts[split]
    for done, _ in enumerate(pool.each(place, work), start=1):
        progress("write", done / len(work))
