"""A proxy between a client and the API server that cuts connections and refuses new ones, as a restart would."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from urllib.parse import urlsplit

_RESET = struct.pack("ii", 1, 0)


class Proxy(threading.Thread):
    """Listens on a port of its own; TLS passes through unseen. `close` ends it."""

    def __init__(self, server: str) -> None:
        super().__init__(daemon=True)
        parts = urlsplit(server)
        self._upstream = (parts.hostname or "", parts.port or 443)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.server = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        self.cuts = 0
        self._down_until = 0.0
        self._sockets: set[socket.socket] = set()
        self._closed = threading.Event()
        self.start()

    def run(self) -> None:
        """Accept."""
        while not self._closed.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if time.monotonic() < self._down_until:
                client.close()
                continue
            upstream = socket.create_connection(self._upstream)
            self._sockets |= {client, upstream}
            for pair in ((client, upstream), (upstream, client)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(1 << 14):
                sink.sendall(content)
        for one in (source, sink):
            self._sockets.discard(one)
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def cut(self, down_s: float = 0.0) -> None:
        """Break all connections, some with a reset; refuse new ones for so long."""
        self._down_until = time.monotonic() + down_s
        for one in list(self._sockets):
            with contextlib.suppress(OSError):
                if random.random() < 0.5:
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                one.shutdown(socket.SHUT_RDWR)
            self.cuts += 1

    def cut_again_and_again(self, every_s: tuple[float, float], down_s: float = 0.0) -> None:
        """Cut at random moments until closed."""

        def loop() -> None:
            while not self._closed.wait(random.uniform(*every_s)):
                self.cut(random.uniform(0, down_s))

        threading.Thread(target=loop, daemon=True).start()

    def close(self) -> None:
        """Stop."""
        self._closed.set()
        self._listener.close()
        self.cut()
