"""Encoded splits kept on the volume, so that a resume or a sweep does not tokenize the same rows again."""

from __future__ import annotations

import importlib.metadata
import io
from pathlib import Path
from typing import Any

import orjson

from jobs.contract.files import make_folder, sha256_json, write_atomic
from jobs.contract.log import LOG
from jobs.training.encode import EncodedPair, EncodedSplit, PairEncoder, encode_split

CACHE = Path("artifacts/cache/tokens")
_FORMAT = 1
_COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids", "truncated")


def encoded_split(encoder: PairEncoder, rows: list[dict[str, Any]], *, write: bool) -> EncodedSplit:
    """Return what `encode_split` returns, from the cache where it is there.

    With `write`, for the first of several processes, it is put there else, and a hit is told. The key is a hash of the
    rows, the tokenizer with its template and the library's version, length and truncation.
    """
    path = CACHE / f"{_key(encoder, rows)}.parquet"
    found = _read(path)
    if found is not None:
        if write:
            LOG.info("%d rows were tokenized before: %s", found.read, path)
        return found
    split = encode_split(encoder, rows)
    if write:
        make_folder(path.parent)
        write_atomic(path, _to_parquet(split))
    return split


def _key(encoder: PairEncoder, rows: list[dict[str, Any]]) -> str:
    tokenizer = encoder.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    how = [
        _FORMAT,
        backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items()),
        tokenizer.chat_template,
        [tokenizer.bos_token_id, tokenizer.eos_token_id],
        [importlib.metadata.version(name) for name in ("transformers", "tokenizers", "aios-alignment")],
        [encoder.templated, encoder.max_length, encoder.truncation],
    ]
    return sha256_json([how, rows])


def _to_parquet(split: EncodedSplit) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {name: [getattr(pair, name) for pair in split.pairs] for name in _COLUMNS}
    ids = pa.list_(pa.int32())
    schema = pa.schema([*((name, ids) for name in _COLUMNS[:3]), ("truncated", pa.bool_()), ("row", pa.int64())])
    counts = orjson.dumps({"read": split.read, "truncated": split.truncated, "dropped": split.dropped})
    table = pa.table(columns | {"row": split.kept}, schema=schema.with_metadata({"counts": counts}))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _read(path: Path) -> EncodedSplit | None:
    """Return the split in a file; None when there is none, or one that is no whole file of ours."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        counts = orjson.loads(table.schema.metadata[b"counts"])
    except (OSError, pa.ArrowException, KeyError, TypeError, orjson.JSONDecodeError):
        return None
    columns = table.to_pydict()
    pairs = [
        EncodedPair(prompt_ids=prompt, chosen_ids=chosen, rejected_ids=rejected, truncated=truncated)
        for prompt, chosen, rejected, truncated in zip(*(columns[name] for name in _COLUMNS), strict=True)
    ]
    return EncodedSplit(pairs=pairs, kept=columns["row"], **counts)
