"""What must be seen nowhere: the values of secret environment variables, and passwords in URLs.

Secrets reach a step by reference only, as environment variables. Libraries print their environment, their requests and
their tracebacks all the same; so everything that a step prints, logs or reports passes through here.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

NAMES = r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|PRIVATE_KEY|CREDENTIALS)$"
"""Variables that hold a secret by their names; those that AIOS_SECRETS lists do whatever they are called."""
HIDDEN = "[hidden]"
_SHORTEST = 6
"""Shorter values ("1", "true") are words of every log, and no secrets."""
_URL_PASSWORD = re.compile(r"(\w+://)[^/\s:@'\"]*:[^/\s@'\"]+@")


def secret_values(environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Return the values to hide, the longest first, each also as it looks inside a URL."""
    environ = os.environ if environ is None else environ
    listed = {name.strip() for name in environ.get("AIOS_SECRETS", "").split(",")}
    values = {
        value.strip()
        for name, value in environ.items()
        if (name in listed or re.search(NAMES, name.upper())) and len(value.strip()) >= _SHORTEST
    }
    return tuple(sorted(values | {quote(value, safe="") for value in values}, key=len, reverse=True))


def redact(text: str, values: tuple[str, ...] | None = None) -> str:
    """Return the text without secrets."""
    for value in secret_values() if values is None else values:
        text = text.replace(value, HIDDEN)
    return _URL_PASSWORD.sub(rf"\1{HIDDEN}@", text) if "://" in text else text


def redact_bytes(content: bytes, values: tuple[str, ...]) -> bytes:
    """Return a piece of a log without secrets."""
    for value in values:
        content = content.replace(value.encode(), HIDDEN.encode())
    return content


class _Stream:
    """A text stream, or its buffer, that writes what it is given without secrets."""

    def __init__(self, stream: Any, values: tuple[str, ...]) -> None:
        self._stream, self._values = stream, values

    def write(self, content: Any) -> int:
        """Write text or bytes."""
        hide = redact if isinstance(content, str) else redact_bytes
        self._stream.write(hide(content, self._values))
        return len(content)

    def writelines(self, lines: Any) -> None:
        """Write several."""
        for line in lines:
            self.write(line)

    @property
    def buffer(self) -> Any:
        """The bytes beneath, guarded as well."""
        return _Stream(self._stream.buffer, self._values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard_output() -> None:
    """Let this process print no secret; without any in its environment nothing changes."""
    values = secret_values()
    if values:
        sys.stdout, sys.stderr = (_Stream(stream, values) for stream in (sys.stdout, sys.stderr))
