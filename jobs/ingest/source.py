"""What lies in the input files, and how it is cut into units of work.

The content decides, not the name: magic bytes for compression and Parquet, the first characters for the JSON shape.
A unit is about 4 MB of lines, one Parquet row group, or the elements of a JSON array. Units are numbered in file
order and cut at fixed positions, so that everything derived from them is the same for any number of workers.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import orjson

from jobs.contract.errors import BadData
from jobs.contract.places import check_place
from jobs.ingest.streams import open_stream, read_some

CHUNK_BYTES = 4 << 20
_LINE_BUFFER_BYTES = 256 << 10
_WHOLE_LIMIT_BYTES = 2 << 30
_RECORDS_KEYS = ("items", "records", "data", "rows", "train")
"""Where one document holds its records: the REST answer under items, wrappers made by hand under the others."""
_DATA_SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One input file: where it is and what is in it."""

    path: Path
    shape: str
    """jsonl, array (of records), document (one JSON object that holds the records) or parquet."""
    compression: str | None
    size: int
    encoding: str | None = None
    """None for UTF-8."""

    @property
    def plain(self) -> bool:
        """Whether byte ranges of the file are lines as they are."""
        return self.compression is None and self.encoding is None

    def open(self) -> IO[bytes]:
        """Open the content, uncompressed and in UTF-8."""
        return open_stream(self.path, self.compression, self.encoding)


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """One piece of work for a worker, small enough to hold in memory several times over."""

    index: int
    path: str
    shape: str
    start: int = 0
    end: int = 0
    lines: bytes | list[bytes] | None = None
    first_number: int = 0
    """Line, record or row number of its first record where that is known, else 0: then it is counted on demand."""


def find_inputs(patterns: tuple[str, ...]) -> list[Path]:
    """Expand globs and dataset folders into data files, in the order given.

    Raises:
        BadData: a pattern matches nothing, or leads out of the workspace by a link.
    """
    paths: list[Path] = []
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            found = _dataset_files(path)
        elif path.exists():
            found = [path]
        else:
            found = [Path(name) for name in sorted(glob.glob(pattern, recursive=True)) if Path(name).is_file()]  # noqa: PTH207 - Path.glob refuses absolute patterns
        if not found:
            raise BadData(f"no data file at {pattern}", needed="an Argilla export", next_step="check --input")
        paths += [p for p in found if p not in paths]
    for path in paths:
        check_place(path, BadData)
    return paths


def _dataset_files(folder: Path) -> list[Path]:
    """Return the records of a dataset folder: `to_disk` writes records.json, `to_hub` data/*.parquet."""
    for pattern in ("records.json", "data/*.parquet", "*.parquet", "*.jsonl", "*.jsonl.*", "*.json"):
        found = sorted(p for p in folder.glob(pattern) if not p.name.startswith((".", "_")))
        if found:
            return found
    return []


def open_source(path: Path, encoding: str | None = None) -> Source:
    """Look at the first bytes of a file and say what it is.

    Raises:
        BadData: it is something that cannot be read, with the reason and the way out.
    """
    with path.open("rb") as file:
        head = file.read(4096)
    compression = _compression(path, head)
    if head.startswith(b"PAR1"):
        encoding = None
    if compression or encoding:
        with open_stream(path, compression, encoding) as stream:
            head = read_some(stream, path, 4096)
    source = Source(path=path, shape="jsonl", compression=compression, size=path.stat().st_size, encoding=encoding)
    return replace(source, shape=_shape(source, head))


def _compression(path: Path, head: bytes) -> str | None:
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return "zstd"
    if head.startswith(b"BZh"):
        return "bzip2"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        raise BadData(f"{path} is a zip archive", needed="the file inside it", next_step="unpack it and give that file")
    return None


def _shape(source: Source, head: bytes) -> str:
    path = source.path
    if head.startswith(b"PAR1"):
        return "parquet"
    for bom, name in (
        (b"\xff\xfe\x00\x00", "UTF-32"),
        (b"\x00\x00\xfe\xff", "UTF-32"),
        (b"\xff\xfe", "UTF-16"),
        (b"\xfe\xff", "UTF-16"),
    ):
        if head.startswith(bom):
            raise _encoding_error(path, name)
    if b"\x00" in head[:64]:
        raise _encoding_error(path, "UTF-16" if head[1:2] == b"\x00" or head[:1] == b"\x00" else "binary")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text:
        raise BadData(f"{path} holds no records", needed="an Argilla export")
    if text.startswith(b"["):
        return "array"
    if not text.startswith(b"{") and _looks_like_csv(text):
        raise BadData(
            f"{path} is CSV, in which lists became text and cannot be told apart again",
            needed="JSONL, JSON or Parquet",
            next_step="export with records.to_datasets().to_parquet(...), or run `aios data argilla-pull`",
        )
    return "document" if text.startswith(b"{") and _is_document(source) else "jsonl"


