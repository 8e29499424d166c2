"""A real OpenAI-compatible server in a thread, which misbehaves on request."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import orjson

_ANSWERS = re.compile(r"<answer A>\n(.*?)\n</answer A>\n\n<answer B>\n(.*?)\n</answer B>", re.DOTALL)


@dataclass(kw_only=True)
class Judge:
    """What the server does. It prefers the answer that holds the word `good`."""

    url: str = ""
    plan: list[str] = field(default_factory=list)
    """What happens to the next requests: ok, slow, nonsense, garbage, limit, error, drop; then ok for ever."""
    forever: str = "ok"
    always_first: bool = False
    key: str | None = None
    asked: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_behaviour(self) -> str:
        """Take the next entry of the plan."""
        with self.lock:
            return self.plan.pop(0) if self.plan else self.forever


@contextmanager
def serve(judge: Judge) -> Iterator[Judge]:  # noqa: C901 - one server, told in one place
    """Run the server while the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = orjson.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = body["messages"][-1]["content"]
            with judge.lock:
                judge.asked[text] += 1
            behaviour = judge.next_behaviour()
            if judge.key is not None and self.headers.get("Authorization") != f"Bearer {judge.key}":
                self.reply(401, b'{"error": "bad key"}')
            elif self.path != "/v1/chat/completions":
                self.reply(404, b'{"error": "no such path"}')
            elif behaviour == "ok":
                with judge.lock:
                    judge.answered[text] += 1
                self.reply(200, self.completion(f"Because. [[{self.verdict(text)}]]"))
            else:
                self.misbehave(behaviour)

        def misbehave(self, how: str) -> None:
            if how == "slow":
                time.sleep(1.5)
            elif how == "drop":
                self.close_connection = True
                self.connection.close()
            elif how == "nonsense":
                self.reply(200, self.completion("I like both, who knows?"))
            else:
                replies = {"limit": (429, b"slow down"), "error": (503, b"down"), "garbage": (200, b"<html>")}
                self.reply(*replies[how], {"Retry-After": "0"} if how == "limit" else None)

        def verdict(self, text: str) -> str:
            found = _ANSWERS.search(text)
            assert found is not None
            first, second = ("good" in found[1]), ("good" in found[2])
            return "A" if judge.always_first else "C" if first == second else "A" if first else "B"

        def completion(self, content: str) -> bytes:
            return orjson.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]})

        def reply(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except (OSError, ValueError):  # the client gave up, or we dropped it
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    judge.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield judge
    finally:
        server.shutdown()
        server.server_close()
