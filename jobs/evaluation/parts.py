"""Work on rows of any number, in parts: memory stays flat, and a second attempt goes on where the first one died.

Each finished chunk stands as a file of its own in a hidden folder beside the output, whose name says what it is made
from. At the end the parts are joined, and the output appears whole, with `OUTPUT.meta.json` beside it.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from jobs.config.fields import identity
from jobs.config.scoring import RowsConfig
from jobs.contract.errors import BadConfig, BadData, FolderBusy, Interrupted
from jobs.contract.files import fsync_path, remove_tree, replace, sha256_file, sha256_json, write_atomic, write_json
from jobs.contract.lock import FolderLock
from jobs.contract.log import LOG
from jobs.contract.publish import attempt_id
from jobs.evaluation.rows import Row, encode_part, join_parts, read_rows
from jobs.training.interrupt import StopFlag, stop_on_signals

Chunk = list[tuple[int, Row]]
Work = Callable[[Chunk], tuple[list[Row], Counter[str]]]
"""From a chunk of (number, row) to output rows and why some have no result."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """One output file in the making."""

    config: RowsConfig
    columns: Sequence[str]
    model_sha256: str

    @property
    def output(self) -> Path:
        """The file of this shard: scores.jsonl -> scores.0-of-4.jsonl."""
        return self.shard(self.config.part()[0])

    def shard(self, index: int) -> Path:
        """Return the file of a shard."""
        path, count = Path(self.config.output), self.config.part()[1]
        return path if count == 1 else path.with_name(f"{path.stem}.{index}-of-{count}{path.suffix}")

    def run(self, opened: Callable[[], AbstractContextManager[Work]]) -> dict[str, Any]:
        """Do what is not done yet and publish; returns what stands in `OUTPUT.meta.json`.

        `opened` loads the model, and is called only when there is something to do.
        """
        source, output = Path(self.config.input), self.output
        if not source.is_file():
            raise BadData(f"{source} does not exist", needed="a .jsonl or .parquet file", next_step="check --input")
        settings = identity(self.config)
        made_from = {"input": sha256_file(source), "model": self.model_sha256, "settings": settings}
        key = sha256_json([made_from, self.config.chunk_rows])[:12]
        folder = output.with_name(f".{output.name}.parts-{key}")
        output.parent.mkdir(parents=True, exist_ok=True)
        with FolderLock(output, attempt=attempt_id()) as lock, stop_on_signals() as stop:
            finished = self._finished(made_from)
            if finished is not None:
                join_shards(self, finished)
                return finished | {"skipped": True}
            for stale in output.parent.glob(f".{output.name}.parts-*"):
                if stale != folder:
                    remove_tree(stale)
            folder.mkdir(exist_ok=True)
            with opened() as work:
                self._work(folder, work, stop)
            summary = _summary(folder) | {"made_from": made_from}
            lock.check()
            _publish(folder, output, summary)
            join_shards(self, summary)
        return summary | {"skipped": False}

    def _work(self, folder: Path, work: Work, stop: StopFlag) -> None:
        rows = read_rows(Path(self.config.input), self.columns, self.config.part())
        done, fresh, started = 0, 0, time.perf_counter()
        for number in itertools.count():
            chunk = list(itertools.islice(rows, self.config.chunk_rows))
            if not chunk:
                return
            done += len(chunk)
            path = folder / f"{number:07d}{self.output.suffix}"
            if path.exists():
                continue
            results, reasons = work(chunk)
            write_json(path.with_suffix(".counts.json"), {"rows": len(chunk), "failed": dict(reasons)})
            write_atomic(path, encode_part(results, self.output.suffix))
            fresh += len(chunk)
            LOG.info("%d rows done, %.0f rows/s", done, fresh / (time.perf_counter() - started))
            if stop:
                raise Interrupted("stopped; finished rows are kept", next_step="the same command goes on from there")

    def _finished(self, made_from: dict[str, Any]) -> dict[str, Any] | None:
        """Return the summary of a finished output of the same input, model and settings."""
        output, meta = self.output, _meta_path(self.output)
        if not (output.is_file() and meta.is_file()):
            return None
        summary: dict[str, Any] = orjson.loads(meta.read_bytes())
        if summary.get("made_from") == made_from and summary.get("sha256") == sha256_file(output):
            LOG.info("%s is already there, made from the same: nothing to do", output)
            return summary
        if not self.config.overwrite:
            raise BadConfig(
                f"{output} already holds a result of another input, model or setting",
                next_step="choose another output, or --overwrite to replace it",
            )
        return None


def join_shards(parts: Parts, mine: dict[str, Any]) -> None:
    """Join the shards to OUTPUT once all are there, their rows in the order of the input. Whoever is last does it.

    The result says that it is made from what a run without shards would be: the same command without --shard finds it.
    """
    count, output = parts.config.part()[1], Path(parts.config.output)
    if count == 1:
        return
    with _patient_lock(output):
        shards = [parts.shard(index) for index in range(count)]
        summaries = [_summary_of(shard, mine["made_from"], f"{index}/{count}") for index, shard in enumerate(shards)]
        there = [summary for summary in summaries if summary is not None]
        whole = mine["made_from"] | {"settings": mine["made_from"]["settings"] | {"shard": "0/1"}}
        if len(there) < count or (_summary_of(output, whole, "0/1") is not None):
            LOG.info("%d of %d shards are there", len(there), count)
            return
        LOG.info("all %d shards are there: joining them to %s", count, output)
        failed = sum((Counter(summary["failed"]) for summary in there), Counter[str]())
        summary = {key: sum(one[key] for one in there) for key in ("rows", "done")}
        folder = output.with_name(f".{output.name}.joining")
        remove_tree(folder)
        folder.mkdir()
        rows = _in_turn([read_rows(shard, _columns(shard)) for shard in shards])
        for number in itertools.count():
            chunk = list(itertools.islice(rows, parts.config.chunk_rows))
            if not chunk:
                break
            write_atomic(folder / f"{number:07d}{output.suffix}", encode_part(chunk, output.suffix))
        _publish(folder, output, summary | {"failed": dict(failed.most_common(50)), "made_from": whole})


def _in_turn(files: Sequence[Iterator[tuple[int, Row]]]) -> Iterator[Row]:
    """Yield the rows of shards in the order of the input: row n stands in shard n modulo their number."""
    for rows in itertools.zip_longest(*files):
        yield from (row for _, row in filter(None, rows))


def _columns(file: Path) -> list[str]:
    if file.suffix != ".parquet":
        return []
    import pyarrow.parquet as pq

    return list(pq.read_schema(file).names)


def _summary_of(output: Path, made_from: dict[str, Any], shard: str) -> dict[str, Any] | None:
    """Return the summary of a file that is there, whole, and made from the same."""
    try:
        summary: dict[str, Any] = orjson.loads(_meta_path(output).read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return None
    same = made_from | {"settings": made_from["settings"] | {"shard": shard}}
    whole = output.is_file() and summary.get("made_from") == same and summary.get("sha256") == sha256_file(output)
    return summary if whole else None


@contextmanager
def _patient_lock(output: Path) -> Iterator[None]:
    """Hold the lock of the joined file; two shards that end together look one after the other, or neither sees both."""
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(FolderLock(output, attempt=attempt_id()))
                break
            except FolderBusy:
                time.sleep(1)
        yield


def _meta_path(output: Path) -> Path:
    return output.with_name(f"{output.name}.meta.json")


def _summary(folder: Path) -> dict[str, Any]:
    """Add up the counts of all parts: rows = done + failed by reason."""
    rows, failed = 0, Counter[str]()
    for path in sorted(folder.glob("*.counts.json")):
        counts = orjson.loads(path.read_bytes())
        rows += counts["rows"]
        failed.update(counts["failed"])
    if rows == failed.total():
        reasons = ", ".join(f"{count} {reason}" for reason, count in failed.most_common(5)) or "there is none"
        remove_tree(folder)
        raise BadData(f"no row of the input can be used ({reasons})", next_step="check the columns and their names")
    if failed:
        LOG.warning("%d of %d rows have no result; the column `error` says why", failed.total(), rows)
    return {"rows": rows, "done": rows - failed.total(), "failed": dict(failed.most_common(50))}


def _publish(folder: Path, output: Path, summary: dict[str, Any]) -> None:
    joined = folder / f"joined{output.suffix}"
    joined.unlink(missing_ok=True)
    join_parts(sorted(folder.glob(f"*{output.suffix}")), joined, output.suffix)
    fsync_path(joined)
    summary["sha256"] = sha256_file(joined)
    _meta_path(output).unlink(missing_ok=True)
    replace(joined, output)
    write_json(_meta_path(output), summary)
    remove_tree(folder)
