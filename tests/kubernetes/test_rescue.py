"""Lines that a node has rotated away while nobody was connected: noticed, told, and read from the volume."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from k8s.cluster.client import Api
from k8s.cluster.config import Connection
from k8s.cluster.logs import pod_lines
from tests.conftest import REPOSITORY


def run(code: str, workspace: Path) -> subprocess.Popen[bytes]:
    """Start a step under its supervisor."""
    own = {"AIOS_RUN": "r", "AIOS_STEP": "s", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "jobs.supervisor", "--", sys.executable, "-c", code]
    return subprocess.Popen(command, cwd=workspace, env=os.environ | own, stdout=subprocess.DEVNULL)


def read(workspace: Path, start: int, pod: str = os.uname().nodename if hasattr(os, "uname") else "") -> bytes:
    """Return what `k8s.volume lines` writes."""
    command = [sys.executable, "-m", "k8s.volume", "lines", "artifacts/runs/r/steps/s", pod, str(start)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(os.name == "nt", reason="runs in pods only")
def test_the_log_on_the_volume_is_read_from_a_line_on_until_the_attempt_ends(tmp_path: Path) -> None:
    """While the step still writes: every line after the first ten, the last one without its line break included."""
    code = (
        "import sys, time\nfor i in range(40): print('line', i, flush=True); time.sleep(0.05)\nsys.stdout.write('end')"
    )
    process = run(code, tmp_path)
    log = tmp_path / "artifacts/runs/r/steps/s/attempt-1/stdout.log"
    while not log.exists() or log.read_bytes().count(b"\n") < 12:
        time.sleep(0.05)
    assert read(tmp_path, 10).decode().splitlines() == [*(f"line {i}" for i in range(10, 40)), "end"]
    process.wait(30)
    assert read(tmp_path, 39) == b"line 39\nend\n"


class Kubelet(BaseHTTPRequestHandler):
    """Serves the log of a pod: first one file, cut off after its third line, then the file after it."""

    served = 0

    def do_GET(self) -> None:
        body = b'{"status": {"phase": "Succeeded"}, "metadata": {"labels": {}}}'
        if "/log" in self.path:
            first = 0 if type(self).served == 0 else 5
            type(self).served += 1
            since = parse_qs(urlsplit(self.path).query).get("sinceTime", [""])[0]
            lines = [f"2026-01-01T00:00:{n:02d}.000000000Z line {n}\n" for n in range(first, first + 3)]
            body = "".join(line for line in lines if line >= since[:-1]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Be quiet."""


@pytest.fixture
def api() -> Iterator[Api]:
    """A server that plays the log of a pod whose file is rotated between two connections."""
    Kubelet.served = 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Kubelet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Api(Connection(server=f"http://127.0.0.1:{server.server_port}", namespace="n", tls=None))
    server.shutdown()


def test_lines_that_cannot_be_had_any_more_are_not_passed_over_in_silence(api: Api) -> None:
    """Of a pod that is none of a run's there is no log on the volume: a line says so where lines are missing."""
    first, missing, last = slice(0, 3), 3, slice(4, None)
    shown = list(pod_lines(api, "p", follow=True))
    assert shown[first] == ["line 0", "line 1", "line 2"]
    assert shown[missing].startswith("[lines are missing here: the log was rotated while the connection was cut")
    assert shown[last] == ["line 5", "line 6", "line 7"]
