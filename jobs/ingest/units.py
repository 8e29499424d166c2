"""Turns sources into units in file order, streaming where a file has to be decompressed or taken apart here."""

from __future__ import annotations

import codecs
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import orjson

from jobs.contract.errors import BadData
from jobs.ingest.source import (
    CHUNK_BYTES,
    Source,
    Unit,
    document_records,
    json_error,
    range_units,
)
from jobs.ingest.streams import read_some

_SPACE = re.compile(r"[\s,]*")


def iter_units(sources: list[Source], scratch: Path, unit_bytes: int = CHUNK_BYTES) -> Iterator[Unit]:
    """Yield the units of all sources; at most one chunk of decompressed text is held at a time.

    How large the units are does not change the result, only how finely the work is shared out.
    """
    index = 0
    for source in sources:
        for unit in _units(source, index, scratch, unit_bytes):
            yield unit
            index = unit.index + 1


def _units(source: Source, index: int, scratch: Path, unit_bytes: int) -> Iterator[Unit]:
    if source.shape == "parquet":
        return _parquet_units(source, index, scratch, unit_bytes)
    if source.shape == "jsonl":
        cut = range_units if source.plain else _stream_units
        return cut(source, index, unit_bytes)
    if source.shape == "array":
        return _array_units(source, index, unit_bytes)
    return _document_units(source, index, unit_bytes)


def _stream_units(source: Source, index: int, unit_bytes: int) -> Iterator[Unit]:
    number, rest = 1, b""
    with source.open() as stream:
        while True:
            block = read_some(stream, source.path, unit_bytes)
            whole, rest = _split_last_line(rest + block) if block else (rest, b"")
            if whole:
                yield Unit(index=index, path=str(source.path), shape="lines", lines=whole, first_number=number)
                index, number = index + 1, number + whole.count(b"\n")
            if not block:
                return


def _split_last_line(block: bytes) -> tuple[bytes, bytes]:
    cut = block.rfind(b"\n") + 1
    return block[:cut], block[cut:]


def _parquet_units(source: Source, index: int, scratch: Path, unit_bytes: int) -> Iterator[Unit]:
    from jobs.ingest.parquet import row_groups

    path = source.path
    if source.compression:
        path = scratch / f"{index}-{source.path.name}"
        with source.open() as stream, path.open("wb") as target:
            shutil.copyfileobj(stream, target, CHUNK_BYTES)
    for number, (start, end) in enumerate(row_groups(path, named=source.path, unit_bytes=4 * unit_bytes)):
        yield Unit(index=index + number, path=str(path), shape="parquet", start=start, end=end)


def _document_units(source: Source, index: int, unit_bytes: int) -> Iterator[Unit]:
    with source.open() as stream:
        content = read_some(stream, source.path, -1)
    try:
        document = json.loads(content.decode("utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as exc:
        if isinstance(exc, json.JSONDecodeError):
            raise json_error(source.path, exc) from exc
        raise BadData(f"{source.path} is not valid JSON ({exc})", next_step="export it again") from exc
    records = document_records(document)
    if records is None:
        records = [document]
    if not records:
        raise BadData(f"{source.path} holds no records", needed="an Argilla export")
    yield from _packed(source, index, unit_bytes, (_dump(record) for record in records))


def _dump(record: object) -> bytes:
    try:
        return orjson.dumps(record)
    except (TypeError, orjson.JSONEncodeError):
        return json.dumps(record).encode()


def _array_units(source: Source, index: int, unit_bytes: int) -> Iterator[Unit]:
    with source.open() as stream:
        yield from _packed(source, index, unit_bytes, _elements(source, stream))


def _packed(source: Source, index: int, unit_bytes: int, elements: Iterator[bytes]) -> Iterator[Unit]:
    """Pack records into units of about so many bytes."""
    batch: list[bytes] = []
    size, number = 0, 1
    for element in elements:
        batch.append(element)
        size += len(element)
        if size >= unit_bytes:
            yield Unit(index=index, path=str(source.path), shape="records", lines=batch, first_number=number)
            index, number, size, batch = index + 1, number + len(batch), 0, []
    if batch:
        yield Unit(index=index, path=str(source.path), shape="records", lines=batch, first_number=number)


def _elements(source: Source, stream: IO[bytes]) -> Iterator[bytes]:
    """Yield the elements of one JSON array as text, holding one chunk of it; their content is parsed by the workers."""
    scan = json.JSONDecoder().raw_decode
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    text, line, number, at_end = "", 1, 0, False

    def more() -> str:
        nonlocal at_end
        block = read_some(stream, source.path, CHUNK_BYTES)
        at_end = not block
        try:
            return decoder.decode(block, final=at_end)
        except UnicodeDecodeError as exc:
            raise BadData(f"{source.path} is not valid UTF-8 ({exc.reason})", next_step="export it again") from exc

    text = more().lstrip()[1:]
    position = 0
    while True:
        position = _skip(text, position)
        if text.startswith("]", position):
            _check_end(source, stream, text[position + 1 :])
            break
        try:
            _, end = scan(text, position)
            # A number or a word at the edge of the buffer may go on in the next block.
            if end < len(text) or at_end:
                number += 1
                yield text[position:end].encode("utf-8", "surrogatepass")
                position = end
                continue
        except RecursionError:
            raise BadData(f"{source.path}: record {number + 1} is nested too deep", next_step="remove it") from None
        except json.JSONDecodeError as exc:
            if at_end:
                raise _array_error(source.path, number + 1, line, text, exc) from exc
        line += text.count("\n", 0, position)
        text, position = text[position:] + more(), 0
    if number == 0:
        raise BadData(f"{source.path} holds no records", needed="an Argilla export")


def _check_end(source: Source, stream: IO[bytes], rest: str) -> None:
    """Refuse what follows the array: a second one would be lost otherwise."""
    while True:
        if rest.strip():
            raise BadData(
                f"{source.path}: something follows the array: {rest.strip()[:40]!r}",
                needed="one JSON array, or one JSON object a line",
                next_step="put several exports into files of their own and give each with --input",
            )
        block = read_some(stream, source.path, CHUNK_BYTES)
        if not block:
            return
        rest = block.decode("utf-8", "replace")


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _array_error(path: Path, record: int, line: int, text: str, exc: json.JSONDecodeError) -> BadData:
    line += text.count("\n", 0, exc.pos)
    what = "the file ends in the middle of it" if exc.pos >= len(text.rstrip()) else exc.msg
    return BadData(
        f"{path}: line {line}, record {record} of the array: {what}",
        needed="one whole JSON array",
        next_step="export it again",
    )
