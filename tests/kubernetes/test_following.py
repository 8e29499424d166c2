"""Logs and watches over connections that break: a small API server that cuts its answers in the middle of a line."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from k8s.cluster.client import Api, ApiError
from k8s.cluster.config import Connection
from k8s.cluster.logs import stamped_lines
from k8s.cluster.mirror import Mirror
from k8s.progress import logged, progress
from tests.runs.helpers import until

LINES = 300


def stamp(number: int) -> str:
    """Return the time of a line: forty a second, so that many share the second that `sinceTime` counts by."""
    return f"2026-01-01T00:00:{number // 40:02d}.{number % 40:02d}0000000Z"


class Restless(BaseHTTPRequestHandler):
    """A pod that writes LINES lines and then ends; answers are cut at a random byte or end early."""

    protocol_version = "HTTP/1.1"
    began = 0.0
    chance = random.Random(7)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        parts, written = urlsplit(self.path), int((time.monotonic() - type(self).began) * 150)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if not parts.path.endswith("/log"):
            self._answer(json.dumps({"status": {"phase": "Running" if written < LINES else "Succeeded"}}).encode())
            return
        start = next((n for n in range(LINES) if stamp(n)[:19] + "Z" >= query.get("sinceTime", "")), LINES)
        lines = [f"{stamp(n)} line {n}\n" for n in range(start, min(written, LINES))]
        body = "".join(lines).encode()
        cut = self.chance.random() < 0.7
        self._chunk(body[: self.chance.randrange(len(body) + 1)] if cut else body, whole=not cut)

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _chunk(self, body: bytes, *, whole: bool) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if body:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(body), body))
        if whole:
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True


class Forgetful(BaseHTTPRequestHandler):
    """Answers the first watch with 410, as an event; the next one brings an object and stays open."""

    protocol_version = "HTTP/1.1"
    lists = watches = 0

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        kind = type(self)
        if "watch=1" not in self.path:
            kind.lists += 1
            items = [{"metadata": {"name": f"seen-at-list-{kind.lists}"}}]
            body = json.dumps({"items": items, "metadata": {"resourceVersion": str(kind.lists)}}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        kind.watches += 1
        event: dict[str, Any] = {"type": "ERROR", "object": {"code": 410, "reason": "Expired"}}
        if kind.watches > 1:
            event = {"type": "ADDED", "object": {"metadata": {"name": "watched", "resourceVersion": "9"}}}
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(json.dumps(event).encode() + b"\n")
        self.wfile.flush()
        time.sleep(0 if kind.watches == 1 else 5)
        self.close_connection = True


@pytest.fixture
def api(request: pytest.FixtureRequest) -> Iterator[Api]:
    """A client of a server that behaves as the test's parameter does."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), request.param)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Api(Connection(server=f"http://127.0.0.1:{server.server_port}", namespace="n", tls=None))
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("api", [Restless], indirect=True)
def test_every_line_comes_once_over_cuts(api: Api) -> None:
    """Whatever answers are cut, also inside a line, and the last of them too, a follower gets each line once."""
    Restless.began = time.monotonic()
    assert [line for _, line in stamped_lines(api, "p", follow=True)] == [f"line {n}" for n in range(LINES)]
    assert [line for _, line in stamped_lines(api, "p", follow=False)] == [f"line {n}" for n in range(LINES)]


@pytest.mark.parametrize("api", [Forgetful], indirect=True)
def test_a_forgotten_position_is_listed_anew(api: Api) -> None:
    """410 in a watch: the mirror lists again and then holds what the server has, without an error."""
    mirror = Mirror(api, "/api/v1/namespaces/n/pods", "a=b", threading.Event())
    mirror.start()
    until(lambda: set(mirror.objects) == {"seen-at-list-2", "watched"})
    assert (Forgetful.lists, mirror.error) == (2, None)


def test_an_answer_of_the_server_is_an_error_with_its_words() -> None:
    """What the API server says is told in its own words."""
    assert str(ApiError(403, "Forbidden", "exceeded quota")) == "the Kubernetes API says 403 Forbidden: exceeded quota"


def test_a_trainers_line_tells_its_metrics() -> None:
    """Step, loss, accuracy and margin are read from a log line; other lines tell nothing."""
    line = "02:11:05 dpo step 37/100  loss 0.61  accuracy 0.64  margin -1.2e-01"
    expected = {"kind": "train", "step": 37, "max_steps": 100, "loss": 0.61, "accuracy": 0.64, "margin": -0.12}
    assert logged(line) == expected
    assert logged("Published artifacts/dpo/x") is None


def test_progress_never_goes_back() -> None:
    """The initial model is evaluated, as step 0, after the first step; a run shown at step 1 stays there."""
    rows: list[dict[str, object]] = [{"kind": "rows"}, {"step": 1, "loss": 0.7}, {"step": 0, "eval_loss": 0.6}]
    assert progress(rows[:1]) == {}
    assert progress(rows) == {"step": 1, "loss": 0.7, "eval_loss": 0.6}
