"""Opening a file: decompressed, in UTF-8, and with damage told in one clear line."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import zlib
from pathlib import Path
from typing import IO, Any, cast

from jobs.contract.errors import BadData

_READ_BYTES = 128 << 10


def open_stream(path: Path, compression: str | None, encoding: str | None = None) -> IO[bytes]:
    """Open a file for reading its uncompressed content in UTF-8."""
    stream = path.open("rb") if compression is None else _decompress(path, compression)
    return stream if encoding is None else cast(IO[bytes], codecs.EncodedFile(stream, "utf-8", encoding))


def _decompress(path: Path, compression: str) -> IO[bytes]:
    if compression == "gzip":
        return cast(IO[bytes], gzip.open(path, "rb"))
    if compression == "bzip2":
        return bz2.open(path, "rb")
    return io.BufferedReader(_ZstdFile(path), _READ_BYTES)


class _ZstdFile(io.RawIOBase):
    """Reads all frames of a zstd file; `zstandard.open` takes a file that was cut off for one that has ended."""

    def __init__(self, path: Path) -> None:
        import zstandard

        self._new = zstandard.ZstdDecompressor().decompressobj
        self._file = path.open("rb")
        self._frame: Any = None
        self._decoded = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._decoded:
            block = self._file.read(_READ_BYTES)
            if not block:
                if self._frame is not None:
                    raise EOFError("the last frame is not complete")
                return 0
            self._decoded = self._decode(block)
        taken = self._decoded[: len(buffer)]
        buffer[: len(taken)] = taken
        self._decoded = self._decoded[len(taken) :]
        return len(taken)

    def _decode(self, block: bytes) -> bytes:
        pieces = []
        while block:
            self._frame = self._frame or self._new()
            pieces.append(self._frame.decompress(block))
            block = b""
            if self._frame.eof:
                block, self._frame = self._frame.unused_data, None
        return b"".join(pieces)

    def close(self) -> None:
        self._file.close()
        super().close()


def read_some(stream: IO[bytes], path: Path, size: int) -> bytes:
    """Read from a possibly compressed stream; damage becomes one clear line."""
    try:
        return stream.read(size)
    except (EOFError, OSError, zlib.error, ValueError) as exc:
        if isinstance(exc, OSError) and exc.errno is not None:
            raise
        raise _damaged(path, exc) from exc
    except Exception as exc:
        if type(exc).__name__ != "ZstdError":
            raise
        raise _damaged(path, exc) from exc


def _damaged(path: Path, exc: Exception) -> BadData:
    reason = " ".join(str(exc).split())
    if isinstance(exc, UnicodeError):
        return BadData(f"{path} is not in the encoding that --encoding says ({reason})", needed="the right one")
    return BadData(
        f"{path} is cut off or damaged ({reason})", needed="the whole file", next_step="copy or export it again"
    )
