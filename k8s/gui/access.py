"""Who may use the panel: sessions as signed cookies, a token compared in constant time, a brake on guessing.

Nothing is kept: the key that signs follows from the token, or lies on the volume, so a restart logs nobody out.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from jobs.contract.files import make_folder

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
SESSION_S = 7 * 86400
KEY_FILE = Path("artifacts/runs/.panel-key")
MIN_TOKEN = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """The rules of one server."""

    key: bytes = field(repr=False)
    token: str | None = field(default=None, repr=False)
    """What a person types to get in; None lets everybody in who can reach a loopback address."""
    hosts: frozenset[str] | None = None
    """Names under which a browser may address the server; None: any, since the token protects it. On a loopback
    address it keeps out pages whose name was made to resolve to 127.0.0.1."""
    cookie: str = "aios_panel"

    def new_session(self) -> str:
        """Return the value of a fresh session's cookie."""
        body = f"{secrets.token_urlsafe(18)}.{int(time.time())}"
        return f"{body}.{self._sign('session', body)}"

    def valid(self, session: str) -> bool:
        """Tell whether this server, or one with its key, has given out this session, and not too long ago."""
        body, _, signature = session.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._sign("session", body).encode()):
            return False
        return time.time() - int(body.rpartition(".")[2]) < SESSION_S

    def csrf(self, session: str) -> str:
        """Return what a page of this session sends with every request that changes something."""
        return self._sign("csrf", session)

    def opens(self, token: str) -> bool:
        """Tell whether this is the token, in a time that does not depend on how much of it is right."""
        given, wanted = (hashlib.sha256(text.encode()).digest() for text in (token, self.token or ""))
        return self.token is not None and hmac.compare_digest(given, wanted)

    def _sign(self, purpose: str, text: str) -> str:
        digest = hmac.new(self.key, f"{purpose}:{text}".encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def make_access(host: str, port: int, token: str | None) -> Access:
    """Return the rules for a server at this address."""
    open_to = LOOPBACK | {host} if host in LOOPBACK and token is None else None
    key = hashlib.sha256(f"aios panel {token}".encode()).digest() if token else stored_key()
    # Browsers send a cookie to every port of a host: two panels on one machine need two names.
    return Access(key=key, token=token, hosts=open_to, cookie=f"aios_panel_{port}")


def stored_key(path: Path = KEY_FILE) -> bytes:
    """Return the key that signs sessions on a loopback address; made once, readable by its owner alone."""
    make_folder(path.parent)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123
            file.write(secrets.token_bytes(32))
        os.link(draft, path)  # of two servers that start at once one wins, and the other uses its key
    except FileExistsError:
        pass
    finally:
        draft.unlink(missing_ok=True)
    return path.read_bytes()


class Brake:
    """Lets through a few bad tokens, then fewer and fewer: 10,000 guesses would take a day."""

    FREE = 5
    PAUSE_S = 10.0
    MAX_SOURCES = 1000

    def __init__(self) -> None:
        self._failures: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()

    def wait_s(self, source: str) -> float:
        """Return how long this address has to wait before its next try."""
        with self._lock:
            count, at = self._failures.get(source, (0, 0.0))
            return max(0.0, at + self.PAUSE_S - time.monotonic()) if count >= self.FREE else 0.0

    def failed(self, source: str) -> None:
        """Count a bad token. Every further one starts the pause anew."""
        with self._lock:
            count, _ = self._failures.pop(source, (0, 0.0))
            self._failures[source] = (count + 1, time.monotonic())
            while len(self._failures) > self.MAX_SOURCES:
                self._failures.pop(next(iter(self._failures)))

    def passed(self, source: str) -> None:
        """Forget an address that had the right token."""
        with self._lock:
            self._failures.pop(source, None)