def _encoding_error(path: Path, name: str) -> BadData:
    return BadData(
        f"{path} is encoded as {name}",
        needed="UTF-8",
        next_step=f"say so with --encoding {name.lower()}" if name != "binary" else "check --input",
    )


def _looks_like_csv(text: bytes) -> bool:
    first = text.split(b"\n", 1)[0]
    return b"," in first and not first.lstrip().startswith((b"{", b"[", b'{"'))


def _is_document(source: Source) -> bool:
    """Tell whether the file is one JSON object (a REST page, to_dict) and not one object a line."""
    path = source.path
    with source.open() as stream:
        first = read_some(stream, path, CHUNK_BYTES)
        line, newline, rest = first.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")
        if newline and line.rstrip() != b"{" and (_parses(line) or rest.lstrip().startswith(b"{")):
            return False
        if newline and _pretty_printed(rest):
            return True
        if newline and _parses(line):
            return False
        # One long line: a document when it is the only one, holds the records and nothing follows.
        whole = first if len(first) < CHUNK_BYTES else first + read_some(stream, path, _WHOLE_LIMIT_BYTES)
    try:
        return not _is_record(orjson.loads(whole.removeprefix(b"\xef\xbb\xbf")))
    except orjson.JSONDecodeError:
        return False


def _parses(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True


def _pretty_printed(rest: bytes) -> bool:
    return rest.startswith((b" ", b"\t", b'"')) and b'"' in rest[:200]


def _is_record(document: Any) -> bool:
    return document_records(document) is None


def document_records(document: Any) -> list[Any] | None:
    """Return the records inside one JSON object; None where the object is itself a record."""
    if not isinstance(document, dict):
        return None
    for name in _RECORDS_KEYS:
        found = document.get(name)
        if isinstance(found, list) and "fields" not in document and all(isinstance(v, dict) for v in found):
            return found
    values = list(document.values())
    if values and all(isinstance(v, dict) and "fields" in v for v in values):
        return values
    if (
        values
        and all(isinstance(v, list) for v in values)
        and len({len(v) for v in values}) == 1
        and {"fields", "id"} & document.keys()
    ):
        return [dict(zip(document, row, strict=True)) for row in zip(*values, strict=True)]
    return None


def json_error(path: Path, exc: json.JSONDecodeError) -> BadData:
    """Say where a JSON document stops being one."""
    return BadData(
        f"{path}: line {exc.lineno}, column {exc.colno}: {exc.msg}", needed="valid JSON", next_step="export it again"
    )


def line_number(path: Path, offset: int) -> int:
    """Return the number of the line that starts at or after a byte offset; counted only for an error message."""
    number, position = 1, 0
    with path.open("rb") as file:
        while position < offset and (block := file.read(min(1 << 20, offset - position))):
            number += block.count(b"\n")
            position += len(block)
    return number


def range_units(source: Source, first_index: int, unit_bytes: int) -> Iterator[Unit]:
    """Cut an uncompressed file of lines into byte ranges; a worker reads its own."""
    for number, start in enumerate(range(0, source.size, unit_bytes)):
        end = min(start + unit_bytes, source.size)
        yield Unit(index=first_index + number, path=str(source.path), shape="jsonl", start=start, end=end)


def first_line(unit: Unit) -> int:
    """Return the offset of the first line that starts inside a unit's byte range or after it."""
    if unit.start == 0:
        return 0
    with Path(unit.path).open("rb") as file:
        file.seek(unit.start - 1)
        return unit.start - 1 + len(file.readline())


def range_lines(unit: Unit) -> Iterator[bytes]:
    """Yield the lines that start inside a unit's byte range, with their line ends.

    A small buffer stays in the processor's cache: reading 4 MB and splitting them takes three times as long.
    """
    position = first_line(unit)
    with Path(unit.path).open("rb", buffering=_LINE_BUFFER_BYTES) as file:
        file.seek(position)
        for line in file if position < unit.end else ():
            yield line
            position += len(line)
            if position >= unit.end:
                return
