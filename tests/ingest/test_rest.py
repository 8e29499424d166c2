"""A pull through bad weather: a real HTTP server in a thread that is busy, breaks off, or is another version."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest

from jobs.config.argilla import PullConfig
from jobs.contract.errors import BadData
from jobs.ingest.pull import pull
from jobs.ingest.rest import Server
from tests.ingest.helpers import lines, run

RECORDS = [
    {
        "id": f"s{i}", "external_id": f"r{i}", "metadata": {}, "suggestions": [], "inserted_at": "2026-01-01T00:00:00",
        "fields": {"prompt": f"question {i}", "response_a": "this", "response_b": "that"},
        "responses": [{"user_id": "u", "status": "submitted", "values": {"best": {"value": "response_a"}}}],
    }
    for i in range(5)
]  # fmt: skip
ANSWERS: dict[str, Any] = {
    "me/workspaces": {"items": [{"id": "w", "name": "team"}]},
    "me/datasets": {"items": [{"id": "d", "name": "data", "workspace_id": "w"}]},
    "datasets/d/questions": {"items": [{"id": "q", "name": "best", "settings": {"type": "label_selection"}}]},
    "datasets/d/fields": {"items": [{"name": n} for n in ("prompt", "response_a", "response_b")]},
}


class Argilla(ThreadingHTTPServer):
    """Answers as Argilla does, after the failures that a test puts into `failures`."""

    failures: list[tuple[int, dict[str, str]]]
    with_total = True
    api = True

    def answer(self, path: str) -> Any:
        parts = urlsplit(path)
        name = parts.path.removeprefix("/api/v1/")
        if name != "datasets/d/records":
            return ANSWERS[name]
        query = parse_qs(parts.query)
        start, count = int(query["offset"][0]), int(query["limit"][0])
        page: dict[str, Any] = {"items": RECORDS[start : start + count]}
        return page | ({"total": len(RECORDS)} if self.with_total else {})


class Handler(BaseHTTPRequestHandler):
    server: Argilla

    def do_GET(self) -> None:
        if not self.server.api:
            return self.send_error(404)
        if self.server.failures:
            code, headers = self.server.failures.pop(0)
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            return None
        self.send_response(200)
        self.end_headers()
        self.wfile.write(orjson.dumps(self.server.answer(self.path)))
        return None

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Argilla]:
    monkeypatch.setenv("ARGILLA_API_KEY", "a-key")
    found = Argilla(("127.0.0.1", 0), Handler)
    found.failures = []
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()
    thread.join()


def settings(server: Argilla, folder: Path, page_size: int = 2) -> PullConfig:
    url = f"http://127.0.0.1:{server.server_address[1]}"
    return PullConfig(url=url, dataset="data", output=str(folder / "x.jsonl"), page_size=page_size)


def test_busy_server_is_asked_again_when_it_says(server: Argilla, tmp_path: Path) -> None:
    """429 with Retry-After waits as long as it says, 502 and 503 a growing time; then everything is there."""
    pauses: list[float] = []
    server.failures = [(429, {"Retry-After": "7"}), (503, {}), (502, {})]
    config = settings(server, tmp_path)
    assert pull(config, Server(config, sleep=pauses.append)) == 5
    assert pauses[0] == 7.0
    assert 0.5 <= pauses[1] <= 1.0 <= pauses[2] <= 2.0
    assert [row["external_id"] for row in lines(tmp_path / "x.jsonl")] == [f"r{i}" for i in range(5)]


@pytest.mark.parametrize("page_size", [1, 2, 5, 10])
def test_server_without_a_total_is_read_to_its_end(server: Argilla, tmp_path: Path, page_size: int) -> None:
    """Early servers do not say how many records there are; the file is read like any other."""
    server.with_total = False
    config = settings(server, tmp_path, page_size)
    assert pull(config, Server(config)) == 5
    assert run(tmp_path / "out", tmp_path / "x.jsonl").report["totals"]["pairs"] == 5


def test_server_without_this_api_is_named(server: Argilla, tmp_path: Path) -> None:
    """A server older than 1.14, or something else altogether, ends in one line that says which versions will do."""
    server.api = False
    config = settings(server, tmp_path)
    with pytest.raises(BadData, match=r"1\.14"):
        pull(config, Server(config))


def test_key_stands_in_no_file_and_no_message(
    server: Argilla, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a pull writes and says does not contain the key."""
    config = settings(server, tmp_path)
    pull(config, Server(config))
    said = capsys.readouterr()
    assert all(b"a-key" not in path.read_bytes() for path in tmp_path.iterdir())
    assert "a-key" not in said.out + said.err
