"""Parquet: row groups as units of work, rows as dicts, and the label names that Argilla hides in the schema."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from jobs.contract.errors import BadData

_BATCH_ROWS = 1000


def row_groups(path: Path, *, named: Path, unit_bytes: int) -> list[tuple[int, int]]:
    """Return runs of row groups, first and one past the last, of about so many bytes each.

    Raises:
        BadData: the file is damaged; `named` is what the user calls it.
    """
    with _reading(named) as pq, pq.ParquetFile(path) as file:
        runs: list[tuple[int, int]] = []
        start = size = 0
        for group in range(file.num_row_groups):
            size += file.metadata.row_group(group).total_byte_size
            if size >= unit_bytes or group == file.num_row_groups - 1:
                runs.append((start, group + 1))
                start, size = group + 1, 0
        return runs


def iter_rows(path: Path, groups: range, *, limit: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of some row groups as Python values, a thousand at a time in memory."""
    left = limit
    with _reading(path) as pq, pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, row_groups=list(groups), use_threads=False):
            rows = batch.to_pylist()
            yield from rows if left is None else rows[:left]
            if left is not None:
                left -= len(rows)
                if left <= 0:
                    return


def sample_rows(path: Path, limit: int) -> list[dict[str, Any]]:
    """Return rows from the first, the middle and the last row group."""
    with _reading(path) as pq, pq.ParquetFile(path) as file:
        count = file.num_row_groups
    chosen = sorted({0, count // 2, count - 1}) if count else []
    return [row for group in chosen for row in iter_rows(path, range(group, group + 1), limit=limit)]


def label_names(path: Path) -> dict[str, list[Any]]:
    """Return column -> names for the integer labels of `to_datasets()`; the names are in the schema's metadata."""
    with _reading(path) as pq:
        metadata = pq.read_schema(path).metadata or {}
    try:
        features = orjson.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return {}
    return {
        name: feature["names"]
        for name, feature in features.items()
        if isinstance(feature, dict) and isinstance(feature.get("names"), list)
    }


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        yield pq
    except (pa.ArrowException, OSError, ValueError) as exc:
        if isinstance(exc, OSError) and exc.errno is not None:
            raise
        reason = " ".join(str(exc).split())[:200]
        raise BadData(f"{path} is a damaged Parquet file ({reason})", next_step="copy or export it again") from exc
