"""Rows of any size in and out: JSON lines or Parquet, a chunk in memory at a time."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

import orjson

from jobs.contract.errors import BadData

Row = dict[str, Any]


def read_rows(path: Path, columns: Sequence[str], part: tuple[int, int] = (0, 1)) -> Iterator[tuple[int, Row]]:
    """Yield (number, row) of every n-th row; a row that is no JSON object is `{"error": why}`.

    Raises:
        BadData: the file is absent, damaged, or lacks every column.
    """
    if not path.is_file():
        raise BadData(f"{path} does not exist", needed="a .jsonl or .parquet file", next_step="check the path")
    rows: Iterator[Row | bytes] = _parquet_rows(path, columns) if path.suffix == ".parquet" else _json_rows(path)
    index, count = part
    for number, raw in enumerate(rows):
        if number % count == index:
            yield number, (_parsed(raw) if isinstance(raw, bytes) else raw)


def _json_rows(path: Path) -> Iterator[Row | bytes]:
    """Yield lines unparsed: what belongs to another shard is not worth parsing."""
    try:
        with _open(path) as file:
            for line in file:
                if line.strip():
                    yield line
    except (gzip.BadGzipFile, EOFError) as exc:
        raise BadData(f"{path} is a damaged gzip file ({exc})", next_step="copy or export it again") from exc


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _parsed(line: bytes) -> Row:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as exc:
        return {"error": f"not JSON: {exc}"}
    return row if isinstance(row, dict) else {"error": f"not an object but {type(row).__name__}"}


def _parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[Row | bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            present = [name for name in columns if name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=1000, columns=present, use_threads=False):
                # Arrow fills the keys that a message lacks with null; templates must not see them.
                yield from ({key: _without_nulls(value) for key, value in row.items()} for row in batch.to_pylist())
    except (pa.ArrowException, ValueError) as exc:
        reason = " ".join(str(exc).split())[:200]
        raise BadData(f"{path} is a damaged Parquet file ({reason})", next_step="copy or export it again") from exc


def _without_nulls(value: Any) -> Any:
    if isinstance(value, list):
        return [{k: v for k, v in m.items() if v is not None} if isinstance(m, dict) else m for m in value]
    return value


def encode_part(rows: Sequence[Row], suffix: str) -> bytes:
    """Return a chunk of output rows as the bytes of one file of its own."""
    if suffix == ".jsonl":
        return b"".join(orjson.dumps(row) + b"\n" for row in rows)
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    try:
        pq.write_table(pa.Table.from_pylist([_flat(row) for row in rows]), buffer)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as exc:
        raise _mixed_types(exc) from exc
    return buffer.getvalue()


def _flat(row: Row) -> Row:
    """Make fields of any shape fit one column type: messages become JSON text, ids text."""
    flat = {
        key: value if isinstance(value, str | float | int | None) else orjson.dumps(value).decode()
        for key, value in row.items()
    }
    return flat | ({"id": str(flat["id"])} if "id" in flat else {})


def _mixed_types(exc: Exception) -> BadData:
    return BadData(
        f"a column holds values of different types ({' '.join(str(exc).split())[:120]})",
        next_step="write .jsonl instead of .parquet, or leave out --keep",
    )


def join_parts(parts: Sequence[Path], target: Path, suffix: str) -> None:
    """Write the parts as one file, a part in memory at a time."""
    if suffix == ".jsonl":
        with target.open("wb") as file:
            for part in parts:
                file.write(part.read_bytes())
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    # A column that is empty in one part has the type null there: the schemas are joined before the rows are.
    try:
        schema = pa.unify_schemas([pq.read_schema(part) for part in parts], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as exc:
        raise _mixed_types(exc) from exc
    with pq.ParquetWriter(target, schema) as writer:
        for part in parts:
            writer.write_table(_fitted(pq.read_table(part), schema))


def _fitted(table: Any, schema: Any) -> Any:
    """Give a part the columns and types of the whole."""
    import pyarrow as pa

    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)
